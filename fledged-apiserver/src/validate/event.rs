//! Rules of Events.

use serde_json::Value;

use super::builtin::{at, text};
use super::names::{dns_subdomain_faults, qualified_name_faults};
use crate::error::FieldError;

fn invalid(path: &str, value: &str, detail: impl Into<String>) -> FieldError {
    FieldError::invalid(path, &value.into(), detail)
}

/// Checks an Event in the form of the core group. That group asks for little; `events.k8s.io` is strict.
pub(super) fn check_event(
    in_group: bool,
    new: &Value,
    old: Option<&Value>,
    faults: &mut Vec<FieldError>,
) {
    let namespace = text(new, &["metadata", "namespace"]);
    let about = text(new, &["involvedObject", "namespace"]);
    let is_new_style = !at(new, &["eventTime"]).is_null();
    // Objects without a namespace have their events in the default one.
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
        (true, Some(old)) => check_change(new, old, faults),
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

fn check_change(new: &Value, old: &Value, faults: &mut Vec<FieldError>) {
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
