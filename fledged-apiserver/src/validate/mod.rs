//! Defaults and rules of the built-in kinds that their schemas do not express, and of metadata.

mod admission;
mod core_kinds;
mod crd_rules;
mod metadata;
mod name_syntax;
mod policy_kinds;
mod workload;

use serde_json::Value;

use admission::{check_admission, default_admission};
use core_kinds::{
    check_config_map, check_event, check_lease, check_node, check_secret, encode_string_data,
};
use crd_rules::{check_crd, default_crd};
use policy_kinds::{check_access, check_policy_kind, default_binding, default_policy};
use workload::{check_template, default_template, default_workload};

use crate::error::FieldError;
use crate::json::{object, text};
use crate::kinds::Builtin;

pub(crate) use metadata::{check_metadata, check_metadata_change, metadata_warnings, normalize};
pub(crate) use name_syntax::{label_value_faults, qualified_name_faults};

/// Sets the defaults of an object.
pub(crate) fn default_object(kind: Builtin, value: &mut Value) {
    match kind {
        Builtin::Secret => {
            if text(value, &["type"]).is_empty()
                && let Some(fields) = value.as_object_mut()
            {
                fields.insert("type".into(), "Opaque".into());
            }
            encode_string_data(value);
        }
        Builtin::Namespace => {
            let name = text(value, &["metadata", "name"]).to_owned();
            if let Some(metadata) = value.get_mut("metadata").filter(|_| !name.is_empty())
                && let Some(labels) = object(metadata, "labels")
            {
                labels.insert("kubernetes.io/metadata.name".into(), name.into());
            }
            if let Some(status) = object(value, "status") {
                status.entry("phase").or_insert_with(|| "Active".into());
            }
        }
        Builtin::Pod => {
            if let Some(spec) = value.get_mut("spec") {
                default_template(spec);
            }
            if let Some(status) = object(value, "status") {
                status.entry("phase").or_insert_with(|| "Pending".into());
            }
        }
        Builtin::Deployment | Builtin::DaemonSet | Builtin::Job => default_workload(kind, value),
        Builtin::CustomResourceDefinition => default_crd(value),
        Builtin::Node => {
            if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut)
                && let Some(capacity) = status.get("capacity").cloned()
            {
                status.entry("allocatable").or_insert(capacity);
            }
        }
        Builtin::Service | Builtin::NetworkPolicy | Builtin::PriorityClass => {
            default_policy(kind, value);
        }
        Builtin::RoleBinding | Builtin::ClusterRoleBinding => default_binding(value),
        Builtin::ValidatingAdmissionPolicy
        | Builtin::ValidatingAdmissionPolicyBinding
        | Builtin::ValidatingWebhookConfiguration => default_admission(kind, value),
        Builtin::ServiceAccount
        | Builtin::ConfigMap
        | Builtin::Event
        | Builtin::Lease
        | Builtin::Role
        | Builtin::ClusterRole
        | Builtin::PodDisruptionBudget => {}
    }
}

/// The faults of an object, and of the change from an old one. Events are in the form of the core group;
/// `in_group` is set if they were written in `events.k8s.io`.
pub(crate) fn check_object(
    kind: Builtin,
    in_group: bool,
    new: &Value,
    old: Option<&Value>,
) -> Vec<FieldError> {
    let mut faults = Vec::new();
    match kind {
        Builtin::Secret => check_secret(new, old, &mut faults),
        Builtin::ConfigMap => check_config_map(new, old, &mut faults),
        Builtin::Node => check_node(new, &mut faults),
        Builtin::Lease => check_lease(new, &mut faults),
        Builtin::Event => check_event(in_group, new, old, &mut faults),
        Builtin::Pod | Builtin::Deployment | Builtin::DaemonSet | Builtin::Job => {
            check_template(kind, new, old, &mut faults)
        }
        Builtin::CustomResourceDefinition => faults.extend(check_crd(new, old)),
        Builtin::Service
        | Builtin::NetworkPolicy
        | Builtin::PriorityClass
        | Builtin::PodDisruptionBudget => check_policy_kind(kind, new, old, &mut faults),
        Builtin::Role
        | Builtin::ClusterRole
        | Builtin::RoleBinding
        | Builtin::ClusterRoleBinding => check_access(kind, new, old, &mut faults),
        Builtin::ValidatingAdmissionPolicy
        | Builtin::ValidatingAdmissionPolicyBinding
        | Builtin::ValidatingWebhookConfiguration => check_admission(kind, new, &mut faults),
        Builtin::Namespace | Builtin::ServiceAccount => {}
    }
    faults
}
