//! `fledged get`.

use fledged_apiserver::{Failure, RequestFilter};
use fledged_tests::kube::{World, eventually};
use serde_json::json;

use crate::terminal::support::{APP, DB, call, fledged, words};

#[tokio::test(flavor = "multi_thread")]
async fn get_lists_caches_with_their_counts() {
    let world = World::start().await;
    world.publish(&[APP]);
    let _nodes = (world.node("a").await, world.node("b").await);
    let none = fledged(&world, &["get"], 0);
    assert!(none.stdout.is_empty(), "{none}");
    assert!(
        none.stderr.contains("no ImageCaches in namespace"),
        "{none}"
    );

    world.apply("web", &[APP]).await;
    world.apply("worse", &[APP, DB]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    world.ended("worse", "ImageCacheCreate", "Failed").await;
    let table = fledged(&world, &["get"], 0).stdout;
    let lines: Vec<&str> = table.lines().collect();
    let header = "NAME STATUS ACTION DESIRED CACHED PULLING FAILED UNREACHABLE AGE";
    assert_eq!(words(lines[0]).join(" "), header);
    let rows = |at: usize| words(lines[at])[..8].join(" ");
    assert_eq!(rows(1), "web Succeeded ImageCacheCreate 2 2 0 0 0");
    assert_eq!(rows(2), "worse Failed ImageCacheCreate 4 2 0 2 0");
    assert_eq!(lines.len(), 3);

    let one = fledged(&world, &["get", "worse", "-o", "json"], 0).json();
    let counts = json!({ "desired": 4, "cached": 2, "pulling": 0, "failed": 2, "unreachable": 0 });
    let caches = one["imageCaches"].as_array().unwrap();
    assert_eq!(caches.len(), 1);
    assert_eq!(caches[0]["counts"], counts);
    assert_eq!(caches[0]["status"], "Failed");
    assert_eq!(caches[0]["takenUp"], true);
    let yaml = fledged(&world, &["get", "web", "-o", "yaml"], 0).stdout;
    assert!(yaml.starts_with("imageCaches:\n"), "{yaml}");
    assert!(yaml.contains("status: Succeeded\n"), "{yaml}");
    let all = fledged(&world, &["get", "-A"], 0).stdout;
    let first = all.lines().next().unwrap();
    assert_eq!(words(first)[..2], ["NAMESPACE", "NAME"]);
    assert!(all.contains(world.cluster().namespace()), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_prints_a_row_for_each_change() {
    let world = World::start().await;
    world.publish(&[APP]);
    let _node = world.node("a").await;
    let watching = call(&world, &["get", "-w"]).spawn();
    world.apply("web", &[APP]).await;
    let printed = |what: &'static str| {
        let watching = &watching;
        eventually(what, move || async move {
            let seen = watching.stdout();
            let found = seen
                .lines()
                .any(|line| words(line).join(" ").starts_with(what));
            found.then_some(()).ok_or(seen)
        })
    };
    printed("NAME STATUS ACTION").await;
    printed("web Succeeded ImageCacheCreate 1 1").await;
    world.delete("web").await;
    printed("web Deleted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_interrupts_a_watch_once() {
    let world = World::start().await;
    let Some(server) = world.cluster().embedded() else {
        return;
    };
    world.publish(&[APP]);
    let _node = world.node("a").await;
    world.apply("web", &[APP]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    let watching = call(&world, &["get", "-w"]).spawn();
    let printed = |what: &'static str| {
        let watching = &watching;
        eventually(what, move || async move {
            let seen = watching.stdout();
            let has = |line: &str| words(line).join(" ").starts_with(what);
            seen.lines().any(has).then_some(()).ok_or(seen)
        })
    };
    printed("web Succeeded").await;
    for verb in ["watch", "list"] {
        let filter = RequestFilter {
            verb: Some(verb.to_owned()),
            resource: Some("imagecaches".to_owned()),
            ..RequestFilter::default()
        };
        // The controller's requests are among them: all fail until the outage has been printed.
        server.fail_next(10_000, filter, Failure::unavailable());
    }
    server.cut_watches();
    let watching = &watching;
    eventually("the warning of the outage", || async move {
        let seen = watching.stderr();
        let warned = seen.contains("was interrupted");
        warned.then_some(()).ok_or(seen)
    })
    .await;
    let asked = || {
        let of_caches = |key: &fledged_apiserver::RequestKey| key.resource == "imagecaches";
        server.count(of_caches)
    };
    // Attempts of the program and of the controller fail meanwhile.
    let before = asked();
    eventually("further attempts", || async {
        (asked() >= before + 4)
            .then_some(())
            .ok_or(asked().to_string())
    })
    .await;
    server.fail_nothing();
    world.delete("web").await;
    printed("web Deleted").await;
    let warnings = watching.stderr();
    assert_eq!(warnings.matches("was interrupted").count(), 1, "{warnings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unprocessed_cache_has_status_not_taken_up() {
    let world = World::without_controller(Default::default()).await;
    world.apply("web", &[APP]).await;
    let table = fledged(&world, &["get"], 0).stdout;
    let row = table.lines().nth(1).unwrap();
    assert_eq!(words(row)[..3], ["web", "NotTakenUp", "-"]);
}
