//! Rules of admission policies and webhooks. They are stored and checked, never called.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::name_syntax::{dns_subdomain_faults, qualified_name_faults};
use crate::error::FieldError;
use crate::json::{at, items, set_default, text};
use crate::kinds::Builtin;

/// The largest number of match conditions of a webhook or policy.
const CONDITIONS_LIMIT: usize = 64;

/// Sets the defaults of a policy, a binding or a webhook.
pub(super) fn default_admission(kind: Builtin, value: &mut Value) {
    match kind {
        Builtin::ValidatingWebhookConfiguration => {
            let webhooks = value.get_mut("webhooks").and_then(Value::as_array_mut);
            for webhook in webhooks.into_iter().flatten() {
                let Some(webhook) = webhook.as_object_mut() else {
                    continue;
                };
                set_default(webhook, "failurePolicy", "Fail");
                set_default(webhook, "timeoutSeconds", 10);
                default_match(webhook);
                default_scopes(webhook.get_mut("rules"));
                let service = webhook.get_mut("clientConfig");
                let service = service.and_then(|config| config.get_mut("service"));
                if let Some(service) = service.and_then(Value::as_object_mut) {
                    set_default(service, "port", 443);
                }
            }
        }
        Builtin::ValidatingAdmissionPolicy => {
            let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) else {
                return;
            };
            set_default(spec, "failurePolicy", "Fail");
            default_resources(spec.get_mut("matchConstraints"));
        }
        _ => default_resources(value.pointer_mut("/spec/matchResources")),
    }
}

fn default_resources(matched: Option<&mut Value>) {
    if let Some(matched) = matched.and_then(Value::as_object_mut) {
        default_match(matched);
        default_scopes(matched.get_mut("resourceRules"));
    }
}

fn default_match(fields: &mut Map<String, Value>) {
    set_default(fields, "matchPolicy", "Equivalent");
    set_default(fields, "namespaceSelector", json!({}));
    set_default(fields, "objectSelector", json!({}));
}

fn default_scopes(rules: Option<&mut Value>) {
    for rule in rules.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(rule) = rule.as_object_mut() {
            set_default(rule, "scope", "*");
        }
    }
}

/// Checks a policy, its binding or webhooks.
pub(super) fn check_admission(kind: Builtin, new: &Value, faults: &mut Vec<FieldError>) {
    match kind {
        Builtin::ValidatingWebhookConfiguration => {
            let mut names = BTreeSet::new();
            for (index, webhook) in items(new, &["webhooks"]).iter().enumerate() {
                let path = format!("webhooks[{index}]");
                check_webhook(webhook, &path, faults);
                let name = text(webhook, &["name"]);
                if !names.insert(name) {
                    faults.push(FieldError::duplicate(&format!("{path}.name"), &name.into()));
                }
            }
        }
        Builtin::ValidatingAdmissionPolicy => check_policy(new, faults),
        _ => check_binding(new, faults),
    }
}

fn one_of(holder: &Value, field: &str, path: &str, known: &[&str], faults: &mut Vec<FieldError>) {
    if !known.contains(&text(holder, &[field])) {
        let known: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
        let path = format!("{path}.{field}");
        let fault = FieldError::not_supported(&path, at(holder, &[field]), &known);
        faults.push(fault);
    }
}

fn check_webhook(webhook: &Value, path: &str, faults: &mut Vec<FieldError>) {
    let name = text(webhook, &["name"]);
    let at_name = format!("{path}.name");
    for fault in dns_subdomain_faults(name) {
        faults.push(FieldError::invalid(&at_name, &name.into(), fault));
    }
    if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        faults.push(FieldError::invalid(&at_name, &name.into(), detail));
    }
    one_of(webhook, "failurePolicy", path, &["Fail", "Ignore"], faults);
    one_of(
        webhook,
        "matchPolicy",
        path,
        &["Exact", "Equivalent"],
        faults,
    );
    // The values of admission.k8s.io/v1.
    one_of(
        webhook,
        "sideEffects",
        path,
        &["None", "NoneOnDryRun"],
        faults,
    );
    let seconds = at(webhook, &["timeoutSeconds"]);
    if !seconds.as_i64().is_some_and(|n| (1..=30).contains(&n)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        let path = format!("{path}.timeoutSeconds");
        faults.push(FieldError::invalid(&path, seconds, detail));
    }
    let versions = items(webhook, &["admissionReviewVersions"]);
    let known = |version: &Value| matches!(version.as_str(), Some("v1" | "v1beta1"));
    if !versions.iter().any(known) {
        let path = format!("{path}.admissionReviewVersions");
        let detail = "must include at least one of v1, v1beta1";
        faults.push(FieldError::invalid(&path, &versions.into(), detail));
    }
    check_client(
        at(webhook, &["clientConfig"]),
        &format!("{path}.clientConfig"),
        faults,
    );
    check_rules(webhook, "rules", path, faults);
    check_conditions(webhook, path, faults);
}

fn check_client(config: &Value, path: &str, faults: &mut Vec<FieldError>) {
    let (url, service) = (at(config, &["url"]), at(config, &["service"]));
    if url.is_null() == service.is_null() {
        let detail = "exactly one of url or service is required";
        faults.push(FieldError::required(path, detail));
    }
    if let Some(url) = url.as_str().filter(|url| !url.starts_with("https://")) {
        let detail = "'https' is the only allowed URL scheme";
        faults.push(FieldError::invalid(
            &format!("{path}.url"),
            &url.into(),
            detail,
        ));
    }
    if service.is_null() {
        return;
    }
    for field in ["name", "namespace"] {
        if text(service, &[field]).is_empty() {
            let detail = format!("service {field} is required");
            faults.push(FieldError::required(
                &format!("{path}.service.{field}"),
                detail,
            ));
        }
    }
    let port = at(service, &["port"]);
    if !port.as_i64().is_some_and(|n| (1..=65535).contains(&n)) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        let path = format!("{path}.service.port");
        faults.push(FieldError::invalid(&path, port, detail));
    }
}

fn check_rules(holder: &Value, field: &str, path: &str, faults: &mut Vec<FieldError>) {
    for (index, rule) in items(holder, &[field]).iter().enumerate() {
        let path = format!("{path}.{field}[{index}]");
        for list in ["operations", "apiGroups", "apiVersions", "resources"] {
            if items(rule, &[list]).is_empty() {
                faults.push(FieldError::required(&format!("{path}.{list}"), ""));
            }
        }
        for operation in items(rule, &["operations"]) {
            let known = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
            if !operation.as_str().is_some_and(|name| known.contains(&name)) {
                let known = known.map(str::to_owned);
                let path = format!("{path}.operations");
                faults.push(FieldError::not_supported(&path, operation, &known));
            }
        }
        one_of(
            rule,
            "scope",
            &path,
            &["*", "Cluster", "Namespaced"],
            faults,
        );
    }
}

fn check_conditions(holder: &Value, path: &str, faults: &mut Vec<FieldError>) {
    let conditions = items(holder, &["matchConditions"]);
    if conditions.len() > CONDITIONS_LIMIT {
        let detail = format!("must have at most {CONDITIONS_LIMIT} items");
        let path = format!("{path}.matchConditions");
        faults.push(FieldError::invalid(&path, &conditions.len().into(), detail));
    }
    let mut names = BTreeSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let path = format!("{path}.matchConditions[{index}]");
        let name = text(condition, &["name"]);
        for fault in qualified_name_faults(name) {
            let path = format!("{path}.name");
            faults.push(FieldError::invalid(&path, &name.into(), fault));
        }
        if !names.insert(name) {
            faults.push(FieldError::duplicate(&format!("{path}.name"), &name.into()));
        }
        check_expression(condition, "expression", &path, faults);
    }
}

fn check_expression(holder: &Value, field: &str, path: &str, faults: &mut Vec<FieldError>) {
    let expression = text(holder, &[field]);
    let path = format!("{path}.{field}");
    if expression.trim().is_empty() {
        faults.push(FieldError::required(&path, ""));
    } else if let Err(error) = cel::Program::compile(expression) {
        let detail = format!("compilation failed: {error}");
        faults.push(FieldError::invalid(&path, &expression.into(), detail));
    }
}

fn check_policy(policy: &Value, faults: &mut Vec<FieldError>) {
    let spec = at(policy, &["spec"]);
    one_of(spec, "failurePolicy", "spec", &["Fail", "Ignore"], faults);
    let matched = at(spec, &["matchConstraints"]);
    if matched.is_null() {
        faults.push(FieldError::required("spec.matchConstraints", ""));
    } else if items(matched, &["resourceRules"]).is_empty() {
        let path = "spec.matchConstraints.resourceRules";
        faults.push(FieldError::required(path, ""));
    }
    check_rules(matched, "resourceRules", "spec.matchConstraints", faults);
    check_conditions(spec, "spec", faults);
    let (validations, audits) = (
        items(spec, &["validations"]),
        items(spec, &["auditAnnotations"]),
    );
    if validations.is_empty() && audits.is_empty() {
        let detail =
            "validations or auditAnnotations must be specified and contain at least one item";
        faults.push(FieldError::required("spec.validations", detail));
    }
    for (index, validation) in validations.iter().enumerate() {
        let path = format!("spec.validations[{index}]");
        check_expression(validation, "expression", &path, faults);
        if validation.get("messageExpression").is_some() {
            check_expression(validation, "messageExpression", &path, faults);
        }
        let reasons = [
            "Forbidden",
            "Invalid",
            "RequestEntityTooLarge",
            "Unauthorized",
        ];
        if validation.get("reason").is_some() {
            one_of(validation, "reason", &path, &reasons, faults);
        }
        if text(validation, &["message"]).contains('\n') {
            let detail = "message must not contain line breaks";
            let (path, value) = (format!("{path}.message"), at(validation, &["message"]));
            faults.push(FieldError::invalid(&path, value, detail));
        }
    }
    for (index, variable) in items(spec, &["variables"]).iter().enumerate() {
        let path = format!("spec.variables[{index}]");
        check_expression(variable, "expression", &path, faults);
    }
}

fn check_binding(binding: &Value, faults: &mut Vec<FieldError>) {
    let spec = at(binding, &["spec"]);
    if text(spec, &["policyName"]).is_empty() {
        faults.push(FieldError::required("spec.policyName", ""));
    }
    let actions = items(spec, &["validationActions"]);
    if actions.is_empty() {
        faults.push(FieldError::required("spec.validationActions", ""));
    }
    let known = ["Audit", "Deny", "Warn"];
    for action in actions {
        if !action.as_str().is_some_and(|name| known.contains(&name)) {
            let known = known.map(str::to_owned);
            let path = "spec.validationActions";
            faults.push(FieldError::not_supported(path, action, &known));
        }
    }
    let both = ["Deny", "Warn"].map(|name| actions.iter().any(|action| action == name));
    if both == [true, true] {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        let (path, value) = ("spec.validationActions", at(spec, &["validationActions"]));
        faults.push(FieldError::invalid(path, value, detail));
    }
    check_rules(
        at(spec, &["matchResources"]),
        "resourceRules",
        "spec.matchResources",
        faults,
    );
}
