//! Rules of roles and their bindings. They are kept and checked, never applied: whoever speaks to this server is an
//! administrator.

use serde_json::Value;

use super::builtin::{at, items, text};
use super::workload::default;
use crate::error::FieldError;
use crate::kinds::Builtin;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Fills in what a binding may leave out.
pub(super) fn default_binding(value: &mut Value) {
    let Some(fields) = value.as_object_mut() else {
        return;
    };
    if let Some(role) = fields.get_mut("roleRef").and_then(Value::as_object_mut) {
        default(role, "apiGroup", GROUP);
    }
    let subjects = fields.get_mut("subjects").and_then(Value::as_array_mut);
    for subject in subjects.into_iter().flatten() {
        let is_person = matches!(text(subject, &["kind"]), "User" | "Group");
        if let (true, Some(subject)) = (is_person, subject.as_object_mut()) {
            default(subject, "apiGroup", GROUP);
        }
    }
}

/// Checks a role or a binding.
pub(super) fn check_access(
    kind: Builtin,
    new: &Value,
    old: Option<&Value>,
    faults: &mut Vec<FieldError>,
) {
    if matches!(kind, Builtin::Role | Builtin::ClusterRole) {
        for (index, rule) in items(new, &["rules"]).iter().enumerate() {
            check_rule(rule, &format!("rules[{index}]"), kind, faults);
        }
        return;
    }
    check_role_reference(new, old, kind, faults);
    for (index, subject) in items(new, &["subjects"]).iter().enumerate() {
        check_subject(subject, &format!("subjects[{index}]"), kind, faults);
    }
}

fn check_rule(rule: &Value, path: &str, kind: Builtin, faults: &mut Vec<FieldError>) {
    let has = |field: &str| !items(rule, &[field]).is_empty();
    if !has("verbs") {
        let detail = "verbs must contain at least one value";
        faults.push(FieldError::required(&format!("{path}.verbs"), detail));
    }
    if has("nonResourceURLs") {
        let (path, urls) = (
            format!("{path}.nonResourceURLs"),
            at(rule, &["nonResourceURLs"]),
        );
        if kind == Builtin::Role {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            faults.push(FieldError::invalid(&path, urls, detail));
        }
        if has("apiGroups") || has("resources") || has("resourceNames") {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            faults.push(FieldError::invalid(&path, urls, detail));
        }
        return;
    }
    if !has("apiGroups") {
        let detail = "resource rules must supply at least one api group";
        faults.push(FieldError::required(&format!("{path}.apiGroups"), detail));
    }
    if !has("resources") {
        let detail = "resource rules must supply at least one resource";
        faults.push(FieldError::required(&format!("{path}.resources"), detail));
    }
}

fn check_role_reference(
    new: &Value,
    old: Option<&Value>,
    kind: Builtin,
    faults: &mut Vec<FieldError>,
) {
    let role = at(new, &["roleRef"]);
    let mut not_supported = |field: &str, known: &[&str]| {
        let known: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
        let (path, value) = (format!("roleRef.{field}"), at(role, &[field]));
        faults.push(FieldError::not_supported(&path, value, &known));
    };
    if text(role, &["apiGroup"]) != GROUP {
        not_supported("apiGroup", &[GROUP]);
    }
    let kinds: &[&str] = match kind {
        Builtin::RoleBinding => &["Role", "ClusterRole"],
        _ => &["ClusterRole"],
    };
    if !kinds.contains(&text(role, &["kind"])) {
        not_supported("kind", kinds);
    }
    if text(role, &["name"]).is_empty() {
        faults.push(FieldError::required("roleRef.name", ""));
    }
    if old.is_some_and(|old| at(old, &["roleRef"]) != role) {
        let detail = "cannot change roleRef";
        faults.push(FieldError::invalid("roleRef", role, detail));
    }
}

fn check_subject(subject: &Value, path: &str, kind: Builtin, faults: &mut Vec<FieldError>) {
    let (name, group) = (text(subject, &["name"]), text(subject, &["apiGroup"]));
    if name.is_empty() {
        faults.push(FieldError::required(&format!("{path}.name"), ""));
    }
    let wanted = match text(subject, &["kind"]) {
        "ServiceAccount" => "",
        "User" | "Group" => GROUP,
        _ => {
            let known = ["ServiceAccount", "User", "Group"].map(str::to_owned);
            let value = at(subject, &["kind"]);
            let fault = FieldError::not_supported(&format!("{path}.kind"), value, &known);
            faults.push(fault);
            return;
        }
    };
    if group != wanted {
        let known = [wanted.to_owned()];
        let path = format!("{path}.apiGroup");
        faults.push(FieldError::not_supported(&path, &group.into(), &known));
    }
    let of_namespace = kind == Builtin::RoleBinding;
    if wanted.is_empty() && text(subject, &["namespace"]).is_empty() && !of_namespace {
        faults.push(FieldError::required(&format!("{path}.namespace"), ""));
    }
}
