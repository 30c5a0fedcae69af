//! The samples in `deploy/samples` and the configuration for kube-state-metrics.

use std::sync::Arc;

use cel::{Context, Env, Program};
use fledged_kube::crd::ImageCache;
use fledged_tests::kube::{Kubectl, ServerKind, TestCluster, eventually};
use fledged_tests::{require, skipped};
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use super::rendered::{deploy, documents, named, text};

fn policy() -> Value {
    let objects = documents(&text("samples/admission-policy.yaml"));
    named(&objects, "ValidatingAdmissionPolicy", "").clone()
}

/// The messages with which the policy refuses a new ImageCache of these entries.
fn refusals(entries: &Value) -> Vec<String> {
    let object = json!({ "spec": { "cacheSpec": entries } });
    let policy = policy();
    let validations = policy["spec"]["validations"].as_array().unwrap().iter();
    let refused = validations.filter(|validation| {
        let program = Program::compile(validation["expression"].as_str().unwrap()).unwrap();
        let mut context = Context::with_env(Arc::new(Env::stdlib()));
        context.add_variable_from_value("object", cel::to_value(&object).unwrap());
        !matches!(program.execute(&context), Ok(cel::Value::Bool(true)))
    });
    let messages = refused.map(|validation| validation["message"].as_str().unwrap().to_owned());
    messages.collect()
}

#[test]
fn sample_policy_limits_registries_images_and_nodes() {
    let image = "registry.example.com/shop/app:1";
    let toleration = |key: Value| json!([{ "images": [image], "tolerations": [key] }]);
    for allowed in [
        json!([{ "images": [image, "registry.example.com/base/jre:21"] }]),
        toleration(json!({ "key": "gpu", "operator": "Exists" })),
    ] {
        assert_eq!(refusals(&allowed), [""; 0], "{allowed}");
    }
    let many: Vec<String> = (0..51).map(|n| format!("{image}.{n}")).collect();
    for (entries, word) in [
        (
            json!([{ "images": ["docker.io/library/nginx:1"] }]),
            "registry",
        ),
        (
            json!([{ "images": [image] }, { "images": ["registry.example.com.evil/shop/app:1"] }]),
            "registry",
        ),
        (json!([{ "images": many }]), "at most"),
        (json!(vec![json!({ "images": [image] }); 11]), "at most"),
        (
            toleration(
                json!({ "key": "node-role.kubernetes.io/control-plane", "operator": "Exists" }),
            ),
            "control-plane",
        ),
        (toleration(json!({ "operator": "Exists" })), "control-plane"),
        (
            toleration(json!({ "key": "", "operator": "Exists" })),
            "control-plane",
        ),
    ] {
        let refusals = refusals(&entries);
        assert!(
            refusals.len() == 1 && refusals[0].contains(word),
            "{entries}: {refusals:?}"
        );
    }
}

#[test]
fn sample_policy_is_bound_by_a_label_of_the_namespace() {
    let objects = documents(&text("samples/admission-policy.yaml"));
    let binding = named(&objects, "ValidatingAdmissionPolicyBinding", "");
    assert_eq!(binding["spec"]["policyName"], policy()["metadata"]["name"]);
    assert_eq!(binding["spec"]["validationActions"], json!(["Deny"]));
    let labels = &binding["spec"]["matchResources"]["namespaceSelector"]["matchLabels"];
    assert_eq!(labels.as_object().unwrap().len(), 1);
    let quota = documents(&text("samples/resource-quota.yaml"));
    let hard = quota[0]["spec"]["hard"].as_object().unwrap();
    assert!(hard.contains_key("count/imagecaches.kubefledged.io"));
}

/// The expressions are type-checked and evaluated by a real API server.
#[tokio::test(flavor = "multi_thread")]
async fn sample_policy_is_enforced_by_the_api_server() {
    if !require(&["kubectl"]) {
        return;
    }
    let cluster = TestCluster::start().await;
    if cluster.kind() == ServerKind::Embedded {
        return skipped("policies need a real API server: KUBEBUILDER_ASSETS or TEST_KUBECONFIG");
    }
    let kubectl = Kubectl::new(&cluster);
    let file = deploy("samples/admission-policy.yaml");
    let _ = kubectl
        .run(&["apply", "-f", file.to_str().unwrap()])
        .await
        .ok();
    let label = "fledged.example.com/limited=true";
    let _ = kubectl
        .run(&["label", "namespace", cluster.namespace(), label])
        .await
        .ok();
    let caches: Api<ImageCache> = Api::namespaced(cluster.client(), cluster.namespace());
    let create = |name: &str, image: &str| {
        let cache = json!({
            "metadata": { "name": name }, "spec": { "cacheSpec": [{ "images": [image] }] },
        });
        let (caches, cache) = (caches.clone(), serde_json::from_value(cache).unwrap());
        async move {
            let dry_run = PostParams {
                dry_run: true,
                ..PostParams::default()
            };
            let created = caches.create(&dry_run, &cache).await;
            created.map(|_| ()).map_err(|error| error.to_string())
        }
    };
    // An API server enforces a policy a moment after it was created.
    eventually("the policy to be in force", || async {
        match create("other", "docker.io/library/nginx:1").await {
            Err(message) if message.contains("registry.example.com/shop") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(
        create("own", "registry.example.com/shop/app:1").await,
        Ok(())
    );
    let _ = kubectl
        .run(&["delete", "-f", file.to_str().unwrap()])
        .await
        .ok();
}

/// Every path of the configuration exists in the schema of the definition.
#[test]
fn kube_state_metrics_reads_fields_that_exist() {
    let definitions = documents(&text("kubefledged-crd.yaml"));
    let mut definitions = definitions.iter();
    let caches = definitions.find(|one| one["metadata"]["name"] == "imagecaches.kubefledged.io");
    let caches = caches.unwrap();
    let schema = &caches["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let field = |schema: &Value, name: &str| schema["properties"][name].clone();
    let config = &documents(&text("kube-state-metrics.yaml"))[0];
    let resource = &config["spec"]["resources"][0];
    let kind = &resource["groupVersionKind"];
    assert_eq!(kind["group"], caches["spec"]["group"]);
    assert_eq!(kind["version"], caches["spec"]["versions"][0]["name"]);
    assert_eq!(kind["kind"], caches["spec"]["names"]["kind"]);
    let metrics = resource["metrics"].as_array().unwrap();
    assert!(metrics.len() > 4);
    for metric in metrics {
        let gauge = &metric["each"]["gauge"];
        let path = gauge["path"].as_array().unwrap();
        if path[0] == "metadata" {
            continue;
        }
        let mut found = schema.clone();
        for name in path {
            found = field(&found, name.as_str().unwrap());
        }
        let one = if found["type"] == "array" {
            found["items"].clone()
        } else {
            found.clone()
        };
        assert!(found.is_object(), "{metric}");
        let labels = gauge["labelsFromPath"].as_object().into_iter().flatten();
        let value = gauge.get("valueFrom").into_iter();
        for path in labels.map(|(_, path)| path).chain(value) {
            let name = path[0].as_str().unwrap();
            assert!(field(&one, name).is_object(), "{metric}: {name}");
        }
    }
}
