//! Metadata of objects.

use serde_json::{Map, Value};

use super::name_syntax::{
    dns_1035_label_faults, dns_label_faults, dns_subdomain_faults, label_value_faults,
    path_segment_faults, qualified_name_faults,
};
use crate::error::{Fault, FieldError};
use crate::kinds::{Builtin, Resource};

/// The largest total size of the annotations of an object, in bytes.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn entries<'v>(metadata: &'v Value, field: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    metadata
        .get(field)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
}

fn items<'v>(metadata: &'v Value, field: &str) -> &'v [Value] {
    metadata
        .get(field)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// The faults of a name of an object of a resource.
pub(crate) fn name_faults(name: &str, resource: &Resource) -> Vec<String> {
    match resource.builtin {
        Some(Builtin::Namespace) => dns_label_faults(name),
        Some(Builtin::Service) => dns_1035_label_faults(name),
        Some(
            Builtin::Role
            | Builtin::RoleBinding
            | Builtin::ClusterRole
            | Builtin::ClusterRoleBinding,
        ) => path_segment_faults(name),
        _ => dns_subdomain_faults(name),
    }
}

/// The faults of metadata.
pub(crate) fn check_metadata(metadata: &Value, resource: &Resource) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let generate = text(metadata, "generateName");
    if !generate.is_empty() {
        // The generated part after a dash is valid.
        let sample = match generate.strip_suffix('-') {
            Some(start) => format!("{start}a"),
            None => generate.to_owned(),
        };
        let found = name_faults(&sample, resource).into_iter();
        faults
            .extend(found.map(|fault| {
                FieldError::invalid("metadata.generateName", &generate.into(), fault)
            }));
    }
    let name = text(metadata, "name");
    if name.is_empty() {
        faults.push(FieldError::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else {
        let found = name_faults(name, resource).into_iter();
        faults.extend(found.map(|fault| FieldError::invalid("metadata.name", &name.into(), fault)));
    }
    faults.extend(label_faults(metadata, "labels", "metadata.labels"));
    faults.extend(annotation_faults(metadata, "metadata.annotations"));
    faults.extend(owner_faults(metadata));
    for finalizer in items(metadata, "finalizers") {
        let name = finalizer.as_str().unwrap_or_default();
        let found = qualified_name_faults(name).into_iter();
        faults.extend(
            found.map(|fault| FieldError::invalid("metadata.finalizers", finalizer, fault)),
        );
    }
    let both = ["foregroundDeletion", "orphan"]
        .map(|name| items(metadata, "finalizers").iter().any(|f| f == name));
    if both == [true, true] {
        let detail = "finalizer orphan and finalizer foregroundDeletion cannot be both set";
        faults.push(FieldError::invalid(
            "metadata.finalizers",
            metadata.get("finalizers").unwrap_or(&Value::Null),
            detail,
        ));
    }
    faults
}

/// The faults of labels.
pub(crate) fn label_faults(holder: &Value, field: &str, path: &str) -> Vec<FieldError> {
    let mut faults = Vec::new();
    for (key, value) in entries(holder, field) {
        let of_key = qualified_name_faults(key).into_iter();
        faults.extend(of_key.map(|fault| FieldError::invalid(path, &key.as_str().into(), fault)));
        let of_value = label_value_faults(value.as_str().unwrap_or_default()).into_iter();
        faults.extend(of_value.map(|fault| FieldError::invalid(path, value, fault)));
    }
    faults
}

fn annotation_faults(metadata: &Value, path: &str) -> Vec<FieldError> {
    let (mut faults, mut size) = (Vec::new(), 0);
    for (key, value) in entries(metadata, "annotations") {
        // The prefix of an annotation may have capitals.
        let found = qualified_name_faults(&key.to_lowercase()).into_iter();
        faults.extend(found.map(|fault| FieldError::invalid(path, &key.as_str().into(), fault)));
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > ANNOTATIONS_LIMIT {
        let detail = format!("may not be more than {ANNOTATIONS_LIMIT} bytes");
        faults.push(FieldError::new(Fault::TooLong, path, &Value::Null, detail));
    }
    faults
}

fn owner_faults(metadata: &Value) -> Vec<FieldError> {
    let (mut faults, mut controller): (Vec<FieldError>, Option<&str>) = (Vec::new(), None);
    for owner in items(metadata, "ownerReferences") {
        // The API server does not report the index.
        let path = "metadata.ownerReferences";
        let version = text(owner, "apiVersion");
        if version.is_empty() || version.matches('/').count() > 1 {
            let detail = "version must not be empty";
            faults.push(FieldError::invalid(
                &format!("{path}.apiVersion"),
                &version.into(),
                detail,
            ));
        }
        for field in ["kind", "name", "uid"] {
            let value = text(owner, field);
            if value.is_empty() {
                let detail = "must not be empty";
                faults.push(FieldError::invalid(
                    &format!("{path}.{field}"),
                    &value.into(),
                    detail,
                ));
            }
        }
        if version == "v1" && text(owner, "kind") == "Event" {
            faults.push(FieldError::invalid(
                path,
                owner,
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            if let Some(other) = controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {other} and {}",
                    text(owner, "name")
                );
                let all = metadata.get("ownerReferences").unwrap_or(&Value::Null);
                faults.push(FieldError::invalid("metadata.ownerReferences", all, detail));
            }
            controller = Some(text(owner, "name"));
        }
    }
    faults
}

/// The faults of a change of metadata.
pub(crate) fn check_metadata_change(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut faults = Vec::new();
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        if new.get(field) != old.get(field) {
            let value = new.get(field).unwrap_or(&Value::Null);
            faults.push(FieldError::invalid(
                &format!("metadata.{field}"),
                value,
                "field is immutable",
            ));
        }
    }
    if old.get("deletionTimestamp").is_some() {
        let before = items(old, "finalizers");
        let added: Vec<&str> = items(new, "finalizers")
            .iter()
            .filter(|f| !before.contains(f))
            .filter_map(Value::as_str)
            .collect();
        if !added.is_empty() {
            let listed: Vec<String> = added.iter().map(|name| format!("{name:?}")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                listed.join(", ")
            );
            faults.push(FieldError::forbidden("metadata.finalizers", detail));
        }
    }
    faults
}

/// Warnings about valid metadata.
pub(crate) fn metadata_warnings(metadata: &Value, old: Option<&Value>) -> Vec<String> {
    let before = old.map(|old| items(old, "finalizers")).unwrap_or_default();
    let added = items(metadata, "finalizers")
        .iter()
        .filter(|f| !before.contains(f))
        .filter_map(Value::as_str);
    let plain = added.filter(|name| {
        !name.contains('/') && !matches!(*name, "orphan" | "foregroundDeletion" | "kubernetes")
    });
    plain
        .map(|name| {
            let better = match name.contains('.') {
                true => "a domain-qualified finalizer name including a path (/)",
                false => "a domain-qualified finalizer name",
            };
            format!("metadata.finalizers: {name:?}: prefer {better} to avoid accidental conflicts with other finalizer writers")
        })
        .collect()
}

/// Removes empty fields, which the Go types of the API server omit.
pub(crate) fn normalize(metadata: &mut Map<String, Value>) {
    metadata.retain(|name, value| match value {
        Value::Null => false,
        Value::Object(fields) => {
            !fields.is_empty() || !matches!(name.as_str(), "labels" | "annotations")
        }
        Value::Array(items) => !items.is_empty() || name == "managedFields",
        Value::String(text) => !text.is_empty(),
        _ => true,
    });
}
