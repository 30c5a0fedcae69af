//! Watches.
use crate::support::{Cluster, MERGE};
use serde_json::{Value, json};

behaviours![
    a_watch_resumes_from_a_version,
    a_watch_without_a_version_lists_first,
    leaving_the_selection_is_a_deletion,
    a_watch_selects_one_object_by_name,
    a_watch_streams_the_initial_list,
    bookmarks_carry_the_latest_version,
    every_write_increases_the_version,
];

async fn config_maps(cluster: &Cluster, name: &str) -> String {
    let namespace = cluster.namespace(name).await;
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

async fn put(cluster: &Cluster, path: &str, name: &str, labels: Value) -> Value {
    cluster
        .post(path, json!({"metadata": {"name": name, "labels": labels}}))
        .await
        .ok()
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

fn event(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

async fn a_watch_resumes_from_a_version(cluster: &Cluster) {
    let path = config_maps(cluster, "resume").await;
    let first = put(cluster, &path, "a", json!({})).await;
    put(cluster, &path, "b", json!({})).await;
    cluster
        .patch(&format!("{path}/a"), MERGE, json!({"data": {"x": "y"}}))
        .await
        .ok();
    let mut watch = cluster
        .watch(&format!("{path}?resourceVersion={}", version(&first)))
        .await;
    assert_eq!(watch.event().await, event("ADDED", "b"));
    assert_eq!(watch.event().await, event("MODIFIED", "a"));
    cluster.delete(&format!("{path}/b")).await.ok();
    let line = watch.next().await.unwrap();
    assert_eq!(
        (&line["type"], &line["object"]["metadata"]["name"]),
        (&json!("DELETED"), &json!("b"))
    );
    let later: u64 = version(&line["object"]).parse().unwrap();
    assert!(later > version(&first).parse().unwrap());
}

async fn a_watch_without_a_version_lists_first(cluster: &Cluster) {
    let path = config_maps(cluster, "now").await;
    put(cluster, &path, "a", json!({})).await;
    for query in ["", "?resourceVersion=0"] {
        let mut watch = cluster.watch(&format!("{path}{query}")).await;
        assert_eq!(watch.event().await, event("ADDED", "a"));
    }
}

async fn leaving_the_selection_is_a_deletion(cluster: &Cluster) {
    let path = config_maps(cluster, "leaving").await;
    let start = put(cluster, &path, "a", json!({"in": "yes"})).await;
    let query = format!("labelSelector=in%3Dyes&resourceVersion={}", version(&start));
    let mut watch = cluster.watch(&format!("{path}?{query}")).await;
    let one = format!("{path}/a");
    let out = cluster
        .patch(&one, MERGE, json!({"metadata": {"labels": {"in": "no"}}}))
        .await
        .ok();
    let line = watch.next().await.unwrap();
    assert_eq!(line["type"], "DELETED");
    assert_eq!(
        line["object"]["metadata"]["labels"]["in"], "yes",
        "as it was last seen"
    );
    assert_eq!(version(&line["object"]), version(&out));
    cluster
        .patch(&one, MERGE, json!({"data": {"x": "y"}}))
        .await
        .ok();
    cluster
        .patch(&one, MERGE, json!({"metadata": {"labels": {"in": "yes"}}}))
        .await
        .ok();
    assert_eq!(watch.event().await, event("ADDED", "a"));
    cluster
        .patch(&one, MERGE, json!({"data": {"x": "z"}}))
        .await
        .ok();
    assert_eq!(watch.event().await, event("MODIFIED", "a"));
}

async fn a_watch_selects_one_object_by_name(cluster: &Cluster) {
    let path = config_maps(cluster, "one").await;
    put(cluster, &path, "a", json!({})).await;
    put(cluster, &path, "b", json!({})).await;
    let mut watch = cluster
        .watch(&format!("{path}?fieldSelector=metadata.name%3Db"))
        .await;
    assert_eq!(watch.event().await, event("ADDED", "b"));
    cluster
        .patch(&format!("{path}/a"), MERGE, json!({"data": {"x": "y"}}))
        .await
        .ok();
    cluster
        .patch(&format!("{path}/b"), MERGE, json!({"data": {"x": "y"}}))
        .await
        .ok();
    assert_eq!(watch.event().await, event("MODIFIED", "b"));
}

async fn a_watch_streams_the_initial_list(cluster: &Cluster) {
    let path = config_maps(cluster, "streamed").await;
    put(cluster, &path, "a", json!({})).await;
    let last = put(cluster, &path, "b", json!({})).await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = cluster.watch(&format!("{path}?{query}")).await;
    assert_eq!(watch.event().await, event("ADDED", "a"));
    assert_eq!(watch.event().await, event("ADDED", "b"));
    let line = watch.next().await.unwrap();
    assert_eq!(line["type"], "BOOKMARK");
    assert_eq!(
        line["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    assert!(version(&line["object"]).parse::<u64>().unwrap() >= version(&last).parse().unwrap());
    put(cluster, &path, "c", json!({})).await;
    assert_eq!(watch.event().await, event("ADDED", "c"));
    let refused = cluster
        .get(&format!("{path}?watch=1&sendInitialEvents=true"))
        .await;
    refused.refused(422, "Invalid");
}

async fn bookmarks_carry_the_latest_version(cluster: &Cluster) {
    let path = config_maps(cluster, "bookmarks").await;
    let last = put(cluster, &path, "a", json!({})).await;
    let query = format!(
        "allowWatchBookmarks=true&timeoutSeconds=3&resourceVersion={}",
        version(&last)
    );
    let mut watch = cluster.watch(&format!("{path}?{query}")).await;
    let mut bookmarks = 0;
    while let Some(line) = watch.next().await {
        assert_eq!(
            (&line["type"], &line["object"]["kind"]),
            (&json!("BOOKMARK"), &json!("ConfigMap"))
        );
        assert!(
            version(&line["object"]).parse::<u64>().unwrap() >= version(&last).parse().unwrap()
        );
        bookmarks += 1;
    }
    // A real server sends no bookmark in so short a time.
    assert!(bookmarks > 0 || cluster.is_real(), "it ended without one");
}

async fn every_write_increases_the_version(cluster: &Cluster) {
    let path = config_maps(cluster, "versions").await;
    let mut last = 0;
    for name in ["a", "b", "c"] {
        let now: u64 = version(&put(cluster, &path, name, json!({})).await)
            .parse()
            .unwrap();
        assert!(now > last);
        last = now;
    }
    let listed: u64 = version(&cluster.get(&path).await.ok()).parse().unwrap();
    assert!(listed >= last);
}
