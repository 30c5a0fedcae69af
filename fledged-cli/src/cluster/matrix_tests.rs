//! What a matrix looks like, small and large.

use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-01-01T00:10:00Z";

fn mk_node(name: &str, ready: bool) -> Value {
    let ready = if ready { "True" } else { "Unknown" };
    let condition = json!({ "type": "Ready", "status": ready, "reason": "NodeStatusUnknown",
        "lastTransitionTime": "2026-01-01T00:07:00Z" });
    json!({ "metadata": { "name": name, "uid": name }, "status": { "conditions": [condition] } })
}

fn mk_record(name: &str, phases: [&str; 2]) -> Value {
    let status = |(image, phase): (&str, &str)| match phase {
        "Failed" => json!({ "image": image, "phase": phase, "reason": "ImageNotFound",
            "message": "manifest unknown", "attempts": 1, "started": "2026-01-01T00:09:00Z",
            "nextAttempt": "2026-01-01T00:10:45Z" }),
        _ => json!({ "image": image, "phase": phase }),
    };
    let images = ["registry.test/app:1", "registry.test/db:1"];
    let assigned = images.map(|image| json!({ "image": image }));
    let reported: Vec<Value> = images.into_iter().zip(phases).map(status).collect();
    json!({
        "metadata": { "name": name, "generation": 1 },
        "spec": { "images": assigned },
        "status": { "observedGeneration": 1, "images": reported },
    })
}

fn mk_matrix(nodes: Vec<(String, bool, [&str; 2])>) -> Matrix {
    let cache = json!({
        "metadata": { "namespace": "shop", "name": "web", "uid": "1", "generation": 1 },
        "spec": { "cacheSpec": [{ "images": ["registry.test/app:1", "registry.test/db:1"] }] },
        "status": { "status": "Failed", "reason": "ImageCacheCreate", "observedGeneration": 1,
            "message": "5 of 8 cached on 4 nodes, 1 failed", "startTime": "2026-01-01T00:00:00Z",
            "completionTime": "2026-01-01T00:09:00Z" },
    });
    let of = |value: Value| serde_json::from_value(value).unwrap();
    let cache = serde_json::from_value(cache).unwrap();
    let objects = nodes.iter();
    let objects: Vec<_> = objects
        .map(|(name, ready, _)| of(mk_node(name, *ready)))
        .collect();
    let records = nodes.iter();
    let records = records.map(|(name, _, phases)| mk_record(name, *phases));
    let records: Vec<_> = records
        .map(|record| serde_json::from_value(record).unwrap())
        .collect();
    Matrix::new(&cache, &objects, &records, NOW.parse().unwrap())
}

fn shown(matrix: &Matrix, max_nodes: usize) -> String {
    super::text(matrix, max_nodes, NOW.parse().unwrap())
}

#[test]
fn every_node_of_a_small_cluster_is_shown() {
    let matrix = mk_matrix(vec![
        ("node-a".to_owned(), true, ["Cached", "Failed"]),
        ("node-b".to_owned(), true, ["Cached", "Cached"]),
        ("node-c".to_owned(), false, ["Cached", "Cached"]),
        ("node-d".to_owned(), true, ["Pulling", "Pending"]),
    ]);
    assert_eq!(
        shown(&matrix, 20),
        "\
ImageCache shop/web: ImageCacheCreate Failed 60s ago: 5 of 8 cached on 4 nodes, 1 failed

  1  registry.test/app:1
  2  registry.test/db:1

NODE     1   2   WHY
node-a   C   F   2 ImageNotFound
node-b   C   C
node-c   U   U   NotReady for 3m
node-d   P   W

C cached, W waiting, P pulling, U unreachable, F failed
2 on node-a: ImageNotFound: manifest unknown (1 attempt, the next in 45s)
"
    );
}

#[test]
fn of_a_large_cluster_what_is_alike_is_counted() {
    let mut nodes: Vec<(String, bool, [&str; 2])> = (0..480)
        .map(|n| (format!("good-{n:03}"), true, ["Cached", "Cached"]))
        .collect();
    nodes.extend((0..12).map(|n| (format!("bad-{n:02}"), true, ["Cached", "Failed"])));
    nodes.extend((0..3).map(|n| (format!("away-{n}"), false, ["Cached", "Cached"])));
    nodes.extend((0..5).map(|n| (format!("late-{n}"), true, ["Cached", "Pending"])));
    let matrix = mk_matrix(nodes);
    assert_eq!(matrix.nodes.len(), 500);
    assert_eq!(
        shown(&matrix, 3),
        "\
ImageCache shop/web: ImageCacheCreate Failed 60s ago: 5 of 8 cached on 4 nodes, 1 failed

  1  registry.test/app:1
  2  registry.test/db:1

NODE           1   2   WHY
bad-00         C   F   2 ImageNotFound
bad-01         C   F   2 ImageNotFound
bad-02         C   F   2 ImageNotFound
9 more nodes   C   F
3 more nodes   U   U
480 nodes      C   C
5 nodes        C   W

C cached, W waiting, U unreachable, F failed
2 on 12 nodes, bad-00 for instance: ImageNotFound: manifest unknown
"
    );
}

#[test]
fn a_document_has_every_node() {
    let matrix = mk_matrix(vec![
        ("node-a".to_owned(), true, ["Cached", "Failed"]),
        ("node-c".to_owned(), false, ["Cached", "Cached"]),
    ]);
    let document = serde_json::to_value(&matrix).unwrap();
    assert_eq!(
        document["nodes"],
        json!([
            { "name": "node-a", "unreachable": null, "unreachableSince": null, "images": [
                { "image": "registry.test/app:1", "state": "Cached", "reason": null, "message": null,
                    "attempts": 0, "nextAttempt": null, "digest": null },
                { "image": "registry.test/db:1", "state": "Failed", "reason": "ImageNotFound",
                    "message": "manifest unknown", "attempts": 1,
                    "nextAttempt": "2026-01-01T00:10:45Z", "digest": null },
            ] },
            { "name": "node-c", "unreachable": "NotReady", "unreachableSince": "2026-01-01T00:07:00Z",
                "images": [
                { "image": "registry.test/app:1", "state": "Unreachable", "reason": null,
                    "message": null, "attempts": 0, "nextAttempt": null, "digest": null },
                { "image": "registry.test/db:1", "state": "Unreachable", "reason": null,
                    "message": null, "attempts": 0, "nextAttempt": null, "digest": null },
            ] },
        ])
    );
}

#[test]
fn an_invalid_cache_shows_what_nodes_still_hold() {
    let cache = json!({
        "metadata": { "namespace": "shop", "name": "web", "uid": "1", "generation": 1 },
        "spec": { "cacheSpec": [{ "images": ["UPPER:1"] }] },
    });
    let mut record = mk_record("node-a", ["Cached", "Cached"]);
    record["spec"]["caches"] = json!([{ "namespace": "shop", "name": "web", "uid": "1" }]);
    let cache = serde_json::from_value(cache).unwrap();
    let node = serde_json::from_value(mk_node("node-a", true)).unwrap();
    let record = serde_json::from_value(record).unwrap();
    let matrix = Matrix::new(&cache, &[node], &[record], NOW.parse().unwrap());
    assert_eq!(matrix.images, ["registry.test/app:1", "registry.test/db:1"]);
    let states = matrix.nodes[0].images.iter().map(|cell| cell.state);
    assert!(states.eq([State::Cached, State::Cached]));
}
