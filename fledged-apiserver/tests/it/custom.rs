//! Custom resources: their schemas, rules and columns.
use crate::support::{Cluster, MERGE, widget_crd};
use serde_json::{Value, json};

behaviours![
    invalid_crds_are_refused,
    schemas_are_enforced,
    cel_rules_are_enforced,
    unknown_fields_are_pruned,
    tables_have_printer_columns,
    partial_object_metadata_is_served,
    every_version_serves_the_same_object,
    discovery_lists_custom_resources,
    transition_rules_need_an_old_state,
    costly_rules_are_refused,
];

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn pairs(causes: &[(String, String)]) -> Vec<(&str, &str)> {
    causes
        .iter()
        .map(|(field, message)| (field.as_str(), message.as_str()))
        .collect()
}

async fn invalid_crds_are_refused(cluster: &Cluster) {
    let path = format!("{CRDS}?dryRun=All");
    let crd = widget_crd("checked.example.com");
    let with = |edit: &dyn Fn(&mut Value)| {
        let mut crd = crd.clone();
        edit(&mut crd);
        cluster.post(&path, crd)
    };
    with(&|_| {}).await.ok();
    let fields = |causes: Vec<(String, String)>| {
        causes
            .into_iter()
            .map(|(field, _)| field)
            .collect::<Vec<_>>()
    };
    let version =
        |crd: &mut Value, edit: &dyn Fn(&mut Value)| edit(&mut crd["spec"]["versions"][0]);
    let found = with(&|crd| crd["metadata"]["name"] = "other.checked.example.com".into()).await;
    assert_eq!(fields(found.causes()), ["metadata.name"]);
    let found = with(&|crd| crd["spec"]["scope"] = "Local".into()).await;
    assert_eq!(fields(found.causes()), ["spec.scope"]);
    let found = with(&|crd| version(crd, &|v| v["storage"] = false.into())).await;
    assert!(fields(found.causes()).contains(&"spec.versions".to_owned()));
    let found = with(&|crd| version(crd, &|v| v["schema"] = Value::Null)).await;
    assert!(found.code == 422, "{found:?}");
    let root = "spec.validation.openAPIV3Schema";
    let of_spec = |crd: &mut Value, name: &str, schema: Value| {
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
            [name] = schema;
    };
    for (schema, place) in [
        (json!({}), ".type"),
        (json!({"type": "array"}), ".items"),
        (json!({"type": "text"}), ".type"),
        (json!({"type": "integer", "default": "x"}), ".default"),
    ] {
        let found = with(&|crd| of_spec(crd, "x", schema.clone())).await;
        let expected = format!("{root}.properties[spec].properties[x]{place}");
        assert_eq!(fields(found.causes()), [expected], "{schema}");
    }
    for rule in ["self.absent > 1", "self.size +", "foreign(self.size)"] {
        let found = with(&|crd| {
            let rules = json!([{"rule": rule}]);
            crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] = rules;
        })
        .await;
        let expected = format!("{root}.properties[spec].x-kubernetes-validations[0].rule");
        assert_eq!(fields(found.causes()), [expected], "{rule}");
    }
}

async fn costly_rules_are_refused(cluster: &Cluster) {
    let path = format!("{CRDS}?dryRun=All");
    let post = async |schema: Value, rule: &str| {
        let mut crd = widget_crd("costly.example.com");
        let spec =
            &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        spec["properties"]["list"] = schema;
        spec["x-kubernetes-validations"] = json!([{"rule": rule}]);
        cluster.post(&path, crd).await
    };
    let nested = "!has(self.list) || self.list.all(a, self.list.exists(b, a == b))";
    let list = |items: Value| json!({"type": "array", "items": items});
    let refused = post(list(json!({"type": "string"})), nested).await.causes();
    assert!(
        refused
            .iter()
            .any(|(_, message)| message.contains("estimated rule cost exceeds budget")),
        "{refused:?}"
    );
    let mut bounded = list(json!({"type": "string", "maxLength": 256}));
    bounded["maxItems"] = 100.into();
    post(bounded, nested).await.ok();
    let once = "!has(self.list) || self.list.all(a, a.startsWith('x'))";
    post(list(json!({"type": "string"})), once).await.ok();
    // A rule of an item counts for each item of all lists around it.
    let lists = |rule: &str| {
        let rule = json!([{"rule": rule}]);
        let item = json!({"type": "string", "maxLength": 500, "x-kubernetes-validations": rule});
        let mut inner = list(item);
        inner["maxItems"] = 2000.into();
        let mut outer = list(inner);
        outer["maxItems"] = 500.into();
        outer
    };
    post(lists("!self.startsWith(' ')"), "true").await.ok();
    for costly in ["!self.contains(' ')", "self.matches('^[a-z]+$')"] {
        let refused = post(lists(costly), "true").await.causes();
        let at = "spec.validation.openAPIV3Schema.properties[spec].properties[list].items.items.x-kubernetes-validations[0].rule";
        let limit = "estimated rule cost exceeds budget by factor of ";
        assert!(
            refused
                .iter()
                .any(|(field, message)| field == at && message.contains(limit)),
            "{costly}: {refused:?}"
        );
    }
}

async fn transition_rules_need_an_old_state(cluster: &Cluster) {
    let path = format!("{CRDS}?dryRun=All");
    let mut crd = widget_crd("transition.example.com");
    let spec = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let rule = json!([{"rule": "self == oldSelf"}]);
    let item = json!({"type": "string", "maxLength": 9, "x-kubernetes-validations": rule});
    spec["properties"]["list"] = json!({"type": "array", "maxItems": 9, "items": item});
    let refused = cluster.post(&path, crd).await.causes();
    let part = "oldSelf cannot be used on the uncorrelatable portion";
    let named = refused.iter().any(|(_, message)| message.contains(part));
    assert!(named, "{refused:?}");
}
async fn schemas_are_enforced(cluster: &Cluster) {
    let root = cluster.widgets("schemas.example.com").await;
    let namespace = cluster.namespace("schemas").await;
    let path = format!("{root}/namespaces/{namespace}/widgets");
    let post = async |spec: Value| {
        let widget = json!({"apiVersion": "schemas.example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec});
        cluster.post(&format!("{path}?dryRun=All"), widget).await
    };
    let defaulted = post(
        json!({"size": 1, "rules": [{"key": "a"}], "policy": null, "maybe": null, "most": null}),
    )
    .await
    .ok();
    assert_eq!(
        defaulted["spec"],
        json!({"size": 1, "policy": "Always", "rules": [{"key": "a", "count": 3}], "maybe": null})
    );
    let unchecked = (
        "<nil>",
        "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
    );
    for (spec, expected) in [
        (json!({}), vec![unchecked, ("spec.size", "Required value")]),
        (
            json!({"size": "x"}),
            vec![
                unchecked,
                (
                    "spec.size",
                    "Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
                ),
            ],
        ),
        (
            json!({"size": 0}),
            vec![(
                "spec.size",
                "Invalid value: 0: spec.size in body should be greater than or equal to 1",
            )],
        ),
        (
            json!({"size": 1, "mode": "slow"}),
            vec![
                unchecked,
                (
                    "spec.mode",
                    "Unsupported value: \"slow\": supported values: \"fast\", \"safe\"",
                ),
            ],
        ),
        (
            json!({"size": 1, "name": "longer"}),
            vec![
                unchecked,
                ("spec.name", "Too long: may not be more than 5 bytes"),
            ],
        ),
        (
            json!({"size": 1, "name": "A"}),
            vec![(
                "spec.name",
                "Invalid value: \"A\": spec.name in body should match '^[a-z]+$'",
            )],
        ),
        (
            json!({"size": 1, "images": ["a", "b", "a"]}),
            vec![("spec.images[2]", "Duplicate value: \"a\"")],
        ),
        (
            json!({"size": 1, "rules": [{"key": "a"}, {"key": "a"}]}),
            vec![("spec.rules[1]", "Duplicate value: {\"key\":\"a\"}")],
        ),
        (
            json!({"size": 1, "images": ["a", "b", "c", "d", "e"]}),
            vec![
                unchecked,
                ("spec.images", "Too many: 5: must have at most 4 items"),
            ],
        ),
        (
            json!({"size": 1, "port": 1.5}),
            vec![
                unchecked,
                (
                    "spec.port",
                    "Invalid value: \"number\": spec.port in body must be of type integer,string: \"number\"",
                ),
            ],
        ),
        (
            json!({"size": 1, "when": "today"}),
            vec![
                unchecked,
                (
                    "spec.when",
                    "Invalid value: \"today\": spec.when in body must be of type date-time: \"today\"",
                ),
            ],
        ),
    ] {
        let causes = post(spec.clone()).await.causes();
        assert_eq!(pairs(&causes), expected, "{spec}");
    }
    let answer = post(json!({"size": 1, "images": ["a", "a"]})).await;
    assert_eq!(
        answer.message(),
        "Widget.schemas.example.com \"w\" is invalid: spec.images[1]: Duplicate value: \"a\""
    );
}

async fn cel_rules_are_enforced(cluster: &Cluster) {
    let root = cluster.widgets("rules.example.com").await;
    let namespace = cluster.namespace("rules").await;
    let path = format!("{root}/namespaces/{namespace}/widgets");
    let widget = |spec: Value| json!({"apiVersion": "rules.example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec});
    let causes = cluster
        .post(&path, widget(json!({"size": 5, "most": 1})))
        .await
        .causes();
    assert_eq!(
        pairs(&causes),
        [("spec.size", "Invalid value: size must not exceed most")]
    );
    cluster
        .post(&path, widget(json!({"size": 5, "most": 5, "mode": "fast"})))
        .await
        .ok();
    let one = format!("{path}/w");
    for patch in [json!({"mode": "safe"}), json!({"mode": null})] {
        let causes = cluster
            .patch(&one, MERGE, json!({"spec": patch}))
            .await
            .causes();
        assert_eq!(pairs(&causes), [("spec", "Forbidden: mode stays fast")]);
    }
    let causes = cluster
        .patch(&one, MERGE, json!({"spec": {"size": 6}}))
        .await
        .causes();
    assert_eq!(causes[0].0, "spec.size");
    cluster
        .patch(&one, MERGE, json!({"spec": {"size": 6, "most": 7}}))
        .await
        .ok();
}

async fn unknown_fields_are_pruned(cluster: &Cluster) {
    let root = cluster.widgets("pruned.example.com").await;
    let namespace = cluster.namespace("pruned").await;
    let path = format!("{root}/namespaces/{namespace}/widgets");
    let widget = json!({
        "apiVersion": "pruned.example.com/v1", "kind": "Widget", "metadata": {"name": "w", "more": 1}, "more": 1,
        "spec": {"size": 1, "more": 1, "free": {"more": {"yet": 1}}, "rules": [{"key": "a", "more": 1}]},
    });
    let strict = cluster
        .post(&format!("{path}?fieldValidation=Strict"), widget.clone())
        .await;
    let message = strict.message().to_owned();
    strict.refused(400, "BadRequest");
    assert!(
        message.starts_with(
            "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: "
        ),
        "{message}"
    );
    for field in ["more", "metadata.more", "spec.more", "spec.rules[0].more"] {
        assert!(
            message.contains(&format!("unknown field \"{field}\"")),
            "{message}"
        );
    }
    let ignored = cluster
        .post(
            &format!("{path}?fieldValidation=Ignore&dryRun=All"),
            widget.clone(),
        )
        .await;
    assert!(ignored.warnings.is_empty());
    ignored.ok();
    let warned = cluster.post(&path, widget).await;
    assert_eq!(warned.warnings.len(), 4, "{warned:?}");
    let made = warned.ok();
    let expected = json!({"size": 1, "policy": "Always", "free": {"more": {"yet": 1}}, "rules": [{"key": "a", "count": 3}]});
    assert_eq!((&made["spec"], made.get("more")), (&expected, None));
    let patched = cluster
        .patch(&format!("{path}/w"), MERGE, json!({"spec": {"more": 2}}))
        .await;
    assert_eq!(
        patched.warnings,
        ["299 - \"unknown field \\\"spec.more\\\"\""]
    );
    cluster
        .patch(
            &format!("{path}/w?fieldValidation=Strict"),
            MERGE,
            json!({"spec": {"more": 2}}),
        )
        .await
        .refused(422, "Invalid");
}

async fn tables_have_printer_columns(cluster: &Cluster) {
    let root = cluster.widgets("tables.example.com").await;
    let namespace = cluster.namespace("tables").await;
    let path = format!("{root}/namespaces/{namespace}/widgets");
    let widget = json!({"apiVersion": "tables.example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 4}});
    cluster.post(&path, widget).await.ok();
    let conditions = json!({"status": {"conditions": [{"type": "Other", "status": "Unknown"}, {"type": "Ready", "status": "True"}]}});
    cluster
        .patch(&format!("{path}/w/status"), MERGE, conditions)
        .await
        .ok();
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = cluster.get_as(&path, accept).await.ok();
    let columns: Vec<(&str, i64)> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| {
            (
                column["name"].as_str().unwrap(),
                column["priority"].as_i64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        columns,
        [
            ("Name", 0),
            ("Size", 0),
            ("Ready", 0),
            ("Mode", 1),
            ("Age", 0)
        ]
    );
    let row = &table["rows"][0];
    assert_eq!(
        row["cells"].as_array().unwrap()[..4],
        [json!("w"), json!(4), json!("True"), Value::Null]
    );
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    let one = cluster
        .get_as(&format!("{path}/w?includeObject=Object"), accept)
        .await
        .ok();
    assert_eq!(one["rows"][0]["object"]["spec"]["size"], 4);
    let mut watch = cluster.watch_as(&path, accept).await;
    let line = watch.next().await.unwrap();
    assert_eq!(
        (&line["type"], &line["object"]["rows"][0]["cells"][1]),
        (&json!("ADDED"), &json!(4))
    );
}

async fn partial_object_metadata_is_served(cluster: &Cluster) {
    let namespace = cluster.namespace("partial").await;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    cluster
        .post(
            &path,
            json!({"metadata": {"name": "c", "labels": {"a": "b"}}, "data": {"x": "y"}}),
        )
        .await
        .ok();
    let one = cluster
        .get_as(
            &format!("{path}/c"),
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        )
        .await
        .ok();
    assert_eq!(
        (&one["kind"], &one["metadata"]["labels"]["a"]),
        (&json!("PartialObjectMetadata"), &json!("b"))
    );
    assert!(one.get("data").is_none());
    let listed = cluster
        .get_as(
            &path,
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        )
        .await
        .ok();
    assert_eq!(listed["kind"], "PartialObjectMetadataList");
    assert!(
        listed["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|item| item.get("data").is_none())
    );
}

async fn every_version_serves_the_same_object(cluster: &Cluster) {
    let group = "versions.example.com";
    let mut crd = widget_crd(group);
    let mut old = crd["spec"]["versions"][0].clone();
    old["name"] = "v1alpha1".into();
    old["storage"] = false.into();
    old["deprecated"] = true.into();
    crd["spec"]["versions"].as_array_mut().unwrap().push(old);
    cluster.post(CRDS, crd).await.ok();
    cluster
        .until(&format!("/apis/{group}/v1alpha1/widgets"), |_| true)
        .await;
    let namespace = cluster.namespace("versions").await;
    let path = |version: &str| format!("/apis/{group}/{version}/namespaces/{namespace}/widgets");
    let widget = json!({"apiVersion": format!("{group}/v1alpha1"), "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 1}});
    let made = cluster.post(&path("v1alpha1"), widget).await;
    assert_eq!(
        made.warnings,
        [format!(
            "299 - \"{group}/v1alpha1 Widget is deprecated; use {group}/v1 Widget\""
        )]
    );
    let made = made.ok();
    let seen = cluster.get(&format!("{}/w", path("v1"))).await.ok();
    assert_eq!(
        (&seen["apiVersion"], &seen["metadata"]["uid"]),
        (&json!(format!("{group}/v1")), &made["metadata"]["uid"])
    );
    let listed = cluster.get(&path("v1alpha1")).await.ok();
    assert_eq!(
        listed["items"][0]["apiVersion"],
        format!("{group}/v1alpha1")
    );
    let applied = json!({"apiVersion": format!("{group}/v1"), "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 2}});
    cluster
        .apply(&format!("{}/w", path("v1")), "m", applied)
        .await
        .refused(409, "Conflict");
}

async fn discovery_lists_custom_resources(cluster: &Cluster) {
    let group = "discovery.example.com";
    cluster.widgets(group).await;
    let listed = cluster.get(&format!("/apis/{group}/v1")).await.ok();
    let widgets = listed["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["name"] == "widgets")
        .unwrap();
    assert_eq!(
        (&widgets["shortNames"], &widgets["categories"]),
        (&json!(["wd"]), &json!(["all"]))
    );
    assert!(
        listed["resources"]
            .as_array()
            .unwrap()
            .iter()
            .any(|r| r["name"] == "widgets/status")
    );
    let groups = cluster.get("/apis").await.ok();
    assert!(
        groups["groups"]
            .as_array()
            .unwrap()
            .iter()
            .any(|g| g["name"] == group)
    );
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let found = |all: &Value| {
        let item = all["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["metadata"]["name"] == group)
            .cloned();
        item.unwrap_or_default()["versions"][0]["resources"][0]["resource"] == "widgets"
    };
    let deadline = tokio::time::Instant::now() + crate::support::SOON;
    while !found(&cluster.get_as("/apis", accept).await.ok()) {
        assert!(tokio::time::Instant::now() < deadline, "not discovered");
        tokio::task::yield_now().await;
    }
    let deadline = tokio::time::Instant::now() + crate::support::SOON;
    while cluster
        .get(&format!("/openapi/v3/apis/{group}/v1"))
        .await
        .code
        != 200
    {
        assert!(tokio::time::Instant::now() < deadline, "no schema");
        tokio::task::yield_now().await;
    }
    for path in ["/healthz", "/readyz", "/livez"] {
        assert_eq!(cluster.get(path).await.ok(), json!("ok"));
    }
}
