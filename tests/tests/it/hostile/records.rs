//! Records of nodes: whatever one namespace asks for, records stay small and have room for the others.

use std::time::Duration;

use fledged_kube::crd::{NodeImageCache, PURGE_ANNOTATION};
use fledged_tests::kube::{TestNode, World, WorldOptions};
use serde_json::{Value, json};

use super::{APP, Tenant, failures, size};

/// The room for an assignment in a record.
const ROOM: usize = 512 * 1024;
/// Largest object that etcd takes.
const ETCD_MAX: usize = 1536 * 1024;

/// Images with references of some 300 characters.
fn long_images(prefix: &str, count: usize) -> Vec<String> {
    let path = "x".repeat(180);
    let tag = "y".repeat(90);
    (0..count)
        .map(|n| format!("registry.test/{path}/{prefix}-{n:04}:{tag}"))
        .collect()
}

fn secrets(count: usize) -> Value {
    (0..count)
        .map(|n| json!({ "name": format!("{n:0>253}") }))
        .collect()
}

async fn world() -> (World, TestNode) {
    let world = World::start_with(WorldOptions {
        pull: Duration::ZERO,
        ..WorldOptions::default()
    })
    .await;
    world.publish(&[APP]);
    let node = world.node("a").await;
    (world, node)
}

/// Returns the record of a node, whose assignment stays small and which has room for a report.
async fn record(world: &World, node: &TestNode) -> NodeImageCache {
    let record = world.records().get(node.name()).await.unwrap();
    assert!(size(&record.spec) <= ROOM, "{} bytes", size(&record.spec));
    assert!(size(&record) < ETCD_MAX, "{} bytes", size(&record));
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn victims_converge_beside_an_oversized_cache() {
    let (world, a) = world().await;
    let (attacker, victim) = Tenant::attacker_and_victim(&world).await;
    let images = json!([{ "images": long_images("big", 60) }]);
    let many = json!({ "cacheSpec": images, "imagePullSecrets": secrets(100) });
    let refused = attacker.try_create("secrets", many).await.unwrap_err();
    assert_eq!(refused.code, 422);
    assert!(
        refused.message.contains("spec.imagePullSecrets"),
        "{}",
        refused.message
    );
    // As large as the definition permits.
    let images = json!([{ "images": long_images("big", 2_000) }]);
    let largest = json!({ "cacheSpec": images, "imagePullSecrets": secrets(10) });
    attacker.create("big", largest).await;
    let big = attacker.ended("big", "ImageCacheCreate", "Failed").await;
    assert!(failures(&big).contains("NodeRecordFull"), "{big:#?}");
    assert!(size(&big) < 64 * 1024, "{} bytes", size(&big));
    victim.create_images("web", &[APP]).await;
    victim.converges("web").await;
    a.holds_exactly(&[APP]).await;
    record(&world, &a).await;
    victim.annotate("web", PURGE_ANNOTATION).await;
    victim.ended("web", "ImageCachePurge", "Succeeded").await;
    a.holds_exactly(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_caches_leave_room_for_a_victim() {
    let (world, a) = world().await;
    let (attacker, victim) = Tenant::attacker_and_victim(&world).await;
    for n in 0..60 {
        let images = long_images(&format!("c{n}"), 40);
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        attacker.create_images(&format!("c{n:02}"), &images).await;
    }
    victim.create_images("web", &[APP]).await;
    victim.converges("web").await;
    a.holds_exactly(&[APP]).await;
    let record = record(&world, &a).await;
    // What fits of the attacker's is assigned.
    assert!(
        record.spec.images.len() > 100,
        "{}",
        record.spec.images.len()
    );
}

/// A cache whose affinity has `expressions` times `values` values.
fn affinity(expressions: usize, values: usize) -> Value {
    let values: Vec<String> = (0..values).map(|n| format!("v{n}")).collect();
    let expression = json!({ "key": "zone", "operator": "NotIn", "values": values });
    let terms = json!([{ "matchExpressions": vec![expression; expressions] }]);
    let required = json!({ "nodeSelectorTerms": terms });
    json!({ "cacheSpec": [{
        "images": ["registry.test/none:1"],
        "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": required },
    }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn victims_converge_beside_oversized_affinities() {
    let (world, a) = world().await;
    let (attacker, victim) = Tenant::attacker_and_victim(&world).await;
    for (name, spec) in [
        ("values", affinity(1, 50_000)),
        ("expressions", affinity(101, 1)),
    ] {
        let refused = attacker.try_create(name, spec).await.unwrap_err();
        assert_eq!(refused.code, 422, "{}", refused.message);
        assert!(refused.message.contains("Too many"), "{}", refused.message);
    }
    // Every list is short enough, and together they are not.
    let mut spec = affinity(100, 100);
    let group = spec["cacheSpec"][0].clone();
    spec["cacheSpec"].as_array_mut().unwrap().push(group);
    attacker.create("total", spec).await;
    let status = attacker
        .status_when("total", "invalid", |status| status.status == "Failed")
        .await;
    assert_eq!(status.reason, "CacheSpecValidationFailed");
    victim.create_images("web", &[APP]).await;
    victim.converges("web").await;
    a.holds_exactly(&[APP]).await;
}
