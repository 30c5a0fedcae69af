//! What a node reports is untrusted: an agent's token lets it write any status of its own record.

use fledged_kube::crd::REFRESH_ANNOTATION;
use fledged_tests::kube::{TestNode, World, eventually};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::{APP, Tenant, size};

/// A Ready node without an agent, whose record the test writes.
async fn rogue(world: &World) -> TestNode {
    let node = world.unresponsive_node("rogue", &[]).await;
    node.object.set_ready(true).await;
    node
}

/// Writes the report of a node: every assigned image with this state.
async fn report(world: &World, node: &TestNode, state: &Value) -> Result<(), kube::Error> {
    let record = world.records().get(node.name()).await.unwrap();
    let images = record.spec.images.iter().map(|image| {
        let mut entry = state.clone();
        entry["image"] = image.image.as_str().into();
        entry
    });
    let status = json!({ "status": {
        "observedGeneration": record.metadata.generation,
        "images": images.collect::<Vec<_>>(),
    } });
    let patch = Patch::Merge(status);
    let (records, params) = (world.records(), PatchParams::default());
    let written = records.patch_status(node.name(), &params, &patch).await;
    written.map(drop)
}

fn failed(message: &str) -> Value {
    json!({ "phase": "Failed", "reason": "Unknown", "message": message })
}

#[tokio::test(flavor = "multi_thread")]
async fn long_texts_of_a_node_stay_out_of_statuses() {
    let world = World::start().await;
    let (_, victim) = Tenant::attacker_and_victim(&world).await;
    let images: Vec<String> = (0..100)
        .map(|n| format!("registry.test/app{n}:1"))
        .collect();
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    world.publish(&images);
    let a = world.node("a").await;
    let rogue = rogue(&world).await;
    victim.create_images("web", &images).await;
    world
        .record_when(&rogue, "assigned", |record| record.spec.images.len() == 100)
        .await;
    let refused = report(&world, &rogue, &failed(&"x".repeat(12_000))).await;
    let Err(kube::Error::Api(refused)) = refused else {
        panic!("the report was accepted");
    };
    assert_eq!(refused.code, 422, "{}", refused.message);
    // The longest text that the definition permits, with terminal escapes and a change of direction.
    let text = format!("\u{1b}[31m\u{202e}\n{}", "x".repeat(1_000));
    report(&world, &rogue, &failed(&text)).await.unwrap();
    let status = victim
        .status_when("web", "partly cached", |status| {
            status.cached.as_deref() == Some("100/200") && status.failures_total == Some(100)
        })
        .await;
    assert!(size(&status) < 64 * 1024, "{} bytes", size(&status));
    let texts = status.failures.values().flatten();
    for failure in texts.filter(|failure| failure.node == rogue.name()) {
        let message = &failure.message;
        assert!(message.chars().count() <= 401, "{message}");
        let is_plain = |c: char| !c.is_control() && c != '\u{202e}';
        assert!(message.chars().all(is_plain), "{message:?}");
    }
    assert_eq!(a.runtime.held().len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipping_report_causes_few_events() {
    let world = World::start().await;
    let (_, victim) = Tenant::attacker_and_victim(&world).await;
    let rogue = rogue(&world).await;
    victim.create_images("web", &[APP]).await;
    world
        .record_when(&rogue, "assigned", |record| !record.spec.images.is_empty())
        .await;
    for _ in 0..60 {
        report(&world, &rogue, &failed("no")).await.unwrap();
        let cached = json!({ "phase": "Cached" });
        report(&world, &rogue, &cached).await.unwrap();
    }
    victim.converges("web").await;
    let events: Api<Event> = Api::namespaced(world.cluster().client(), &victim.namespace);
    let of_cache = ListParams::default().fields("involvedObject.name=web");
    let listed = events.list(&of_cache).await.unwrap();
    let count = listed.items.len();
    assert!((1..=40).contains(&count), "{count} events");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_about_other_images_changes_nothing() {
    let world = World::start().await;
    world.publish(&[APP]);
    let (_, victim) = Tenant::attacker_and_victim(&world).await;
    let a = world.node("a").await;
    let rogue = rogue(&world).await;
    victim.create_images("web", &[APP]).await;
    let record = world
        .record_when(&rogue, "assigned", |record| !record.spec.images.is_empty())
        .await;
    let strange = |n: usize| json!({ "image": format!("registry.test/x{n}:1"), "phase": "Cached" });
    let images: Vec<Value> = (0..5_000).map(strange).collect();
    let status = json!({ "status": {
        // Of an assignment that was never written.
        "observedGeneration": record.metadata.generation.unwrap() + 1_000,
        "cached": 5_000, "desired": 5_000, "images": images,
    } });
    let patch = Patch::Merge(status);
    let (records, params) = (world.records(), PatchParams::default());
    let written = records.patch_status(rogue.name(), &params, &patch).await;
    written.unwrap();
    a.holds_exactly(&[APP]).await;
    let status = victim
        .status_when("web", "cached on the other node", |status| {
            status.cached.as_deref() == Some("1/2")
        })
        .await;
    assert!(!format!("{status:?}").contains("/x1:"), "{status:?}");
    // A truthful report counts again.
    let cached = json!({ "phase": "Cached" });
    eventually("the record to be written", || async {
        let written = report(&world, &rogue, &cached).await;
        written.map_err(|error| error.to_string())
    })
    .await;
    victim.converges("web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_revision_breaks_no_later_refresh() {
    let mut world = World::start().await;
    world.publish(&[APP]);
    let (attacker, victim) = Tenant::attacker_and_victim(&world).await;
    let a = world.node("a").await;
    attacker.create_images("forged", &[APP]).await;
    attacker.converges("forged").await;
    world.stop_controller().await;
    let forged = json!({ "status": { "refreshRevision": i64::MAX, "verifyRevision": i64::MAX } });
    let (caches, params) = (attacker.caches(), PatchParams::default());
    let patch = Patch::Merge(forged);
    caches
        .patch_status("forged", &params, &patch)
        .await
        .unwrap();
    world.start_controller();
    victim.create_images("web", &[APP]).await;
    victim.converges("web").await;
    for (tenant, name) in [(&attacker, "forged"), (&victim, "web")] {
        tenant.annotate(name, REFRESH_ANNOTATION).await;
        let status = tenant.ended(name, "ImageCacheRefresh", "Succeeded").await;
        let revision = status.refresh_revision.unwrap();
        assert!(revision < i64::MAX.cast_unsigned(), "{revision}");
    }
    a.holds_exactly(&[APP]).await;
}
