//! Every sample manifest is taken by an API server as it stands.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeSet;
use std::path::Path;

use fledged_operator::crd::ReadCache;
use fledged_tests::kube::TestCluster;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, discovery};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn every_manifest_is_valid() {
    let cluster = TestCluster::start().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        for document in documents {
            let kind = apply(&cluster, &document, &path).await;
            let name = document["metadata"]["name"].as_str().unwrap();
            if kind == "ImageCache" {
                assert!(names.insert(name.to_owned()), "{name} is there twice");
                let cache: ReadCache = serde_json::from_value(document).unwrap();
                let spec = cache.into_facts().spec;
                assert!(spec.is_ok(), "{}: {spec:?}", path.display());
            }
        }
    }
    assert_eq!(names.len(), 5, "{names:?}");
}

/// Applies it as a user does, strictly: an unknown field is an error too.
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
