//! `fledged node status`.

use fledged_tests::kube::World;
use serde_json::json;

use crate::terminal::support::{APP, DB, NOPE, fledged, stderr_has};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_shown_cache_by_cache() {
    let world = World::start().await;
    world.publish(&[APP, DB]);
    let a = world.node("a").await;
    world.apply("web", &[APP, NOPE]).await;
    world.apply("jobs", &[DB]).await;
    world.ended("web", "ImageCacheCreate", "Failed").await;
    world.ended("jobs", "ImageCacheCreate", "Succeeded").await;

    let text = fledged(&world, &["node", "status", a.name()], 0).stdout;
    let namespace = world.cluster().namespace();
    for part in [
        format!("Node {}: Ready\nAgent: last report ", a.name()),
        "room for 512.0 KiB".to_owned(),
        format!("ImageCache {namespace}/jobs: 1 image\n"),
        format!("ImageCache {namespace}/web: 2 images\n"),
        format!("{NOPE}: manifest unknown"),
    ] {
        assert!(text.contains(&part), "{part:?} is not in {text}");
    }
    let document = fledged(&world, &["node", "describe", a.name(), "-o", "json"], 0).json();
    assert_eq!(document["ready"], "True");
    assert_eq!(document["unreachable"], json!(null));
    assert_eq!(document["removals"], json!([]));
    let caches = document["imageCaches"].as_array().unwrap();
    let web = caches.iter().find(|cache| cache["name"] == "web").unwrap();
    assert_eq!(web["images"][0]["state"], "Cached");
    assert_eq!(web["images"][1]["reason"], "ImageNotFound");
    assert!(document["record"]["bytes"].as_u64().unwrap() > 100);

    let b = fledged(&world, &["node", "status", "b", "-o", "yaml"], 1);
    stderr_has(&b, &["there is no Node \"b\"", "kubectl get nodes"]);
    stderr_has(&fledged(&world, &["node", "status", "A_b"], 2), &["A_b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_ready_is_shown() {
    let world = World::start().await;
    world.publish(&[APP]);
    let b = world.unresponsive_node("b", &[]).await;
    world.apply("web", &[APP]).await;
    let text = fledged(&world, &["node", "status", b.name()], 0).stdout;
    assert!(text.contains(": NotReady"), "{text}");
    assert!(text.contains("nothing is assigned to the node"), "{text}");
    assert!(text.contains("unreachable"), "{text}");
}
