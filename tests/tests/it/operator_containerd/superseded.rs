//! A refresh removes the version that a mutable tag named before from real containerd.

use fledged_kube::crd::{PURGE_ANNOTATION, REFRESH_ANNOTATION};
use fledged_tests::ImageBuilder;
use fledged_tests::kube::eventually;

use crate::operator_containerd::private::start_with;
use crate::operator_containerd::real_parts;

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_removes_the_superseded_version() {
    let Some((world, registry, containerd)) = real_parts().await else {
        return;
    };
    let push = |repository: &str, tag: &str, seed| {
        let image = ImageBuilder::new().random_layer("data", seed, 64 * 1024);
        image.push(&registry, repository, tag)
    };
    let old = push("moved", "latest", 1);
    let shared = push("kept", "latest", 2);
    let keeper = push("kept", "1", 2);
    let node = world.unresponsive_node("a", &[]).await;
    let [_controller, agent] = start_with(
        &world,
        node.name(),
        &containerd,
        &["--inventory-interval=1h"],
    );
    node.object.set_ready(true).await;
    let names = [&old, &shared, &keeper].map(|pushed| pushed.reference.as_str());
    world.apply("web", &names).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    assert!(containerd.image_names().contains(&old.by_digest()));

    let new = push("moved", "latest", 3);
    push("kept", "latest", 4);
    world.annotate("web", REFRESH_ANNOTATION).await;
    world.ended("web", "ImageCacheRefresh", "Succeeded").await;
    eventually("the superseded version to be removed", || async {
        let held = containerd.image_names();
        let gone = !held.contains(&old.by_digest());
        gone.then_some(()).ok_or(format!("{held:?}"))
    })
    .await;
    let held = containerd.image_names();
    for name in [
        &new.reference,
        &new.by_digest(),
        &keeper.reference,
        &keeper.by_digest(),
    ] {
        assert!(held.contains(name), "{name}: {held:?}");
    }
    world
        .status_when("web", "without superseded versions", |status| {
            status.counts.is_some_and(|counts| counts.superseded == 0)
                && status.message == "3 of 3 cached on 1 node"
        })
        .await;
    let log = agent.stderr();
    assert!(log.contains("removal ended"), "{log}");

    world.annotate("web", PURGE_ANNOTATION).await;
    world.ended("web", "ImageCachePurge", "Succeeded").await;
    let held = containerd.image_names();
    let left = held
        .iter()
        .filter(|name| name.contains("/moved") || name.contains("/kept"));
    assert_eq!(left.count(), 0, "{held:?}");
}
