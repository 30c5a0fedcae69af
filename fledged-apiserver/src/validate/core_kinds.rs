//! Rules of Secrets, ConfigMaps, Nodes, Leases and Events.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::name_syntax::{
    config_key_faults, dns_subdomain_faults, label_value_faults, qualified_name_faults,
};
use crate::error::{Fault, FieldError};
use crate::json::{at, items, object, text};

/// The largest size of the data of a Secret or ConfigMap, in bytes.
const DATA_LIMIT: usize = 1024 * 1024;

/// Moves `stringData` of a Secret to `data`.
pub(super) fn encode_string_data(value: &mut Value) {
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

pub(super) fn check_secret(new: &Value, old: Option<&Value>, faults: &mut Vec<FieldError>) {
    // Base64 is a third longer than the data.
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

pub(super) fn check_config_map(new: &Value, old: Option<&Value>, faults: &mut Vec<FieldError>) {
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

pub(super) fn check_node(new: &Value, faults: &mut Vec<FieldError>) {
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

pub(super) fn check_lease(new: &Value, faults: &mut Vec<FieldError>) {
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

fn invalid(path: &str, value: &str, detail: impl Into<String>) -> FieldError {
    FieldError::invalid(path, &value.into(), detail)
}

/// Checks an Event in the form of the core group, whose rules are loose; those of `events.k8s.io` are strict.
pub(super) fn check_event(
    in_group: bool,
    new: &Value,
    old: Option<&Value>,
    faults: &mut Vec<FieldError>,
) {
    let namespace = text(new, &["metadata", "namespace"]);
    let about = text(new, &["involvedObject", "namespace"]);
    let is_new_style = !at(new, &["eventTime"]).is_null();
    // Events of cluster-scoped objects are in the namespace `default`.
    let agrees = match (about, is_new_style) {
        ("", false) => namespace == "default",
        ("", true) => matches!(namespace, "default" | "kube-system"),
        (about, false) => about == namespace,
        (_, true) => true,
    };
    if !agrees {
        faults.push(invalid(
            "involvedObject.namespace",
            about,
            "does not match event.namespace",
        ));
    }
    if is_new_style {
        check_new_style(in_group, new, faults);
    }
    let found = dns_subdomain_faults(namespace).into_iter();
    faults.extend(found.map(|fault| invalid("namespace", namespace, fault)));
    match (in_group, old) {
        (false, _) => {}
        (true, None) => check_strictly(new, is_new_style, faults),
        (true, Some(old)) => check_event_change(new, old, faults),
    }
}

fn check_new_style(in_group: bool, new: &Value, faults: &mut Vec<FieldError>) {
    let field = if in_group {
        "reportingController"
    } else {
        "reportingComponent"
    };
    let controller = text(new, &["reportingComponent"]);
    if controller.is_empty() {
        faults.push(FieldError::required(field, ""));
    }
    let found = qualified_name_faults(controller).into_iter();
    faults.extend(found.map(|fault| invalid(field, controller, fault)));
    for (field, most, required) in [
        ("reportingInstance", 128, true),
        ("action", 128, true),
        ("reason", 128, true),
        ("message", 1024, false),
    ] {
        let value = text(new, &[field]);
        if value.is_empty() && required {
            faults.push(FieldError::required(field, ""));
        }
        if value.len() > most {
            faults.push(invalid(
                field,
                "",
                format!("can have at most {most} characters"),
            ));
        }
    }
}

fn check_series(new: &Value, faults: &mut Vec<FieldError>) {
    let series = at(new, &["series"]);
    if series.is_null() {
        return;
    }
    if at(series, &["count"]).as_i64().unwrap_or_default() < 2 {
        faults.push(invalid("series.count", "", "should be at least 2"));
    }
    if text(series, &["lastObservedTime"]).is_empty() {
        faults.push(FieldError::required("series.lastObservedTime", ""));
    }
}

fn check_strictly(new: &Value, has_time: bool, faults: &mut Vec<FieldError>) {
    check_series(new, faults);
    if !has_time {
        faults.push(FieldError::required("eventTime", ""));
    }
    let kind = text(new, &["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        faults.push(invalid("type", "", format!("has invalid value: {kind}")));
    }
    for field in ["firstTimestamp", "lastTimestamp"] {
        if !at(new, &[field]).is_null() {
            faults.push(invalid(field, "", "needs to be unset"));
        }
    }
    if at(new, &["count"]).as_i64().unwrap_or_default() != 0 {
        faults.push(invalid("count", "", "needs to be unset"));
    }
    if ["component", "host"]
        .iter()
        .any(|field| !text(new, &["source", field]).is_empty())
    {
        faults.push(invalid("source", "", "needs to be unset"));
    }
}

fn check_event_change(new: &Value, old: &Value, faults: &mut Vec<FieldError>) {
    if new.get("series") != old.get("series") {
        check_series(new, faults);
    }
    for (field, shown) in [
        ("involvedObject", "involvedObject"),
        ("reason", "reason"),
        ("message", "message"),
        ("source", "source"),
        ("firstTimestamp", "firstTimestamp"),
        ("lastTimestamp", "lastTimestamp"),
        ("count", "count"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        if new.get(field) != old.get(field) {
            let value = new.get(field).unwrap_or(&Value::Null);
            faults.push(FieldError::invalid(shown, value, "field is immutable"));
        }
    }
}
