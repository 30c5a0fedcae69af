//! Outages: the API server stops, loses watch history, throttles and fails requests.

use fledged_apiserver::{Failure, RequestFilter, Server};
use fledged_tests::kube::{ServerKind, TestNode, Way, World, eventually};
use fledged_tests::skipped;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

scenarios! {
    edits_are_applied_after_an_api_server_outage,
    changes_without_watch_events_are_found_by_a_relist,
    refused_writes_are_retried,
    a_rollout_takes_few_writes_and_idling_none,
}

const APP: &str = "registry.test/app:1";
const DB: &str = "registry.test/db:1";

async fn edits_are_applied_after_an_api_server_outage(way: Way) {
    let mut world = World::start_by(way).await;
    if world.cluster().kind() == ServerKind::Cluster {
        return skipped("the API server of a cluster can't be stopped by a test");
    }
    world.publish(&[APP, DB]);
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.apply("web", &[APP]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    world.cluster_mut().stop_server().await;
    a.runtime.evict(APP);
    match way {
        Way::Agents => {
            a.holds_exactly(&[APP]).await;
            assert_eq!(a.runtime.pulls(APP), 2);
        }
        // Jobs cannot be created, and their pods cannot run.
        Way::Jobs => assert!(!a.runtime.holds(APP)),
    }
    // About a minute with agents, which read the inventory every second.
    for _ in 0..2 {
        readings(&[&a, &b], 30).await;
    }
    world.cluster_mut().start_server().await;
    world.apply("web", &[APP, DB]).await;
    world.ended("web", "ImageCacheUpdate", "Succeeded").await;
    for node in [&a, &b] {
        node.holds_exactly(&[APP, DB]).await;
    }
}

async fn changes_without_watch_events_are_found_by_a_relist(way: Way) {
    let world = World::start_by(way).await;
    let Some(server) = world.cluster().embedded() else {
        return skipped("only the embedded API server compacts on demand");
    };
    world.publish(&[APP, DB]);
    let (a, gone) = (world.node("a").await, world.node("gone").await);
    let purge = json!({ "cacheSpec": [{ "images": [APP] }] });
    world.apply_spec("edited", purge).await;
    world.apply("deleted", &[DB]).await;
    world.ended("edited", "ImageCacheCreate", "Succeeded").await;
    world
        .ended("deleted", "ImageCacheCreate", "Succeeded")
        .await;
    // All watches fail, and the events of this time are lost.
    let watches = RequestFilter {
        verb: Some("watch".to_owned()),
        ..RequestFilter::default()
    };
    server.fail_next(usize::MAX, watches, Failure::unavailable());
    server.cut_watches();
    world.apply("edited", &[DB]).await;
    world.delete("deleted").await;
    gone.object.delete().await;
    let late = world.node("late").await;
    server.compact();
    server.fail_nothing();
    world.ended("edited", "ImageCacheUpdate", "Succeeded").await;
    let status = world
        .status_when("edited", "on both nodes that are left", |status| {
            status.cached.as_deref() == Some("2/2")
        })
        .await;
    assert_eq!(status.counts.unwrap().desired, 2);
    for node in [&a, &late] {
        node.holds_exactly(&[DB]).await;
    }
    eventually("the record to name only the remaining cache", || async {
        let record = world.records().get(a.name()).await.unwrap();
        let names: Vec<_> = record.spec.caches.iter().map(|c| c.name.clone()).collect();
        (names == ["edited"])
            .then_some(())
            .ok_or(format!("{names:?}"))
    })
    .await;
}

async fn refused_writes_are_retried(way: Way) {
    let world = World::start_by(way).await;
    let Some(server) = world.cluster().embedded() else {
        return skipped("only the embedded API server fails on demand");
    };
    world.publish(&[APP, DB]);
    let a = world.node("a").await;
    let ours = |manager: &str| RequestFilter {
        writes_only: true,
        field_manager: Some(manager.to_owned()),
        ..RequestFilter::default()
    };
    for manager in ["fledged-controller", way.field_manager()] {
        server.fail_next(2, ours(manager), Failure::too_many_requests(1));
        server.fail_next(2, ours(manager), Failure::internal_error());
        server.fail_next(1, ours(manager), Failure::conflict());
    }
    let spec = json!({ "cacheSpec": [{ "images": [APP, DB] }], "deletionPolicy": "Purge" });
    world.apply_spec("web", spec).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    a.holds_exactly(&[APP, DB]).await;
    server.fail_next(3, ours("fledged-controller"), Failure::conflict());
    world.delete("web").await;
    world.gone("web").await;
    a.holds_exactly(&[]).await;
}

async fn a_rollout_takes_few_writes_and_idling_none(way: Way) {
    let world = World::start_by(way).await;
    let Some(server) = world.cluster().embedded() else {
        return skipped("only the embedded API server counts requests");
    };
    let images: Vec<String> = (0..20)
        .map(|n| format!("registry.test/app-{n}:1"))
        .collect();
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    world.publish(&images);
    let mut nodes = Vec::new();
    for name in ["a", "b", "c", "d"] {
        nodes.push(world.node(name).await);
    }
    server.reset_requests();
    world.apply("web", &images).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    let writes = records_written(server);
    let most = 4 * u64::try_from(nodes.len()).unwrap();
    assert!(
        (2 * most / 4..=most).contains(&writes),
        "{writes} writes for {} nodes",
        nodes.len()
    );
    // The event for the end of the rollout follows the status.
    eventually("both events of the rollout", || async {
        let written = server.count(|key| key.resource == "events" && key.is_write());
        (written >= 2)
            .then_some(())
            .ok_or_else(|| format!("{written}"))
    })
    .await;
    // Finished Jobs are deleted, and kubelets remove their pods.
    eventually("no pods", || async {
        let pods: Api<Pod> = Api::all(world.cluster().client());
        let left = pods.list_metadata(&ListParams::default()).await.unwrap();
        let left = left.items.len();
        (left == 0).then_some(()).ok_or_else(|| format!("{left}"))
    })
    .await;
    server.reset_requests();
    // While nothing changes, 12 more readings of every inventory cause no write.
    readings(&nodes.iter().collect::<Vec<_>>(), 12).await;
    // Not counted: renewals of leases, and the node status that kubelets write.
    let written = server.count(|key| {
        let idle = key.resource == "leases" || (way == Way::Jobs && key.resource == "nodes");
        key.is_write() && !idle
    });
    assert_eq!(written, 0, "{:?}", server.requests());
}

/// Waits until every node has read its inventory `count` more times.
async fn readings(nodes: &[&TestNode], count: usize) {
    let before: Vec<usize> = nodes.iter().map(|node| node.runtime.readings()).collect();
    eventually(&format!("{count} readings of the inventories"), || async {
        let read = nodes.iter().zip(&before);
        let least = read
            .map(|(node, before)| node.runtime.readings() - before)
            .min();
        match least {
            Some(least) if least < count => Err(format!("{least} readings")),
            _ => Ok(()),
        }
    })
    .await;
}

fn records_written(server: &Server) -> u64 {
    server.count(|key| key.is_write() && key.resource == "nodeimagecaches")
}
