//! `fledged wait`.

use fledged_apiserver::{Failure, RequestFilter};
use fledged_tests::Fledged;
use fledged_tests::kube::{World, eventually};
use serde_json::json;

use crate::terminal::support::{APP, NOPE, call, ended, fledged, stderr_has};

#[tokio::test(flavor = "multi_thread")]
async fn wait_ends_when_all_images_are_cached_or_purged() {
    let world = World::start().await;
    world.publish(&[APP]);
    let node = world.node("a").await;
    node.runtime.hold_pulls(true);
    world.apply("web", &[APP]).await;
    let waiting = call(&world, &["wait", "web", "--timeout", "60s"]).spawn();
    world
        .record_when(&node, "pulling", |record| {
            let status = record.status.as_ref();
            status.is_some_and(|status| !status.images.is_empty())
        })
        .await;
    node.runtime.hold_pulls(false);
    let output = ended(waiting, 0);
    assert!(
        output.stdout.contains("is cached: 1 of 1 cached on 1 node"),
        "{output}"
    );
    // A condition that is already met needs no time.
    let again = [
        "wait",
        "web",
        "--for",
        "cached",
        "--timeout",
        "0s",
        "-o",
        "json",
    ];
    let json = fledged(&world, &again, 0).json();
    assert_eq!(json["counts"]["cached"], 1);

    let waiting = call(&world, &["wait", "web", "--for=purged"]).spawn();
    world
        .annotate("web", "kubefledged.io/purge-imagecache")
        .await;
    let output = ended(waiting, 0);
    assert!(
        output.stdout.contains("is purged: removed from 1 node"),
        "{output}"
    );
    let cached = ended(call(&world, &["wait", "web", "--timeout=1h"]).spawn(), 1);
    stderr_has(
        &cached,
        &[
            "is not cached, and only a refresh or an edit changes that",
            "removed from 1 node",
        ],
    );
    // A refresh ends the purge, also one that no controller has begun.
    world
        .annotate("web", "kubefledged.io/refresh-imagecache")
        .await;
    ended(call(&world, &["wait", "web"]).spawn(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_covers_the_connection() {
    // It accepts connections and never answers.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", server.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{ "name": "a", "cluster": { "server": url } }],
        "users": [{ "name": "a", "user": {} }],
        "contexts": [{ "name": "a", "context": { "cluster": "a", "user": "a" } }],
    });
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    for args in [&["wait", "web"][..], &["purge", "web", "--wait"]] {
        let call = Fledged::new()
            .args(args.iter().copied())
            .args(["--timeout", "1s", "--kubeconfig"])
            .arg(&kubeconfig);
        let output = ended(call.spawn(), 1);
        stderr_has(&output, &[&url, "has not answered within 1s"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_continues_after_a_broken_watch() {
    let world = World::start().await;
    let Some(server) = world.cluster().embedded() else {
        return;
    };
    world.publish(&[APP]);
    let node = world.node("a").await;
    node.runtime.hold_pulls(true);
    world.apply("web", &[APP]).await;
    let waiting = call(&world, &["wait", "web", "--for=cached"]).spawn();
    // The watch of the controller and the watch of `fledged wait`.
    eventually("both to watch the caches", || async {
        let watches = server.count(|key| key.verb == "watch" && key.resource == "imagecaches");
        (watches >= 2).then_some(()).ok_or(watches.to_string())
    })
    .await;
    let filter = RequestFilter {
        verb: Some("watch".to_owned()),
        resource: Some("imagecaches".to_owned()),
        ..RequestFilter::default()
    };
    server.fail_next(4, filter, Failure::unavailable());
    server.cut_watches();
    node.runtime.hold_pulls(false);
    let output = ended(waiting, 0);
    assert!(output.stdout.contains("is cached: 1 of 1"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_lists_the_missing_images() {
    let world = World::start().await;
    world.publish(&[APP]);
    let node = world.node("a").await;
    world.apply("web", &[APP, NOPE]).await;
    world.ended("web", "ImageCacheCreate", "Failed").await;
    let output = fledged(&world, &["wait", "web", "--for=cached", "--timeout=5s"], 1);
    let failure = format!("{NOPE} on {}: ImageNotFound: manifest unknown", node.name());
    stderr_has(
        &output,
        &[
            "is not cached after 5s",
            "1 of 2 cached on 1 node, 1 failed",
            &failure,
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_spec_ends_a_wait_at_once() {
    let world = World::start().await;
    let _node = world.node("a").await;
    // The schema accepts an operator without its values.
    let expressions = json!([{ "key": "tier", "operator": "In" }]);
    let terms = json!([{ "matchExpressions": expressions }]);
    let required = json!({ "nodeSelectorTerms": terms });
    let affinity = json!({ "requiredDuringSchedulingIgnoredDuringExecution": required });
    let spec = json!({ "cacheSpec": [{ "images": [APP], "nodeAffinity": affinity }] });
    world.apply_spec("web", spec).await;
    for goal in ["--for=cached", "--for=purged"] {
        let output = ended(
            call(&world, &["wait", "web", goal, "--timeout=1h"]).spawn(),
            1,
        );
        stderr_has(
            &output,
            &["only an edit changes that", "the spec is invalid", "tier"],
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_may_pass_is_named_while_waiting() {
    let world = World::start().await;
    let _node = world.node("a").await;
    world.apply("web", &[APP]).await;
    let waiting = call(&world, &["wait", "web", "--timeout=60s"]).spawn();
    eventually("the failure to be named", || async {
        let text = waiting.stderr();
        let named = text.contains("waiting for retries") && text.contains("ImageNotFound");
        named.then_some(()).ok_or(text)
    })
    .await;
    world.publish(&[APP]);
    world
        .annotate("web", "kubefledged.io/refresh-imagecache")
        .await;
    let output = ended(waiting, 0);
    let named = output.stderr.matches("waiting for retries").count();
    assert_eq!(named, 1, "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_or_unprocessed_cache_exits_with_1() {
    let world = World::without_controller(Default::default()).await;
    world.apply("web", &[APP]).await;
    let unprocessed = fledged(&world, &["wait", "web", "--for=cached", "--timeout=5s"], 1);
    stderr_has(&unprocessed, &["no controller has processed it"]);
    let waiting = call(&world, &["wait", "web", "--for=cached", "--timeout=60s"]).spawn();
    world.delete("web").await;
    // Either the watch sees the deletion, or the first read finds no cache.
    let output = ended(waiting, 1);
    assert!(
        output.stderr.contains("was deleted") || output.stderr.contains("no ImageCache"),
        "{output}"
    );
    let goal = fledged(&world, &["wait", "web", "--for=ready"], 2);
    stderr_has(&goal, &["'ready'", "cached", "purged"]);
}
