//! Several caches that list the same image.

use fledged_kube::crd::{ImageCache, PURGE_ANNOTATION};
use fledged_tests::kube::{Way, World, cache_object, eventually};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

scenarios! {
    a_purge_keeps_images_of_other_caches,
    caches_of_equal_name_in_two_namespaces_are_distinct,
}

const APP: &str = "registry.test/app:1";
const BASE: &str = "registry.test/base:1";

async fn a_purge_keeps_images_of_other_caches(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP, BASE]);
    let a = world.node("a").await;
    world.apply("one", &[APP, BASE]).await;
    world.apply("two", &[BASE]).await;
    world.ended("one", "ImageCacheCreate", "Succeeded").await;
    world.ended("two", "ImageCacheCreate", "Succeeded").await;
    assert_eq!(a.runtime.pulls(BASE), 1, "one node, one pull");
    world.annotate("one", PURGE_ANNOTATION).await;
    world.ended("one", "ImageCachePurge", "Succeeded").await;
    a.holds_exactly(&[BASE]).await;
    let two = world
        .status_when("two", "untouched", |s| s.status == "Succeeded")
        .await;
    assert_eq!(two.cached.as_deref(), Some("1/1"));
    assert_eq!(two.reason, "ImageCacheCreate");
}

async fn caches_of_equal_name_in_two_namespaces_are_distinct(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP, BASE]);
    let a = world.node("a").await;
    let client = world.cluster().client();
    let other = format!("{}-b", world.cluster().namespace());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({ "metadata": { "name": other } })).unwrap();
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    let theirs: Api<ImageCache> = Api::namespaced(client, &other);
    let spec = json!({ "cacheSpec": [{ "images": [BASE] }], "deletionPolicy": "Purge" });
    let cache = cache_object(&other, "web", world.cluster().tag(), spec);
    let cache = serde_json::from_value(cache).unwrap();
    theirs.create(&PostParams::default(), &cache).await.unwrap();
    world.apply("web", &[APP]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    a.holds_exactly(&[APP, BASE]).await;
    eventually("the other cache to end, with its finalizer", || async {
        let cache = theirs.get("web").await.unwrap();
        let held = cache.metadata.finalizers.is_some_and(|all| !all.is_empty());
        match cache.status {
            Some(status) if held && status.status == "Succeeded" => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
    theirs
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    a.holds_exactly(&[APP]).await;
    let ours = world
        .status_when("web", "untouched", |s| s.status == "Succeeded")
        .await;
    assert_eq!(ours.cached.as_deref(), Some("1/1"));
}
