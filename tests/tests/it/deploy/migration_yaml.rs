//! From kube-fledged's plain YAML to this one.

use fledged_tests::kube::{Kubectl, ServerKind, TestCluster};
use fledged_tests::{require, skipped};
use serde_json::{Value, json};

use super::install::{bare, json_of, remove_definitions};
use super::kube_fledged::webhook_manifests;
use super::make::make;
use super::rendered::{deploy, documents, named, plain, text};

const NAME: &str = "kubefledged-webhook-server";

/// A cluster with kube-fledged's webhook server on it; nothing where others may have it.
async fn with_their_webhook() -> Option<(TestCluster, Kubectl)> {
    if !require(&["kubectl", "make"]) {
        return None;
    }
    let cluster = bare().await;
    if cluster.kind() == ServerKind::Cluster {
        skipped("the plain YAML has names of its own, which a cluster that stays may have already");
        return None;
    }
    let kubectl = Kubectl::new(&cluster);
    let manifests = webhook_manifests(cluster.namespace());
    let apply = ["apply", "-f", "-"];
    let _ = kubectl.run_with(&apply, &manifests, &[]).await.ok();
    Some((cluster, kubectl))
}

/// The commands of docs/migration.md that begin like this.
fn documented(start: &str) -> Vec<String> {
    let page = text("../docs/migration.md");
    let lines = page.lines().filter(|line| line.starts_with(start));
    lines.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn make_takes_over_every_object_of_their_webhook_server() {
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
    // Nothing has kube-fledged's label any more, so that what is for theirs leaves it alone.
    assert_eq!(theirs(&kubectl).await, "");
    remove_definitions(&cluster).await;
}

/// What is left of their webhook server by the label that its objects have.
async fn theirs(kubectl: &Kubectl) -> String {
    let kinds = "deployments,services,serviceaccounts,clusterroles,clusterrolebindings,\
                 validatingwebhookconfigurations";
    let selector = format!("--selector=kubefledged={NAME}");
    let left = kubectl.run(&["get", kinds, &selector, "-o", "name"]).await;
    left.ok().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_ours_nothing_of_their_webhook_server_stays() {
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

/// What is deleted on the way back is all that is more than the definitions: agents would run for ever.
#[test]
fn on_the_way_back_every_object_is_deleted() {
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
