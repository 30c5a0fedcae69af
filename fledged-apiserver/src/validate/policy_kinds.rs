//! Rules of Services, network policies, disruption budgets, priority classes, roles and bindings.
//!
//! Policies, roles and bindings are stored and checked, never enforced: every client is an administrator.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::metadata::label_faults;
use super::name_syntax::dns_label_faults;
use crate::error::FieldError;
use crate::json::{at, items, set_default, text};
use crate::kinds::Builtin;

/// The highest value of a PriorityClass outside of the system's.
const PRIORITY_LIMIT: i64 = 1_000_000_000;

/// Sets the defaults of an object.
pub(super) fn default_policy(kind: Builtin, value: &mut Value) {
    if kind == Builtin::PriorityClass {
        if let Some(fields) = value.as_object_mut() {
            set_default(fields, "preemptionPolicy", "PreemptLowerPriority");
        }
        return;
    }
    let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    if kind == Builtin::Service {
        set_default(spec, "type", "ClusterIP");
        set_default(spec, "sessionAffinity", "None");
        set_default(spec, "internalTrafficPolicy", "Cluster");
        for port in spec
            .get_mut("ports")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            let Some(port) = port.as_object_mut() else {
                continue;
            };
            set_default(port, "protocol", "TCP");
            if let Some(number) = port.get("port").cloned() {
                set_default(port, "targetPort", number);
            }
        }
        return;
    }
    let types: Vec<&str> = match spec.get("egress").is_some_and(|rules| !rules.is_null()) {
        true => vec!["Ingress", "Egress"],
        false => vec!["Ingress"],
    };
    if spec
        .get("policyTypes")
        .is_none_or(|types| types.as_array().is_none_or(Vec::is_empty))
    {
        spec.insert("policyTypes".into(), json!(types));
    }
    for direction in ["ingress", "egress"] {
        let rules = spec.get_mut(direction).and_then(Value::as_array_mut);
        let ports = rules
            .into_iter()
            .flatten()
            .filter_map(|rule| rule.get_mut("ports")?.as_array_mut());
        for port in ports.flatten().filter_map(Value::as_object_mut) {
            set_default(port, "protocol", "TCP");
        }
    }
}

/// Checks a Service, a network policy, a priority class or a disruption budget.
pub(super) fn check_policy_kind(
    kind: Builtin,
    new: &Value,
    old: Option<&Value>,
    faults: &mut Vec<FieldError>,
) {
    match kind {
        Builtin::Service => check_service(new, old, faults),
        Builtin::NetworkPolicy => check_network_policy(new, faults),
        Builtin::PriorityClass => check_priority(new, old, faults),
        _ => check_budget(new, faults),
    }
}

fn not_supported(path: &str, value: &Value, known: &[&str]) -> FieldError {
    let known: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
    FieldError::not_supported(path, value, &known)
}

fn check_service(new: &Value, old: Option<&Value>, faults: &mut Vec<FieldError>) {
    let spec = at(new, &["spec"]);
    let kind = text(spec, &["type"]);
    if !matches!(
        kind,
        "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName"
    ) {
        let known = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
        faults.push(not_supported("spec.type", at(spec, &["type"]), &known));
    }
    let ports = items(spec, &["ports"]);
    let headless = text(spec, &["clusterIP"]) == "None";
    if ports.is_empty() && !headless && kind != "ExternalName" {
        faults.push(FieldError::required("spec.ports", ""));
    }
    let (mut names, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let number = at(port, &["port"]);
        if !number.as_i64().is_some_and(|n| (1..=65535).contains(&n)) {
            let detail = "must be between 1 and 65535, inclusive";
            faults.push(FieldError::invalid(&format!("{path}.port"), number, detail));
        }
        let protocol = text(port, &["protocol"]);
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            let (path, value) = (format!("{path}.protocol"), at(port, &["protocol"]));
            faults.push(not_supported(&path, value, &["SCTP", "TCP", "UDP"]));
        }
        if !seen.insert((number.as_i64(), protocol)) {
            faults.push(FieldError::duplicate(&path, port));
        }
        let name = text(port, &["name"]);
        let at_name = format!("{path}.name");
        if name.is_empty() {
            if ports.len() > 1 {
                faults.push(FieldError::required(&at_name, ""));
            }
        } else {
            for fault in dns_label_faults(name) {
                faults.push(FieldError::invalid(&at_name, &name.into(), fault));
            }
            if !names.insert(name) {
                faults.push(FieldError::duplicate(&at_name, &name.into()));
            }
        }
    }
    faults.extend(label_faults(spec, "selector", "spec.selector"));
    let address = |service: &Value| text(service, &["spec", "clusterIP"]).to_owned();
    let was = old.map(address).filter(|address| !address.is_empty());
    if was.is_some_and(|was| was != address(new)) && kind != "ExternalName" {
        let (path, value) = ("spec.clusterIPs[0]", at(spec, &["clusterIP"]));
        faults.push(FieldError::invalid(path, value, "may not change once set"));
    }
}

fn check_network_policy(new: &Value, faults: &mut Vec<FieldError>) {
    let spec = at(new, &["spec"]);
    let selector = at(spec, &["podSelector"]);
    faults.extend(label_faults(
        selector,
        "matchLabels",
        "spec.podSelector.matchLabels",
    ));
    for (index, policy) in items(spec, &["policyTypes"]).iter().enumerate() {
        if !matches!(policy.as_str(), Some("Ingress" | "Egress")) {
            let path = format!("spec.policyTypes[{index}]");
            faults.push(not_supported(&path, policy, &["Egress", "Ingress"]));
        }
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in items(spec, &[direction]).iter().enumerate() {
            let path = format!("spec.{direction}[{index}]");
            for (index, port) in items(rule, &["ports"]).iter().enumerate() {
                check_port(port, &format!("{path}.ports[{index}]"), faults);
            }
            for (index, peer) in items(rule, &[peers]).iter().enumerate() {
                let path = format!("{path}.{peers}[{index}]");
                let has = |field: &str| peer.get(field).is_some_and(|value| !value.is_null());
                let selects = has("podSelector") || has("namespaceSelector");
                if has("ipBlock") && selects {
                    let detail = "may not specify both ipBlock and another peer";
                    faults.push(FieldError::forbidden(&path, detail));
                } else if !has("ipBlock") && !selects {
                    faults.push(FieldError::required(&path, "must specify a peer"));
                }
            }
        }
    }
}

fn check_port(port: &Value, path: &str, faults: &mut Vec<FieldError>) {
    if !matches!(text(port, &["protocol"]), "TCP" | "UDP" | "SCTP") {
        let (path, value) = (format!("{path}.protocol"), at(port, &["protocol"]));
        faults.push(not_supported(&path, value, &["SCTP", "TCP", "UDP"]));
    }
    let number = at(port, &["port"]).as_i64();
    if number.is_some_and(|n| !(1..=65535).contains(&n)) {
        let detail = "must be between 1 and 65535, inclusive";
        let (path, value) = (format!("{path}.port"), at(port, &["port"]));
        faults.push(FieldError::invalid(&path, value, detail));
    }
}

fn check_priority(new: &Value, old: Option<&Value>, faults: &mut Vec<FieldError>) {
    let value = at(new, &["value"]);
    let system = text(new, &["metadata", "name"]).starts_with("system-");
    if system {
        let detail = "priority class names with 'system-' prefix are reserved for system use only";
        faults.push(FieldError::forbidden("metadata.name", detail));
    } else if value.as_i64().is_some_and(|value| value > PRIORITY_LIMIT) {
        let detail =
            format!("maximum allowed value of a user defined priority is {PRIORITY_LIMIT}");
        faults.push(FieldError::forbidden("value", detail));
    }
    let policy = at(new, &["preemptionPolicy"]);
    if !matches!(policy.as_str(), Some("PreemptLowerPriority" | "Never")) {
        let known = ["Never", "PreemptLowerPriority"];
        faults.push(not_supported("preemptionPolicy", policy, &known));
    }
    let Some(old) = old else { return };
    if at(old, &["value"]) != value {
        let detail = "may not be changed in an update.";
        faults.push(FieldError::forbidden("value", detail));
    }
    if at(old, &["preemptionPolicy"]) != policy {
        let detail = "field is immutable";
        faults.push(FieldError::invalid("preemptionPolicy", policy, detail));
    }
}

fn check_budget(new: &Value, faults: &mut Vec<FieldError>) {
    let spec = at(new, &["spec"]);
    let has = |field: &str| spec.get(field).is_some_and(|value| !value.is_null());
    if has("minAvailable") && has("maxUnavailable") {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        faults.push(FieldError::invalid("spec", spec, detail));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        let (path, value) = (format!("spec.{field}"), at(spec, &[field]));
        let fits = match value {
            Value::Null => true,
            Value::String(share) => share
                .strip_suffix('%')
                .and_then(|share| share.parse::<u8>().ok())
                .is_some_and(|share| share <= 100),
            number => number.as_i64().is_some_and(|number| number >= 0),
        };
        if !fits {
            let detail = "must be greater than or equal to 0, or a percentage";
            faults.push(FieldError::invalid(&path, value, detail));
        }
    }
    let selector = at(spec, &["selector"]);
    faults.extend(label_faults(
        selector,
        "matchLabels",
        "spec.selector.matchLabels",
    ));
}

const RBAC: &str = "rbac.authorization.k8s.io";

/// Sets the defaults of a binding.
pub(super) fn default_binding(value: &mut Value) {
    let Some(fields) = value.as_object_mut() else {
        return;
    };
    if let Some(role) = fields.get_mut("roleRef").and_then(Value::as_object_mut) {
        set_default(role, "apiGroup", RBAC);
    }
    let subjects = fields.get_mut("subjects").and_then(Value::as_array_mut);
    for subject in subjects.into_iter().flatten() {
        let is_person = matches!(text(subject, &["kind"]), "User" | "Group");
        if let (true, Some(subject)) = (is_person, subject.as_object_mut()) {
            set_default(subject, "apiGroup", RBAC);
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
    if text(role, &["apiGroup"]) != RBAC {
        not_supported("apiGroup", &[RBAC]);
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
        "User" | "Group" => RBAC,
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
