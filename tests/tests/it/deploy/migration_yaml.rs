//! Migration from kube-fledged's plain YAML to this project's, and back.

use fledged_tests::kube::{Kubectl, ServerKind, TestCluster};
use fledged_tests::{require, skipped};
use serde_json::{Value, json};

use super::install::{bare, json_of, remove_definitions};
use super::kube_fledged::webhook_manifests;
use super::make::make;
use super::rendered::{deploy, documents, named, plain, text};

const NAME: &str = "kubefledged-webhook-server";

/// Starts a cluster with kube-fledged's webhook server, or returns nothing if the cluster is shared.
async fn with_their_webhook() -> Option<(TestCluster, Kubectl)> {
    if !require(&["kubectl", "make"]) {
        return None;
    }
    let cluster = bare().await;
    if cluster.kind() == ServerKind::Cluster {
        skipped("the plain YAML has fixed names, which may exist in this cluster");
        return None;
    }
    let kubectl = Kubectl::new(&cluster);
    let manifests = webhook_manifests(cluster.namespace());
    let apply = ["apply", "-f", "-"];
    let _ = kubectl.run_with(&apply, &manifests, &[]).await.ok();
    Some((cluster, kubectl))
}

/// Returns the commands in docs/migration.md that begin with `start`.
fn documented(start: &str) -> Vec<String> {
    let page = text("../docs/migration.md");
    let lines = page.lines().filter(|line| line.starts_with(start));
    lines.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn make_replaces_kube_fledgeds_webhook_server() {
    let Some((cluster, kubectl)) = with_their_webhook().await else {
        return;
    };
    let before = json_of(&kubectl, &["get", "deployment", NAME]).await;
    assert_eq!(documented("make -C deploy deploy-using-yaml").len(), 1);
    let output = make(&cluster, &["deploy-using-yaml"]).await;
    assert!(output.status.success(), "{output:?}");

    let ours = plain();
    let role = json_of(&kubectl, &["get", "clusterrole", NAME]).await;
    assert_eq!(
        role["rules"],
        named(&ours, "ClusterRole", "-webhook-server")["rules"]
    );
    let binding = json_of(&kubectl, &["get", "clusterrolebinding", NAME]).await;
    let account =
        json!({ "kind": "ServiceAccount", "name": NAME, "namespace": cluster.namespace() });
    assert_eq!(binding["subjects"], json!([account]));
    let service = json_of(&kubectl, &["get", "service", NAME]).await;
    assert_eq!(service["spec"]["ports"].as_array().unwrap().len(), 1);
    assert_eq!(service["spec"]["ports"][0]["targetPort"], "webhook");
    let configuration = json_of(&kubectl, &["get", "validatingwebhookconfiguration", NAME]).await;
    assert_eq!(configuration["webhooks"].as_array().unwrap().len(), 1);
    assert_eq!(configuration["webhooks"][0]["failurePolicy"], "Ignore");
    let after = json_of(&kubectl, &["get", "deployment", NAME]).await;
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    let pod = &after["spec"]["template"]["spec"];
    assert!(
        pod["initContainers"].is_null() && pod["volumes"].is_null(),
        "{pod}"
    );
    assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
    assert!(pod["containers"][0]["command"].is_null(), "{pod}");
    // No object carries kube-fledged's label any more, so commands that select by it find nothing.
    assert_eq!(theirs(&kubectl).await, "");
    remove_definitions(&cluster).await;
}

/// Returns the names of the objects that carry the label of kube-fledged's webhook server.
async fn theirs(kubectl: &Kubectl) -> String {
    let kinds = "deployments,services,serviceaccounts,clusterroles,clusterrolebindings,\
                 validatingwebhookconfigurations";
    let selector = format!("--selector=kubefledged={NAME}");
    let left = kubectl.run(&["get", kinds, &selector, "-o", "name"]).await;
    left.ok().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_commands_delete_their_webhook_server() {
    let Some((cluster, kubectl)) = with_their_webhook().await else {
        return;
    };
    assert_eq!(theirs(&kubectl).await.lines().count(), 6);
    let commands = documented("kubectl delete deployment,").into_iter();
    let commands: Vec<String> = commands
        .chain(documented("kubectl delete clusterrole,"))
        .collect();
    assert_eq!(commands.len(), 2, "{commands:?}");
    for command in commands {
        let command = command.replace("-n kube-fledged", "");
        let args: Vec<&str> = command.split_whitespace().skip(1).collect();
        let _ = kubectl.run(&args).await.ok();
    }
    assert_eq!(theirs(&kubectl).await, "");
    remove_definitions(&cluster).await;
}

/// The documented rollback deletes all objects but the definitions and the namespace, so no agents keep running.
#[test]
fn documented_rollback_deletes_every_object() {
    let commands = documented("kubectl delete -f");
    assert_eq!(commands.len(), 1, "{commands:?}");
    let files = commands[0]
        .split_whitespace()
        .filter(|word| word.starts_with("deploy/"));
    let read = |file: &str| {
        let file = file.strip_prefix("deploy/").unwrap();
        assert!(deploy(file).is_file(), "{file}");
        documents(&text(file))
    };
    let deleted: Vec<Value> = files.flat_map(read).collect();
    for object in plain() {
        let kept =
            ["CustomResourceDefinition", "Namespace"].contains(&object["kind"].as_str().unwrap());
        assert_eq!(deleted.contains(&object), !kept, "{object}");
    }
}
