//! Images that another client put on a node.

use fledged_kube::crd::PURGE_ANNOTATION;
use fledged_tests::kube::{Way, World, eventually};
use kube::api::DeleteParams;
use serde_json::json;

use super::{APP, Tenant};

const SYSTEM: &str = "registry.test/system:1";
const OTHER: &str = "registry.test/other:1";

/// Images of the node that fledged has not pulled, and an image of the victim.
async fn a_creation_with_a_purge_removes_nothing(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP, OTHER]);
    let (attacker, victim) = Tenant::attacker_and_victim(&world).await;
    let a = world.node("a").await;
    a.runtime.preload(SYSTEM, "registry.test/system:1 v1");
    victim.create_images("web", &[APP]).await;
    victim.converges("web").await;
    let spec = json!({ "cacheSpec": [{ "images": [SYSTEM, APP] }] });
    let annotations = json!({ PURGE_ANNOTATION: "" });
    let created = attacker.try_create_with("purge", spec, annotations).await;
    created.unwrap();
    attacker
        .ended("purge", "ImageCachePurge", "Succeeded")
        .await;
    // Whatever the node was asked to do is done once it has reported what was assigned after that.
    victim.create_images("next", &[APP, OTHER]).await;
    victim.converges("next").await;
    a.holds_exactly(&[APP, OTHER, SYSTEM]).await;
    assert_eq!(a.runtime.pulls(APP), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_remove_nothing_for_a_cache_created_with_a_purge() {
    a_creation_with_a_purge_removes_nothing(Way::Agents).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_remove_nothing_for_a_cache_created_with_a_purge() {
    a_creation_with_a_purge_removes_nothing(Way::Jobs).await;
}

/// Deleting a cache with the policy Retain leaves its images, also one whose purge waits for a container to end.
async fn a_deleted_cache_leaves_no_removal(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP, OTHER]);
    let (attacker, victim) = Tenant::attacker_and_victim(&world).await;
    let a = world.node("a").await;
    attacker.create_images("used", &[APP]).await;
    attacker.converges("used").await;
    a.runtime.set_in_use(APP, true);
    attacker.annotate("used", PURGE_ANNOTATION).await;
    attacker.ended("used", "ImageCachePurge", "Succeeded").await;
    let (caches, params) = (attacker.caches(), DeleteParams::default());
    caches.delete("used", &params).await.unwrap();
    eventually("the removal to be dropped", || async {
        let record = world.records().get_opt(a.name()).await.unwrap();
        let images = record.map(|record| record.spec.images).unwrap_or_default();
        let left = images.iter().any(|image| image.image == APP);
        (!left).then_some(()).ok_or(format!("{images:?}"))
    })
    .await;
    a.runtime.set_in_use(APP, false);
    victim.create_images("web", &[OTHER]).await;
    victim.converges("web").await;
    a.holds_exactly(&[APP, OTHER]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_drop_the_pending_removals_of_a_deleted_cache() {
    a_deleted_cache_leaves_no_removal(Way::Agents).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_drop_the_pending_removals_of_a_deleted_cache() {
    a_deleted_cache_leaves_no_removal(Way::Jobs).await;
}
