//! Server-side apply: ownership of fields, and removal of fields without an owner.
use crate::support::{APPLY, Cluster, MERGE};
use serde_json::{Value, json};

behaviours![
    applied_fields_are_owned,
    fields_of_other_managers_conflict,
    fields_not_applied_again_are_removed,
    applying_again_is_not_written,
    lists_merge_by_list_type,
    status_fields_have_separate_owners,
    updates_own_changed_fields,
    invalid_configurations_are_not_applied,
    applied_uid_and_version_are_preconditions,
    built_in_lists_merge_by_key,
];

struct Widgets<'c> {
    cluster: &'c Cluster,
    version: String,
    path: String,
}

impl<'c> Widgets<'c> {
    async fn new(cluster: &'c Cluster, name: &str) -> Self {
        let group = format!("{name}.example.com");
        let root = cluster.widgets(&group).await;
        let namespace = cluster.namespace(name).await;
        Self {
            cluster,
            version: format!("{group}/v1"),
            path: format!("{root}/namespaces/{namespace}/widgets/w"),
        }
    }

    fn widget(&self, parts: Value) -> Value {
        let mut widget =
            json!({"apiVersion": self.version, "kind": "Widget", "metadata": {"name": "w"}});
        for (name, part) in parts.as_object().unwrap() {
            match name.as_str() {
                "metadata" => {
                    let metadata = widget["metadata"].as_object_mut().unwrap();
                    metadata.extend(part.as_object().unwrap().clone());
                }
                name => widget[name] = part.clone(),
            }
        }
        widget
    }

    async fn apply(&self, manager: &str, parts: Value) -> crate::support::Answer {
        self.cluster
            .apply(&self.path, manager, self.widget(parts))
            .await
    }

    async fn force(&self, manager: &str, parts: Value) -> crate::support::Answer {
        self.cluster
            .apply(
                &format!("{}?force=true", self.path),
                manager,
                self.widget(parts),
            )
            .await
    }
}

/// The fields that a manager owns.
fn owned(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    let found: Vec<&Value> = entries
        .iter()
        .filter(|entry| entry["manager"] == manager)
        .collect();
    assert!(
        found.len() < 2,
        "{manager} is there more than once: {entries:?}"
    );
    found
        .first()
        .map(|entry| entry["fieldsV1"].clone())
        .unwrap_or_default()
}

async fn applied_fields_are_owned(cluster: &Cluster) {
    let widgets = Widgets::new(cluster, "owned").await;
    let applied = widgets
        .apply("m", json!({"metadata": {"labels": {"a": "b"}}, "spec": {"size": 1, "free": {"x": {"y": 1}, "l": [1]}}}))
        .await;
    assert_eq!(applied.code, 201);
    let applied = applied.ok();
    let expected = json!({
        "f:metadata": {"f:labels": {"f:a": {}}},
        "f:spec": {"f:size": {}, "f:free": {"f:x": {".": {}, "f:y": {}}, "f:l": {}}},
    });
    assert_eq!(owned(&applied, "m"), expected);
    let entry = &applied["metadata"]["managedFields"][0];
    assert_eq!(
        (&entry["operation"], &entry["fieldsType"]),
        (&json!("Apply"), &json!("FieldsV1"))
    );
    assert_eq!(
        applied["spec"]["policy"], "Always",
        "defaults have no owner"
    );
}

async fn fields_of_other_managers_conflict(cluster: &Cluster) {
    let widgets = Widgets::new(cluster, "conflict").await;
    widgets
        .apply("m", json!({"spec": {"size": 1, "labels": {"a": "1"}}}))
        .await
        .ok();
    widgets.apply("n", json!({"spec": {"size": 1}})).await.ok();
    let refused = widgets
        .apply("n", json!({"spec": {"size": 2, "labels": {"a": "2"}}}))
        .await
        .refused(409, "Conflict");
    let message =
        "Apply failed with 2 conflicts: conflicts with \"m\":\n- .spec.size\n- .spec.labels.a";
    assert_eq!(refused["message"], message);
    let cause = json!({"reason": "FieldManagerConflict", "message": "conflict with \"m\"", "field": ".spec.size"});
    assert_eq!(refused["details"]["causes"][0], cause);
    let taken = widgets
        .force("n", json!({"spec": {"size": 2, "labels": {"a": "2"}}}))
        .await
        .ok();
    assert_eq!(
        (owned(&taken, "m"), &taken["spec"]["size"]),
        (Value::Null, &json!(2))
    );
    let refused = widgets.apply("m", json!({"spec": {"size": 3}})).await;
    assert_eq!(
        refused.message(),
        "Apply failed with 1 conflict: conflict with \"n\": .spec.size"
    );
}

async fn fields_not_applied_again_are_removed(cluster: &Cluster) {
    let widgets = Widgets::new(cluster, "gone").await;
    let all = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"size": 1, "most": 9, "labels": {"a": "1", "b": "2"}, "images": ["x", "y"]}});
    widgets.apply("m", all).await.ok();
    widgets
        .apply(
            "n",
            json!({"spec": {"size": 1, "labels": {"b": "2"}, "images": ["y"]}}),
        )
        .await
        .ok();
    let left = widgets.apply("m", json!({"spec": {"size": 1}})).await.ok();
    assert_eq!(
        left["spec"],
        json!({"size": 1, "labels": {"b": "2"}, "images": ["y"], "policy": "Always"})
    );
    assert!(left["metadata"].get("labels").is_none());
    // The fields that an update has changed belong to its field manager.
    cluster
        .patch(
            &widgets.path,
            MERGE,
            json!({"spec": {"labels": {"c": "3"}}}),
        )
        .await
        .ok();
    let left = widgets.apply("n", json!({"spec": {"size": 1}})).await.ok();
    assert_eq!(left["spec"]["labels"], json!({"c": "3"}));
}

async fn applying_again_is_not_written(cluster: &Cluster) {
    let widgets = Widgets::new(cluster, "same").await;
    let spec = json!({"spec": {"size": 1, "rules": [{"key": "a"}]}});
    let first = widgets.apply("m", spec.clone()).await.ok();
    let second = widgets.apply("m", spec.clone()).await;
    assert_eq!(second.code, 200);
    assert_eq!(second.ok(), first);
    let shared = widgets.apply("n", spec.clone()).await.ok();
    assert_ne!(
        shared["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    assert_eq!(shared["metadata"]["generation"], 1);
    assert_eq!(widgets.apply("n", spec).await.ok(), shared);
}

async fn lists_merge_by_list_type(cluster: &Cluster) {
    let widgets = Widgets::new(cluster, "lists").await;
    widgets.apply("m", json!({"spec": {"size": 1, "images": ["a", "b"], "rules": [{"key": "x", "value": "1"}, {"key": "y"}]}})).await.ok();
    let merged = widgets
        .apply("n", json!({"spec": {"size": 1, "images": ["c"], "rules": [{"key": "w"}, {"key": "y", "value": "2"}]}}))
        .await
        .ok();
    let keys: Vec<&Value> = merged["spec"]["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| &rule["key"])
        .collect();
    assert_eq!(keys, ["x", "w", "y"]);
    assert_eq!(
        merged["spec"]["rules"][2],
        json!({"key": "y", "value": "2", "count": 3})
    );
    let mut images: Vec<&str> = merged["spec"]["images"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    images.sort_unstable();
    assert_eq!(images, ["a", "b", "c"]);
    let expected = json!({".": {}, "f:key": {}, "f:value": {}});
    assert_eq!(
        owned(&merged, "n")["f:spec"]["f:rules"]["k:{\"key\":\"y\"}"],
        expected
    );
    assert_eq!(
        owned(&merged, "n")["f:spec"]["f:images"],
        json!({"v:\"c\"": {}})
    );
    let twice = widgets
        .apply(
            "n",
            json!({"spec": {"size": 1, "rules": [{"key": "a"}, {"key": "a"}]}}),
        )
        .await;
    assert_eq!(twice.code, 500);
    assert!(
        twice
            .message()
            .contains(".spec.rules: duplicate entries for key [key=\"a\"]"),
        "{twice:?}"
    );
}

async fn status_fields_have_separate_owners(cluster: &Cluster) {
    let widgets = Widgets::new(cluster, "ownstatus").await;
    widgets.apply("m", json!({"spec": {"size": 1}})).await.ok();
    let status = format!("{}/status", widgets.path);
    let ready = |status: &str| json!({"spec": {"size": 50}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
    let written = cluster
        .apply(&status, "s", widgets.widget(ready("True")))
        .await
        .ok();
    assert_eq!(written["spec"]["size"], 1);
    let expected = json!({"f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}": {".": {}, "f:status": {}, "f:type": {}}}}});
    assert_eq!(owned(&written, "s"), expected);
    let entries = written["metadata"]["managedFields"].as_array().unwrap();
    assert!(
        entries
            .iter()
            .any(|entry| entry["manager"] == "s" && entry["subresource"] == "status")
    );
    cluster
        .apply(&status, "t", widgets.widget(ready("False")))
        .await
        .refused(409, "Conflict");
    let gone = cluster
        .apply(
            &status,
            "s",
            widgets.widget(json!({"status": {"phase": "p"}})),
        )
        .await
        .ok();
    assert_eq!(gone["status"], json!({"phase": "p"}));
    let absent = widgets.path.replace("/w", "/absent");
    let mut widget = widgets.widget(json!({"status": {}}));
    widget["metadata"]["name"] = "absent".into();
    assert_eq!(
        cluster
            .apply(&format!("{absent}/status"), "s", widget)
            .await
            .code,
        404
    );
}

async fn updates_own_changed_fields(cluster: &Cluster) {
    let widgets = Widgets::new(cluster, "updates").await;
    let collection = widgets.path.trim_end_matches("/w");
    let widget = widgets.widget(json!({"spec": {"size": 1, "labels": {"a": "1"}}}));
    let made = cluster
        .post(&format!("{collection}?fieldManager=maker"), widget)
        .await
        .ok();
    let expected = json!({"f:spec": {".": {}, "f:size": {}, "f:policy": {}, "f:labels": {".": {}, "f:a": {}}}});
    assert_eq!(owned(&made, "maker"), expected);
    let patched = cluster
        .patch(
            &format!("{}?fieldManager=other", widgets.path),
            MERGE,
            json!({"spec": {"size": 2}}),
        )
        .await
        .ok();
    assert_eq!(owned(&patched, "other"), json!({"f:spec": {"f:size": {}}}));
    assert!(owned(&patched, "maker")["f:spec"].get("f:size").is_none());
    let refused = widgets.apply("m", json!({"spec": {"size": 3}})).await;
    let message = format!(
        "Apply failed with 1 conflict: conflict with \"other\" using {}: .spec.size",
        widgets.version
    );
    assert_eq!(refused.message(), message);
    let reset = cluster
        .patch(
            &widgets.path,
            MERGE,
            json!({"metadata": {"managedFields": [{}]}}),
        )
        .await
        .ok();
    assert!(reset["metadata"].get("managedFields").is_none());
    let applied = widgets.force("m", json!({"spec": {"size": 3}})).await.ok();
    let before = owned(&applied, "before-first-apply");
    assert!(
        before["f:spec"].get("f:labels").is_some() && before["f:spec"].get("f:size").is_none(),
        "{before}"
    );
}

async fn invalid_configurations_are_not_applied(cluster: &Cluster) {
    let widgets = Widgets::new(cluster, "cannot").await;
    let widget = widgets.widget(json!({"spec": {"size": 1}}));
    let unnamed = cluster
        .patch(&widgets.path, APPLY, widget.clone())
        .await
        .causes();
    assert_eq!(unnamed[0].0, "fieldManager");
    let managed = json!({"metadata": {"managedFields": [{"manager": "m"}]}, "spec": {"size": 1}});
    widgets.apply("m", managed).await.refused(400, "BadRequest");
    let unknown = widgets
        .apply("m", json!({"spec": {"size": 1, "more": 1}}))
        .await;
    assert!(
        unknown
            .message()
            .contains(".spec.more: field not declared in schema"),
        "{unknown:?}"
    );
    assert_eq!(unknown.code, 500);
    let invalid = widgets
        .apply("m", json!({"spec": {"size": 500}}))
        .await
        .causes();
    assert_eq!(invalid[0].0, "spec.size");
    let mut other = widget.clone();
    other["metadata"]["name"] = "other".into();
    cluster
        .apply(&widgets.path, "m", other)
        .await
        .refused(400, "BadRequest");
    let mut other = widget.clone();
    other["kind"] = "Gadget".into();
    cluster
        .apply(&widgets.path, "m", other)
        .await
        .refused(400, "BadRequest");
    cluster
        .patch(&widgets.path, crate::support::STRATEGIC, widget.clone())
        .await
        .refused(415, "UnsupportedMediaType");
    let yaml = format!(
        "apiVersion: {}\nkind: Widget\nmetadata:\n  name: w\nspec:\n  size: 7\n",
        widgets.version
    );
    let path = format!("{}?fieldManager=m", widgets.path);
    let applied = cluster
        .send(
            "PATCH",
            &path,
            &[("content-type", APPLY)],
            yaml.into_bytes(),
        )
        .await
        .ok();
    assert_eq!(applied["spec"]["size"], 7);
}

async fn applied_uid_and_version_are_preconditions(cluster: &Cluster) {
    let widgets = Widgets::new(cluster, "meant").await;
    let with_uid = json!({"metadata": {"uid": "1"}, "spec": {"size": 1}});
    widgets
        .apply("m", with_uid.clone())
        .await
        .refused(409, "Conflict");
    let made = widgets.apply("m", json!({"spec": {"size": 1}})).await.ok();
    assert!(widgets.apply("m", with_uid).await.code >= 409);
    let lock =
        |version: &Value| json!({"metadata": {"resourceVersion": version}, "spec": {"size": 2}});
    widgets
        .apply("m", lock(&json!("1")))
        .await
        .refused(409, "Conflict");
    widgets
        .apply("m", lock(&made["metadata"]["resourceVersion"]))
        .await
        .ok();
}

async fn built_in_lists_merge_by_key(cluster: &Cluster) {
    let namespace = cluster.namespace("builtin").await;
    let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/d");
    let daemon_set = |image: &str, env: &str| {
        json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d"},
            "spec": {
                "selector": {"matchLabels": {"a": "b"}},
                "template": {
                    "metadata": {"labels": {"a": "b"}},
                    "spec": {"containers": [{"name": "c", "image": image, "env": [{"name": env, "value": "1"}]}]},
                },
            },
        })
    };
    cluster.apply(&path, "m", daemon_set("i:1", "A")).await.ok();
    let merged = cluster.apply(&path, "n", daemon_set("i:1", "B")).await.ok();
    let containers = &merged["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers.as_array().unwrap().len(), 1);
    assert_eq!(containers[0]["env"].as_array().unwrap().len(), 2);
    let refused = cluster.apply(&path, "n", daemon_set("i:2", "B")).await;
    let field = ".spec.template.spec.containers[name=\"c\"].image";
    assert_eq!(
        refused.message(),
        format!("Apply failed with 1 conflict: conflict with \"m\": {field}")
    );
    let node = "/api/v1/nodes/applied";
    let labelled = |key: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "applied", "labels": {key: "1"}}});
    cluster.apply(node, "m", labelled("a")).await.ok();
    let merged = cluster.apply(node, "n", labelled("b")).await.ok();
    assert_eq!(merged["metadata"]["labels"], json!({"a": "1", "b": "1"}));
    let left = cluster.apply(node, "m", labelled("c")).await.ok();
    assert_eq!(left["metadata"]["labels"], json!({"b": "1", "c": "1"}));
    cluster.delete(node).await.ok();
}
