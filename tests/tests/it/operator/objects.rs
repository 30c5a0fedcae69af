//! Malformed objects and large objects.

use fledged_kube::crd::{ImageCache, NodeImageCache};
use fledged_tests::kube::{Way, World, cache_object, eventually};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

scenarios! {
    the_api_server_refuses_invalid_specs,
    the_api_server_accepts_all_spellings,
    a_stored_invalid_cache_gets_a_condition,
    a_changed_record_is_restored,
    a_node_holds_two_thousand_images,
}

const APP: &str = "registry.test/app:1";

async fn the_api_server_refuses_invalid_specs(way: Way) {
    let world = World::start_by(way).await;
    let group = |images: Value| json!({ "cacheSpec": [{ "images": images }] });
    for (spec, field, problem) in [
        (json!({}), "spec.cacheSpec", "Required value"),
        (
            json!({ "cacheSpec": [] }),
            "spec.cacheSpec",
            "should have at least 1 items",
        ),
        (
            group(json!([])),
            "spec.cacheSpec[0].images",
            "should have at least 1 items",
        ),
        (
            group(json!([APP, APP])),
            "spec.cacheSpec[0].images[1]",
            "Duplicate value",
        ),
        (
            group(json!(["registry.example/app:1 "])),
            "spec.cacheSpec[0].images[0]",
            "must be an image reference without spaces around it",
        ),
        (
            group(json!(["https://registry.example/app:1"])),
            "spec.cacheSpec[0].images[0]",
            "without https://",
        ),
        (
            group(json!([""])),
            "spec.cacheSpec[0].images[0]",
            "should be at least 1 chars long",
        ),
        (
            group(json!([7])),
            "spec.cacheSpec[0].images[0]",
            "must be of type string",
        ),
        (
            json!({ "cacheSpec": [{ "images": [APP], "tolerations": [{ "key": "" }] }] }),
            "spec.cacheSpec[0].tolerations[0]",
            "key must be given",
        ),
        (
            json!({ "cacheSpec": [{ "images": [APP] }], "deletionPolicy": "Burn" }),
            "spec.deletionPolicy",
            "supported values",
        ),
        (
            json!({ "cacheSpec": [{ "images": [APP] }], "rollout": { "maxConcurrentNodes": 0 } }),
            "spec.rollout.maxConcurrentNodes",
            "should be greater than or equal to 1",
        ),
        (
            json!({ "cacheSpec": [{ "images": [APP] }], "rollout": { "maxConcurrentNodes": "7" } }),
            "spec.rollout.maxConcurrentNodes",
            "must be a number of nodes, for example 10, or a percentage",
        ),
        (
            json!({ "cacheSpec": [{ "images": [APP] }], "rollout": { "maxPullRatePerNode": 0 } }),
            "spec.rollout.maxPullRatePerNode",
            "should be greater than or equal to 65536",
        ),
        (
            json!({ "cacheSpec": [{ "images": [APP] }], "rollout": { "maxPullRatePerNode": "0Mi" } }),
            "spec.rollout.maxPullRatePerNode",
            "must be a number of bytes a second of at least 64Ki",
        ),
        (
            json!({ "cacheSpec": [{ "images": [APP] }], "rollout": { "maxPullRatePerNode": "-20Mi" } }),
            "spec.rollout.maxPullRatePerNode",
            "must be a number of bytes a second of at least 64Ki",
        ),
        (
            json!({ "cacheSpec": [{ "images": [APP] }], "rollout": { "maxPullRatePerNode": "20MB" } }),
            "spec.rollout.maxPullRatePerNode",
            "must be a number of bytes a second of at least 64Ki",
        ),
        (
            json!({ "cacheSpec": [{ "images": [APP] }], "imagePullSecrets": [{ "name": "A" }] }),
            "spec.imagePullSecrets[0].name",
            "must be the name of a Secret: lower-case letters",
        ),
        (
            json!({ "cacheSpec": [{ "images": [APP] }], "imagePullSecrets": [{ "name": "" }] }),
            "spec.imagePullSecrets[0].name",
            "should be at least 1 chars long",
        ),
        (
            json!({ "cacheSpec": [{ "images": [APP] }], "serviceAccountName": "a..b" }),
            "spec.serviceAccountName",
            "must be the name of a ServiceAccount",
        ),
        (
            json!({ "cacheSpec": [{ "images": [APP] }], "deadline": "30h" }),
            "spec.deadline",
            "must be a duration from 1s to 24h",
        ),
        (
            json!({ "cacheSpec": [{ "images": [APP], "deadline": "0s" }] }),
            "spec.cacheSpec[0].deadline",
            "must be a duration from 1s to 24h",
        ),
        (
            group(json!(["app:"])),
            "spec.cacheSpec[0].images[0]",
            "must end with a repository, a tag or a digest",
        ),
    ] {
        let mut object = json!({
            "apiVersion": "kubefledged.io/v1alpha2", "kind": "ImageCache",
            "metadata": { "name": "bad" },
        });
        object["spec"] = spec.clone();
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let resource = kube::api::ApiResource::erase::<ImageCache>(&());
        let namespace = world.cluster().namespace();
        let api: Api<DynamicObject> =
            Api::namespaced_with(world.cluster().client(), namespace, &resource);
        let refused = api.create(&PostParams::default(), &object).await;
        let Err(kube::Error::Api(status)) = refused else {
            panic!("{spec} was accepted");
        };
        assert_eq!(
            (status.code, status.reason.as_str()),
            (422, "Invalid"),
            "{spec}"
        );
        let text = &status.message;
        assert!(
            text.contains(field) && text.contains(problem),
            "{spec}: {text}"
        );
        assert!(text.len() < 350, "{text}");
    }
}

async fn the_api_server_accepts_all_spellings(way: Way) {
    let world = World::start_by(way).await;
    let digest = format!("ghcr.io/x/y:1@sha256:{}", "6b".repeat(32));
    let images = json!([
        "nginx",
        "localhost:5000/a/b__c--d.e:1_2",
        "Registry.test/a",
        digest
    ]);
    for (at, more) in [
        json!({ "rollout": { "maxConcurrentNodes": 7 } }),
        json!({ "rollout": { "maxConcurrentNodes": "100%" } }),
        json!({ "rollout": { "maxConcurrentNodes": null } }),
        json!({ "serviceAccountName": null }),
        json!({ "serviceAccountName": "a", "imagePullSecrets": [{ "name": "a-1.b" }] }),
    ]
    .into_iter()
    .enumerate()
    {
        let mut spec = json!({ "cacheSpec": [{ "images": images }] });
        let more = more.as_object().unwrap().clone();
        spec.as_object_mut().unwrap().extend(more);
        let name = format!("accepted-{at}");
        world.apply_spec(&name, spec).await;
        let cache = world.caches().get(&name).await.unwrap();
        assert_eq!(cache.spec.cache_spec[0].images.len(), 4);
    }
}

async fn a_stored_invalid_cache_gets_a_condition(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP]);
    let a = world.node("a").await;
    // An older or edited definition may accept any spec.
    loosen(&world).await;
    let resource = kube::api::ApiResource::erase::<ImageCache>(&());
    let namespace = world.cluster().namespace();
    let api: Api<DynamicObject> =
        Api::namespaced_with(world.cluster().client(), namespace, &resource);
    for (name, spec) in [
        (
            "malformed",
            json!({ "cacheSpec": [{ "images": ["Not An Image"] }] }),
        ),
        ("of-another-type", json!({ "cacheSpec": "all of them" })),
    ] {
        let mut object = cache_object(namespace, name, "x", json!({}));
        object["spec"] = spec;
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        eventually("the looser definition to be served", || async {
            let created = api.create(&PostParams::default(), &object).await;
            created.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }
    world.apply("good", &[APP]).await;
    world.ended("good", "ImageCacheCreate", "Succeeded").await;
    a.holds_exactly(&[APP]).await;
    for (name, field, value) in [
        ("malformed", "spec.cacheSpec[0].images[0]", "Not An Image"),
        ("of-another-type", "spec.cacheSpec", "all of them"),
    ] {
        eventually(&format!("the condition InvalidSpec of {name}"), || async {
            let object = api.get(name).await.unwrap();
            let status = &object.data["status"];
            let degraded = status["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|c| {
                    c["type"] == "Degraded" && c["status"] == "True" && c["reason"] == "InvalidSpec"
                });
            let message = degraded
                .map(|c| c["message"].to_string())
                .unwrap_or_default();
            let named = message.contains(field) && message.contains(value);
            let failed =
                status["status"] == "Failed" && status["reason"] == "CacheSpecValidationFailed";
            (named && failed).then_some(()).ok_or(status.to_string())
        })
        .await;
    }
}

/// Replaces the schema of `spec` by one that accepts everything.
async fn loosen(world: &World) {
    let crds: Api<CustomResourceDefinition> = Api::all(world.cluster().client());
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let loose = json!([{
        "op": "replace",
        "path": spec,
        "value": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
    }]);
    let patch: json_patch::Patch = serde_json::from_value(loose).unwrap();
    let patch = Patch::Json::<()>(patch);
    let name = "imagecaches.kubefledged.io";
    crds.patch(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

async fn a_changed_record_is_restored(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP]);
    let a = world.node("a").await;
    world.apply("web", &[APP]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    let changed = json!({ "spec": { "images": [{ "image": "not an image" }], "caches": [] } });
    let patch = Patch::Merge(changed);
    let params = PatchParams::default();
    world
        .records()
        .patch(a.name(), &params, &patch)
        .await
        .unwrap();
    world
        .record_when(&a, "restored", |record: &NodeImageCache| {
            record.spec.images.len() == 1 && record.spec.images[0].image == APP
        })
        .await;
    assert!(a.runtime.holds(APP));
}

async fn a_node_holds_two_thousand_images(way: Way) {
    let world = World::start_by(way).await;
    let images: Vec<String> = (0..2_000)
        .map(|n| format!("registry.test/team/application-{n:04}:v1.0.{n}"))
        .collect();
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    world.publish(&images);
    let a = world.node("a").await;
    for image in &images[..1_900] {
        a.runtime.preload(image, &format!("{image} v1"));
    }
    world.apply("all", &images).await;
    let status = world.ended("all", "ImageCacheCreate", "Succeeded").await;
    assert_eq!(status.cached.as_deref(), Some("2000/2000"));
    let record = world.records().get(a.name()).await.unwrap();
    let size = serde_json::to_vec(&record).unwrap().len();
    assert!(size < 900_000, "{size} bytes; etcd takes 1.5 MiB");
}
