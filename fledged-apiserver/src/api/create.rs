//! Creating objects.

use std::sync::Arc;

use serde_json::{Value, json};

use super::encode::{self, Form};
use super::http_request::{FieldValidation, Request, Target, WriteOptions};
use super::prepare::{check, read, shape};
use super::response::{self, Response};
use super::shared_state::Api;
use super::strategy::{has_generation, prepare_new, settle_namespace};
use crate::error::{ApiError, ApiResult};
use crate::kinds::{Builtin, Resource, convert};
use crate::object_store::{CRDS, Key, Object};
use crate::server_side_apply::{Writer, record_update};
use crate::validate::metadata_warnings;

/// The longest prefix of a generated name.
const GENERATED_FROM: usize = 58;

/// The result of a write.
pub(crate) enum Outcome {
    Written(Arc<Object>),
    /// The object that a dry run did not write.
    DryRun(Value),
}

impl Outcome {
    pub(crate) fn respond(self, code: u16, resource: &Resource, form: &Form) -> Response {
        let bytes = match self {
            Self::Written(object) => encode::object(&object, resource, form),
            Self::DryRun(value) => encode::unwritten(value, resource, form),
        };
        response::json(code, bytes)
    }
}

/// Handles a POST.
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

/// Stores a new object. `writer` is recorded as the owner of its fields, unless it is none.
///
/// # Errors
///
/// Everything that prevents the write.
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

/// Checks that the namespace exists and is not terminating.
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

/// Checks that the CRD of the resource is not being deleted.
fn check_served(api: &Api, resource: &Resource, name: &str) -> ApiResult<()> {
    if !resource.is_custom() {
        return Ok(());
    }
    let crd = api.store.get(CRDS, &Key::new("", &resource.table));
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

/// Creates the default service account of a namespace.
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
    // It can only fail if the account exists.
    let _ = insert(api, &target, account, None, &options);
}
