//! Caches with a status that kube-fledged has written.

use fledged_kube::crd::REFRESH_ANNOTATION;
use fledged_tests::kube::{Way, World, WorldOptions};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

scenarios! {
    kube_fledged_statuses_are_taken_over,
}

const APP: &str = "registry.test/app:1";
const DB: &str = "registry.test/db:1";

/// Writes a status with kube-fledged's field manager.
async fn write_old_status(world: &World, name: &str, status: Value) {
    let patch = Patch::Merge(json!({ "status": status }));
    let params = PatchParams {
        field_manager: Some("kubefledged-controller".to_owned()),
        ..PatchParams::default()
    };
    world
        .caches()
        .patch_status(name, &params, &patch)
        .await
        .unwrap();
}

async fn kube_fledged_statuses_are_taken_over(way: Way) {
    let mut world = World::without_controller(WorldOptions::by(way)).await;
    world.publish(&[APP, DB]);
    let a = world.node("a").await;
    world.apply("failed", &[APP]).await;
    world.apply("purged", &[DB]).await;
    let failure = json!({ "node": "somewhere", "reason": "PodInitializing", "message": "" });
    let old = json!({
        "status": "Failed", "reason": "ImageCacheCreate", "message": "Image pull failed",
        "failures": { APP: [failure] },
        "startTime": "2024-01-01T00:00:00Z", "completionTime": "2024-01-01T00:05:00Z",
    });
    write_old_status(&world, "failed", old).await;
    let old = json!({
        "status": "Succeeded", "reason": "ImageCachePurge", "message": "All cached images deleted",
        "startTime": "2024-01-01T00:00:00Z", "completionTime": "2024-01-01T00:05:00Z",
    });
    write_old_status(&world, "purged", old).await;
    world.start_controller();
    let status = world.ended("failed", "ImageCacheCreate", "Succeeded").await;
    assert!(status.failures.is_empty(), "{:?}", status.failures);
    assert_eq!(status.cached.as_deref(), Some("1/1"));
    world
        .status_when("purged", "still purged", |status| {
            status.reason == "ImageCachePurge" && status.purged == Some(true)
        })
        .await;
    a.holds_exactly(&[APP]).await;
    world.annotate("purged", REFRESH_ANNOTATION).await;
    world
        .ended("purged", "ImageCacheRefresh", "Succeeded")
        .await;
    a.holds_exactly(&[APP, DB]).await;
}
