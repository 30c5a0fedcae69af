//! Schemas of the built-in kinds, made from their generated types.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::admissionregistration::v1 as admission;
use k8s_openapi::api::{
    apps, batch, coordination, core, events, networking, policy, rbac, scheduling,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{Schema, parse_trusted};
use crate::kinds::Builtin;

/// How lists of the built-in kinds merge, where it is not as a whole: the type and the field that a list is in, and
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

/// What strategic merge patches merge: a key, or nothing for lists of scalars.
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

/// Types whose values are replaced as a whole.
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

/// How deep types are followed that contain themselves, as only `JSONSchemaProps` does.
const DEPTH: usize = 24;

struct Known {
    document: Value,
    schema: Arc<Schema>,
}

static KNOWN: LazyLock<BTreeMap<(Builtin, bool), Known>> = LazyLock::new(|| {
    let kinds = [
        (Builtin::Namespace, false, document::<core::v1::Namespace>()),
        (Builtin::Node, false, document::<core::v1::Node>()),
        (Builtin::Secret, false, document::<core::v1::Secret>()),
        (
            Builtin::ServiceAccount,
            false,
            document::<core::v1::ServiceAccount>(),
        ),
        (Builtin::ConfigMap, false, document::<core::v1::ConfigMap>()),
        (Builtin::Pod, false, document::<core::v1::Pod>()),
        (Builtin::Event, false, document::<core::v1::Event>()),
        (Builtin::Event, true, document::<events::v1::Event>()),
        (Builtin::Lease, false, document::<coordination::v1::Lease>()),
        (
            Builtin::Deployment,
            false,
            document::<apps::v1::Deployment>(),
        ),
        (Builtin::DaemonSet, false, document::<apps::v1::DaemonSet>()),
        (Builtin::Job, false, document::<batch::v1::Job>()),
        (
            Builtin::CustomResourceDefinition,
            false,
            document::<apiextensions::CustomResourceDefinition>(),
        ),
        (Builtin::Service, false, document::<core::v1::Service>()),
        (Builtin::Role, false, document::<rbac::v1::Role>()),
        (
            Builtin::RoleBinding,
            false,
            document::<rbac::v1::RoleBinding>(),
        ),
        (
            Builtin::ClusterRole,
            false,
            document::<rbac::v1::ClusterRole>(),
        ),
        (
            Builtin::ClusterRoleBinding,
            false,
            document::<rbac::v1::ClusterRoleBinding>(),
        ),
        (
            Builtin::PodDisruptionBudget,
            false,
            document::<policy::v1::PodDisruptionBudget>(),
        ),
        (
            Builtin::NetworkPolicy,
            false,
            document::<networking::v1::NetworkPolicy>(),
        ),
        (
            Builtin::PriorityClass,
            false,
            document::<scheduling::v1::PriorityClass>(),
        ),
        (
            Builtin::ValidatingAdmissionPolicy,
            false,
            document::<admission::ValidatingAdmissionPolicy>(),
        ),
        (
            Builtin::ValidatingAdmissionPolicyBinding,
            false,
            document::<admission::ValidatingAdmissionPolicyBinding>(),
        ),
        (
            Builtin::ValidatingWebhookConfiguration,
            false,
            document::<admission::ValidatingWebhookConfiguration>(),
        ),
    ];
    let known = kinds.into_iter().map(|(kind, in_group, document)| {
        let schema = Arc::new(parse_trusted(&document));
        ((kind, in_group), Known { document, schema })
    });
    known.collect()
});

/// The schema of a built-in kind; `in_group` tells the Event of `events.k8s.io` from that of the core.
pub(crate) fn builtin_schema(kind: Builtin, in_group: bool) -> Option<Arc<Schema>> {
    let in_group = in_group && kind == Builtin::Event;
    Some(Arc::clone(&KNOWN.get(&(kind, in_group))?.schema))
}

/// The same as a document, for clients.
pub(crate) fn builtin_document(kind: Builtin, in_group: bool) -> Option<&'static Value> {
    let in_group = in_group && kind == Builtin::Event;
    Some(&KNOWN.get(&(kind, in_group))?.document)
}

fn document<T: schemars::JsonSchema>() -> Value {
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

/// A schema with its references replaced by what they refer to.
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
        // Schemas inside of CRDs are read where CRDs are; here they are kept as they are.
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
    // The only maps of strings that are replaced as a whole.
    let whole = match name {
        "PodSpec" => "nodeSelector",
        "ServiceSpec" => "selector",
        _ => return,
    };
    if let Some(selector) = properties.get_mut(whole).and_then(Value::as_object_mut) {
        selector.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
}

static OBJECT_META: LazyLock<Option<Arc<Schema>>> = LazyLock::new(|| {
    let namespace = builtin_schema(Builtin::Namespace, false)?;
    namespace.properties.get("metadata").cloned()
});

/// The schema of metadata.
pub(crate) fn object_meta() -> &'static Schema {
    OBJECT_META.as_deref().unwrap_or(Schema::any())
}
