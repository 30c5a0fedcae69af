//! The sample manifests: an API server accepts each, and its images reach the selected nodes.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fledged_kube::crd::ReadCache;
use fledged_tests::kube::{TestCluster, World, WorldOptions};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, discovery};
use serde_json::{Value, json};

/// Returns all objects in the manifests with their paths.
fn documents() -> Vec<(PathBuf, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        all.extend(documents.into_iter().map(|found| (path.clone(), found)));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_manifest_is_valid() {
    let cluster = TestCluster::start().await;
    let mut names = BTreeSet::new();
    for (path, document) in documents() {
        let kind = apply(&cluster, &document, &path).await;
        let name = document["metadata"]["name"].as_str().unwrap();
        if kind == "ImageCache" {
            assert!(names.insert(name.to_owned()), "{name} is there twice");
            let cache: ReadCache = serde_json::from_value(document).unwrap();
            let spec = cache.into_facts().spec;
            assert!(spec.is_ok(), "{}: {spec:?}", path.display());
        }
    }
    assert_eq!(names.len(), 5, "{names:?}");
}

/// Applies an object with strict validation, which refuses unknown fields, and returns its kind.
async fn apply(cluster: &TestCluster, document: &Value, path: &Path) -> String {
    let object: DynamicObject = serde_json::from_value(document.clone()).unwrap();
    let types = object.types.clone().unwrap();
    let kind = GroupVersionKind::try_from(&types).unwrap();
    let (resource, _) = discovery::pinned_kind(&cluster.client(), &kind)
        .await
        .unwrap();
    let api: Api<DynamicObject> =
        Api::namespaced_with(cluster.client(), cluster.namespace(), &resource);
    let params = PatchParams::apply("a-user").validation_strict();
    let name = object.metadata.name.clone().unwrap();
    let applied = api.patch(&name, &params, &Patch::Apply(&object)).await;
    let applied = applied.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let kept = serde_json::to_value(&applied).unwrap();
    assert_eq!(kept["spec"], document["spec"], "{}", path.display());
    types.kind
}

/// A pull secret for one registry.
fn mk_secret(name: &str, server: &str) -> Value {
    let login = json!({ "auths": { server: { "username": "user", "password": "password" } } });
    json!({
        "metadata": { "name": name },
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": { ".dockerconfigjson": login.to_string() },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_manifest_places_its_images() {
    // Groups without a selector match all nodes, so the cluster must have only nodes of this test.
    let cluster = TestCluster::start_embedded().await;
    let mut world = World::on(cluster, WorldOptions::default());
    for (name, server) in [
        ("registry-login", "registry.example.com"),
        ("mirror-login", "mirror.example.com"),
    ] {
        world.create::<Secret>(mk_secret(name, server)).await;
    }
    let amd64 = ("kubernetes.io/arch", "amd64");
    let edge_role = ("node-role.kubernetes.io/edge", "");
    let nodes = [
        ("web", world.node_with("web", &[("tier", "web")]).await),
        (
            "fn",
            world.node_with("fn", &[("workload", "functions")]).await,
        ),
        ("edge", world.node_with("edge", &[edge_role, amd64]).await),
    ];
    let mut wanted: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut caches = BTreeSet::new();
    for (path, document) in documents() {
        if apply(world.cluster(), &document, &path).await != "ImageCache" {
            continue;
        }
        let name = document["metadata"]["name"].as_str().unwrap();
        caches.insert(name.to_owned());
        for group in document["spec"]["cacheSpec"].as_array().unwrap() {
            let on = match (group["nodeSelector"].as_object(), &group["nodeAffinity"]) {
                (Some(labels), _) if labels.contains_key("tier") => vec!["web"],
                (Some(_), _) => vec!["fn"],
                (None, Value::Object(_)) => vec!["edge"],
                (None, _) => vec!["edge", "fn", "web"],
            };
            for image in group["images"].as_array().unwrap() {
                let image = image.as_str().unwrap();
                world.publish(&[image]);
                if name == "payments" {
                    world.registry().protect(image, "user", "password");
                }
                for node in &on {
                    let images = wanted.entry(node).or_default();
                    images.insert(image.to_owned());
                }
            }
        }
    }
    world.start_controller();
    for cache in &caches {
        world.ended(cache, "ImageCacheCreate", "Succeeded").await;
    }
    for (name, node) in &nodes {
        let held: BTreeSet<String> = node.runtime.held().into_iter().collect();
        assert_eq!(held, wanted[name], "{name}");
    }
}
