//! Rules of pods and what runs them.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::metadata::label_faults;
use super::name_syntax::dns_label_faults;
use crate::error::{Fault, FieldError};
use crate::json::{at, items, object, set_default, text};
use crate::kinds::Builtin;

/// Sets the defaults of the spec of a pod.
pub(super) fn default_template(spec: &mut Value) {
    let Some(fields) = spec.as_object_mut() else {
        return;
    };
    set_default(fields, "restartPolicy", "Always");
    set_default(fields, "terminationGracePeriodSeconds", 30);
    set_default(fields, "dnsPolicy", "ClusterFirst");
    set_default(fields, "schedulerName", "default-scheduler");
    set_default(fields, "securityContext", json!({}));
    if let Some(account) = fields.get("serviceAccountName").cloned() {
        set_default(fields, "serviceAccount", account);
    }
    for list in ["containers", "initContainers"] {
        for container in fields
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            let Some(container) = container.as_object_mut() else {
                continue;
            };
            let image = container
                .get("image")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let name = image.rsplit('/').next().unwrap_or_default();
            let floats = !image.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
            set_default(
                container,
                "imagePullPolicy",
                if floats { "Always" } else { "IfNotPresent" },
            );
            set_default(container, "terminationMessagePath", "/dev/termination-log");
            set_default(container, "terminationMessagePolicy", "File");
            set_default(container, "resources", json!({}));
        }
    }
}

/// Sets the defaults of a workload.
pub(super) fn default_workload(kind: Builtin, value: &mut Value) {
    let Some(spec) = object(value, "spec") else {
        return;
    };
    match kind {
        Builtin::Deployment => {
            set_default(spec, "replicas", 1);
            set_default(spec, "revisionHistoryLimit", 10);
            set_default(spec, "progressDeadlineSeconds", 600);
            set_default(spec, "strategy", json!({"type": "RollingUpdate"}));
            rolling(spec, "strategy", "25%", "25%");
        }
        Builtin::DaemonSet => {
            set_default(spec, "revisionHistoryLimit", 10);
            set_default(spec, "updateStrategy", json!({"type": "RollingUpdate"}));
            rolling(spec, "updateStrategy", 0, 1);
        }
        Builtin::Job => {
            set_default(spec, "backoffLimit", 6);
            set_default(spec, "completionMode", "NonIndexed");
            set_default(spec, "suspend", false);
            set_default(spec, "podReplacementPolicy", "TerminatingOrFailed");
            if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
                set_default(spec, "completions", 1);
            }
            set_default(spec, "parallelism", 1);
        }
        _ => {}
    }
    if let Some(spec) = spec
        .get_mut("template")
        .and_then(|template| template.get_mut("spec"))
    {
        default_template(spec);
    }
}

fn rolling(
    spec: &mut Map<String, Value>,
    field: &str,
    surge: impl Into<Value>,
    unavailable: impl Into<Value>,
) {
    let Some(strategy) = spec.get_mut(field).and_then(Value::as_object_mut) else {
        return;
    };
    set_default(strategy, "type", "RollingUpdate");
    if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
        set_default(strategy, "rollingUpdate", json!({}));
        if let Some(rolling) = strategy
            .get_mut("rollingUpdate")
            .and_then(Value::as_object_mut)
        {
            set_default(rolling, "maxSurge", surge);
            set_default(rolling, "maxUnavailable", unavailable);
        }
    }
}

/// Checks a Pod or a workload.
pub(super) fn check_template(
    kind: Builtin,
    new: &Value,
    old: Option<&Value>,
    faults: &mut Vec<FieldError>,
) {
    if kind == Builtin::Pod {
        check_pod_spec(at(new, &["spec"]), "spec", kind, faults);
        if let Some(old) = old {
            check_pod_change(new, old, faults);
        }
        return;
    }
    let template = at(new, &["spec", "template"]);
    if matches!(kind, Builtin::Deployment | Builtin::DaemonSet) {
        check_selector(new, old, faults);
    }
    if kind == Builtin::Deployment
        && at(new, &["spec", "replicas"])
            .as_i64()
            .is_some_and(|n| n < 0)
    {
        let value = at(new, &["spec", "replicas"]);
        faults.push(FieldError::invalid(
            "spec.replicas",
            value,
            "must be greater than or equal to 0",
        ));
    }
    faults.extend(label_faults(
        at(template, &["metadata"]),
        "labels",
        "spec.template.labels",
    ));
    check_pod_spec(at(template, &["spec"]), "spec.template.spec", kind, faults);
    if let (Builtin::Job, Some(old)) = (kind, old)
        && at(old, &["spec", "template"]) != template
    {
        faults.push(FieldError::invalid(
            "spec.template",
            template,
            "field is immutable",
        ));
    }
}

fn check_selector(new: &Value, old: Option<&Value>, faults: &mut Vec<FieldError>) {
    let selector = at(new, &["spec", "selector"]);
    let labels = at(selector, &["matchLabels"])
        .as_object()
        .filter(|labels| !labels.is_empty());
    let expressions = items(selector, &["matchExpressions"]);
    if selector.is_null() {
        faults.push(FieldError::required("spec.selector", ""));
    } else if labels.is_none() && expressions.is_empty() {
        let detail = "empty selector is invalid for deployment";
        faults.push(FieldError::invalid("spec.selector", selector, detail));
    }
    let template = at(new, &["spec", "template", "metadata", "labels"]);
    let matches = labels
        .into_iter()
        .flatten()
        .all(|(key, value)| template.get(key) == Some(value));
    if !matches {
        let detail = "`selector` does not match template `labels`";
        faults.push(FieldError::invalid(
            "spec.template.metadata.labels",
            template,
            detail,
        ));
    }
    if old.is_some_and(|old| at(old, &["spec", "selector"]) != selector) {
        faults.push(FieldError::invalid(
            "spec.selector",
            selector,
            "field is immutable",
        ));
    }
}

fn check_pod_spec(spec: &Value, path: &str, kind: Builtin, faults: &mut Vec<FieldError>) {
    let containers = items(spec, &["containers"]);
    if containers.is_empty() {
        faults.push(FieldError::required(&format!("{path}.containers"), ""));
    }
    let mut names = BTreeSet::new();
    for (list, containers) in [
        ("containers", containers),
        ("initContainers", items(spec, &["initContainers"])),
    ] {
        for (index, container) in containers.iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            check_container(container, &path, faults);
            let name = text(container, &["name"]);
            if !name.is_empty() && !names.insert(name) {
                faults.push(FieldError::duplicate(&format!("{path}.name"), &name.into()));
            }
            for (mount_index, mount) in items(container, &["volumeMounts"]).iter().enumerate() {
                let volume = text(mount, &["name"]);
                if !items(spec, &["volumes"])
                    .iter()
                    .any(|v| text(v, &["name"]) == volume)
                {
                    let path = format!("{path}.volumeMounts[{mount_index}].name");
                    faults.push(not_found(&path, volume));
                }
            }
        }
    }
    let policy = text(spec, &["restartPolicy"]);
    let allowed: &[&str] = match kind {
        Builtin::Pod => &["Always", "OnFailure", "Never"],
        Builtin::Job => &["OnFailure", "Never"],
        _ => &["Always"],
    };
    if !allowed.contains(&policy) {
        let allowed: Vec<String> = allowed.iter().map(|value| (*value).to_owned()).collect();
        faults.push(FieldError::not_supported(
            &format!("{path}.restartPolicy"),
            &policy.into(),
            &allowed,
        ));
    }
}

fn not_found(path: &str, name: &str) -> FieldError {
    FieldError::new(Fault::NotFound, path, &name.into(), "")
}

fn check_container(container: &Value, path: &str, faults: &mut Vec<FieldError>) {
    let name = text(container, &["name"]);
    if name.is_empty() {
        faults.push(FieldError::required(&format!("{path}.name"), ""));
    } else {
        let found = dns_label_faults(name).into_iter();
        faults.extend(
            found.map(|fault| FieldError::invalid(&format!("{path}.name"), &name.into(), fault)),
        );
    }
    let image = text(container, &["image"]);
    if image.is_empty() {
        faults.push(FieldError::required(&format!("{path}.image"), ""));
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        faults.push(FieldError::invalid(
            &format!("{path}.image"),
            &image.into(),
            detail,
        ));
    }
    let policy = text(container, &["imagePullPolicy"]);
    if !matches!(policy, "Always" | "IfNotPresent" | "Never") {
        let known = ["Always", "IfNotPresent", "Never"].map(str::to_owned);
        faults.push(FieldError::not_supported(
            &format!("{path}.imagePullPolicy"),
            &policy.into(),
            &known,
        ));
    }
}

/// Checks that an update of a pod changes nothing but images, the deadline and tolerations.
fn check_pod_change(new: &Value, old: &Value, faults: &mut Vec<FieldError>) {
    let fixed = |pod: &Value| {
        let mut spec = at(pod, &["spec"]).clone();
        for list in ["containers", "initContainers"] {
            for container in spec
                .get_mut(list)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                if let Some(fields) = container.as_object_mut() {
                    fields.remove("image");
                }
            }
        }
        if let Some(fields) = spec.as_object_mut() {
            fields.remove("activeDeadlineSeconds");
            fields.remove("tolerations");
        }
        spec
    };
    if fixed(new) != fixed(old) {
        let detail = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        faults.push(FieldError::forbidden("spec", detail));
    }
}
