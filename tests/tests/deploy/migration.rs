//! From a release of kube-fledged's chart to one of this.

use std::fs;
use std::path::Path;

use fledged_operator::crd::ImageCache;
use fledged_tests::kube::{Kubectl, eventually};
use fledged_tests::require;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::install::{DEFINITIONS, bare, json_of, remove_definitions, run, try_run};
use super::make::make;
use super::rendered::deploy;

/// A chart that leaves in a cluster what kube-fledged's leaves there, as far as an upgrade meets it: a definition that
/// helm counts as nobody's, without `/status`, and a Deployment with its selector.
fn chart_of_kube_fledged(folder: &Path) {
    let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": DEFINITIONS[0] },
        "spec": {
            "group": "kubefledged.io", "scope": "Namespaced",
            "names": { "kind": "ImageCache", "plural": "imagecaches", "singular": "imagecache", "shortNames": ["ic"] },
            "versions": [{ "name": "v1alpha2", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } }],
        },
    });
    let labels = json!({
        "app.kubernetes.io/name": "kube-fledged", "app.kubernetes.io/instance": "kube-fledged",
        "app.kubernetes.io/part-of": "kube-fledged-controller",
    });
    let container = json!({ "name": "kube-fledged", "image": "registry.test/controller:v0.10.0" });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "kube-fledged-controller" },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } },
        },
    });
    let chart = "apiVersion: v2\nname: kube-fledged\nversion: v0.10.0\nappVersion: v0.10.0\n";
    for (file, content) in [
        ("Chart.yaml", chart.to_owned()),
        ("crds/crd.yaml", definition.to_string()),
        (
            "templates/deployment-controller.yaml",
            deployment.to_string(),
        ),
    ] {
        let file = folder.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
}

/// helm does not take what it finds unless it is told to; then a release of kube-fledged's chart becomes one of this.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_of_kube_fledged_is_upgraded_in_place() {
    if !require(&["helm", "kubectl"]) {
        return;
    }
    let cluster = bare().await;
    let kubectl = Kubectl::new(&cluster);
    let theirs = tempfile::tempdir().unwrap();
    chart_of_kube_fledged(theirs.path());
    let install = ["install", "kube-fledged", theirs.path().to_str().unwrap()];
    run(&cluster, &install).await;
    let cache = json!({
        "apiVersion": "kubefledged.io/v1alpha2", "kind": "ImageCache", "metadata": { "name": "old" },
        "spec": { "cacheSpec": [{ "images": ["nginx:1.23.1"] }] },
    });
    eventually("a cache to be made", || async {
        let apply = ["apply", "-f", "-"];
        let made = kubectl.run_with(&apply, &cache.to_string(), &[]).await;
        made.success.then_some(()).ok_or(made.stderr)
    })
    .await;
    let before = json_of(&kubectl, &["get", "deployment", "kube-fledged-controller"]).await;

    let chart = deploy("chart");
    let upgrade = ["upgrade", "kube-fledged", chart.to_str().unwrap()];
    run(&cluster, &[&upgrade[..], &["--take-ownership"]].concat()).await;
    let definition = json_of(&kubectl, &["get", "crd", DEFINITIONS[0]]).await;
    let version = &definition["spec"]["versions"][0];
    assert_eq!(version["subresources"], json!({ "status": {} }));
    let annotations = &definition["metadata"]["annotations"];
    assert_eq!(annotations["helm.sh/resource-policy"], "keep");
    // The same Deployment, with another pod in it.
    let after = json_of(&kubectl, &["get", "deployment", "kube-fledged-controller"]).await;
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    let containers = after["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap();
    assert_eq!(containers.len(), 1, "{containers:?}");
    assert_eq!(containers[0]["name"], "controller");
    let caches: Api<ImageCache> = Api::namespaced(cluster.client(), cluster.namespace());
    let caches = caches.list(&ListParams::default()).await.unwrap();
    let names: Vec<String> = caches.items.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["old"]);
    run(&cluster, &["uninstall", "kube-fledged"]).await;
    remove_definitions(&cluster).await;
}

/// The Helm operator runs `helm upgrade` and nothing more: no flag makes it take what is there.
#[tokio::test(flavor = "multi_thread")]
async fn the_operator_upgrades_a_release_of_kube_fledged_once_its_definition_is_the_releases() {
    if !require(&["helm", "kubectl", "make"]) {
        return;
    }
    let cluster = bare().await;
    let kubectl = Kubectl::new(&cluster);
    let theirs = tempfile::tempdir().unwrap();
    chart_of_kube_fledged(theirs.path());
    // As the operator's library does it.
    let upgrade = [
        "upgrade",
        "--install",
        "kube-fledged",
        "--server-side=false",
    ];
    run(
        &cluster,
        &[&upgrade[..], &[theirs.path().to_str().unwrap()]].concat(),
    )
    .await;
    let chart = deploy("chart");
    let ours = [&upgrade[..], &[chart.to_str().unwrap()]].concat();
    let refused = try_run(&cluster, &ours)
        .await
        .expect_err("no mark is needed");
    assert!(refused.contains("invalid ownership metadata"), "{refused}");

    for _ in 0..2 {
        let output = make(&cluster, &["adopt-definitions"]).await;
        assert!(output.status.success(), "{output:?}");
    }
    run(&cluster, &ours).await;
    let controller = json_of(&kubectl, &["get", "deployment", "kube-fledged-controller"]).await;
    let label = &controller["metadata"]["labels"]["helm.sh/chart"];
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(label, &format!("kube-fledged-{version}"));

    // What another release has is left to it.
    let output = make(&cluster, &["adopt-definitions", "HELM_RELEASE=other"]).await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{said}");
    let wanted = format!("{} belongs to another release", DEFINITIONS[0]);
    assert!(said.contains(&wanted), "{said}");
    let definition = json_of(&kubectl, &["get", "crd", DEFINITIONS[0]]).await;
    let owner = &definition["metadata"]["annotations"]["meta.helm.sh/release-name"];
    assert_eq!(owner, "kube-fledged");
    run(&cluster, &["uninstall", "kube-fledged"]).await;
    remove_definitions(&cluster).await;
}
