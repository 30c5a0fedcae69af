//! `fledged doctor`.

use fledged_apiserver::{Failure, RequestFilter, Server};
use fledged_tests::kube::{TestNode, World, WorldOptions};
use fledged_tests::{Fledged, Output};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::terminal::support::{APP, fledged, run};

const OPERATOR: &str = "kube-fledged";

/// An object of the plain YAML.
fn of_yaml(kind: &str) -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubefledged.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let found = objects.into_iter().find(|object| object["kind"] == kind);
    found.unwrap()
}

/// Applies an object, and its status if it has one.
async fn apply<K>(api: &Api<K>, object: &Value)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let name = object["metadata"]["name"].as_str().unwrap();
    let params = PatchParams::apply("a-test").force();
    api.patch(name, &params, &Patch::Apply(object))
        .await
        .unwrap();
    if let Some(status) = object.get("status") {
        let status = Patch::Merge(json!({ "status": status }));
        let params = PatchParams::default();
        api.patch_status(name, &params, &status).await.unwrap();
    }
}

/// Creates what the plain YAML and Kubernetes' controllers would have created for an agent on this node.
async fn install(client: &Client, node: &str) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in [OPERATOR, "kube-node-lease"] {
        let namespace =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        apply(&namespaces, &namespace).await;
    }
    let mut controller = of_yaml("Deployment");
    controller["status"] = json!({ "replicas": 1, "readyReplicas": 1, "availableReplicas": 1 });
    apply::<Deployment>(&Api::namespaced(client.clone(), OPERATOR), &controller).await;
    let mut agents = of_yaml("DaemonSet");
    agents["status"] = json!({ "desiredNumberScheduled": 1, "currentNumberScheduled": 1,
        "numberMisscheduled": 0, "numberReady": 1, "updatedNumberScheduled": 1 });
    apply::<DaemonSet>(&Api::namespaced(client.clone(), OPERATOR), &agents).await;
    let template = &agents["spec"]["template"];
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "kubefledged-agent-x", "labels": template["metadata"]["labels"] },
        "spec": { "nodeName": node, "containers": [{ "name": "agent",
            "image": template["spec"]["containers"][0]["image"] }] },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    apply::<Pod>(&Api::namespaced(client.clone(), OPERATOR), &pod).await;
    renew(
        client,
        OPERATOR,
        "kubefledged-controller",
        SignedDuration::ZERO,
    )
    .await;
    renew(client, "kube-node-lease", node, SignedDuration::ZERO).await;
}

/// Renews a Lease as a holder whose clock is ahead by that.
async fn renew(client: &Client, namespace: &str, name: &str, ahead: SignedDuration) {
    let now = Timestamp::now() + ahead;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name },
        "spec": { "holderIdentity": "holder_1", "leaseDurationSeconds": 15,
            "renewTime": format!("{now:.6}") },
    });
    apply::<Lease>(&Api::namespaced(client.clone(), namespace), &lease).await;
}

/// The finding of a check.
#[track_caller]
fn finding(report: &Value, name: &str) -> Value {
    let mut checks = report["checks"].as_array().unwrap().iter();
    let found = checks.find(|check| check["name"] == name);
    found
        .unwrap_or_else(|| panic!("{name} is missing: {report:#}"))
        .clone()
}

fn doctor(world: &World, code: i32) -> Value {
    fledged(world, &["doctor", "-o", "json"], code).json()
}

/// A world with a node and an installed operator; none on a real API server, which has its own.
async fn healthy() -> Option<(World, TestNode)> {
    let world = World::start_with(WorldOptions::default()).await;
    world.cluster().embedded()?;
    world.publish(&[APP]);
    let node = world.node("a").await;
    world.apply("web", &[APP]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    install(&world.cluster().client(), node.name()).await;
    Some((world, node))
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_no_fault_in_a_healthy_cluster() {
    let Some((world, _node)) = healthy().await else {
        return;
    };
    let report = doctor(&world, 0);
    for check in report["checks"].as_array().unwrap() {
        let category = check["category"].as_str().unwrap();
        let name = check["name"].as_str().unwrap();
        // The embedded API server has no access reviews, and no webhook is installed.
        let expected = match name {
            "webhook-ca-bundle" | "webhook-endpoints" => "skipped",
            _ if category == "permissions" => "skipped",
            _ => "ok",
        };
        assert_eq!(check["result"], expected, "{check:#}");
    }
    assert_eq!(report["summary"]["failed"], 0);
    let lease = finding(&report, "controller-lease")["found"].clone();
    assert!(
        lease
            .as_str()
            .unwrap()
            .contains("is held by holder_1, renewed "),
        "{lease}"
    );

    let table = fledged(&world, &["doctor"], 0).stdout;
    assert!(
        table.starts_with("api-server\n----------\nok       api-server-answers"),
        "{table}"
    );
    assert!(table.contains("\nclocks\n------\n"), "{table}");
    let yaml = fledged(&world, &["doctor", "-o", "yaml"], 0).stdout;
    assert!(yaml.starts_with("checks:\n"), "{yaml}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_each_fault_and_its_remedy() {
    let Some((world, node)) = healthy().await else {
        return;
    };
    let client = world.cluster().client();
    let merge = |patch: Value| Patch::Merge(patch);
    let params = PatchParams::default();
    // An old definition.
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = "nodeimagecaches.kubefledged.io";
    let mut definition = definitions.get(name).await.unwrap();
    let version = &mut definition.spec.versions[0];
    let schema = version
        .schema
        .as_mut()
        .unwrap()
        .open_api_v3_schema
        .as_mut()
        .unwrap();
    let status = schema
        .properties
        .as_mut()
        .unwrap()
        .get_mut("status")
        .unwrap();
    status
        .properties
        .as_mut()
        .unwrap()
        .remove("pendingRemovals");
    definition.metadata.managed_fields = None;
    let replaced = definitions
        .replace(name, &PostParams::default(), &definition)
        .await;
    replaced.unwrap();
    // A broken agent, in a namespace that refuses it.
    let broken = json!({ "status": {
        "conditions": [{ "type": "Ready", "status": "False", "reason": "ContainersNotReady",
            "lastTransitionTime": "2020-01-01T00:00:00Z" }],
        "containerStatuses": [{ "name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 7,
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled",
                "finishedAt": Timestamp::now().to_string() } } }],
    } });
    let pods: Api<Pod> = Api::namespaced(client.clone(), OPERATOR);
    let pod = pods
        .patch_status("kubefledged-agent-x", &params, &merge(broken))
        .await;
    pod.unwrap();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let level =
        json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "baseline" } } });
    namespaces
        .patch(OPERATOR, &params, &merge(level))
        .await
        .unwrap();
    // A webhook without a server, a released Lease, and a clock that is wrong.
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": "old" },
        "webhooks": [{ "name": "validate-image-cache.kubefledged.io", "admissionReviewVersions": ["v1"],
            "sideEffects": "None", "failurePolicy": "Fail",
            "clientConfig": { "service": { "namespace": OPERATOR, "name": "gone" } },
            "rules": [{ "apiGroups": ["kubefledged.io"], "apiVersions": ["v1alpha2"],
                "operations": ["CREATE"], "resources": ["imagecaches"] }] }],
    });
    apply::<ValidatingWebhookConfiguration>(&Api::all(client.clone()), &webhook).await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), OPERATOR);
    let released = json!({ "spec": { "holderIdentity": "" } });
    leases
        .patch("kubefledged-controller", &params, &merge(released))
        .await
        .unwrap();
    renew(
        &client,
        "kube-node-lease",
        node.name(),
        SignedDuration::from_hours(1),
    )
    .await;

    let report = doctor(&world, 1);
    for (name, result, found, remedy) in [
        (
            "crd-nodeimagecaches",
            "failed",
            "status.pendingRemovals",
            "kubefledged-crd.yaml",
        ),
        (
            "controller-lease",
            "failed",
            "has no holder",
            "kubectl logs",
        ),
        (
            "agents-on-nodes",
            "failed",
            "CrashLoopBackOff",
            "kubectl describe pod",
        ),
        (
            "agent-restarts",
            "advice",
            "7 times",
            "agent.resources.limits.memory",
        ),
        (
            "pod-security",
            "failed",
            "the level baseline",
            "enforce=privileged",
        ),
        (
            "webhook-ca-bundle",
            "failed",
            "caBundle is empty",
            "webhook-access",
        ),
        (
            "webhook-endpoints",
            "failed",
            "no Service kube-fledged/gone",
            "webhookServer.enable",
        ),
        ("controller-clock", "skipped", "no controller renews", ""),
        ("node-clocks", "advice", "60m ahead", "NTP"),
    ] {
        let check = finding(&report, name);
        assert_eq!(check["result"], result, "{check:#}");
        let text = |field: &str| check[field].as_str().unwrap_or_default().to_owned();
        assert!(text("found").contains(found), "{check:#}");
        assert!(text("remedy").contains(remedy), "{check:#}");
        assert_eq!(check["cost"].is_null(), result == "skipped", "{check:#}");
    }
    for name in [
        "crd-imagecaches",
        "controller-deployment",
        "api-server-version",
        "node-reports",
    ] {
        assert_eq!(finding(&report, name)["result"], "ok", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_skips_what_may_not_be_read() {
    let Some((world, _node)) = healthy().await else {
        return;
    };
    let server = world.cluster().embedded().unwrap();
    for resource in [
        "pods",
        "leases",
        "customresourcedefinitions",
        "nodes",
        "deployments",
    ] {
        let filter = RequestFilter {
            resource: Some(resource.to_owned()),
            // The controller watches; it must not get what is meant for the command.
            verb: (resource == "nodes").then(|| "list".to_owned()),
            ..RequestFilter::default()
        };
        server.fail_next(9, filter, Failure::forbidden("no such right"));
    }
    let report = doctor(&world, 0);
    for (name, permission) in [
        ("agents-on-nodes", "list nodes in all namespaces"),
        (
            "agent-restarts",
            "list pods in all namespaces; --operator-namespace",
        ),
        (
            "controller-deployment",
            "list deployments.apps in all namespaces",
        ),
        ("controller-lease", "get leases.coordination.k8s.io"),
        (
            "crd-imagecaches",
            "get customresourcedefinitions.apiextensions.k8s.io",
        ),
        ("node-reports", "list nodes"),
        (
            "node-clocks",
            "list leases.coordination.k8s.io in namespace \"kube-node-lease\"",
        ),
    ] {
        let check = finding(&report, name);
        assert_eq!(check["result"], "skipped", "{check:#}");
        let text = check["found"].as_str().unwrap();
        let expected = format!("not checked: no permission to {permission}");
        assert!(text.starts_with(&expected), "{text}");
    }
    assert_eq!(finding(&report, "agents-daemonset")["result"], "ok");
}

fn without_operator(kubeconfig: &std::path::Path) -> Output {
    run(Fledged::new()
        .env("KUBECONFIG", kubeconfig)
        .args(["doctor", "-o", "json"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_reports_a_cluster_without_fledged_and_no_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::builder().start().await.unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig()).unwrap();
    let output = without_operator(&kubeconfig);
    assert_eq!(output.code, Some(1), "{output}");
    let report = output.json();
    for name in [
        "crd-imagecaches",
        "controller-deployment",
        "controller-lease",
    ] {
        assert_eq!(finding(&report, name)["result"], "failed", "{name}");
    }
    assert_eq!(finding(&report, "api-server-answers")["result"], "ok");

    server.shutdown().await;
    let output = without_operator(&kubeconfig);
    assert_eq!(output.code, Some(1), "{output}");
    let report = output.json();
    assert_eq!(finding(&report, "api-server-answers")["result"], "failed");
    assert_eq!(report["summary"]["failed"], 1);
    assert_eq!(report["summary"]["ok"], 0);
    let missing = run(Fledged::new().args(["doctor", "--kubeconfig", "/nowhere/at/all"]));
    assert_eq!(missing.code, Some(2), "{missing}");
}
