//! What a file would change.

use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-01-01T00:00:00Z";
const APP: &str = "registry.test/app:1";
const DB: &str = "registry.test/db:1";

fn mk_node(name: &str, tier: &str, ready: &str) -> Value {
    json!({
        "metadata": { "name": name, "uid": name, "labels": { "tier": tier } },
        "status": { "conditions": [{ "type": "Ready", "status": ready }] },
    })
}

fn mk_cache(name: &str, images: &[&str]) -> Value {
    json!({
        "metadata": { "namespace": "shop", "name": name, "uid": name, "generation": 1 },
        "spec": { "cacheSpec": [{ "images": images }], "rollout": { "maxConcurrentNodes": 1 } },
        "status": { "status": "Succeeded", "reason": "ImageCacheCreate", "message": "",
            "observedGeneration": 1, "startTime": NOW, "completionTime": NOW },
    })
}

fn mk_record(node: &str, images: &[&str], caches: &[&str]) -> Value {
    let entry = |image: &&str| json!({ "image": image });
    let said = |image: &&str| json!({ "image": image, "phase": "Cached" });
    let cache = |name: &&str| json!({ "namespace": "shop", "name": name, "uid": name });
    json!({
        "metadata": { "name": node, "uid": node, "generation": 1 },
        "spec": {
            "images": images.iter().map(entry).collect::<Vec<_>>(),
            "caches": caches.iter().map(cache).collect::<Vec<_>>(),
        },
        "status": {
            "observedGeneration": 1, "images": images.iter().map(said).collect::<Vec<_>>(),
        },
    })
}

fn mk_inventory(caches: &[Value], nodes: &[Value], records: &[Value]) -> Inventory {
    fn read<T: serde::de::DeserializeOwned>(values: &[Value]) -> Vec<T> {
        let values = values.iter().cloned();
        values
            .map(|value| serde_json::from_value(value).unwrap())
            .collect()
    }
    Inventory {
        caches: read(caches),
        nodes: read(nodes),
        records: read(records),
    }
}

#[test]
fn a_node_that_is_to_look_again_is_not_to_pull() {
    let entry = |policy, revision| {
        let entry = AssignedImage::present(APP.parse().unwrap());
        entry.with_pull_policy(policy).with_revision(revision)
    };
    for (policy, wanted) in [
        (ImagePullPolicy::IfNotPresent, None),
        (ImagePullPolicy::Always, Some(Action::Pull)),
    ] {
        let (before, after) = (entry(policy, 0), entry(policy, 7));
        assert_eq!(action(Some(&before), Some(&after)), wanted, "{policy:?}");
    }
}

fn planned(inventory: &Inventory, manifest: &str) -> Changes {
    let texts = [("images.yaml".to_owned(), manifest.to_owned())];
    let manifests = crate::manifest::parse_in(&texts, "shop").unwrap();
    changes(inventory, &manifests.caches, NOW.parse().unwrap())
}

fn manifest(name: &str, images: &[&str]) -> String {
    format!(
        "apiVersion: kubefledged.io/v1alpha2\nkind: ImageCache\nmetadata: {{name: {name}}}\nspec: {{cacheSpec: [{{images: {images:?}}}]}}\n"
    )
}

fn lines(changes: &Changes) -> Vec<String> {
    let line = |change: &Change| {
        format!(
            "{:?} {} on {}",
            change.action,
            change.image,
            change.nodes.join(" ")
        )
    };
    changes.changes.iter().map(line).collect()
}

fn two_nodes() -> [Value; 2] {
    [mk_node("a", "web", "True"), mk_node("b", "web", "True")]
}

#[test]
fn a_new_cache_is_pulled_on_all_nodes_at_once() {
    let changes = planned(
        &mk_inventory(&[], &two_nodes(), &[]),
        &manifest("web", &[APP]),
    );
    assert_eq!(lines(&changes), ["Pull registry.test/app:1 on a b"]);
    assert_eq!(changes.changes[0].image_caches, ["shop/web"]);
    assert_eq!(changes.summary.nodes, 2);
    assert!(changes.is_any());
}

#[test]
fn an_edit_pulls_what_came_and_removes_what_left() {
    let records = [
        mk_record("a", &[APP], &["web"]),
        mk_record("b", &[APP], &["web"]),
    ];
    let inventory = mk_inventory(&[mk_cache("web", &[APP])], &two_nodes(), &records);
    let changes = planned(&inventory, &manifest("web", &[DB]));
    let wanted = [
        "Pull registry.test/db:1 on a b",
        "Remove registry.test/app:1 on a b",
    ];
    assert_eq!(lines(&changes), wanted);
    // On a node that was never told of it there is nothing to be taken back.
    let one = mk_inventory(&[mk_cache("web", &[APP])], &two_nodes(), &records[..1]);
    let changes = planned(&one, &manifest("web", &[DB]));
    let wanted = [
        "Pull registry.test/db:1 on a b",
        "Remove registry.test/app:1 on a",
    ];
    assert_eq!(lines(&changes), wanted);
    let same = planned(&inventory, &manifest("web", &[APP]));
    assert_eq!(same, Changes::default());
}

#[test]
fn what_another_cache_wants_stays() {
    let caches = [mk_cache("web", &[APP, DB]), mk_cache("other", &[APP])];
    let records = [mk_record("a", &[APP, DB], &["web", "other"])];
    let nodes = [mk_node("a", "web", "True")];
    let inventory = mk_inventory(&caches, &nodes, &records);
    let changes = planned(&inventory, &manifest("web", &[DB]));
    assert_eq!(lines(&changes), ["Keep registry.test/app:1 on a"]);
    assert_eq!(changes.changes[0].image_caches, ["shop/other"]);
    assert!(!changes.is_any());
}

#[test]
fn a_node_that_is_not_ready_is_planned_for_and_told_of() {
    let nodes = [mk_node("a", "web", "True"), mk_node("b", "web", "False")];
    let changes = planned(&mk_inventory(&[], &nodes, &[]), &manifest("web", &[APP]));
    assert_eq!(changes.changes[0].nodes, ["a", "b"]);
    assert_eq!(changes.changes[0].not_ready, ["b"]);
}

#[test]
fn an_edit_wakes_a_purged_cache() {
    let mut cache = mk_cache("web", &[APP]);
    // As the file has it: what differs is an edit, whatever it is.
    cache["spec"].as_object_mut().unwrap().remove("rollout");
    cache["status"]["purged"] = true.into();
    cache["status"]["reason"] = "ImageCachePurge".into();
    let inventory = mk_inventory(&[cache], &two_nodes(), &[]);
    assert_eq!(
        planned(&inventory, &manifest("web", &[APP])),
        Changes::default()
    );
    let changes = planned(&inventory, &manifest("web", &[APP, DB]));
    let wanted = [
        "Pull registry.test/app:1 on a b",
        "Pull registry.test/db:1 on a b",
    ];
    assert_eq!(lines(&changes), wanted);
}
