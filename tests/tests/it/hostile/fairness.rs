//! Limits and slow images of one namespace do not slow down another.

use std::num::NonZeroUsize;
use std::time::Duration;

use fledged_core::model::CountOrPercent;
use fledged_tests::kube::{World, WorldOptions};
use serde_json::json;

use super::{APP, Tenant};

const TARPIT: &str = "registry.test/tarpit:1";
const OTHER: &str = "registry.test/other:1";

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_limit_does_not_delay_another_cache() {
    let world = World::start().await;
    world.publish(&[APP, OTHER]);
    world.registry().stall(TARPIT);
    let (attacker, victim) = Tenant::attacker_and_victim(&world).await;
    let nodes = [
        world.node("a").await,
        world.node("b").await,
        world.node("c").await,
    ];
    let spec = json!({
        "cacheSpec": [{ "images": [TARPIT, APP] }],
        "rollout": { "maxConcurrentNodes": 1 },
    });
    attacker.create("slow", spec).await;
    attacker
        .status_when("slow", "being pulled", |status| {
            status.cached.as_deref() == Some("1/6")
        })
        .await;
    victim.create_images("web", &[APP, OTHER]).await;
    victim.converges("web").await;
    for node in &nodes {
        node.holds_exactly(&[APP, OTHER]).await;
    }
}

/// The attacker's images would take all pulls for 60 × 2 s.
#[tokio::test(flavor = "multi_thread")]
async fn stalled_images_do_not_take_every_turn() {
    victim_converges_beside_stalled_images(CountOrPercent::Count(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_images_do_not_hold_the_only_slot() {
    victim_converges_beside_stalled_images(CountOrPercent::Count(1)).await;
}

async fn victim_converges_beside_stalled_images(max_concurrent_nodes: CountOrPercent) {
    let mut options = WorldOptions {
        parallel: NonZeroUsize::MIN,
        ..WorldOptions::default()
    };
    options.planner.defaults.deadline = Duration::from_secs(2);
    options.planner.max_concurrent_nodes = max_concurrent_nodes;
    let world = World::start_with(options).await;
    world.publish(&[APP, OTHER]);
    let (attacker, victim) = Tenant::attacker_and_victim(&world).await;
    let images: Vec<String> = (0..60)
        .map(|n| format!("registry.test/a{n:02}:1"))
        .collect();
    for image in &images {
        world.registry().stall(image);
    }
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    let nodes = [world.node("a").await, world.node("b").await];
    attacker.create_images("slow", &images).await;
    attacker
        .status_when("slow", "failing", |status| !status.failures.is_empty())
        .await;
    victim.create_images("web", &[APP, OTHER]).await;
    victim.converges("web").await;
    for node in &nodes {
        node.holds_exactly(&[APP, OTHER]).await;
    }
}

/// Each node reports the end of the victim's images before that of the attacker's, so that the next node can begin.
#[tokio::test(flavor = "multi_thread")]
async fn a_limited_rollout_ends_beside_a_stalled_image() {
    let world = World::start().await;
    world.publish(&[APP, OTHER]);
    world.registry().stall(TARPIT);
    let (attacker, victim) = Tenant::attacker_and_victim(&world).await;
    let mut nodes = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        nodes.push(world.node(name).await);
    }
    attacker.create_images("slow", &[TARPIT]).await;
    attacker
        .status_when("slow", "processed", |status| status.cached.is_some())
        .await;
    let spec = json!({
        "cacheSpec": [{ "images": [APP, OTHER] }],
        "rollout": { "maxConcurrentNodes": 1 },
    });
    victim.create("web", spec).await;
    victim.converges("web").await;
    for node in &nodes {
        node.holds_exactly(&[APP, OTHER]).await;
    }
}
