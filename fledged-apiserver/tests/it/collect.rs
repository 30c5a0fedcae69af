//! Garbage collection: dependents of owners, namespaces and definitions.
use crate::support::{Cluster, MERGE};
use serde_json::{Value, json};

fn owned_by(name: &str, owner: &Value, block: bool) -> Value {
    json!({"metadata": {"name": name, "ownerReferences": [{
        "apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": block,
    }]}})
}

async fn start(name: &str) -> (Cluster, String) {
    let cluster = Cluster::embedded().await;
    let namespace = cluster.namespace(name).await;
    (
        cluster,
        format!("/api/v1/namespaces/{namespace}/configmaps"),
    )
}

#[tokio::test]
async fn dependents_are_deleted_with_their_owner() {
    let (cluster, path) = start("background").await;
    let owner = cluster
        .post(&path, json!({"metadata": {"name": "owner"}}))
        .await
        .ok();
    let child = cluster
        .post(&path, owned_by("child", &owner, true))
        .await
        .ok();
    cluster
        .post(&path, owned_by("grandchild", &child, true))
        .await
        .ok();
    cluster.delete(&format!("{path}/owner")).await.ok();
    cluster.until_gone(&format!("{path}/grandchild")).await;
    assert_eq!(cluster.get(&format!("{path}/child")).await.code, 404);
}

#[tokio::test]
async fn orphaned_dependents_are_kept() {
    let (cluster, path) = start("orphans").await;
    let owner = cluster
        .post(&path, json!({"metadata": {"name": "owner"}}))
        .await
        .ok();
    cluster
        .post(&path, owned_by("child", &owner, true))
        .await
        .ok();
    cluster
        .delete_with(
            &format!("{path}/owner"),
            json!({"propagationPolicy": "Orphan"}),
        )
        .await
        .ok();
    cluster.until_gone(&format!("{path}/owner")).await;
    let child = cluster
        .until(&format!("{path}/child"), |child| {
            child["metadata"].get("ownerReferences").is_none()
        })
        .await;
    assert!(child["metadata"].get("deletionTimestamp").is_none());
}

#[tokio::test]
async fn foreground_deletion_removes_the_owner_last() {
    let (cluster, path) = start("foreground").await;
    let owner = cluster
        .post(&path, json!({"metadata": {"name": "owner"}}))
        .await
        .ok();
    let mut child = owned_by("child", &owner, true);
    child["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster.post(&path, child).await.ok();
    let marked = cluster
        .delete_with(
            &format!("{path}/owner"),
            json!({"propagationPolicy": "Foreground"}),
        )
        .await
        .ok();
    assert_eq!(
        marked["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
    cluster
        .until(&format!("{path}/child"), |child| {
            child["metadata"]["deletionTimestamp"].is_string()
        })
        .await;
    assert_eq!(cluster.get(&format!("{path}/owner")).await.code, 200);
    cluster
        .patch(
            &format!("{path}/child"),
            MERGE,
            json!({"metadata": {"finalizers": null}}),
        )
        .await
        .ok();
    cluster.until_gone(&format!("{path}/owner")).await;
}

#[tokio::test]
async fn an_absent_owner_counts_as_deleted() {
    let (cluster, path) = start("never").await;
    let owner =
        json!({"metadata": {"name": "owner", "uid": "11111111-1111-4111-8111-111111111111"}});
    cluster
        .post(&path, owned_by("child", &owner, false))
        .await
        .ok();
    cluster.until_gone(&format!("{path}/child")).await;
    // A dependent with one remaining owner is kept.
    let there = cluster
        .post(&path, json!({"metadata": {"name": "there"}}))
        .await
        .ok();
    let mut shared = owned_by("shared", &there, false);
    let gone = owned_by("shared", &owner, false)["metadata"]["ownerReferences"][0].clone();
    shared["metadata"]["ownerReferences"]
        .as_array_mut()
        .unwrap()
        .push(gone);
    cluster.post(&path, shared).await.ok();
    let has_one = |object: &Value| {
        object["metadata"]["ownerReferences"]
            .as_array()
            .is_some_and(|owners| owners.len() == 1)
    };
    cluster.until(&format!("{path}/shared"), has_one).await;
}

#[tokio::test]
async fn deleting_a_namespace_deletes_its_objects() {
    let (cluster, path) = start("ending").await;
    let namespace = path.split('/').nth(4).unwrap().to_owned();
    let account = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
    cluster.get(&account).await.ok();
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    cluster.post(&path, held).await.ok();
    cluster
        .post(&path, json!({"metadata": {"name": "plain"}}))
        .await
        .ok();
    let ended = cluster
        .delete(&format!("/api/v1/namespaces/{namespace}"))
        .await
        .ok();
    assert_eq!(ended["status"]["phase"], "Terminating");
    cluster.until_gone(&format!("{path}/plain")).await;
    cluster.until_gone(&account).await;
    let refused = cluster
        .post(&path, json!({"metadata": {"name": "late"}}))
        .await
        .refused(403, "Forbidden");
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .ends_with("because it is being terminated"),
        "{refused}"
    );
    assert_eq!(
        refused["details"]["causes"][0]["reason"],
        "NamespaceTerminating"
    );
    cluster
        .patch(
            &format!("{path}/held"),
            MERGE,
            json!({"metadata": {"finalizers": null}}),
        )
        .await
        .ok();
    cluster
        .until_gone(&format!("/api/v1/namespaces/{namespace}"))
        .await;
}

#[tokio::test]
async fn deleting_a_crd_deletes_its_objects() {
    let cluster = Cluster::embedded().await;
    let root = cluster.widgets("ending.example.com").await;
    let path = format!("{root}/namespaces/default/widgets");
    let widget = |name: &str, finalizers: Value| {
        json!({
            "apiVersion": "ending.example.com/v1", "kind": "Widget",
            "metadata": {"name": name, "finalizers": finalizers}, "spec": {"size": 1},
        })
    };
    cluster
        .post(&path, widget("held", json!(["example.com/hold"])))
        .await
        .ok();
    cluster.post(&path, widget("plain", json!([]))).await.ok();
    let mut watch = cluster
        .watch(&format!("{path}?fieldSelector=metadata.name%3Dplain"))
        .await;
    assert_eq!(watch.event().await.0, "ADDED");
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.ending.example.com";
    let marked = cluster.delete(crd).await.ok();
    assert_eq!(
        marked["metadata"]["finalizers"],
        json!(["customresourcecleanup.apiextensions.k8s.io"])
    );
    assert_eq!(watch.event().await.0, "DELETED");
    cluster
        .post(&path, widget("late", json!([])))
        .await
        .refused(403, "Forbidden");
    cluster
        .patch(
            &format!("{path}/held"),
            MERGE,
            json!({"metadata": {"finalizers": null}}),
        )
        .await
        .ok();
    cluster.until_gone(crd).await;
    cluster.until_gone(&path).await;
    assert!(
        watch.next().await.is_none(),
        "nothing is left to be watched"
    );
}

#[tokio::test]
async fn bound_pods_get_a_grace_period() {
    let (cluster, path) = start("pods").await;
    let path = path.replace("/configmaps", "/pods");
    let pod = |name: &str, node: &str| {
        let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        if !node.is_empty() {
            pod["spec"]["nodeName"] = node.into();
        }
        pod
    };
    cluster.post(&path, pod("loose", "")).await.ok();
    cluster.delete(&format!("{path}/loose")).await.ok();
    assert_eq!(cluster.get(&format!("{path}/loose")).await.code, 404);
    cluster.post(&path, pod("bound", "n1")).await.ok();
    let marked = cluster.delete(&format!("{path}/bound")).await.ok();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    cluster
        .delete_with(&format!("{path}/bound"), json!({"gracePeriodSeconds": 0}))
        .await
        .ok();
    assert_eq!(cluster.get(&format!("{path}/bound")).await.code, 404);
}
