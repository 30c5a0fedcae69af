//! Creating objects.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::address::give_address;
use super::body::{self, Response};
use super::encode::{self, Form};
use super::options::{FieldValidation, WriteOptions};
use super::prepare::{check, read, shape};
use super::{Api, Request, Target};
use crate::apply::{Writer, record_update};
use crate::error::{ApiError, ApiResult};
use crate::kinds::{Builtin, Resource, convert};
use crate::store::{Key, Object};
use crate::validate::metadata::metadata_warnings;

/// As long as the given part of a generated name may be.
const GENERATED_FROM: usize = 58;

/// What came of a write.
pub(crate) enum Outcome {
    Written(Arc<Object>),
    /// What would have been written.
    DryRun(Value),
}

impl Outcome {
    pub(crate) fn respond(self, code: u16, resource: &Resource, form: &Form) -> Response {
        let bytes = match self {
            Self::Written(object) => encode::object(&object, resource, form),
            Self::DryRun(value) => encode::unwritten(value, resource, form),
        };
        body::json(code, bytes)
    }
}

/// Answers a POST.
pub(crate) fn create(api: &Api, request: &Request, target: &Target) -> ApiResult<Response> {
    let options = WriteOptions::of(request, "CreateOptions")?;
    let form = Form::of(api, request)?;
    let warnings = &request.warnings;
    let value = shape(
        read(request, &target.resource)?,
        &target.resource,
        options.validation,
        warnings,
    )?;
    let writer = Writer {
        manager: options.manager.clone(),
        subresource: String::new(),
        now: api.now(),
    };
    warnings.extend(
        value
            .get("metadata")
            .map(|m| metadata_warnings(m, None))
            .unwrap_or_default(),
    );
    let outcome = insert(api, target, value, Some(&writer), &options)?;
    Ok(outcome.respond(201, &target.resource, &form))
}

/// Whether objects of a resource count the changes of their spec.
pub(crate) fn has_generation(resource: &Resource) -> bool {
    match resource.builtin {
        None => true,
        Some(kind) => matches!(
            kind,
            Builtin::Deployment
                | Builtin::DaemonSet
                | Builtin::Job
                | Builtin::Pod
                | Builtin::CustomResourceDefinition
                | Builtin::PodDisruptionBudget
                | Builtin::NetworkPolicy
                | Builtin::PriorityClass
                | Builtin::ValidatingAdmissionPolicy
                | Builtin::ValidatingAdmissionPolicyBinding
                | Builtin::ValidatingWebhookConfiguration
        ),
    }
}

/// Makes the namespace of an object that of the request.
pub(crate) fn settle_namespace(
    metadata: &mut Map<String, Value>,
    namespace: &str,
) -> ApiResult<()> {
    let given = metadata
        .get("namespace")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !given.is_empty() && !namespace.is_empty() && given != namespace {
        let message =
            "the namespace of the provided object does not match the namespace sent on the request";
        return Err(ApiError::bad_request(message));
    }
    match namespace {
        "" => metadata.remove("namespace"),
        namespace => metadata.insert("namespace".into(), namespace.into()),
    };
    Ok(())
}

/// Stores a new object, its fields owned by `writer` unless they are already somebody's.
///
/// # Errors
///
/// Everything that keeps it from being stored.
pub(crate) fn insert(
    api: &Api,
    target: &Target,
    mut value: Value,
    writer: Option<&Writer>,
    options: &WriteOptions,
) -> ApiResult<Outcome> {
    let resource = &target.resource;
    if let Some(writer) = writer {
        record_update(None, &mut value, resource, writer);
    }
    let none = || ApiError::internal("an object has no metadata");
    let metadata = value
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .ok_or_else(none)?;
    settle_namespace(metadata, &target.namespace)?;
    if metadata.get("resourceVersion").is_some() {
        let message = "resourceVersion should not be set on objects to be created";
        return Err(ApiError::new(500, "", message));
    }
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
    ] {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), api.uid().into());
    metadata.insert("creationTimestamp".into(), api.now().into());
    if has_generation(resource) {
        metadata.insert("generation".into(), 1.into());
    }
    let text = |field: &str| {
        metadata
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (given, generated_from) = (text("name"), text("generateName"));
    let generate = given.is_empty() && !generated_from.is_empty();
    prepare_new(&mut value, resource);
    check_namespace(api, target, &given)?;
    check_served(api, resource, &given)?;
    loop {
        let name = match generate {
            true => {
                let start: String = generated_from.chars().take(GENERATED_FROM).collect();
                format!("{start}{}", api.suffix())
            }
            false => given.clone(),
        };
        if let (true, Some(metadata)) = (
            generate,
            value.get_mut("metadata").and_then(Value::as_object_mut),
        ) {
            metadata.insert("name".into(), name.clone().into());
        }
        check(&value, None, resource)?;
        let at = target.named(&name);
        let exists = || ApiError::already_exists(&resource.group, &resource.plural, &name);
        if options.dry_run {
            return match api.store.get(&at.table, &at.key) {
                Some(_) => Err(exists()),
                None => Ok(Outcome::DryRun(value)),
            };
        }
        let stored = convert(&value, resource, &resource.stored_as).into_owned();
        match api.store.put(&at, None, stored) {
            Ok(object) => {
                if resource.builtin == Some(Builtin::Namespace) {
                    add_account(api, &name);
                }
                return Ok(Outcome::Written(object));
            }
            Err(_) if generate => {}
            Err(_) => return Err(exists()),
        }
    }
}

/// What a new object may not have, and what it must have.
fn prepare_new(value: &mut Value, resource: &Resource) {
    let Some(fields) = value.as_object_mut() else {
        return;
    };
    match resource.builtin {
        // Kubelets register nodes with their status, and the API server lets nothing be scheduled yet.
        Some(Builtin::Node) => add_taint(fields),
        Some(Builtin::Namespace) => {
            fields.insert("status".into(), json!({"phase": "Active"}));
            fields.insert("spec".into(), json!({"finalizers": ["kubernetes"]}));
        }
        Some(Builtin::Pod) => {
            fields.insert(
                "status".into(),
                json!({"phase": "Pending", "qosClass": "BestEffort"}),
            );
        }
        Some(Builtin::DaemonSet) => {
            let counts = [
                "currentNumberScheduled",
                "desiredNumberScheduled",
                "numberMisscheduled",
                "numberReady",
            ];
            let counts: Map<String, Value> = counts
                .into_iter()
                .map(|name| (name.to_owned(), 0.into()))
                .collect();
            fields.insert("status".into(), counts.into());
        }
        Some(Builtin::Deployment | Builtin::Job) => {
            fields.insert("status".into(), json!({}));
        }
        Some(Builtin::Service) => {
            give_address(fields);
            fields.insert("status".into(), json!({"loadBalancer": {}}));
        }
        Some(Builtin::PodDisruptionBudget) => {
            let counts = [
                "currentHealthy",
                "desiredHealthy",
                "disruptionsAllowed",
                "expectedPods",
            ];
            let counts = counts.map(|name| (name.to_owned(), Value::from(0)));
            fields.insert("status".into(), Map::from_iter(counts).into());
        }
        Some(Builtin::ValidatingAdmissionPolicy) => {
            fields.insert("status".into(), json!({}));
        }
        Some(Builtin::CustomResourceDefinition) => {
            let versions = fields
                .get("spec")
                .and_then(|spec| spec.get("versions"))
                .and_then(Value::as_array);
            let stored = versions
                .into_iter()
                .flatten()
                .filter(|v| v.get("storage") == Some(&Value::Bool(true)));
            let stored: Vec<&Value> = stored.filter_map(|version| version.get("name")).collect();
            let status =
                json!({"acceptedNames": {"kind": "", "plural": ""}, "storedVersions": stored});
            fields.insert("status".into(), status);
        }
        _ if resource.status => {
            fields.remove("status");
        }
        _ => {}
    }
}

fn add_taint(node: &mut Map<String, Value>) {
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let spec = node.entry("spec").or_insert_with(|| json!({}));
    let Some(spec) = spec.as_object_mut() else {
        return;
    };
    let taints = spec.entry("taints").or_insert_with(|| json!([]));
    if let Some(taints) = taints
        .as_array_mut()
        .filter(|taints| !taints.contains(&taint))
    {
        taints.push(taint);
    }
}

/// Checks that there is a namespace to create in.
fn check_namespace(api: &Api, target: &Target, name: &str) -> ApiResult<()> {
    if !target.resource.namespaced {
        return Ok(());
    }
    let namespace = &target.namespace;
    match api.store.get("namespaces", &Key::new("", namespace)) {
        None => Err(ApiError::not_found("", "namespaces", namespace)),
        Some(found) if found.is_deleting() => {
            let resource = &target.resource;
            Err(ApiError::terminating(
                &resource.group,
                &resource.plural,
                name,
                namespace,
            ))
        }
        Some(_) => Ok(()),
    }
}

/// Checks that the resource isn't on its way out.
fn check_served(api: &Api, resource: &Resource, name: &str) -> ApiResult<()> {
    if !resource.is_custom() {
        return Ok(());
    }
    let crd = api.store.get(
        "customresourcedefinitions.apiextensions.k8s.io",
        &Key::new("", &resource.table),
    );
    match crd.is_some_and(|crd| crd.is_deleting()) {
        true => {
            let why = "create not allowed while custom resource definition is terminating";
            Err(ApiError::forbidden(
                &resource.group,
                &resource.plural,
                name,
                why,
            ))
        }
        false => Ok(()),
    }
}

/// Every namespace has an account for pods that name none.
fn add_account(api: &Api, namespace: &str) {
    let Some(resource) = api.catalogue.find("", "v1", "serviceaccounts") else {
        return;
    };
    let target = Target {
        resource,
        namespace: namespace.to_owned(),
        name: "default".to_owned(),
        subresource: String::new(),
    };
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let options = WriteOptions {
        dry_run: false,
        validation: FieldValidation::Strict,
        manager: String::new(),
    };
    // It can only fail to be made if it is there.
    let _ = insert(api, &target, account, None, &options);
}
