//! Changing objects.

use std::sync::Arc;

use serde_json::Value;

use super::create::{Outcome, insert};
use super::encode::Form;
use super::http_request::{Request, Target, Warnings, WriteOptions};
use super::prepare::{check, read, shape};
use super::response::Response;
use super::shared_state::Api;
use super::strategy::{
    content_differs, has_generation, is_done, keep_metadata, restrict, settle_namespace,
};
use crate::error::{ApiError, ApiResult, FieldError};
use crate::kinds::{Builtin, Resource, convert};
use crate::object_store::Object;
use crate::server_side_apply::{Writer, record_update};
use crate::validate::metadata_warnings;

/// Why an update was not written.
pub(crate) enum NotChanged {
    /// The object changed meanwhile. An update that does not depend on the old state can be retried.
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

/// Handles a PUT.
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
    // `0` means no version.
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

/// Checks that the resource allows an update without a version.
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

/// Checks the UID and the version in an object against the live object.
fn check_preconditions(value: &Value, live: &Object, resource: &Resource) -> ApiResult<()> {
    let (name, uid) = (text(value, "name"), text(value, "uid"));
    if !uid.is_empty() && uid != live.uid() {
        return Err(wrong_uid(resource, name, uid, live.uid()));
    }
    check_version(value, live, resource)
}

/// Checks the version in an object against the live object.
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

/// The live object has another UID.
fn wrong_uid(resource: &Resource, name: &str, asked: &str, found: &str) -> ApiError {
    let why =
        format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {found}");
    ApiError::conflict(&resource.group, &resource.plural, name, &why)
}

/// Writes a new state, in the version of the request, over a live object.
///
/// # Errors
///
/// Everything that prevents the write.
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

/// Whether nothing changed but the times of managed fields.
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
