//! The agent's own fetching of layers, on real containerd.

use fledged_kube::crd::NodeImageStatus;
use fledged_tests::{Fault, FaultProxy, ImageBuilder, Rule};
use serde_json::json;

use crate::operator_containerd::private::start_with;
use crate::operator_containerd::real_parts;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_fetches_large_images_and_reports_what_fetched_each() {
    let Some((world, registry, containerd)) = real_parts().await else {
        return;
    };
    let proxy = FaultProxy::start(registry.addr());
    let slow = Fault::Throttle {
        bytes_per_second: 20_000_000,
    };
    proxy.add(Rule::new(slow).path("/blobs/").always());
    let push = |name: &str, bytes| {
        let image = ImageBuilder::new().random_layer("data", 1, bytes);
        image.push(&registry, name, "v1")
    };
    let (large, small) = (push("large", 20_000_000), push("small", 64 * 1024));
    let names = [&large, &small].map(|image| image.reference_at(proxy.addr()));
    let node = world.unresponsive_node("a", &[]).await;
    let programs = start_with(
        &world,
        node.name(),
        &containerd,
        &[
            "--inventory-interval=2s",
            "--pull-via=auto",
            "--max-io-pressure=100%",
            "--max-memory-pressure=100%",
            "--runtime-config-dirs",
            &containerd.config_dir().display().to_string(),
        ],
    );
    node.object.set_ready(true).await;
    world
        .apply_spec("web", json!({ "cacheSpec": [{ "images": names }] }))
        .await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;

    let record = world.records().get(node.name()).await.unwrap();
    let images = record.status.unwrap().images;
    let of = |name: &String| -> &NodeImageStatus {
        images.iter().find(|image| image.image == *name).unwrap()
    };
    assert_eq!(of(&names[0]).via.as_deref(), Some("fetcher"), "{images:?}");
    assert_eq!(of(&names[0]).via_reason, None);
    assert_eq!(of(&names[1]).via.as_deref(), Some("runtime"), "{images:?}");
    let why = of(&names[1]).via_reason.as_deref().unwrap();
    assert!(why.ends_with(", less than 16.0 MiB"), "{why}");
    let parts = proxy.requests_matching("GET", large.layers[0].as_str());
    let parts = parts.iter().filter(|request| request.status == Some(206));
    assert_eq!(parts.count(), 3);
    for program in programs {
        program.terminate();
        let output = program.wait(std::time::Duration::from_secs(60));
        assert_eq!(output.code, Some(0), "{output}");
    }
}
