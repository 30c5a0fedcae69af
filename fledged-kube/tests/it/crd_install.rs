//! Installation of the custom resource definitions.
use std::error::Error;

use fledged_apiserver::{Failure, RequestFilter, Server};
use fledged_kube::crd::{ImageCache, NodeImageCache, definitions, install};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};

const CACHES: &str = "imagecaches.kubefledged.io";

#[tokio::test]
async fn install_is_idempotent_and_waits_until_served() {
    let server = Server::builder().start().await.unwrap();
    let client = server.client().unwrap();
    // A user has applied a definition without one of its fields.
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let [mut older, _] = definitions();
    older.spec.names.short_names = None;
    let params = PatchParams::apply("a-user");
    crds.patch(CACHES, &params, &Patch::Apply(&older))
        .await
        .unwrap();

    install(&client).await.unwrap();
    let found = crds.get(CACHES).await.unwrap();
    assert_eq!(found.spec.names.short_names.unwrap(), ["ic"]);
    let all = ListParams::default();
    let caches: Api<ImageCache> = Api::all(client.clone());
    assert!(caches.list(&all).await.unwrap().items.is_empty());
    let nodes: Api<NodeImageCache> = Api::all(client.clone());
    assert!(nodes.list(&all).await.unwrap().items.is_empty());

    let versions = async || {
        let definitions = crds.list(&all).await.unwrap();
        let versions = definitions.iter().map(ResourceExt::resource_version);
        versions.collect::<Vec<_>>()
    };
    let before = versions().await;
    install(&client).await.unwrap();
    assert_eq!(versions().await, before);
}

#[tokio::test]
async fn a_refusal_names_the_definition() {
    let server = Server::builder().start().await.unwrap();
    let refuse = RequestFilter {
        writes_only: true,
        ..RequestFilter::default()
    };
    server.fail_next(1, refuse, Failure::forbidden("no"));
    let error = install(&server.client().unwrap()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(CACHES), "{text}");
    assert!(error.source().is_some());
}
