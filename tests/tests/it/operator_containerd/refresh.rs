//! A refresh on demand checks the images in real containerd.

use fledged_kube::crd::REFRESH_ANNOTATION;
use fledged_tests::ImageBuilder;

use crate::operator_containerd::private::start_with;
use crate::operator_containerd::real_parts;

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_restores_manually_removed_images() {
    let Some((world, registry, containerd)) = real_parts().await else {
        return;
    };
    let push = |tag: &str, seed| {
        let image = ImageBuilder::new().random_layer("data", seed, 64 * 1024);
        image.push(&registry, "app", tag).reference
    };
    let images = [push("v1", 1), push("v2", 2), push("v3", 3)];
    let node = world.unresponsive_node("a", &[]).await;
    // Without a refresh the agent would read the inventory an hour later.
    let _programs = start_with(
        &world,
        node.name(),
        &containerd,
        &["--inventory-interval=1h"],
    );
    node.object.set_ready(true).await;
    let names: Vec<&str> = images.iter().map(String::as_str).collect();
    world.apply("web", &names).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    let mut revision = Some(0);
    // A second refresh works too, and a third with nothing missing.
    for lost in [&names[1..2], &names[..2], &[]] {
        for name in lost {
            containerd.ctr(&["images", "rm", "--sync", name]);
        }
        world.annotate("web", REFRESH_ANNOTATION).await;
        let before = revision;
        let status = world
            .status_when("web", "refreshed", |status| {
                status.verify_revision > before && status.completion_time.is_some()
            })
            .await;
        let held = containerd.image_names();
        for name in &images {
            assert!(held.contains(name), "{name}: {held:?}");
        }
        assert_eq!(status.status, "Succeeded", "{status:?}");
        assert_eq!(status.cached.as_deref(), Some("3/3"));
        revision = status.verify_revision;
        world.annotation_gone("web", REFRESH_ANNOTATION).await;
    }
}
