//! Rules of what stands around workloads: how they are reached, how many may be away, what goes before them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::builtin::{at, items, text};
use super::metadata::label_faults;
use super::names::dns_label_faults;
use super::workload::default;
use crate::error::FieldError;
use crate::kinds::Builtin;

/// The highest value of a PriorityClass that is not one of the system's.
const PRIORITY_LIMIT: i64 = 1_000_000_000;

/// Fills in what such an object may leave out.
pub(super) fn default_around(kind: Builtin, value: &mut Value) {
    if kind == Builtin::PriorityClass {
        if let Some(fields) = value.as_object_mut() {
            default(fields, "preemptionPolicy", "PreemptLowerPriority");
        }
        return;
    }
    let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    if kind == Builtin::Service {
        default(spec, "type", "ClusterIP");
        default(spec, "sessionAffinity", "None");
        default(spec, "internalTrafficPolicy", "Cluster");
        for port in spec
            .get_mut("ports")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            let Some(port) = port.as_object_mut() else {
                continue;
            };
            default(port, "protocol", "TCP");
            if let Some(number) = port.get("port").cloned() {
                default(port, "targetPort", number);
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
            default(port, "protocol", "TCP");
        }
    }
}

/// Checks such an object.
pub(super) fn check_around(
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
