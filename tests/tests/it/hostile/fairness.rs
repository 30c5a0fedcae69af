//! Limits and slow images of one namespace do not slow down another.

use std::num::NonZeroUsize;
use std::time::Duration;

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
    let mut options = WorldOptions {
        parallel: NonZeroUsize::MIN,
        ..WorldOptions::default()
    };
    options.planner.defaults.deadline = Duration::from_secs(2);
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
