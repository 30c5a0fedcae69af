//! Nodes that join, leave, stop responding, return and change.

use std::time::{Duration, Instant};

use fledged_tests::kube::{Way, World, eventually};
use serde_json::json;

scenarios! {
    a_late_node_gets_the_images,
    a_not_ready_node_does_not_delay_the_others,
    a_node_that_is_ready_again_continues,
    a_changed_node_label_changes_the_images,
    an_image_that_the_kubelet_evicts_is_pulled_again,
    a_restarted_agent_continues_from_the_inventory,
    a_recreated_node_gets_the_images_again,
}

const APP: &str = "registry.test/app:1";
const DB: &str = "registry.test/db:1";

async fn a_late_node_gets_the_images(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP]);
    let a = world.node("a").await;
    world.apply("web", &[APP]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    let mut late = world.unresponsive_node("late", &[]).await;
    late.start_agent();
    let status = world
        .status_when("web", "counting the node that is not Ready", |status| {
            status.cached.as_deref() == Some("1/2")
        })
        .await;
    assert_eq!(status.counts.unwrap().unreachable, 1);
    assert!(
        world
            .records()
            .get_opt(late.name())
            .await
            .unwrap()
            .is_none()
    );
    late.object.set_ready(true).await;
    late.holds_exactly(&[APP]).await;
    world
        .status_when("web", "complete", |status| {
            status.cached.as_deref() == Some("2/2")
        })
        .await;
    assert_eq!(a.runtime.pulls(APP), 1);
}

async fn a_not_ready_node_does_not_delay_the_others(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP]);
    let a = world.node("a").await;
    let dead = world.unresponsive_node("dead", &[]).await;
    let began = Instant::now();
    world.apply("web", &[APP]).await;
    let status = world.ended("web", "ImageCacheCreate", "Succeeded").await;
    // kube-fledged waits 5 min for the node. 30 s allow for a loaded machine.
    assert!(began.elapsed() < Duration::from_secs(30));
    a.holds_exactly(&[APP]).await;
    assert!(
        status.message.contains("1 on nodes that can't be reached"),
        "{}",
        status.message
    );
    let degraded = status
        .conditions
        .iter()
        .find(|c| c.type_ == "Degraded")
        .unwrap();
    assert_eq!(degraded.reason, "NodesUnreachable");
    dead.object.delete().await;
    world
        .status_when("web", "without the node", |status| {
            status.cached.as_deref() == Some("1/1")
        })
        .await;
}

async fn a_node_that_is_ready_again_continues(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP]);
    let a = world.node("a").await;
    a.runtime.hold_pulls(true);
    world.apply("web", &[APP]).await;
    world
        .record_when(&a, "assigned", |record| !record.spec.images.is_empty())
        .await;
    a.object.set_ready(false).await;
    world.ended("web", "ImageCacheCreate", "Unknown").await;
    a.object.set_ready(true).await;
    a.runtime.hold_pulls(false);
    world
        .status_when("web", "cached", |s| {
            s.cached.as_deref() == Some("1/1") && s.status == "Succeeded"
        })
        .await;
}

async fn a_changed_node_label_changes_the_images(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP, DB]);
    let a = world.node_with("a", &[("tier", "web")]).await;
    let group =
        |image: &str, tier: &str| json!({ "images": [image], "nodeSelector": { "tier": tier } });
    let spec = json!({ "cacheSpec": [group(APP, "web"), group(DB, "data")] });
    world.apply_spec("all", spec).await;
    a.holds_exactly(&[APP]).await;
    a.object.label("tier", Some("data")).await;
    world
        .record_when(&a, "assigned the other image", |record| {
            record.spec.images.iter().any(|image| image.image == DB)
        })
        .await;
    eventually("the other image", || async {
        a.runtime
            .holds(DB)
            .then_some(())
            .ok_or(format!("{:?}", a.runtime.held()))
    })
    .await;
}

async fn an_image_that_the_kubelet_evicts_is_pulled_again(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP]);
    let a = world.node("a").await;
    world.apply("web", &[APP]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    a.runtime.evict(APP);
    eventually("the image to be back", || async {
        let pulls = a.runtime.pulls(APP);
        (a.runtime.holds(APP) && pulls == 2)
            .then_some(())
            .ok_or(format!("{pulls} pulls"))
    })
    .await;
}

async fn a_restarted_agent_continues_from_the_inventory(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP, DB]);
    let mut a = world.node("a").await;
    a.runtime.hold_pulls(true);
    // A kubelet pulls one image of a pod after another.
    let at_once = if way == Way::Agents { 2 } else { 1 };
    world.apply("web", &[APP, DB]).await;
    eventually("the pulls to begin", || async {
        let pulls = a.runtime.pulls(APP) + a.runtime.pulls(DB);
        (pulls == at_once)
            .then_some(())
            .ok_or(format!("{pulls} pulls"))
    })
    .await;
    a.kill_agent().await;
    a.runtime.hold_pulls(false);
    a.runtime.preload(APP, "registry.test/app:1 v1");
    a.start_agent();
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    assert_eq!(a.runtime.pulls(APP), 1);
    assert_eq!(a.runtime.pulls(DB), at_once);
}

async fn a_recreated_node_gets_the_images_again(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP]);
    let a = world.node("a").await;
    world.apply("web", &[APP]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    a.object.delete().await;
    world
        .status_when("web", "without the node", |s| {
            s.cached.as_deref() == Some("0/0")
        })
        .await;
    drop(a);
    let again = world.node("a").await;
    again.holds_exactly(&[APP]).await;
    let record = world
        .record_when(&again, "answered", |r| {
            r.status.as_ref().is_some_and(|s| s.cached == Some(1))
        })
        .await;
    let owners = record.metadata.owner_references.unwrap();
    assert_eq!(owners.len(), 1, "{owners:?}");
}
