//! `fledged refresh` and `fledged purge`.

use fledged_tests::kube::World;

use crate::terminal::support::{APP, DB, NOPE, fledged, stderr_has};

#[tokio::test(flavor = "multi_thread")]
async fn purge_and_refresh_wait_for_their_result() {
    let world = World::start().await;
    world.publish(&[APP]);
    let node = world.node("a").await;
    world.apply("web", &[APP]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;

    let purged = fledged(&world, &["purge", "web", "--wait"], 0);
    assert!(
        purged
            .stdout
            .contains("ImageCachePurge Succeeded: removed from 1 node"),
        "{purged}"
    );
    assert!(!node.runtime.holds(APP));
    let refreshed = fledged(
        &world,
        &["refresh", "web", "--wait", "--timeout=60s", "-o", "json"],
        0,
    );
    let document = refreshed.json();
    assert_eq!(document["asked"], "refresh");
    assert_eq!(document["ended"], true);
    assert_eq!(document["imageCache"]["action"], "ImageCacheRefresh");
    assert_eq!(document["imageCache"]["status"], "Succeeded");
    assert!(node.runtime.holds(APP));

    assert_eq!(document["removed"], serde_json::Value::Null);

    // One image is removed, the other one belongs to another ImageCache, too.
    world.publish(&[DB]);
    world.apply("web", &[APP, DB]).await;
    world.ended("web", "ImageCacheUpdate", "Succeeded").await;
    world.apply("other", &[DB]).await;
    world.ended("other", "ImageCacheCreate", "Succeeded").await;
    let purged = fledged(&world, &["purge", "web", "--wait", "-o", "json"], 0).json();
    let removed = serde_json::json!({ "images": 1, "nodes": 1, "kept": 1 });
    assert_eq!(purged["removed"], removed, "{purged}");
    fledged(&world, &["refresh", "web", "--wait"], 0);

    let asked = fledged(&world, &["purge", "web"], 0);
    assert!(asked.stdout.contains("web: purge requested\n"), "{asked}");
    world.ended("web", "ImageCachePurge", "Succeeded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_refresh_exits_with_1() {
    let world = World::start().await;
    let _node = world.node("a").await;
    world.apply("web", &[NOPE]).await;
    world.ended("web", "ImageCacheCreate", "Failed").await;
    let output = fledged(&world, &["refresh", "web", "--wait"], 1);
    assert!(
        output.stdout.contains("ImageCacheRefresh Failed"),
        "{output}"
    );
    stderr_has(
        &fledged(&world, &["refresh", "wep"], 1),
        &["no ImageCache \"wep\""],
    );
    let bad = fledged(&world, &["refresh", "web", "--timeout=5s"], 2);
    stderr_has(&bad, &["--wait"]);
    let none = fledged(&world, &["refresh", "web", "--wait", "--timeout=0s"], 2);
    stderr_has(&none, &["--timeout", "must be greater than zero"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_without_a_controller_times_out() {
    let world = World::without_controller(Default::default()).await;
    world.apply("web", &[APP]).await;
    let output = fledged(&world, &["purge", "web", "--wait", "--timeout=5s"], 1);
    stderr_has(
        &output,
        &[
            "has not completed after 5s",
            "no controller has processed it",
        ],
    );
    let cache = world.caches().get("web").await.unwrap();
    let annotations = cache.metadata.annotations.unwrap();
    assert!(annotations.contains_key("kubefledged.io/purge-imagecache"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_after_the_controller_ended_says_so() {
    let mut world = World::start().await;
    world.publish(&[APP]);
    let _node = world.node("a").await;
    world.apply("web", &[APP]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    world.stop_controller().await;
    for action in ["refresh", "purge"] {
        let output = fledged(&world, &[action, "web", "--wait", "--timeout=5s"], 1);
        stderr_has(
            &output,
            &[
                "no controller has processed the annotation kubefledged.io/",
                "check that one is running",
            ],
        );
    }
    // Without --for, wait is for cached images.
    let output = fledged(&world, &["wait", "web", "--timeout=0s"], 1);
    stderr_has(&output, &["is not cached after 0s: no controller has"]);
}
