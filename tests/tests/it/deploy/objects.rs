//! Every rendered object matches the Rust type of its kind: no unknown and no missing fields.

use fledged_tests::require;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::rendered::{every_installation, helm_operator, label};

/// Collects the paths of the fields of `document` that its type does not have.
fn unknown(document: &Value, known: &Value, path: &str, found: &mut Vec<String>) {
    match (document, known) {
        (Value::Object(fields), known) => {
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                match known.get(name) {
                    Some(known) => unknown(value, known, &path, found),
                    // Empty fields are not serialized.
                    None if value.is_null() || *value == json!([]) || *value == json!({}) => {}
                    None => found.push(path),
                }
            }
        }
        (Value::Array(items), known) => {
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                unknown(item, known.get(index).unwrap_or(&Value::Null), &path, found);
            }
        }
        _ => {}
    }
}

fn check<T: Serialize + DeserializeOwned>(document: &Value) -> Vec<String> {
    let typed: T = match serde_json::from_value(document.clone()) {
        Ok(typed) => typed,
        Err(error) => return vec![error.to_string()],
    };
    let mut found = Vec::new();
    let known = serde_json::to_value(typed).unwrap();
    unknown(document, &known, "", &mut found);
    found
}

/// Kinds of other projects have no type here: returns the fields of their spec that are not in `known`.
fn check_foreign(document: &Value, known: &[&str]) -> Vec<String> {
    let fields = document["spec"].as_object().unwrap().keys();
    fields
        .filter(|field| !known.contains(&field.as_str()))
        .cloned()
        .collect()
}

fn problems(object: &Value) -> Vec<String> {
    let version = object["apiVersion"].as_str().unwrap();
    match (version, object["kind"].as_str().unwrap()) {
        ("v1", "Namespace") => check::<Namespace>(object),
        ("v1", "ServiceAccount") => check::<ServiceAccount>(object),
        ("v1", "Service") => check::<Service>(object),
        ("v1", "Secret") => check::<Secret>(object),
        ("v1", "ConfigMap") => check::<ConfigMap>(object),
        ("apps/v1", "Deployment") => check::<Deployment>(object),
        ("apps/v1", "DaemonSet") => check::<DaemonSet>(object),
        ("policy/v1", "PodDisruptionBudget") => check::<PodDisruptionBudget>(object),
        ("networking.k8s.io/v1", "NetworkPolicy") => check::<NetworkPolicy>(object),
        ("scheduling.k8s.io/v1", "PriorityClass") => check::<PriorityClass>(object),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => {
            check::<CustomResourceDefinition>(object)
        }
        ("rbac.authorization.k8s.io/v1", kind) => match kind {
            "Role" => check::<Role>(object),
            "RoleBinding" => check::<RoleBinding>(object),
            "ClusterRole" => check::<ClusterRole>(object),
            "ClusterRoleBinding" => check::<ClusterRoleBinding>(object),
            other => vec![format!("unknown kind {other}")],
        },
        ("admissionregistration.k8s.io/v1", kind) => match kind {
            "ValidatingAdmissionPolicy" => check::<ValidatingAdmissionPolicy>(object),
            "ValidatingAdmissionPolicyBinding" => check::<ValidatingAdmissionPolicyBinding>(object),
            "ValidatingWebhookConfiguration" => check::<ValidatingWebhookConfiguration>(object),
            other => vec![format!("unknown kind {other}")],
        },
        ("monitoring.coreos.com/v1", "ServiceMonitor") => {
            check_foreign(object, &["selector", "endpoints"])
        }
        ("monitoring.coreos.com/v1", "PodMonitor") => {
            check_foreign(object, &["selector", "podMetricsEndpoints"])
        }
        ("cert-manager.io/v1", "Issuer") => check_foreign(object, &["selfSigned"]),
        ("cert-manager.io/v1", "Certificate") => {
            let known = ["secretName", "dnsNames", "privateKey", "issuerRef"];
            check_foreign(object, &known)
        }
        // Its spec holds values of the chart, which helm validates when it renders the chart.
        ("charts.helm.kubefledged.io/v1alpha2", "KubeFledged") => Vec::new(),
        other => vec![format!("unknown kind {other:?}")],
    }
}

#[test]
fn every_object_matches_its_type() {
    if !require(&["helm"]) {
        return;
    }
    let mut all = every_installation();
    all.push(("the Helm operator".to_owned(), helm_operator()));
    for (installation, objects) in all {
        assert!(objects.len() >= 8, "{installation}");
        for object in &objects {
            let problems = problems(object);
            assert!(
                problems.is_empty(),
                "{installation}: {}: {problems:?}",
                label(object)
            );
        }
    }
}

#[test]
fn unknown_fields_and_wrong_types_are_found() {
    let misspelt = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a" },
        "spec": { "ports": [{ "port": 80, "targetport": 80 }] },
    });
    assert_eq!(problems(&misspelt), [".spec.ports[0].targetport"]);
    let wrong =
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "spec": { "replicas": "two" } });
    assert_eq!(problems(&wrong).len(), 1);
}
