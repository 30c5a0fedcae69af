//! Migration of a Helm release from kube-fledged's chart to this chart, and back.

use fledged_kube::crd::ImageCache;
use fledged_tests::kube::{Kubectl, TestCluster, eventually};
use fledged_tests::require;
use fledged_webhook::{CertificateSource, SelfIssued, Webhook, WebhookConfig};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::install::{DEFINITIONS, bare, json_of, remove_definitions, run, try_run};
use super::kube_fledged;
use super::make::make;
use super::rendered::deploy;

/// `helm upgrade --take-ownership` turns a release of kube-fledged's chart into one of this chart.
#[tokio::test(flavor = "multi_thread")]
async fn helm_upgrades_a_kube_fledged_release_in_place() {
    if !require(&["helm", "kubectl"]) {
        return;
    }
    let cluster = bare().await;
    let kubectl = Kubectl::new(&cluster);
    let theirs = tempfile::tempdir().unwrap();
    kube_fledged::chart(theirs.path(), None);
    let install = ["install", "kube-fledged", theirs.path().to_str().unwrap()];
    run(&cluster, &install).await;
    let cache = json!({
        "apiVersion": "kubefledged.io/v1alpha2", "kind": "ImageCache", "metadata": { "name": "old" },
        "spec": { "cacheSpec": [{ "images": ["nginx:1.23.1"] }] },
    });
    eventually("an ImageCache to be created", || async {
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
    // The Deployment is the same object with a new pod template.
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

/// The Helm operator runs `helm upgrade` without --take-ownership, so the definitions must be adopted first.
#[tokio::test(flavor = "multi_thread")]
async fn helm_operator_upgrades_kube_fledged_with_adopted_crds() {
    if !require(&["helm", "kubectl", "make"]) {
        return;
    }
    let cluster = bare().await;
    let kubectl = Kubectl::new(&cluster);
    let theirs = tempfile::tempdir().unwrap();
    kube_fledged::chart(theirs.path(), None);
    // The arguments of the operator's Helm library.
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
        .expect_err("definitions that were not adopted must be refused");
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

    // Definitions of another release are not adopted.
    let output = make(&cluster, &["adopt-definitions", "HELM_RELEASE=other"]).await;
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{stdout}");
    let wanted = format!("{} belongs to another release", DEFINITIONS[0]);
    assert!(stdout.contains(&wanted), "{stdout}");
    let definition = json_of(&kubectl, &["get", "crd", DEFINITIONS[0]]).await;
    let owner = &definition["metadata"]["annotations"]["meta.helm.sh/release-name"];
    assert_eq!(owner, "kube-fledged");
    run(&cluster, &["uninstall", "kube-fledged"]).await;
    remove_definitions(&cluster).await;
}

const WEBHOOK: &str = "kube-fledged-webhook-server";

/// Runs the webhook server until its certificate is in `secret` and the CA bundle in `configuration`. Returns the bundle.
async fn issue(cluster: &TestCluster, secret: &str, configuration: Option<&str>) -> String {
    let mut issued = SelfIssued::new(cluster.namespace(), WEBHOOK);
    issued.secret = secret.to_owned();
    issued.configuration = configuration.map(str::to_owned);
    let mut config = WebhookConfig::default();
    config.certificate = CertificateSource::SelfIssued(issued);
    let webhook = Webhook::new(cluster.client(), config);
    let health = webhook.health();
    let server = webhook.bind(0).await.unwrap();
    let ready = eventually("the webhook to have a certificate", || async {
        health.ready()?;
        let Some(name) = configuration else {
            return Ok(());
        };
        let found = configuration_of(cluster, name).await;
        let writers = found.metadata.managed_fields.unwrap_or_default();
        let own = writers
            .iter()
            .any(|entry| entry.manager.as_deref() == Some("fledged-webhook"));
        match bundle_of(cluster, name).await == stored_authority(cluster, secret).await {
            true if !own => Ok(()),
            _ => Err(format!("{writers:?}")),
        }
    });
    tokio::select! {
        ended = server.run(std::future::pending()) => panic!("{ended:?}"),
        () = ready => {}
    }
    stored_authority(cluster, secret).await
}

async fn stored_authority(cluster: &TestCluster, secret: &str) -> String {
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), cluster.namespace());
    let data = secrets.get(secret).await.unwrap().data.unwrap();
    String::from_utf8(data["ca.crt"].0.clone()).unwrap()
}

async fn configuration_of(cluster: &TestCluster, name: &str) -> ValidatingWebhookConfiguration {
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(cluster.client());
    configurations.get(name).await.unwrap()
}

async fn bundle_of(cluster: &TestCluster, name: &str) -> String {
    let found = configuration_of(cluster, name).await;
    let bundle = found.webhooks.unwrap().remove(0).client_config.ca_bundle;
    String::from_utf8(bundle.unwrap_or_default().0).unwrap()
}

/// Neither switch leaves objects of the other program, or fields that belong to its field manager.
#[tokio::test(flavor = "multi_thread")]
async fn rollback_to_kube_fledged_and_upgrade_again() {
    if !require(&["helm", "kubectl"]) {
        return;
    }
    let cluster = bare().await;
    let kubectl = Kubectl::new(&cluster);
    let theirs = tempfile::tempdir().unwrap();
    // The API server accepts only a bundle that holds a certificate, so issue one.
    let their_bundle = issue(&cluster, "theirs", None).await;
    kube_fledged::chart(theirs.path(), Some(&their_bundle));
    run(
        &cluster,
        &["install", "kube-fledged", theirs.path().to_str().unwrap()],
    )
    .await;
    let chart = deploy("chart");
    let upgrade = [
        "upgrade",
        "kube-fledged",
        chart.to_str().unwrap(),
        "--take-ownership",
    ];
    run(&cluster, &upgrade).await;
    let our_bundle = issue(&cluster, WEBHOOK, Some(WEBHOOK)).await;
    assert_ne!(our_bundle, their_bundle);
    // An upgrade keeps the bundle.
    run(&cluster, &upgrade).await;
    assert_eq!(bundle_of(&cluster, WEBHOOK).await, our_bundle);

    run(&cluster, &["rollback", "kube-fledged", "1"]).await;
    assert_eq!(bundle_of(&cluster, WEBHOOK).await, their_bundle);
    let ours = [
        "daemonsets,serviceaccounts,roles,rolebindings",
        "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings",
    ];
    for kinds in ours {
        let selector = "--selector=app.kubernetes.io/name=kube-fledged";
        let left = kubectl.run(&["get", kinds, selector, "-o", "name"]).await;
        assert_eq!(left.ok().trim(), "");
    }
    let definition = theirs.path().join(kube_fledged::DEFINITION);
    let replace = ["replace", "-f", definition.to_str().unwrap()];
    let _ = kubectl.run(&replace).await.ok();

    // The field manager of the definition is now kubectl.
    let refused = try_run(&cluster, &upgrade)
        .await
        .expect_err("an upgrade over kubectl's fields must conflict");
    assert!(refused.contains("kubectl-replace"), "{refused}");
    run(&cluster, &[&upgrade[..], &["--force-conflicts"]].concat()).await;
    let definition = json_of(&kubectl, &["get", "crd", DEFINITIONS[0]]).await;
    let version = &definition["spec"]["versions"][0];
    assert_eq!(version["subresources"], json!({ "status": {} }));
    json_of(&kubectl, &["get", "daemonset", "kube-fledged-agent"]).await;
    assert_eq!(
        issue(&cluster, WEBHOOK, Some(WEBHOOK)).await,
        bundle_of(&cluster, WEBHOOK).await
    );
    run(&cluster, &["uninstall", "kube-fledged"]).await;
    remove_definitions(&cluster).await;
}
