//! The example `images-of-deployments`: a controller that derives ImageCaches from Deployments.
use crate::support::Example;
use fledged_kube::crd::ImageCacheSpec;
use fledged_tests::kube::{World, WorldOptions, eventually};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

const APP: [&str; 2] = ["registry.test/team/app:1", "registry.test/team/app:2"];
const INIT: &str = "registry.test/team/init:1";

/// Starts a world with the example as its controller.
async fn start() -> (World, Example) {
    let world = World::without_controller(WorldOptions::default()).await;
    world.publish(&[APP[0], APP[1], INIT]);
    let program = env!("CARGO_BIN_EXE_images-of-deployments");
    let args = ["--lease-namespace", world.cluster().namespace()];
    let example = Example::start(program, &args, world.cluster());
    (world, example)
}

/// Sets or removes the label that selects the test's namespace.
async fn label(world: &World, value: Option<&str>) {
    let namespaces: Api<Namespace> = Api::all(world.cluster().client());
    let labels = json!({ "fledged.example/cache-deployments": value });
    let patch = Patch::Merge(json!({ "metadata": { "labels": labels } }));
    let params = PatchParams::default();
    let namespace = world.cluster().namespace();
    namespaces.patch(namespace, &params, &patch).await.unwrap();
}

fn deployments(world: &World) -> Api<Deployment> {
    Api::namespaced(world.cluster().client(), world.cluster().namespace())
}

/// Applies a Deployment with these images, for the nodes of the test.
async fn deploy(world: &World, name: &str, images: &[&str]) {
    let containers = images.iter().enumerate();
    let containers =
        containers.map(|(n, image)| json!({ "name": format!("c{n}"), "image": image }));
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": {
                    "containers": containers.collect::<Vec<_>>(),
                    "initContainers": [{ "name": "init", "image": INIT }],
                    "imagePullSecrets": [{ "name": "registry" }],
                    "nodeSelector": { "fledged-test": world.cluster().tag() },
                },
            },
        },
    });
    let params = PatchParams::apply("a-user").force();
    let patch = Patch::Apply(deployment);
    deployments(world)
        .patch(name, &params, &patch)
        .await
        .unwrap();
}

/// Waits until the cache has this spec, or is deleted.
async fn cache_is(world: &World, wanted: Option<Value>) {
    let wanted: Option<ImageCacheSpec> = wanted.map(|spec| serde_json::from_value(spec).unwrap());
    eventually(&format!("the cache to be {wanted:?}"), || async {
        let cache = world.caches().get_opt("deployments").await.unwrap();
        let spec = cache.map(|cache| cache.spec);
        (spec == wanted).then_some(()).ok_or(format!("{spec:?}"))
    })
    .await;
}

fn cache_of(world: &World, images: &[&str]) -> Value {
    let nodes = json!({ "fledged-test": world.cluster().tag() });
    json!({
        "cacheSpec": [{ "images": images, "nodeSelector": nodes }],
        "imagePullSecrets": [{ "name": "registry" }],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn images_follow_the_deployments() {
    let (world, example) = start().await;
    let node = world.node("a").await;
    deploy(&world, "web", &[APP[0]]).await;
    label(&world, Some("true")).await;
    cache_is(&world, Some(cache_of(&world, &[APP[0], INIT]))).await;
    world
        .record_when(&node, "of two images", |r| r.spec.images.len() == 2)
        .await;
    node.holds_exactly(&[APP[0], INIT]).await;
    world
        .ended("deployments", "ImageCacheCreate", "Succeeded")
        .await;

    deploy(&world, "web", &[APP[1]]).await;
    cache_is(&world, Some(cache_of(&world, &[APP[1], INIT]))).await;
    node.holds_exactly(&[APP[1], INIT]).await;

    let params = DeleteParams::default();
    deployments(&world).delete("web", &params).await.unwrap();
    cache_is(&world, None).await;
    assert!(example.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_image_is_skipped() {
    let (world, _example) = start().await;
    label(&world, Some("true")).await;
    deploy(&world, "bad", &["Not An Image"]).await;
    deploy(&world, "web", &[APP[0]]).await;
    cache_is(&world, Some(cache_of(&world, &[APP[0], INIT]))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_reverted_and_foreign_fields_are_kept() {
    let (world, _example) = start().await;
    label(&world, Some("true")).await;
    deploy(&world, "web", &[APP[0]]).await;
    cache_is(&world, Some(cache_of(&world, &[APP[0], INIT]))).await;
    let edit = json!({ "spec": {
        "cacheSpec": [{ "images": ["registry.test/other:1"] }],
        "rollout": { "maxConcurrentNodes": 1 },
    } });
    let caches = world.caches();
    let (params, patch) = (PatchParams::default(), Patch::Merge(edit));
    caches.patch("deployments", &params, &patch).await.unwrap();
    let mut expected = cache_of(&world, &[APP[0], INIT]);
    expected["rollout"] = json!({ "maxConcurrentNodes": 1 });
    cache_is(&world, Some(expected)).await;

    caches
        .delete("deployments", &DeleteParams::default())
        .await
        .unwrap();
    cache_is(&world, Some(cache_of(&world, &[APP[0], INIT]))).await;

    label(&world, None).await;
    cache_is(&world, None).await;
}
