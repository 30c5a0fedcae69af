//! The fields that the server sets and keeps on a write, kind by kind.

use serde_json::{Map, Value, json};

use super::http_request::Target;
use crate::error::{ApiError, ApiResult};
use crate::kinds::{Builtin, Resource};

/// Whether objects of a resource have a generation.
pub(crate) fn has_generation(resource: &Resource) -> bool {
    match resource.builtin {
        None => true,
        Some(kind) => matches!(
            kind,
            Builtin::Deployment
                | Builtin::DaemonSet
                | Builtin::Job
                | Builtin::Pod
                | Builtin::CustomResourceDefinition
                | Builtin::PodDisruptionBudget
                | Builtin::NetworkPolicy
                | Builtin::PriorityClass
                | Builtin::ValidatingAdmissionPolicy
                | Builtin::ValidatingAdmissionPolicyBinding
                | Builtin::ValidatingWebhookConfiguration
        ),
    }
}

/// Sets the namespace of the request in the metadata of an object.
pub(crate) fn settle_namespace(
    metadata: &mut Map<String, Value>,
    namespace: &str,
) -> ApiResult<()> {
    let given = metadata
        .get("namespace")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !given.is_empty() && !namespace.is_empty() && given != namespace {
        let message =
            "the namespace of the provided object does not match the namespace sent on the request";
        return Err(ApiError::bad_request(message));
    }
    match namespace {
        "" => metadata.remove("namespace"),
        namespace => metadata.insert("namespace".into(), namespace.into()),
    };
    Ok(())
}

/// Sets and removes the fields of a new object that clients do not write.
pub(crate) fn prepare_new(value: &mut Value, resource: &Resource) {
    let Some(fields) = value.as_object_mut() else {
        return;
    };
    match resource.builtin {
        // A kubelet registers a node with its status. The API server adds the NotReady taint.
        Some(Builtin::Node) => add_taint(fields),
        Some(Builtin::Namespace) => {
            fields.insert("status".into(), json!({"phase": "Active"}));
            fields.insert("spec".into(), json!({"finalizers": ["kubernetes"]}));
        }
        Some(Builtin::Pod) => {
            fields.insert(
                "status".into(),
                json!({"phase": "Pending", "qosClass": "BestEffort"}),
            );
        }
        Some(Builtin::DaemonSet) => {
            let counts = [
                "currentNumberScheduled",
                "desiredNumberScheduled",
                "numberMisscheduled",
                "numberReady",
            ];
            let counts: Map<String, Value> = counts
                .into_iter()
                .map(|name| (name.to_owned(), 0.into()))
                .collect();
            fields.insert("status".into(), counts.into());
        }
        Some(Builtin::Deployment | Builtin::Job) => {
            fields.insert("status".into(), json!({}));
        }
        Some(Builtin::Service) => {
            give_address(fields);
            fields.insert("status".into(), json!({"loadBalancer": {}}));
        }
        Some(Builtin::PodDisruptionBudget) => {
            let counts = [
                "currentHealthy",
                "desiredHealthy",
                "disruptionsAllowed",
                "expectedPods",
            ];
            let counts = counts.map(|name| (name.to_owned(), Value::from(0)));
            fields.insert("status".into(), Map::from_iter(counts).into());
        }
        Some(Builtin::ValidatingAdmissionPolicy) => {
            fields.insert("status".into(), json!({}));
        }
        Some(Builtin::CustomResourceDefinition) => {
            let versions = fields
                .get("spec")
                .and_then(|spec| spec.get("versions"))
                .and_then(Value::as_array);
            let stored = versions
                .into_iter()
                .flatten()
                .filter(|v| v.get("storage") == Some(&Value::Bool(true)));
            let stored: Vec<&Value> = stored.filter_map(|version| version.get("name")).collect();
            let status =
                json!({"acceptedNames": {"kind": "", "plural": ""}, "storedVersions": stored});
            fields.insert("status".into(), status);
        }
        _ if resource.status => {
            fields.remove("status");
        }
        _ => {}
    }
}

fn add_taint(node: &mut Map<String, Value>) {
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let spec = node.entry("spec").or_insert_with(|| json!({}));
    let Some(spec) = spec.as_object_mut() else {
        return;
    };
    let taints = spec.entry("taints").or_insert_with(|| json!([]));
    if let Some(taints) = taints
        .as_array_mut()
        .filter(|taints| !taints.contains(&taint))
    {
        taints.push(taint);
    }
}

/// Restores the fields that the endpoint does not write.
pub(crate) fn restrict(new: &mut Value, old: &Value, target: &Target) {
    let resource = &target.resource;
    let keep = |new: &mut Map<String, Value>, field: &str| match old.get(field) {
        Some(value) => new.insert(field.to_owned(), value.clone()),
        None => new.remove(field),
    };
    match (target.subresource.as_str(), resource.builtin) {
        ("status", None) => {
            let mut restricted = old.clone();
            let managed = new
                .get("metadata")
                .and_then(|m| m.get("managedFields"))
                .cloned();
            if let Some(fields) = restricted.as_object_mut() {
                match new.get_mut("status") {
                    Some(status) => fields.insert("status".into(), status.take()),
                    None => fields.remove("status"),
                };
                if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
                    match managed {
                        Some(managed) => metadata.insert("managedFields".into(), managed),
                        None => metadata.remove("managedFields"),
                    };
                }
            }
            *new = restricted;
        }
        ("status", Some(kind)) => {
            if let Some(fields) = new.as_object_mut() {
                keep(fields, "spec");
                let old_metadata = old.get("metadata").unwrap_or(&Value::Null);
                let kept: &[&str] = match kind {
                    Builtin::Deployment => &["labels"],
                    Builtin::Pod => &["ownerReferences"],
                    Builtin::CustomResourceDefinition => {
                        &["labels", "annotations", "finalizers", "ownerReferences"]
                    }
                    _ => &[],
                };
                if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
                    for field in kept {
                        match old_metadata.get(*field) {
                            Some(value) => metadata.insert((*field).to_owned(), value.clone()),
                            None => metadata.remove(*field),
                        };
                    }
                }
            }
        }
        (_, kind) => {
            if let Some(fields) = new.as_object_mut() {
                if resource.status {
                    keep(fields, "status");
                }
                if kind == Some(Builtin::Namespace) {
                    keep(fields, "spec");
                }
                if kind == Some(Builtin::Service) {
                    keep_address(fields, old);
                }
            }
        }
    }
}

/// Restores the metadata that clients do not write.
pub(crate) fn keep_metadata(metadata: &mut Map<String, Value>, old: &Value) {
    let old = old.get("metadata").unwrap_or(&Value::Null);
    if metadata.get("uid").is_none() {
        metadata.extend(old.get("uid").map(|uid| ("uid".to_owned(), uid.clone())));
    }
    metadata.remove("selfLink");
    for field in ["creationTimestamp", "generation", "resourceVersion"] {
        match old.get(field) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
    // A client may omit these fields, but not change them.
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        metadata.extend(
            old.get(field)
                .map(|value| (field.to_owned(), value.clone())),
        );
    }
}

/// Whether the change increments the generation.
pub(crate) fn content_differs(new: &Value, old: &Value, resource: &Resource) -> bool {
    if resource.builtin.is_some() {
        return new.get("spec") != old.get("spec");
    }
    let differs = |one: &Value, other: &Value| {
        one.as_object().into_iter().flatten().any(|(name, value)| {
            let counts = name != "metadata" && !(name == "status" && resource.status);
            counts && other.get(name) != Some(value)
        })
    };
    differs(new, old) || differs(old, new)
}

/// Whether an object is marked for deletion, and no finalizer or grace period is left.
pub(crate) fn is_done(value: &Value, resource: &Resource) -> bool {
    let list = |holder: &str| {
        let list = value
            .get(holder)
            .and_then(|holder| holder.get("finalizers"))
            .and_then(Value::as_array);
        list.map_or(0, Vec::len)
    };
    let metadata = value.get("metadata");
    let deleting = metadata.is_some_and(|metadata| metadata.get("deletionTimestamp").is_some());
    let grace = metadata
        .and_then(|m| m.get("deletionGracePeriodSeconds"))
        .and_then(Value::as_i64)
        .unwrap_or(0);
    let held = list("metadata")
        + if resource.builtin == Some(Builtin::Namespace) {
            list("spec")
        } else {
            0
        };
    deleting && held == 0 && grace == 0
}

/// Sets the cluster IP of a new Service, derived from its UID, unless it is headless or external.
fn give_address(service: &mut Map<String, Value>) {
    let uid = service
        .get("metadata")
        .and_then(|metadata| metadata.get("uid"))
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    if spec.get("type") == Some(&Value::from("ExternalName")) {
        return;
    }
    let given = spec.get("clusterIP").and_then(Value::as_str);
    let address = match given.filter(|address| !address.is_empty()) {
        Some(address) => address.to_owned(),
        None => {
            let start: String = uid
                .chars()
                .filter(char::is_ascii_hexdigit)
                .take(4)
                .collect();
            let [high, low] = u16::from_str_radix(&start, 16)
                .unwrap_or_default()
                .to_be_bytes();
            format!("10.96.{high}.{low}")
        }
    };
    spec.insert("clusterIPs".into(), json!([address]));
    spec.insert("clusterIP".into(), address.into());
    spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
    spec.entry("ipFamilyPolicy")
        .or_insert_with(|| "SingleStack".into());
}

/// Keeps the cluster IP of a Service that a change omits.
fn keep_address(new: &mut Map<String, Value>, old: &Value) {
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let missing = match spec.get(field) {
            None | Some(Value::Null) => true,
            Some(value) => value == "",
        };
        if let (true, Some(was)) = (missing, old.get("spec").and_then(|spec| spec.get(field))) {
            spec.insert(field.to_owned(), was.clone());
        }
    }
}
