//! Rules of the built-in kinds, as far as this project could break them.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::access::{check_access, default_binding};
use super::admission::{check_admission, default_admission};
use super::around::{check_around, default_around};
use super::event::check_event;
use super::names::{config_key_faults, label_value_faults, qualified_name_faults};
use super::workload::{check_template, default_template, default_workload};
use crate::error::{Fault, FieldError};
use crate::kinds::{Builtin, check_crd, default_crd};

/// As many bytes as the data of a Secret or ConfigMap may have.
const DATA_LIMIT: usize = 1024 * 1024;

pub(super) fn text<'v>(value: &'v Value, path: &[&str]) -> &'v str {
    at(value, path).as_str().unwrap_or_default()
}

pub(super) fn at<'v>(value: &'v Value, path: &[&str]) -> &'v Value {
    path.iter()
        .fold(value, |value, name| value.get(name).unwrap_or(&Value::Null))
}

pub(super) fn items<'v>(value: &'v Value, path: &[&str]) -> &'v [Value] {
    at(value, path)
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// A field that is an object, made if it isn't there.
pub(super) fn object<'v>(value: &'v mut Value, field: &str) -> Option<&'v mut Map<String, Value>> {
    let fields = value.as_object_mut()?;
    let entry = fields.entry(field).or_insert_with(|| json!({}));
    entry.as_object_mut()
}

/// Fills in what such an object may leave out.
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
            default_around(kind, value);
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

/// Moves `stringData` of a Secret to `data`.
fn encode_string_data(value: &mut Value) {
    let Some(fields) = value.as_object_mut() else {
        return;
    };
    let Some(Value::Object(strings)) = fields.remove("stringData") else {
        return;
    };
    if strings.is_empty() {
        return;
    }
    let Some(data) = object(value, "data") else {
        return;
    };
    for (key, text) in strings {
        let bytes = k8s_openapi::ByteString(text.as_str().unwrap_or_default().as_bytes().to_vec());
        data.insert(key, serde_json::to_value(bytes).unwrap_or_default());
    }
}

/// What is wrong with an object, and with the change from an old one. Events are in the form of the core group;
/// `in_group` tells that they were written in `events.k8s.io`.
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
        | Builtin::PodDisruptionBudget => check_around(kind, new, old, &mut faults),
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

fn check_keys(value: &Value, field: &str, faults: &mut Vec<FieldError>) -> usize {
    let mut size = 0;
    for (key, data) in at(value, &[field]).as_object().into_iter().flatten() {
        let path = format!("{field}[{key}]");
        let found = config_key_faults(key).into_iter();
        faults.extend(found.map(|fault| FieldError::invalid(&path, &key.as_str().into(), fault)));
        size += data.as_str().unwrap_or_default().len();
    }
    size
}

fn check_secret(new: &Value, old: Option<&Value>, faults: &mut Vec<FieldError>) {
    // Base64 is a third longer than what it stands for.
    if check_keys(new, "data", faults) / 4 * 3 > DATA_LIMIT {
        let detail = format!("may not be more than {DATA_LIMIT} bytes");
        faults.push(FieldError::new(
            Fault::TooLong,
            "data",
            &Value::Null,
            detail,
        ));
    }
    let data = |key: &str| at(new, &["data", key]).as_str();
    let mut require = |key: &str| {
        if data(key).is_none() {
            faults.push(FieldError::required(&format!("data[{key}]"), ""));
        }
    };
    let mut json_key = None;
    match text(new, &["type"]) {
        "kubernetes.io/dockerconfigjson" => {
            require(".dockerconfigjson");
            json_key = Some(".dockerconfigjson");
        }
        "kubernetes.io/dockercfg" => {
            require(".dockercfg");
            json_key = Some(".dockercfg");
        }
        "kubernetes.io/basic-auth" if data("username").is_none() && data("password").is_none() => {
            require("username");
            require("password");
        }
        "kubernetes.io/ssh-auth" => require("ssh-privatekey"),
        "kubernetes.io/tls" => {
            require("tls.crt");
            require("tls.key");
        }
        _ => {}
    }
    if let Some((key, encoded)) = json_key.and_then(|key| Some((key, data(key)?))) {
        let bytes: Result<k8s_openapi::ByteString, _> = serde_json::from_value(encoded.into());
        let error = bytes.map(|bytes| serde_json::from_slice::<Map<String, Value>>(&bytes.0).err());
        if let Ok(Some(error)) = error {
            let path = format!("data[{key}]");
            faults.push(FieldError::invalid(
                &path,
                &"<secret contents redacted>".into(),
                error.to_string(),
            ));
        }
    }
    let Some(old) = old else { return };
    if text(new, &["type"]) != text(old, &["type"]) {
        faults.push(FieldError::invalid(
            "type",
            at(new, &["type"]),
            "field is immutable",
        ));
    }
    check_immutable(new, old, &["data"], faults);
}

fn check_immutable(new: &Value, old: &Value, fields: &[&str], faults: &mut Vec<FieldError>) {
    if at(old, &["immutable"]) != &Value::Bool(true) {
        return;
    }
    let detail = "field is immutable when `immutable` is set";
    if at(new, &["immutable"]) != &Value::Bool(true) {
        faults.push(FieldError::forbidden("immutable", detail));
    }
    for field in fields
        .iter()
        .filter(|field| new.get(**field) != old.get(**field))
    {
        faults.push(FieldError::forbidden(field, detail));
    }
}

fn check_config_map(new: &Value, old: Option<&Value>, faults: &mut Vec<FieldError>) {
    let size = check_keys(new, "data", faults) + check_keys(new, "binaryData", faults);
    for (key, _) in at(new, &["data"]).as_object().into_iter().flatten() {
        if !at(new, &["binaryData", key]).is_null() {
            let detail = "duplicate of key present in binaryData";
            faults.push(FieldError::invalid(
                &format!("data[{key}]"),
                &key.as_str().into(),
                detail,
            ));
        }
    }
    if size > DATA_LIMIT {
        let detail = format!("may not be more than {DATA_LIMIT} bytes");
        faults.push(FieldError::new(Fault::TooLong, "", &Value::Null, detail));
    }
    if let Some(old) = old {
        check_immutable(new, old, &["data", "binaryData"], faults);
    }
}

fn check_node(new: &Value, faults: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, taint) in items(new, &["spec", "taints"]).iter().enumerate() {
        let path = format!("metadata.taints[{index}]");
        let (key, value, effect) = (
            text(taint, &["key"]),
            text(taint, &["value"]),
            text(taint, &["effect"]),
        );
        let found = qualified_name_faults(key).into_iter();
        faults.extend(
            found.map(|fault| FieldError::invalid(&format!("{path}.key"), &key.into(), fault)),
        );
        let found = label_value_faults(value).into_iter();
        faults.extend(
            found.map(|fault| FieldError::invalid(&format!("{path}.value"), &value.into(), fault)),
        );
        match effect {
            "NoSchedule" | "PreferNoSchedule" | "NoExecute" => {}
            "" => faults.push(FieldError::required(&format!("{path}.effect"), "")),
            other => {
                let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"].map(str::to_owned);
                faults.push(FieldError::not_supported(
                    &format!("{path}.effect"),
                    &other.into(),
                    &known,
                ));
            }
        }
        if !seen.insert((key, effect)) {
            let detail = "taints must be unique by key and effect pair";
            let fault = FieldError::new(Fault::Duplicate, &path, taint, detail);
            faults.push(fault);
        }
    }
}

fn check_lease(new: &Value, faults: &mut Vec<FieldError>) {
    let spec = at(new, &["spec"]);
    if let Some(seconds) = spec
        .get("leaseDurationSeconds")
        .filter(|v| v.as_i64().is_some_and(|n| n <= 0))
    {
        faults.push(FieldError::invalid(
            "spec.leaseDurationSeconds",
            seconds,
            "must be greater than 0",
        ));
    }
    if let Some(count) = spec
        .get("leaseTransitions")
        .filter(|v| v.as_i64().is_some_and(|n| n < 0))
    {
        let detail = "must be greater than or equal to 0";
        faults.push(FieldError::invalid("spec.leaseTransitions", count, detail));
    }
    if spec.get("preferredHolder").is_some() && text(spec, &["strategy"]).is_empty() {
        let detail = "may only be specified if `strategy` is defined";
        faults.push(FieldError::forbidden("spec.preferredHolder", detail));
    }
}
