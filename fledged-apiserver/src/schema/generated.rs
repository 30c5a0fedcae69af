//! Documents and schemas of the types that k8s-openapi generates.

use std::sync::LazyLock;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::parse::parse_trusted;
use super::structural::Schema;

/// The lists of the built-in kinds that merge item by item: the type and the field of a list, and
/// its keys.
const MERGED: &[(&str, &str, &str)] = &[
    ("ObjectMeta", "finalizers", "set"),
    ("ObjectMeta", "ownerReferences", "uid"),
    ("NamespaceStatus", "conditions", "type"),
    ("NodeSpec", "podCIDRs", "set"),
    ("NodeStatus", "addresses", "type"),
    ("NodeStatus", "conditions", "type"),
    ("ServiceAccount", "secrets", "name"),
    ("DeploymentStatus", "conditions", "type"),
    ("DaemonSetStatus", "conditions", "type"),
    ("UncountedTerminatedPods", "failed", "set"),
    ("UncountedTerminatedPods", "succeeded", "set"),
    ("PodStatus", "conditions", "type"),
    ("PodStatus", "podIPs", "ip"),
    ("PodStatus", "resourceClaimStatuses", "name"),
    ("PodSpec", "containers", "name"),
    ("PodSpec", "ephemeralContainers", "name"),
    ("PodSpec", "initContainers", "name"),
    ("PodSpec", "hostAliases", "ip"),
    ("PodSpec", "imagePullSecrets", "name"),
    ("PodSpec", "resourceClaims", "name"),
    ("PodSpec", "schedulingGates", "name"),
    (
        "PodSpec",
        "topologySpreadConstraints",
        "topologyKey,whenUnsatisfiable",
    ),
    ("PodSpec", "volumes", "name"),
    ("Container", "env", "name"),
    ("Container", "ports", "containerPort,protocol"),
    ("Container", "volumeDevices", "devicePath"),
    ("Container", "volumeMounts", "mountPath"),
    ("EphemeralContainer", "env", "name"),
    ("EphemeralContainer", "ports", "containerPort,protocol"),
    ("EphemeralContainer", "volumeDevices", "devicePath"),
    ("EphemeralContainer", "volumeMounts", "mountPath"),
    ("ResourceRequirements", "claims", "name"),
    ("CustomResourceDefinitionStatus", "conditions", "type"),
    ("ServiceSpec", "ports", "port,protocol"),
    ("ServiceStatus", "conditions", "type"),
    ("PodDisruptionBudgetStatus", "conditions", "type"),
    ("ValidatingAdmissionPolicySpec", "matchConditions", "name"),
    ("ValidatingAdmissionPolicySpec", "variables", "name"),
    ("ValidatingAdmissionPolicyStatus", "conditions", "type"),
    (
        "ValidatingAdmissionPolicyBindingSpec",
        "validationActions",
        "set",
    ),
    ("ValidatingWebhookConfiguration", "webhooks", "name"),
    ("ValidatingWebhook", "matchConditions", "name"),
];

/// The lists that strategic merge patches merge: the type, the field, and the key (empty for lists of scalars).
const PATCHED: &[(&str, &str, &str)] = &[
    ("ObjectMeta", "finalizers", ""),
    ("ObjectMeta", "ownerReferences", "uid"),
    ("NamespaceStatus", "conditions", "type"),
    ("NodeSpec", "podCIDRs", ""),
    ("NodeStatus", "addresses", "type"),
    ("NodeStatus", "conditions", "type"),
    ("ServiceAccount", "secrets", "name"),
    ("DeploymentStatus", "conditions", "type"),
    ("DaemonSetStatus", "conditions", "type"),
    ("JobStatus", "conditions", "type"),
    ("PodStatus", "conditions", "type"),
    ("PodStatus", "podIPs", "ip"),
    ("PodStatus", "hostIPs", "ip"),
    ("PodSpec", "volumes", "name"),
    ("PodSpec", "containers", "name"),
    ("PodSpec", "initContainers", "name"),
    ("PodSpec", "ephemeralContainers", "name"),
    ("PodSpec", "imagePullSecrets", "name"),
    ("PodSpec", "hostAliases", "ip"),
    ("PodSpec", "resourceClaims", "name"),
    ("PodSpec", "schedulingGates", "name"),
    ("PodSpec", "topologySpreadConstraints", "topologyKey"),
    ("Container", "env", "name"),
    ("Container", "ports", "containerPort"),
    ("Container", "volumeMounts", "mountPath"),
    ("Container", "volumeDevices", "devicePath"),
    ("EphemeralContainer", "env", "name"),
    ("EphemeralContainer", "ports", "containerPort"),
    ("EphemeralContainer", "volumeMounts", "mountPath"),
    ("EphemeralContainer", "volumeDevices", "devicePath"),
    ("ServiceSpec", "ports", "port"),
    ("ServiceStatus", "conditions", "type"),
    ("PodDisruptionBudgetStatus", "conditions", "type"),
    ("ValidatingAdmissionPolicySpec", "matchConditions", "name"),
    ("ValidatingAdmissionPolicySpec", "variables", "name"),
    ("ValidatingWebhookConfiguration", "webhooks", "name"),
    ("ValidatingWebhook", "matchConditions", "name"),
];

/// Types whose values are owned and replaced as a whole.
const WHOLE: &[&str] = &[
    "OwnerReference",
    "LabelSelector",
    "LocalObjectReference",
    "ObjectReference",
    "SecretReference",
    "ConfigMapKeySelector",
    "SecretKeySelector",
    "ObjectFieldSelector",
    "ResourceFieldSelector",
    "NodeSelector",
    "TypedLocalObjectReference",
    "NamedRuleWithOperations",
    "ParamKind",
    "ParamRef",
    "RoleRef",
    "Subject",
];

/// The depth to which references are inlined.
const DEPTH: usize = 24;

/// The OpenAPI document of a generated type, with the ways in which its lists merge.
pub(crate) fn document<T: schemars::JsonSchema>() -> Value {
    let generator = SchemaGenerator::from(SchemaSettings::draft2020_12());
    let root = generator.into_root_schema_for::<T>().to_value();
    let none = Map::new();
    let definitions = root
        .get("$defs")
        .and_then(Value::as_object)
        .unwrap_or(&none);
    let name = root
        .get("title")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let mut document = inlined(&root, definitions, DEPTH);
    if let Some(fields) = document.as_object_mut() {
        for extra in ["$defs", "$schema", "title"] {
            fields.remove(extra);
        }
    }
    annotate(&mut document, short(&name));
    document
}

fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Inlines the references of a schema.
fn inlined(schema: &Value, definitions: &Map<String, Value>, depth: usize) -> Value {
    match schema {
        Value::Object(fields) => {
            let reference = fields.get("$ref").and_then(Value::as_str);
            let Some(name) = reference.and_then(|r| r.strip_prefix("#/$defs/")) else {
                let fields = fields
                    .iter()
                    .map(|(k, v)| (k.clone(), inlined(v, definitions, depth)));
                return Value::Object(fields.collect());
            };
            let name = name.replace("~1", "/").replace("~0", "~");
            let Some((target, depth)) = definitions.get(&name).zip(allowed(&name, depth)) else {
                return json!({"x-kubernetes-preserve-unknown-fields": true});
            };
            let mut target = inlined(target, definitions, depth);
            annotate(&mut target, short(&name));
            if let (Some(target), Some(description)) =
                (target.as_object_mut(), fields.get("description"))
            {
                target.insert("description".into(), description.clone());
            }
            target
        }
        Value::Array(items) => items
            .iter()
            .map(|item| inlined(item, definitions, depth))
            .collect(),
        other => other.clone(),
    }
}

fn allowed(name: &str, depth: usize) -> Option<usize> {
    match short(name) {
        // It contains itself. The schemas in CRDs are read by `parse_root`.
        "JSONSchemaProps" => None,
        _ => depth.checked_sub(1),
    }
}

fn annotate(schema: &mut Value, name: &str) {
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    if WHOLE.contains(&name) {
        fields.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    if name == "FieldsV1" {
        fields.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
    }
    let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for (_, field, how) in MERGED.iter().filter(|(parent, ..)| *parent == name) {
        let Some(list) = properties.get_mut(*field).and_then(Value::as_object_mut) else {
            continue;
        };
        match *how {
            "set" => list.insert("x-kubernetes-list-type".into(), "set".into()),
            keys => {
                let keys: Vec<&str> = keys.split(',').collect();
                list.insert("x-kubernetes-list-map-keys".into(), keys.into());
                list.insert("x-kubernetes-list-type".into(), "map".into())
            }
        };
    }
    for (_, field, key) in PATCHED.iter().filter(|(parent, ..)| *parent == name) {
        let Some(list) = properties.get_mut(*field).and_then(Value::as_object_mut) else {
            continue;
        };
        list.insert("x-kubernetes-patch-strategy".into(), "merge".into());
        if !key.is_empty() {
            list.insert("x-kubernetes-patch-merge-key".into(), (*key).into());
        }
    }
    if matches!(name, "ContainerPort" | "ServicePort")
        && let Some(protocol) = properties
            .get_mut("protocol")
            .and_then(Value::as_object_mut)
    {
        protocol.insert("default".into(), "TCP".into());
    }
    // The only maps of strings that are owned as a whole.
    let whole = match name {
        "PodSpec" => "nodeSelector",
        "ServiceSpec" => "selector",
        _ => return,
    };
    if let Some(selector) = properties.get_mut(whole).and_then(Value::as_object_mut) {
        selector.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
}

static OBJECT_META_DOCUMENT: LazyLock<Value> = LazyLock::new(document::<ObjectMeta>);

static OBJECT_META: LazyLock<Schema> = LazyLock::new(|| parse_trusted(object_meta_document()));

/// The OpenAPI document of metadata.
pub(crate) fn object_meta_document() -> &'static Value {
    &OBJECT_META_DOCUMENT
}

/// The schema of metadata.
pub(crate) fn object_meta() -> &'static Schema {
    &OBJECT_META
}

/// The schema that a field is merged by: metadata always has that of `ObjectMeta`.
pub(crate) fn merged_field<'s>(schema: &'s Schema, name: &str) -> &'s Schema {
    match name {
        "metadata" if schema.embedded => object_meta(),
        name => schema.field_or_any(name),
    }
}
