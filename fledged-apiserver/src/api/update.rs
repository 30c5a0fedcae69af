//! Changing objects.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::address::keep_address;
use super::body::Response;
use super::create::{Outcome, has_generation, insert, settle_namespace};
use super::encode::Form;
use super::options::WriteOptions;
use super::prepare::{check, read, shape};
use super::request::Warnings;
use super::{Api, Request, Target};
use crate::apply::{Writer, record_update};
use crate::error::{ApiError, ApiResult, FieldError};
use crate::kinds::{Builtin, Resource, convert};
use crate::store::Object;
use crate::validate::metadata::metadata_warnings;

/// Why a change was not made.
pub(crate) enum NotChanged {
    /// Somebody else was faster; a change that doesn't depend on what was there may be tried again.
    Raced,
    Refused(ApiError),
}

impl From<ApiError> for NotChanged {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value
        .get("metadata")
        .and_then(|metadata| metadata.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Answers a PUT.
pub(crate) fn replace(api: &Api, request: &Request, target: &Target) -> ApiResult<Response> {
    let options = WriteOptions::of(request, "UpdateOptions")?;
    let form = Form::of(api, request)?;
    let warnings = &request.warnings;
    let resource = &target.resource;
    let value = shape(
        read(request, resource)?,
        resource,
        options.validation,
        warnings,
    )?;
    check_name(&value, target)?;
    // Zero is no version.
    let version = Some(text(&value, "resourceVersion")).filter(|version| *version != "0");
    let version = version.unwrap_or_default().to_owned();
    loop {
        let at = target.at();
        let Some(live) = api.store.get(&at.table, &at.key) else {
            let creates = matches!(resource.builtin, Some(Builtin::Lease | Builtin::Event));
            if !creates || !target.subresource.is_empty() {
                return Err(resource.not_found(&target.name));
            }
            if !version.is_empty() {
                return Err(resource.not_found(&target.name));
            }
            let writer = writer(api, target, &options);
            let outcome = insert(api, target, value, Some(&writer), &options)?;
            return Ok(outcome.respond(201, resource, &form));
        };
        check_preconditions(&value, &live, resource)?;
        if version.is_empty() {
            check_unconditional(resource, &target.name)?;
        }
        match change(api, target, &live, value.clone(), &options, false, warnings) {
            Ok(outcome) => return Ok(outcome.respond(200, resource, &form)),
            Err(NotChanged::Refused(error)) => return Err(error),
            Err(NotChanged::Raced) if version.is_empty() => {}
            Err(NotChanged::Raced) => return Err(resource.modified(&target.name)),
        }
    }
}

/// Checks that objects may be replaced without saying which state of them.
pub(crate) fn check_unconditional(resource: &Resource, name: &str) -> ApiResult<()> {
    if !matches!(
        resource.builtin,
        None | Some(Builtin::Lease | Builtin::CustomResourceDefinition)
    ) {
        return Ok(());
    }
    let detail = "must be specified for an update";
    let fault = FieldError::invalid("metadata.resourceVersion", &0.into(), detail);
    Err(ApiError::invalid(
        &resource.group,
        &resource.plural,
        name,
        vec![fault],
    ))
}

pub(crate) fn writer(api: &Api, target: &Target, options: &WriteOptions) -> Writer {
    Writer {
        manager: options.manager.clone(),
        subresource: target.subresource.clone(),
        now: api.now(),
    }
}

/// Checks that an object has the name of the request.
pub(crate) fn check_name(value: &Value, target: &Target) -> ApiResult<()> {
    let name = text(value, "name");
    if name.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            target.name
        )));
    }
    if name != target.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    Ok(())
}

/// Checks the state that an object says it was made from.
fn check_preconditions(value: &Value, live: &Object, resource: &Resource) -> ApiResult<()> {
    let (name, uid) = (text(value, "name"), text(value, "uid"));
    if !uid.is_empty() && uid != live.uid() {
        return Err(wrong_uid(resource, name, uid, live.uid()));
    }
    check_version(value, live, resource)
}

/// Checks the version that an object says it was made from.
pub(crate) fn check_version(value: &Value, live: &Object, resource: &Resource) -> ApiResult<()> {
    let (name, version) = (text(value, "name"), text(value, "resourceVersion"));
    match version {
        "" | "0" => Ok(()),
        version if version == live.revision.to_string() => Ok(()),
        version if version.parse::<u64>().is_err() => {
            let detail = format!("strconv.ParseUint: parsing {version:?}: invalid syntax");
            let fault = FieldError::invalid("resourceVersion", &version.into(), detail);
            Err(ApiError::new(500, "", fault.to_string()))
        }
        _ => Err(resource.modified(name)),
    }
}

/// The object of that name is another one.
fn wrong_uid(resource: &Resource, name: &str, asked: &str, found: &str) -> ApiError {
    let why =
        format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {found}");
    ApiError::conflict(&resource.group, &resource.plural, name, &why)
}

/// Puts an object, in the version of the request, in place of a live one.
///
/// # Errors
///
/// Everything that keeps it from being stored.
pub(crate) fn change(
    api: &Api,
    target: &Target,
    live: &Arc<Object>,
    mut new: Value,
    options: &WriteOptions,
    applied: bool,
    warnings: &Warnings,
) -> Result<Outcome, NotChanged> {
    let resource = &target.resource;
    let old = convert(&live.value, resource, &resource.api_version());
    if !applied {
        record_update(
            Some(&old),
            &mut new,
            resource,
            &writer(api, target, options),
        );
    }
    restrict(&mut new, &old, target);
    let none = || ApiError::internal("an object has no metadata");
    let metadata = new
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .ok_or_else(none)?;
    settle_namespace(metadata, &target.namespace)?;
    keep_metadata(metadata, &old);
    if has_generation(resource) && content_differs(&new, &old, resource) {
        let generation = old
            .get("metadata")
            .and_then(|m| m.get("generation"))
            .and_then(Value::as_i64)
            .unwrap_or(0);
        if let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("generation".into(), (generation + 1).into());
        }
    }
    check(&new, Some(&old), resource)?;
    if let Some(metadata) = new.get("metadata") {
        warnings.extend(metadata_warnings(metadata, old.get("metadata")));
    }
    if same(&new, &old) {
        return Ok(Outcome::Written(Arc::clone(live)));
    }
    if options.dry_run {
        return Ok(Outcome::DryRun(new));
    }
    let at = target.at();
    let stored = convert(&new, resource, &resource.stored_as).into_owned();
    let written = match is_done(&new, resource) {
        true => api.store.remove(&at, live, stored),
        false => api.store.put(&at, Some(live), stored),
    };
    written.map(Outcome::Written).map_err(|_| NotChanged::Raced)
}

/// Leaves what that endpoint doesn't write as it was.
fn restrict(new: &mut Value, old: &Value, target: &Target) {
    let resource = &target.resource;
    let keep = |new: &mut Map<String, Value>, field: &str| match old.get(field) {
        Some(value) => new.insert(field.to_owned(), value.clone()),
        None => new.remove(field),
    };
    match (target.subresource.as_str(), resource.builtin) {
        ("status", None) => {
            let mut restricted = old.clone();
            let managed = new
                .get("metadata")
                .and_then(|m| m.get("managedFields"))
                .cloned();
            if let Some(fields) = restricted.as_object_mut() {
                match new.get_mut("status") {
                    Some(status) => fields.insert("status".into(), status.take()),
                    None => fields.remove("status"),
                };
                if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
                    match managed {
                        Some(managed) => metadata.insert("managedFields".into(), managed),
                        None => metadata.remove("managedFields"),
                    };
                }
            }
            *new = restricted;
        }
        ("status", Some(kind)) => {
            if let Some(fields) = new.as_object_mut() {
                keep(fields, "spec");
                let old_metadata = old.get("metadata").unwrap_or(&Value::Null);
                let kept: &[&str] = match kind {
                    Builtin::Deployment => &["labels"],
                    Builtin::Pod => &["ownerReferences"],
                    Builtin::CustomResourceDefinition => {
                        &["labels", "annotations", "finalizers", "ownerReferences"]
                    }
                    _ => &[],
                };
                if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
                    for field in kept {
                        match old_metadata.get(*field) {
                            Some(value) => metadata.insert((*field).to_owned(), value.clone()),
                            None => metadata.remove(*field),
                        };
                    }
                }
            }
        }
        (_, kind) => {
            if let Some(fields) = new.as_object_mut() {
                if resource.status {
                    keep(fields, "status");
                }
                if kind == Some(Builtin::Namespace) {
                    keep(fields, "spec");
                }
                if kind == Some(Builtin::Service) {
                    keep_address(fields, old);
                }
            }
        }
    }
}

/// Metadata that clients don't write.
fn keep_metadata(metadata: &mut Map<String, Value>, old: &Value) {
    let old = old.get("metadata").unwrap_or(&Value::Null);
    if metadata.get("uid").is_none() {
        metadata.extend(old.get("uid").map(|uid| ("uid".to_owned(), uid.clone())));
    }
    metadata.remove("selfLink");
    for field in ["creationTimestamp", "generation", "resourceVersion"] {
        match old.get(field) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
    // These may be left out, but not be made up.
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        metadata.extend(
            old.get(field)
                .map(|value| (field.to_owned(), value.clone())),
        );
    }
}

/// Whether what counts for the generation has changed.
fn content_differs(new: &Value, old: &Value, resource: &Resource) -> bool {
    if resource.builtin.is_some() {
        return new.get("spec") != old.get("spec");
    }
    let differs = |one: &Value, other: &Value| {
        one.as_object().into_iter().flatten().any(|(name, value)| {
            let counts = name != "metadata" && !(name == "status" && resource.status);
            counts && other.get(name) != Some(value)
        })
    };
    differs(new, old) || differs(old, new)
}

/// Whether nothing changed but the times of owners.
fn same(new: &Value, old: &Value) -> bool {
    let timeless = |value: &Value| {
        let mut value = value.clone();
        let entries = value
            .get_mut("metadata")
            .and_then(|m| m.get_mut("managedFields"));
        for entry in entries.and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("time");
            }
        }
        value
    };
    new == old || timeless(new) == timeless(old)
}

/// Whether an object is marked for deletion, and nothing holds it back any more.
pub(crate) fn is_done(value: &Value, resource: &Resource) -> bool {
    let list = |holder: &str| {
        let list = value
            .get(holder)
            .and_then(|holder| holder.get("finalizers"))
            .and_then(Value::as_array);
        list.map_or(0, Vec::len)
    };
    let metadata = value.get("metadata");
    let deleting = metadata.is_some_and(|metadata| metadata.get("deletionTimestamp").is_some());
    let grace = metadata
        .and_then(|m| m.get("deletionGracePeriodSeconds"))
        .and_then(Value::as_i64)
        .unwrap_or(0);
    let held = list("metadata")
        + if resource.builtin == Some(Builtin::Namespace) {
            list("spec")
        } else {
            0
        };
    deleting && held == 0 && grace == 0
}
