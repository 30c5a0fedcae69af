//! Installs, upgrades and removes the chart and the kustomization with the real helm and kubectl.

use fledged_tests::kube::{Kubectl, ServerKind, TestCluster, eventually};
use fledged_tests::{require, skipped};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::Value;

use super::rendered::{deploy, documents, helm, label, template};

pub(crate) const DEFINITIONS: [&str; 2] = [
    "imagecaches.kubefledged.io",
    "nodeimagecaches.kubefledged.io",
];

/// Starts a cluster without fledged's custom resource definitions, as before an installation.
pub(crate) async fn bare() -> TestCluster {
    let cluster = TestCluster::start().await;
    remove_definitions(&cluster).await;
    cluster
}

pub(crate) async fn remove_definitions(cluster: &TestCluster) {
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client());
    for name in DEFINITIONS {
        // The API server may refuse a deletion while the definition is being written.
        eventually("a definition to be gone", || async {
            let deleted = definitions.delete(name, &DeleteParams::default()).await;
            match definitions.get_opt(name).await.unwrap() {
                None => Ok(()),
                Some(left) => Err(format!("{deleted:?}, {:?}", left.status)),
            }
        })
        .await;
    }
}

/// Runs helm on the cluster, in the test's namespace.
pub(crate) async fn run(cluster: &TestCluster, args: &[&str]) -> String {
    let result = try_run(cluster, args).await;
    result.unwrap_or_else(|problem| panic!("helm {args:?}: {problem}"))
}

/// Runs helm as [`run`] does. Returns stdout, or stdout and stderr if helm fails.
pub(crate) async fn try_run(cluster: &TestCluster, args: &[&str]) -> Result<String, String> {
    let kubeconfig = format!("--kubeconfig={}", cluster.kubeconfig().display());
    let namespace = format!("--namespace={}", cluster.namespace());
    let args: Vec<String> = args
        .iter()
        .copied()
        .chain([&*kubeconfig, &*namespace])
        .map(str::to_owned)
        .collect();
    let output = tokio::task::spawn_blocking(move || {
        helm(&args.iter().map(String::as_str).collect::<Vec<_>>())
    });
    let output = output.await.unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(stdout),
        false => Err(format!(
            "{stdout}\n{}",
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

pub(crate) async fn json_of(kubectl: &Kubectl, args: &[&str]) -> Value {
    let args = [args, &["-o", "json"]].concat();
    serde_json::from_str(&kubectl.run(&args).await.ok()).unwrap()
}

/// Returns the labels of those `objects` that exist in the cluster.
async fn left(kubectl: &Kubectl, objects: &[Value]) -> Vec<String> {
    let mut left = Vec::new();
    for object in objects {
        let kind = object["kind"].as_str().unwrap();
        let group = object["apiVersion"]
            .as_str()
            .unwrap()
            .split_once('/')
            .map_or("", |(group, _)| group);
        let resource = match group {
            "" => kind.to_owned(),
            group => format!("{kind}.v1.{group}"),
        };
        let name = object["metadata"]["name"].as_str().unwrap();
        let found = kubectl
            .run(&["get", &resource, name, "-o", "name", "--ignore-not-found"])
            .await
            .ok();
        if !found.trim().is_empty() {
            left.push(label(object));
        }
    }
    left
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_installs_upgrades_rolls_back_and_uninstalls() {
    if !require(&["helm", "kubectl"]) {
        return;
    }
    let cluster = bare().await;
    let kubectl = Kubectl::new(&cluster);
    let chart = deploy("chart");
    let chart = chart.to_str().unwrap();
    let stdout = run(&cluster, &["install", "kube-fledged", chart]).await;
    assert!(stdout.contains("STATUS: deployed"), "{stdout}");
    let selector = ["--selector=app.kubernetes.io/name=kube-fledged"];
    let workloads = json_of(
        &kubectl,
        &[&["get", "deployments,daemonsets"], &selector[..]].concat(),
    )
    .await;
    let mut names: Vec<&str> = workloads["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    let parts = ["agent", "controller", "webhook-server"];
    assert_eq!(names, parts.map(|part| format!("kube-fledged-{part}")));
    eventually("the definitions to be served", || async {
        let none = kubectl.run(&["get", "imagecaches"]).await;
        let served = none.success && none.stderr.contains("No resources found");
        served.then_some(()).ok_or(format!("{none:?}"))
    })
    .await;

    // An upgrade changes what its values change, adds and removes.
    let values = [
        "--set=controllerReplicaCount=2",
        "--set=webhookServer.enable=true",
        "--set=priorityClass.create=true",
        "--set=networkPolicy.enabled=true",
    ];
    run(
        &cluster,
        &[&["upgrade", "kube-fledged", chart], &values[..]].concat(),
    )
    .await;
    let controller = json_of(&kubectl, &["get", "deployment", "kube-fledged-controller"]).await;
    assert_eq!(controller["spec"]["replicas"], 2);
    json_of(
        &kubectl,
        &["get", "poddisruptionbudget", "kube-fledged-controller"],
    )
    .await;
    let webhook = json_of(
        &kubectl,
        &[
            "get",
            "validatingwebhookconfiguration",
            "kube-fledged-webhook-server",
        ],
    )
    .await;
    assert_eq!(
        webhook["webhooks"][0]["clientConfig"]["service"]["namespace"],
        cluster.namespace()
    );
    // An upgrade keeps the certificate that the webhook server wrote into its Secret.
    let patch = r#"{"data":{"ca.crt":"YQ=="}}"#;
    let _ = kubectl
        .run(&[
            "patch",
            "secret",
            "kube-fledged-webhook-server",
            "--type=merge",
            "-p",
            patch,
        ])
        .await
        .ok();
    let bundle = r#"[{"op":"add","path":"/webhooks/0/clientConfig/caBundle","value":"YQ=="}]"#;
    let patched = kubectl
        .run(&[
            "patch",
            "validatingwebhookconfiguration",
            "kube-fledged-webhook-server",
            "--type=json",
            "-p",
            bundle,
        ])
        .await;
    // A real API server refuses a bundle that is not a certificate.
    assert!(
        patched.success || patched.stderr.contains("caBundle"),
        "{patched:?}"
    );
    run(
        &cluster,
        &[
            &["upgrade", "kube-fledged", chart, "--set=logFormat=json"],
            &values[..],
        ]
        .concat(),
    )
    .await;
    let secret = json_of(&kubectl, &["get", "secret", "kube-fledged-webhook-server"]).await;
    assert_eq!(secret["data"]["ca.crt"], "YQ==");
    run(
        &cluster,
        &[
            "upgrade",
            "kube-fledged",
            chart,
            "--reset-values",
            "--set=webhookServer.enable=false",
        ],
    )
    .await;
    let gone = kubectl
        .run(&[
            "get",
            "poddisruptionbudgets,networkpolicies,secrets",
            "-o",
            "name",
        ])
        .await
        .ok();
    assert!(!gone.contains("/kube-fledged"), "{gone}");

    // A rollback restores the second revision. An uninstallation leaves only the definitions.
    run(&cluster, &["rollback", "kube-fledged", "2"]).await;
    json_of(
        &kubectl,
        &["get", "poddisruptionbudget", "kube-fledged-controller"],
    )
    .await;
    let installed = template(&values);
    let stdout = run(&cluster, &["uninstall", "kube-fledged"]).await;
    assert!(
        DEFINITIONS.iter().all(|name| stdout.contains(name)),
        "{stdout}"
    );
    eventually("the rest to be gone", || async {
        let left = left(&kubectl, &installed).await;
        let kept = left
            .iter()
            .all(|name| name.starts_with("CustomResourceDefinition"));
        (kept && left.len() == 2)
            .then_some(())
            .ok_or(format!("{left:?}"))
    })
    .await;
    remove_definitions(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_and_deletes_the_kustomization() {
    if !require(&["kubectl"]) {
        return;
    }
    let cluster = bare().await;
    if cluster.kind() == ServerKind::Cluster {
        skipped("the plain YAML has a fixed namespace, which may exist in this cluster");
        return;
    }
    let kubectl = Kubectl::new(&cluster);
    let (base, webhook) = (deploy(""), deploy("webhook"));
    let folders = [base.to_str().unwrap(), webhook.to_str().unwrap()];
    // The objects name their namespace themselves.
    let mut objects = Vec::new();
    for folder in folders {
        let text = kubectl.run(&["kustomize", folder]).await.ok();
        objects.extend(documents(&text));
        let applied = kubectl
            .run_with(
                &["apply", "--namespace=kube-fledged", "-f", "-"],
                &text,
                &[],
            )
            .await
            .ok();
        assert!(!applied.contains("unchanged"), "{applied}");
        let again = kubectl
            .run_with(
                &["apply", "--namespace=kube-fledged", "-f", "-"],
                &text,
                &[],
            )
            .await
            .ok();
        assert!(
            !again.contains("created") && !again.contains("configured"),
            "{again}"
        );
        let server = kubectl
            .run_with(
                &[
                    "apply",
                    "--namespace=kube-fledged",
                    "--server-side",
                    "--force-conflicts",
                    "-f",
                    "-",
                ],
                &text,
                &[],
            )
            .await
            .ok();
        assert!(server.contains("serverside-applied"), "{server}");
    }
    let in_place = Kubectl::in_namespace(&cluster, "kube-fledged");
    let all = left(&in_place, &objects).await;
    assert_eq!(all.len(), objects.len(), "{all:?}");
    let workloads = in_place
        .run(&["get", "deployments,daemonsets", "-o", "name"])
        .await
        .ok();
    assert_eq!(workloads.lines().count(), 3, "{workloads}");
    for folder in folders {
        // The API server has no namespace controller, so waiting for the namespace would not end.
        let _ = in_place
            .run(&["delete", "--wait=false", "--ignore-not-found", "-k", folder])
            .await
            .ok();
    }
    let namespaced = |object: &&Value| !object["metadata"]["namespace"].is_null();
    let objects: Vec<Value> = objects.iter().filter(namespaced).cloned().collect();
    eventually("everything to be gone", || async {
        let left = left(&in_place, &objects).await;
        left.is_empty().then_some(()).ok_or(format!("{left:?}"))
    })
    .await;
}
