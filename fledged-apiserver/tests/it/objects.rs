//! Objects: creation, changes, selection, lists and deletion.
use crate::support::{Cluster, JSON_PATCH, MERGE, STRATEGIC};
use serde_json::{Value, json};

behaviours![
    a_new_object_gets_server_set_metadata,
    invalid_names_and_namespaces_are_refused,
    an_update_needs_the_latest_version,
    an_update_without_a_change_is_not_written,
    generation_counts_spec_changes_only,
    status_is_a_separate_subresource,
    finalizers_delay_deletion,
    deletion_checks_preconditions,
    label_and_field_selectors_match,
    pages_are_of_one_version,
    every_kind_of_patch_is_applied,
    invalid_secrets_are_refused,
    invalid_nodes_are_refused,
    invalid_leases_and_events_are_refused,
    both_event_groups_serve_the_same_events,
    unknown_paths_and_kinds_are_refused,
];

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

fn version(object: &Value) -> String {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn a_new_object_gets_server_set_metadata(cluster: &Cluster) {
    let namespace = cluster.namespace("new").await;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let made = cluster.post(&path, config_map("one")).await;
    assert_eq!(made.code, 201);
    let made = made.ok();
    assert_eq!(made["metadata"]["namespace"], namespace.as_str());
    assert_eq!(made["metadata"]["uid"].as_str().unwrap().len(), 36);
    assert!(made["metadata"]["creationTimestamp"].is_string());
    assert!(made["metadata"].get("generation").is_none());
    assert!(version(&made).parse::<u64>().unwrap() > 0);
    assert_eq!(cluster.get(&format!("{path}/one")).await.ok(), made);

    let refused = cluster
        .post(&path, config_map("one"))
        .await
        .refused(409, "AlreadyExists");
    assert_eq!(refused["message"], "configmaps \"one\" already exists");
    let missing = cluster
        .get(&format!("{path}/two"))
        .await
        .refused(404, "NotFound");
    assert_eq!(missing["message"], "configmaps \"two\" not found");
    assert_eq!(
        missing["details"],
        json!({"name": "two", "kind": "configmaps"})
    );

    let dry = cluster
        .post(&format!("{path}?dryRun=All"), config_map("dry"))
        .await
        .ok();
    assert!(dry["metadata"].get("resourceVersion").is_none());
    assert_eq!(cluster.get(&format!("{path}/dry")).await.code, 404);
}

async fn invalid_names_and_namespaces_are_refused(cluster: &Cluster) {
    let namespace = cluster.namespace("names").await;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    for name in ["Capital", "under_score", "-a", &"x".repeat(254)] {
        let causes = cluster.post(&path, config_map(name)).await.causes();
        assert_eq!(causes[0].0, "metadata.name", "{name}");
    }
    let generated = json!({"metadata": {"generateName": "gen-"}});
    let (one, two) = (
        cluster.post(&path, generated.clone()).await.ok(),
        cluster.post(&path, generated).await.ok(),
    );
    let name = one["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("gen-") && name.len() == 9, "{name}");
    assert_ne!(one["metadata"]["name"], two["metadata"]["name"]);

    let mut elsewhere = config_map("one");
    elsewhere["metadata"]["namespace"] = "elsewhere".into();
    cluster
        .post(&path, elsewhere)
        .await
        .refused(400, "BadRequest");
    let absent = cluster
        .post("/api/v1/namespaces/absent/configmaps", config_map("one"))
        .await;
    assert_eq!(
        absent.refused(404, "NotFound")["message"],
        "namespaces \"absent\" not found"
    );
    cluster
        .post("/api/v1/namespaces", json!({"metadata": {"name": "a.b"}}))
        .await
        .refused(422, "Invalid");
    cluster
        .delete("/api/v1/namespaces/kube-system")
        .await
        .refused(403, "Forbidden");

    let labelled =
        json!({"metadata": {"name": "one", "labels": {"-a": "b c"}, "annotations": {"x y": "z"}}});
    let causes = cluster.post(&path, labelled).await.causes();
    let fields: Vec<&str> = causes.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(
        fields,
        ["metadata.annotations", "metadata.labels", "metadata.labels"]
    );
    let large = json!({"metadata": {"name": "one", "annotations": {"a": "x".repeat(256 * 1024)}}});
    assert!(
        cluster.post(&path, large).await.causes()[0]
            .1
            .starts_with("Too long")
    );
    let owned = json!({"metadata": {"name": "one", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "", "uid": ""}]}});
    assert_eq!(cluster.post(&path, owned).await.causes().len(), 2);
    let numbered = json!({"metadata": {"name": "one", "labels": {"a": 1}}});
    cluster
        .post(&path, numbered)
        .await
        .refused(400, "BadRequest");
}

async fn an_update_needs_the_latest_version(cluster: &Cluster) {
    let namespace = cluster.namespace("replace").await;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let first = cluster.post(&path, config_map("one")).await.ok();
    let one = format!("{path}/one");
    let mut second = first.clone();
    second["data"]["a"] = "2".into();
    let second = cluster.put(&one, second).await.ok();
    assert_ne!(version(&first), version(&second));
    let refused = cluster
        .put(&one, first.clone())
        .await
        .refused(409, "Conflict");
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("the object has been modified"),
        "{refused}"
    );
    let mut other = second.clone();
    other["metadata"]["uid"] = "other".into();
    cluster.put(&one, other).await.refused(409, "Conflict");
    let mut renamed = second.clone();
    renamed["metadata"]["name"] = "two".into();
    cluster.put(&one, renamed).await.refused(400, "BadRequest");
    let unversioned = json!({"metadata": {"resourceVersion": null}, "data": {"a": "2"}});
    cluster.patch(&one, MERGE, unversioned).await.ok();
    // A PUT without resourceVersion replaces a ConfigMap, but not a Lease; it can create a Lease.
    let mut blind = config_map("one");
    blind["data"]["a"] = "3".into();
    assert_eq!(cluster.put(&one, blind).await.ok()["data"]["a"], "3");
    cluster
        .put(&format!("{path}/two"), config_map("two"))
        .await
        .refused(404, "NotFound");
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/l");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
        "spec": {"holderIdentity": "me"},
    });
    assert_eq!(cluster.put(&leases, lease.clone()).await.code, 201);
    assert_eq!(
        cluster.put(&leases, lease).await.causes()[0].0,
        "metadata.resourceVersion"
    );
}

async fn an_update_without_a_change_is_not_written(cluster: &Cluster) {
    let namespace = cluster.namespace("noop").await;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let made = cluster.post(&path, config_map("one")).await.ok();
    let one = format!("{path}/one");
    assert_eq!(cluster.put(&one, made.clone()).await.ok(), made);
    assert_eq!(
        version(
            &cluster
                .patch(&one, MERGE, json!({"data": {"a": "1"}}))
                .await
                .ok()
        ),
        version(&made)
    );
    assert_eq!(
        version(&cluster.patch(&one, STRATEGIC, json!({})).await.ok()),
        version(&made)
    );
}

async fn generation_counts_spec_changes_only(cluster: &Cluster) {
    let namespace = cluster.namespace("generation").await;
    let root = cluster.widgets("generation.example.com").await;
    let path = format!("{root}/namespaces/{namespace}/widgets");
    let widget = json!({
        "apiVersion": "generation.example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 1},
    });
    assert_eq!(
        cluster.post(&path, widget).await.ok()["metadata"]["generation"],
        1
    );
    let one = format!("{path}/w");
    let generation = async |path: &str, patch: Value| {
        let answer = cluster.patch(path, MERGE, patch).await;
        answer.ok()["metadata"]["generation"].as_u64().unwrap()
    };
    assert_eq!(
        generation(&one, json!({"metadata": {"labels": {"a": "b"}}})).await,
        1
    );
    assert_eq!(generation(&one, json!({"spec": {"size": 2}})).await, 2);
    assert_eq!(
        generation(&format!("{one}/status"), json!({"status": {"phase": "x"}})).await,
        2
    );
    assert_eq!(
        generation(&one, json!({"metadata": {"generation": 77}})).await,
        2
    );
}

async fn status_is_a_separate_subresource(cluster: &Cluster) {
    let namespace = cluster.namespace("status").await;
    let root = cluster.widgets("status.example.com").await;
    let path = format!("{root}/namespaces/{namespace}/widgets");
    let widget = json!({
        "apiVersion": "status.example.com/v1", "kind": "Widget", "metadata": {"name": "w"},
        "spec": {"size": 1}, "status": {"phase": "Made"},
    });
    assert!(
        cluster
            .post(&path, widget)
            .await
            .ok()
            .get("status")
            .is_none()
    );
    let one = format!("{path}/w");
    let mixed = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"size": 9}, "status": {"phase": "Set"}});
    let written = cluster
        .patch(&format!("{one}/status"), MERGE, mixed.clone())
        .await
        .ok();
    assert_eq!(
        (&written["spec"]["size"], &written["status"]["phase"]),
        (&json!(1), &json!("Set"))
    );
    assert!(written["metadata"].get("labels").is_none());
    let written = cluster
        .patch(
            &one,
            MERGE,
            json!({"spec": {"size": 9}, "status": {"phase": "No"}}),
        )
        .await
        .ok();
    assert_eq!(
        (&written["spec"]["size"], &written["status"]["phase"]),
        (&json!(9), &json!("Set"))
    );
    assert_eq!(cluster.get(&format!("{one}/status")).await.ok(), written);
    let configured = format!("/api/v1/namespaces/{namespace}/configmaps/x/status");
    assert_eq!(cluster.patch(&configured, MERGE, json!({})).await.code, 404);
}

async fn finalizers_delay_deletion(cluster: &Cluster) {
    let namespace = cluster.namespace("finalizers").await;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let mut held = config_map("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster.post(&path, held).await.ok();
    let one = format!("{path}/held");
    let marked = cluster.delete(&one).await.ok();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(
        version(&cluster.delete(&one).await.ok()),
        version(&marked),
        "marked but once"
    );
    let more = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    let causes = cluster.patch(&one, MERGE, more).await.causes();
    assert_eq!(causes[0].0, "metadata.finalizers");
    cluster
        .patch(&one, MERGE, json!({"metadata": {"finalizers": null}}))
        .await
        .ok();
    assert_eq!(cluster.get(&one).await.code, 404);
    let gone = cluster.post(&path, config_map("plain")).await.ok();
    let status = cluster.delete(&format!("{path}/plain")).await.ok();
    assert_eq!(
        (&status["status"], &status["details"]["uid"]),
        (&json!("Success"), &gone["metadata"]["uid"])
    );
    cluster
        .delete(&format!("{path}/plain"))
        .await
        .refused(404, "NotFound");
}

async fn deletion_checks_preconditions(cluster: &Cluster) {
    let namespace = cluster.namespace("preconditions").await;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let made = cluster.post(&path, config_map("one")).await.ok();
    let one = format!("{path}/one");
    let with = |preconditions: Value| json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions});
    cluster
        .delete_with(&one, with(json!({"uid": "x"})))
        .await
        .refused(409, "Conflict");
    cluster
        .delete_with(&one, with(json!({"resourceVersion": "1"})))
        .await
        .refused(409, "Conflict");
    let bad = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Sideways"});
    cluster.delete_with(&one, bad).await.refused(422, "Invalid");
    cluster
        .delete_with(&one, with(json!({"uid": made["metadata"]["uid"]})))
        .await
        .ok();
}

async fn label_and_field_selectors_match(cluster: &Cluster) {
    let namespace = cluster.namespace("selectors").await;
    let path = format!("/api/v1/namespaces/{namespace}/secrets");
    for (name, tier) in [("one", "front"), ("two", "back"), ("three", "back")] {
        cluster
            .post(
                &path,
                json!({"metadata": {"name": name, "labels": {"tier": tier}}}),
            )
            .await
            .ok();
    }
    let names = async |query: &str| -> Vec<String> {
        let listed = cluster.get(&format!("{path}?{query}")).await.ok();
        let items = listed["items"].as_array().unwrap().iter();
        items
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("labelSelector=tier%3Dback").await, ["three", "two"]);
    assert_eq!(
        names("labelSelector=tier%20in%20(front,x),tier").await,
        ["one"]
    );
    assert_eq!(names("labelSelector=!tier").await, Vec::<String>::new());
    assert_eq!(names("fieldSelector=metadata.name%3Dtwo").await, ["two"]);
    assert_eq!(
        names("fieldSelector=metadata.name!%3Dtwo,type%3DOpaque").await,
        ["one", "three"]
    );
    cluster
        .get(&format!("{path}?labelSelector=a%20b"))
        .await
        .refused(400, "BadRequest");
    cluster
        .get(&format!("{path}?fieldSelector=data.a%3Db"))
        .await
        .refused(400, "BadRequest");
    let gone = cluster
        .delete(&format!("{path}?labelSelector=tier%3Dback"))
        .await
        .ok();
    assert_eq!(gone["items"].as_array().unwrap().len(), 2);
    assert_eq!(names("").await, ["one"]);
}

async fn pages_are_of_one_version(cluster: &Cluster) {
    let namespace = cluster.namespace("pages").await;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    for name in ["p1", "p2", "p3", "p4", "p5"] {
        cluster.post(&path, config_map(name)).await.ok();
    }
    let first = cluster.get(&format!("{path}?limit=2")).await.ok();
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    cluster.delete(&format!("{path}/p4")).await.ok();
    cluster.post(&path, config_map("p6")).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = cluster
        .get(&format!("{path}?limit=10&continue={token}"))
        .await
        .ok();
    let names: Vec<&str> = rest["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["p3", "p4", "p5"], "as it was at the first page");
    assert_eq!(version(&rest), version(&first));
    let then = cluster
        .get(&format!(
            "{path}?resourceVersion={}&resourceVersionMatch=Exact",
            version(&first)
        ))
        .await
        .ok();
    assert_eq!(then["items"].as_array().unwrap().len(), 5);
    cluster
        .get(&format!("{path}?continue=nonsense"))
        .await
        .refused(400, "BadRequest");
    let future = cluster
        .get(&format!("{path}?resourceVersion=99999999"))
        .await
        .refused(504, "Timeout");
    assert_eq!(
        future["details"]["causes"][0]["reason"],
        "ResourceVersionTooLarge"
    );
    cluster
        .get(&format!("{path}?resourceVersionMatch=Exact"))
        .await
        .refused(422, "Invalid");
}

async fn every_kind_of_patch_is_applied(cluster: &Cluster) {
    let namespace = cluster.namespace("patches").await;
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i:1", "env": [{"name": "A", "value": "1"}]}]},
            },
        },
    });
    let made = cluster.post(&path, deployment).await.ok();
    assert_eq!(
        (&made["spec"]["replicas"], &made["metadata"]["generation"]),
        (&json!(1), &json!(1))
    );
    let one = format!("{path}/d");
    let containers = |patch: Value| json!({"spec": {"template": {"spec": {"containers": patch}}}});
    let patch = containers(
        json!([{"name": "c", "image": "i:2", "env": [{"name": "B", "value": "2"}]}, {"name": "d", "image": "x"}]),
    );
    let patched = cluster.patch(&one, STRATEGIC, patch).await.ok();
    let found = &patched["spec"]["template"]["spec"]["containers"];
    assert_eq!(
        (&found[0]["image"], &found[0]["env"][0]["name"]),
        (&json!("i:2"), &json!("B"))
    );
    assert_eq!(found[1]["name"], "d");
    let patch = containers(json!([{"name": "d", "$patch": "delete"}]));
    let patched = cluster.patch(&one, STRATEGIC, patch).await.ok();
    assert_eq!(
        patched["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let patched = cluster
        .patch(
            &one,
            MERGE,
            containers(json!([{"name": "m", "image": "m"}])),
        )
        .await
        .ok();
    assert_eq!(
        patched["spec"]["template"]["spec"]["containers"][0]["name"], "m",
        "merge patches replace lists"
    );
    let operations = json!([
        {"op": "test", "path": "/spec/replicas", "value": 1},
        {"op": "replace", "path": "/spec/replicas", "value": 2},
    ]);
    assert_eq!(
        cluster
            .patch(&one, JSON_PATCH, operations.clone())
            .await
            .ok()["spec"]["replicas"],
        2
    );
    cluster
        .patch(&one, JSON_PATCH, operations)
        .await
        .refused(422, "Invalid");
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 3}});
    cluster
        .patch(&one, MERGE, stale)
        .await
        .refused(409, "Conflict");
    cluster
        .patch(&one, MERGE, json!({"metadata": {"uid": "x"}}))
        .await
        .refused(422, "Invalid");
    cluster
        .patch(&one, "text/plain", json!({}))
        .await
        .refused(415, "UnsupportedMediaType");
    cluster
        .patch(&one, MERGE, json!({"spec": {"replicas": "many"}}))
        .await
        .refused(422, "Invalid");
    let other = json!({"spec": {"selector": {"matchLabels": {"a": "c"}}}});
    assert!(
        cluster
            .patch(&one, MERGE, other)
            .await
            .causes()
            .iter()
            .any(|(field, _)| field == "spec.selector")
    );
}

async fn invalid_secrets_are_refused(cluster: &Cluster) {
    let namespace = cluster.namespace("secrets").await;
    let path = format!("/api/v1/namespaces/{namespace}/secrets");
    let secret = |name: &str, kind: &str, data: Value| json!({"metadata": {"name": name}, "type": kind, "data": data});
    let docker = "kubernetes.io/dockerconfigjson";
    let made = cluster
        .post(
            &path,
            json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}}),
        )
        .await
        .ok();
    assert_eq!(
        (&made["type"], &made["data"]["a"]),
        (&json!("Opaque"), &json!("Yg=="))
    );
    assert!(made.get("stringData").is_none());
    cluster
        .post(&path, secret("x", "", json!({"a": "!!"})))
        .await
        .refused(400, "BadRequest");
    cluster
        .post(&path, secret("x", "", json!({"a": 1})))
        .await
        .refused(400, "BadRequest");
    assert_eq!(
        cluster
            .post(&path, secret("x", "", json!({"a b": "eA=="})))
            .await
            .causes()[0]
            .0,
        "data[a b]"
    );
    assert_eq!(
        cluster
            .post(&path, secret("x", docker, json!({})))
            .await
            .causes()[0]
            .0,
        "data[.dockerconfigjson]"
    );
    let unreadable = secret("x", docker, json!({".dockerconfigjson": "eA=="}));
    assert_eq!(
        cluster.post(&path, unreadable).await.causes()[0].0,
        "data[.dockerconfigjson]"
    );
    cluster
        .post(
            &path,
            secret("d", docker, json!({".dockerconfigjson": "e30="})),
        )
        .await
        .ok();
    let causes = cluster
        .patch(&format!("{path}/d"), MERGE, json!({"type": "Opaque"}))
        .await
        .causes();
    assert_eq!(causes[0].0, "type");
}

async fn invalid_nodes_are_refused(cluster: &Cluster) {
    let path = "/api/v1/nodes";
    let node = json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    let made = cluster.post(path, node).await.ok();
    let taints = made["spec"]["taints"].as_array().unwrap();
    assert_eq!(
        taints[1],
        json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"})
    );
    let one = "/api/v1/nodes/n1";
    let taint = json!({"key": "a", "effect": "NoSchedule"});
    let twice = json!({"spec": {"taints": [taint, taint]}});
    assert!(
        cluster.patch(one, STRATEGIC, twice).await.causes()[0]
            .1
            .starts_with("Duplicate value")
    );
    let unknown = json!({"spec": {"taints": [{"key": "a b", "effect": "Never"}]}});
    assert_eq!(
        cluster.patch(one, STRATEGIC, unknown).await.causes().len(),
        2
    );
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}, "spec": {"unschedulable": true}});
    let written = cluster
        .patch(&format!("{one}/status"), STRATEGIC, status)
        .await
        .ok();
    assert!(written["spec"].get("unschedulable").is_none());
    let more = json!({"status": {"conditions": [{"type": "DiskPressure", "status": "False"}]}});
    let written = cluster
        .patch(&format!("{one}/status"), STRATEGIC, more)
        .await
        .ok();
    assert_eq!(written["status"]["conditions"].as_array().unwrap().len(), 2);
    let cordoned = format!("{path}?fieldSelector=spec.unschedulable%3Dtrue");
    assert_eq!(cluster.get(&cordoned).await.ok()["items"], json!([]));
    cluster
        .patch(one, STRATEGIC, json!({"spec": {"unschedulable": true}}))
        .await
        .ok();
    assert_eq!(
        cluster.get(&cordoned).await.ok()["items"][0]["metadata"]["name"],
        "n1"
    );
    cluster.delete(one).await.ok();
}

async fn invalid_leases_and_events_are_refused(cluster: &Cluster) {
    let namespace = cluster.namespace("checked").await;
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    let lease = |spec: Value| json!({"metadata": {"name": "l"}, "spec": spec});
    let bad = lease(json!({"leaseDurationSeconds": 0, "leaseTransitions": -1}));
    assert_eq!(cluster.post(&leases, bad).await.causes().len(), 2);
    cluster
        .post(&leases, lease(json!({"renewTime": "yesterday"})))
        .await
        .refused(400, "BadRequest");
    cluster
        .post(
            &leases,
            lease(json!({"holderIdentity": "", "leaseDurationSeconds": 1})),
        )
        .await
        .ok();

    let events = format!("/api/v1/namespaces/{namespace}/events");
    let about = |namespace: &str| json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": namespace}});
    let causes = cluster.post(&events, about("elsewhere")).await.causes();
    assert_eq!(causes[0].0, "involvedObject.namespace");
    cluster.post(&events, about(&namespace)).await.ok();
}

async fn both_event_groups_serve_the_same_events(cluster: &Cluster) {
    let namespace = cluster.namespace("events").await;
    let core = format!("/api/v1/namespaces/{namespace}/events");
    let grouped = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let mut event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "regarding": {"kind": "Pod", "name": "p", "namespace": namespace}, "reason": "Pulled", "note": "done",
        "type": "Normal", "action": "Pull", "reportingController": "example.com/c", "reportingInstance": "i",
    });
    assert_eq!(
        cluster.post(&grouped, event.clone()).await.causes(),
        [("eventTime".to_owned(), "Required value".to_owned())]
    );
    event["eventTime"] = "2026-01-01T00:00:00.000000Z".into();
    cluster.post(&grouped, event).await.ok();
    let seen = cluster.get(&format!("{core}/e")).await.ok();
    assert_eq!(
        (&seen["message"], &seen["involvedObject"]["name"]),
        (&json!("done"), &json!("p"))
    );
    assert_eq!(
        (&seen["apiVersion"], &seen["reportingComponent"]),
        (&json!("v1"), &json!("example.com/c"))
    );
    let found = cluster
        .get(&format!(
            "{grouped}?fieldSelector=regarding.name%3Dp,reason%3DPulled"
        ))
        .await
        .ok();
    assert_eq!(found["items"][0]["note"], "done");
    cluster
        .get(&format!("{grouped}?fieldSelector=involvedObject.name%3Dp"))
        .await
        .refused(400, "BadRequest");
    let one = format!("{grouped}/e");
    cluster
        .patch(&one, MERGE, json!({"note": "other"}))
        .await
        .refused(422, "Invalid");
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
    assert_eq!(
        cluster.patch(&one, MERGE, series).await.ok()["series"]["count"],
        2
    );
}

async fn unknown_paths_and_kinds_are_refused(cluster: &Cluster) {
    let namespace = cluster.namespace("unknown").await;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    assert_eq!(cluster.get("/apis/example.org/v1/wombats").await.code, 404);
    assert_eq!(
        cluster
            .post("/api/v1/configmaps", config_map("x"))
            .await
            .code,
        405
    );
    assert_eq!(cluster.put(&path, config_map("x")).await.code, 405);
    cluster
        .get_as(&path, "text/html")
        .await
        .refused(406, "NotAcceptable");
    let yaml = cluster
        .send(
            "POST",
            &path,
            &[("content-type", "text/plain")],
            b"a".to_vec(),
        )
        .await;
    yaml.refused(415, "UnsupportedMediaType");
    let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}});
    cluster.post(&path, other).await.refused(400, "BadRequest");
    let mut extra = config_map("x");
    extra["extra"] = 1.into();
    let strict = cluster
        .post(&format!("{path}?fieldValidation=Strict"), extra.clone())
        .await;
    assert!(
        strict
            .message()
            .contains("strict decoding error: unknown field \"extra\""),
        "{strict:?}"
    );
    strict.refused(400, "BadRequest");
    let warned = cluster.post(&path, extra).await;
    assert_eq!(warned.warnings, ["299 - \"unknown field \\\"extra\\\"\""]);
    assert!(warned.ok().get("extra").is_none());
    let huge = json!({"metadata": {"name": "huge"}, "data": {"a": "x".repeat(3 * 1024 * 1024)}});
    cluster
        .post(&path, huge)
        .await
        .refused(413, "RequestEntityTooLarge");
}
