//! Rules of CRDs.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::name_syntax::{dns_1035_label_faults, dns_subdomain_faults};
use crate::error::FieldError;
use crate::kinds::{JsonPath, schemas};

fn text<'v>(value: Option<&'v Value>, field: &str) -> &'v str {
    value
        .and_then(|value| value.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value
        .get(field)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// Sets the defaults of a CRD.
pub(super) fn default_crd(crd: &mut Value) {
    let Some(spec) = crd.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    spec.entry("conversion")
        .or_insert_with(|| json!({"strategy": "None"}));
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        let kind = names
            .get("kind")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if names
            .get("singular")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .is_empty()
        {
            names.insert("singular".into(), kind.to_lowercase().into());
        }
        if names
            .get("listKind")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .is_empty()
        {
            names.insert("listKind".into(), format!("{kind}List").into());
        }
    }
}

/// The faults of a CRD, and of the change from an old one.
pub(super) fn check_crd(crd: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let Some(spec) = crd.get("spec").filter(|spec| spec.is_object()) else {
        return vec![FieldError::required("spec", "")];
    };
    let mut faults = Vec::new();
    let names = spec.get("names");
    let (group, plural) = (text(Some(spec), "group"), text(names, "plural"));
    let name = text(crd.get("metadata"), "name");
    let expected = format!("{plural}.{group}");
    if name != expected {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        faults.push(FieldError::invalid("metadata.name", &name.into(), detail));
    }
    if group.is_empty() {
        faults.push(FieldError::required("spec.group", ""));
    } else if let Some(fault) = dns_subdomain_faults(group).into_iter().next() {
        faults.push(FieldError::invalid("spec.group", &group.into(), fault));
    } else if !group.contains('.') {
        let detail = "should be a domain with at least one dot";
        faults.push(FieldError::invalid("spec.group", &group.into(), detail));
    } else if [".k8s.io", ".kubernetes.io"]
        .iter()
        .any(|end| format!(".{group}").ends_with(end))
    {
        let approved = crd.get("metadata").and_then(|m| m.get("annotations"));
        if text(approved, "api-approved.kubernetes.io").is_empty() {
            let detail = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
            faults.push(FieldError::required(
                "metadata.annotations[api-approved.kubernetes.io]",
                detail,
            ));
        }
    }
    match text(Some(spec), "scope") {
        "Namespaced" | "Cluster" => {}
        "" => faults.push(FieldError::required("spec.scope", "")),
        other => {
            let known = ["Cluster", "Namespaced"].map(str::to_owned);
            faults.push(FieldError::not_supported(
                "spec.scope",
                &other.into(),
                &known,
            ));
        }
    }
    check_names(spec, &mut faults);
    check_versions(spec, &mut faults);
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(true)) {
        let detail = "must be false in order to use defaults in the schema";
        faults.push(FieldError::invalid(
            "spec.preserveUnknownFields",
            &true.into(),
            detail,
        ));
    }
    match text(spec.get("conversion"), "strategy") {
        "None" | "" => {}
        "Webhook" => faults.push(FieldError::forbidden(
            "spec.conversion.strategy",
            "conversion by webhook is not supported by this server",
        )),
        other => {
            let known = ["None", "Webhook"].map(str::to_owned);
            faults.push(FieldError::not_supported(
                "spec.conversion.strategy",
                &other.into(),
                &known,
            ));
        }
    }
    if let Err(found) = schemas(spec) {
        faults.extend(found);
    }
    if let Some(old) = old {
        check_change(crd, old, &mut faults);
    }
    faults
}

fn check_names(spec: &Value, faults: &mut Vec<FieldError>) {
    let names = spec.get("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        let value = text(names, field);
        let path = format!("spec.names.{field}");
        if value.is_empty() {
            faults.push(FieldError::required(&path, ""));
        } else if let Some(fault) = dns_1035_label_faults(&value.to_lowercase())
            .into_iter()
            .next()
        {
            let detail = format!("may have mixed case, but should otherwise match: {fault}");
            faults.push(FieldError::invalid(&path, &value.into(), detail));
        } else if matches!(field, "plural" | "singular") && value.to_lowercase() != value {
            let fault = dns_1035_label_faults(value)
                .into_iter()
                .next()
                .unwrap_or_default();
            faults.push(FieldError::invalid(&path, &value.into(), fault));
        }
    }
    if text(names, "kind") == text(names, "listKind") && !text(names, "kind").is_empty() {
        let detail = "kind and listKind may not be the same";
        faults.push(FieldError::invalid(
            "spec.names.listKind",
            &text(names, "listKind").into(),
            detail,
        ));
    }
    for field in ["shortNames", "categories"] {
        for (index, value) in names
            .map(|names| list(names, field))
            .unwrap_or_default()
            .iter()
            .enumerate()
        {
            let fault = dns_1035_label_faults(value.as_str().unwrap_or_default())
                .into_iter()
                .next();
            let path = format!("spec.names.{field}[{index}]");
            faults.extend(fault.map(|fault| FieldError::invalid(&path, value, fault)));
        }
    }
}

fn check_versions(spec: &Value, faults: &mut Vec<FieldError>) {
    let versions = list(spec, "versions");
    if versions.is_empty() {
        let detail = "must have exactly one version marked as storage version";
        faults.push(FieldError::invalid("spec.versions", &Value::Null, detail));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, version) in versions.iter().enumerate() {
        let name = text(Some(version), "name");
        let path = format!("spec.versions[{index}]");
        if let Some(fault) = dns_1035_label_faults(name).into_iter().next() {
            faults.push(FieldError::invalid(
                &format!("{path}.name"),
                &name.into(),
                fault,
            ));
        }
        if !seen.insert(name) {
            faults.push(FieldError::invalid(
                "spec.versions",
                &name.into(),
                "must contain unique version names",
            ));
        }
        for (field, value) in version
            .get("subresources")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            if field != "status" && !value.is_null() {
                let detail = "is not supported by this server";
                faults.push(FieldError::forbidden(
                    &format!("{path}.subresources.{field}"),
                    detail,
                ));
            }
        }
        check_columns(version, &path, faults);
    }
    let storing = versions
        .iter()
        .filter(|v| v.get("storage") == Some(&Value::Bool(true)))
        .count();
    if storing != 1 {
        let detail = "must have exactly one version marked as storage version";
        faults.push(FieldError::invalid(
            "spec.versions",
            &Value::Array(versions.to_vec()),
            detail,
        ));
    }
}

fn check_columns(version: &Value, path: &str, faults: &mut Vec<FieldError>) {
    for (index, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
        let path = format!("{path}.additionalPrinterColumns[{index}]");
        if text(Some(column), "name").is_empty() {
            faults.push(FieldError::required(&format!("{path}.name"), ""));
        }
        match text(Some(column), "type") {
            "integer" | "number" | "string" | "boolean" | "date" => {}
            "" => faults.push(FieldError::required(
                &format!("{path}.type"),
                "must be one of boolean,date,integer,number,string",
            )),
            other => {
                let detail = "must be one of boolean,date,integer,number,string";
                faults.push(FieldError::invalid(
                    &format!("{path}.type"),
                    &other.into(),
                    detail,
                ));
            }
        }
        let expression = text(Some(column), "jsonPath");
        if expression.is_empty() {
            faults.push(FieldError::required(
                &format!("{path}.jsonPath"),
                "must be a simple json path",
            ));
        } else if let Err(error) = JsonPath::parse(expression) {
            faults.push(FieldError::invalid(
                &format!("{path}.jsonPath"),
                &expression.into(),
                error,
            ));
        }
    }
}

fn check_change(crd: &Value, old: &Value, faults: &mut Vec<FieldError>) {
    let established = list(old.get("status").unwrap_or(&Value::Null), "conditions")
        .iter()
        .any(|condition| {
            text(Some(condition), "type") == "Established"
                && text(Some(condition), "status") == "True"
        });
    let mut fixed = vec![("group", None), ("names", Some("plural"))];
    if established {
        fixed.extend([("scope", None), ("names", Some("kind"))]);
    }
    for (field, inner) in fixed {
        let of = |crd: &Value| {
            let value = crd
                .get("spec")
                .and_then(|spec| spec.get(field))
                .cloned()
                .unwrap_or_default();
            inner.map_or(value.clone(), |inner| {
                value.get(inner).cloned().unwrap_or_default()
            })
        };
        if of(crd) != of(old) {
            let path = inner.map_or(format!("spec.{field}"), |inner| {
                format!("spec.{field}.{inner}")
            });
            faults.push(FieldError::invalid(&path, &of(crd), "field is immutable"));
        }
    }
    let names: Vec<&str> = crd
        .get("spec")
        .map(|spec| list(spec, "versions"))
        .unwrap_or_default()
        .iter()
        .map(|v| text(Some(v), "name"))
        .collect();
    let stored = list(old.get("status").unwrap_or(&Value::Null), "storedVersions");
    for (index, version) in stored.iter().enumerate() {
        if !names.contains(&version.as_str().unwrap_or_default()) {
            let path = format!("status.storedVersions[{index}]");
            let detail = "missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions";
            let detail = detail.replace("v1", version.as_str().unwrap_or_default());
            faults.push(FieldError::invalid(&path, version, detail));
        }
    }
}
