//! Edits at any time: the newest generation wins.

use fledged_tests::kube::{Way, World, WorldOptions};
use serde_json::json;

scenarios! {
    an_edit_pulls_added_and_removes_dropped_images,
    an_edit_during_a_rollout_wins,
    a_changed_selector_moves_the_images,
    a_rollout_respects_max_concurrent_nodes,
}

const APP: &str = "registry.test/app:1";
const DB: &str = "registry.test/db:1";
const NEXT: &str = "registry.test/app:2";

async fn an_edit_pulls_added_and_removes_dropped_images(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP, DB, NEXT]);
    let a = world.node("a").await;
    world.apply("web", &[APP, DB]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    world.apply("web", &[NEXT, DB]).await;
    world.ended("web", "ImageCacheUpdate", "Succeeded").await;
    a.holds_exactly(&[NEXT, DB]).await;
    assert_eq!(
        a.runtime.pulls(DB),
        1,
        "an image in both specs is not pulled again"
    );
}

async fn an_edit_during_a_rollout_wins(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP, DB, NEXT]);
    let (a, b) = (world.node("a").await, world.node("b").await);
    for node in [&a, &b] {
        node.runtime.hold_pulls(true);
    }
    world.apply("web", &[APP, DB]).await;
    world
        .record_when(&a, "pulling", |record| {
            let status = record.status.as_ref();
            status.is_some_and(|status| status.images.len() == 2)
        })
        .await;
    // Another number of images; kube-fledged refuses such an edit.
    world.apply("web", &[NEXT]).await;
    world
        .record_when(&a, "assigned again", |record| {
            record.spec.images.iter().any(|image| image.image == NEXT)
        })
        .await;
    for node in [&a, &b] {
        node.runtime.hold_pulls(false);
    }
    let status = world.ended("web", "ImageCacheUpdate", "Succeeded").await;
    assert_eq!(status.cached.as_deref(), Some("2/2"));
    for node in [&a, &b] {
        node.holds_exactly(&[NEXT]).await;
    }
}

async fn a_changed_selector_moves_the_images(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP]);
    let a = world.node_with("a", &[("tier", "backend")]).await;
    let b = world.node_with("b", &[("tier", "frontend")]).await;
    let spec = |tier: &str| json!({ "cacheSpec": [{ "images": [APP], "nodeSelector": { "tier": tier } }] });
    world.apply_spec("web", spec("backend")).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    a.holds_exactly(&[APP]).await;
    b.holds_exactly(&[]).await;
    world.apply_spec("web", spec("frontend")).await;
    world.ended("web", "ImageCacheUpdate", "Succeeded").await;
    a.holds_exactly(&[]).await;
    b.holds_exactly(&[APP]).await;
}

async fn a_rollout_respects_max_concurrent_nodes(way: Way) {
    let world = World::start_with(WorldOptions::by(way)).await;
    world.publish(&[APP]);
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        let node = world.node(name).await;
        node.runtime.hold_pulls(true);
        nodes.push(node);
    }
    let spec = json!({
        "cacheSpec": [{ "images": [APP] }],
        "rollout": { "maxConcurrentNodes": 1 },
    });
    world.apply_spec("web", spec).await;
    let mut done: Vec<String> = Vec::new();
    while done.len() < nodes.len() {
        let first = |record: &str| nodes.iter().position(|node| node.name() == record);
        let records = fledged_tests::kube::eventually("one node to pull", || async {
            let records = world.records().list(&Default::default()).await.unwrap();
            let assigned: Vec<usize> = records
                .iter()
                .filter_map(|record| first(record.metadata.name.as_deref()?))
                .filter(|at| !done.contains(&nodes[*at].name().to_owned()))
                .collect();
            match assigned.as_slice() {
                [one] => Ok(*one),
                other => Err(format!("{} nodes", other.len())),
            }
        })
        .await;
        let node = &nodes[records];
        node.runtime.hold_pulls(false);
        node.holds_exactly(&[APP]).await;
        done.push(node.name().to_owned());
    }
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
}
