//! Patching objects: JSON patches, merge patches, strategic merge patches, server-side apply.

use serde_json::Value;

use super::create::insert;
use super::encode::Form;
use super::http_request::{Request, Target, WriteOptions};
use super::prepare::{check_type, parse, reshape, shape};
use super::response::Response;
use super::shared_state::Api;
use super::strategic_merge::strategic;
use super::strategy::settle_namespace;
use super::update::{NotChanged, change, check_name, check_unconditional, check_version, writer};
use crate::error::{ApiError, ApiResult, FieldError};
use crate::kinds::convert;
use crate::schema::Schema;
use crate::server_side_apply::{apply, check_configuration};

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// The kind of a patch, by its content type.
///
/// # Errors
///
/// A content type that is not a patch of the resource.
pub(crate) fn kind_of(request: &Request, target: &Target) -> ApiResult<PatchKind> {
    match request.content_type() {
        JSON => Ok(PatchKind::Json),
        MERGE => Ok(PatchKind::Merge),
        APPLY => Ok(PatchKind::Apply),
        STRATEGIC if !target.resource.is_custom() => Ok(PatchKind::Strategic),
        _ if target.resource.is_custom() => {
            Err(ApiError::unsupported_media_type(&[JSON, MERGE, APPLY]))
        }
        _ => Err(ApiError::unsupported_media_type(&[
            JSON, MERGE, STRATEGIC, APPLY,
        ])),
    }
}

/// Handles a PATCH.
pub(crate) fn patch(api: &Api, request: &Request, target: &Target) -> ApiResult<Response> {
    let kind = kind_of(request, target)?;
    let mut options = WriteOptions::of(request, "PatchOptions")?;
    let invalid = |fault| {
        Err(ApiError::invalid(
            "meta.k8s.io",
            "PatchOptions",
            "",
            vec![fault],
        ))
    };
    let forced = request.parameter("force").is_some();
    if kind == PatchKind::Apply {
        match request.parameter("fieldManager") {
            Some(manager) => options.manager = manager.to_owned(),
            None => {
                return invalid(FieldError::required(
                    "fieldManager",
                    "is required for apply patch",
                ));
            }
        }
        return server_side_apply(api, request, target, &options, request.flag("force"));
    }
    if forced {
        return invalid(FieldError::forbidden(
            "force",
            "may not be specified for non-apply patch",
        ));
    }
    let form = Form::of(api, request)?;
    let resource = &target.resource;
    let patch = Patch::read(kind, &request.body)?;
    loop {
        let at = target.at();
        let Some(live) = api.store.get(&at.table, &at.key) else {
            return Err(resource.not_found(&target.name));
        };
        let warnings = &request.warnings;
        let old = convert(&live.value, resource, &resource.api_version());
        let patched = patch.apply_to(&old, &resource.schema)?;
        let version = patched
            .get("metadata")
            .and_then(|m| m.get("resourceVersion"));
        match version.and_then(Value::as_str).unwrap_or_default() {
            // A patch that removes the version is an unconditional update.
            "" | "0" => check_unconditional(resource, &target.name)?,
            version if version == live.revision.to_string() => {}
            _ => return Err(resource.modified(&target.name)),
        }
        let patched = check_type(patched, resource)?;
        let shown = Value::String(patched.to_string());
        let patched = shape(patched, resource, options.validation, warnings).map_err(|error| {
            let why = error
                .message
                .split_once(": ")
                .map_or(error.message.as_str(), |(_, why)| why);
            ApiError::invalid("", "", "", vec![FieldError::invalid("patch", &shown, why)])
        })?;
        check_name(&patched, target)?;
        match change(api, target, &live, patched, &options, false, warnings) {
            Ok(outcome) => return Ok(outcome.respond(200, resource, &form)),
            Err(NotChanged::Refused(error)) => return Err(error),
            Err(NotChanged::Raced) => {}
        }
    }
}

fn server_side_apply(
    api: &Api,
    request: &Request,
    target: &Target,
    options: &WriteOptions,
    force: bool,
) -> ApiResult<Response> {
    let form = Form::of(api, request)?;
    let resource = &target.resource;
    let mut configuration = parse(request)?;
    let text = |field: &str| {
        configuration
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version != resource.api_version() || kind != resource.kind {
        let shown = if version.is_empty() { "/" } else { version };
        return Err(ApiError::bad_request(format!(
            "invalid object type: {shown}, Kind={kind}"
        )));
    }
    check_configuration(&configuration, resource)?;
    settle(&mut configuration, target)?;
    loop {
        let warnings = &request.warnings;
        let writer = writer(api, target, options);
        let at = target.at();
        let Some(live) = api.store.get(&at.table, &at.key) else {
            if !target.subresource.is_empty() {
                return Err(resource.not_found(&target.name));
            }
            check_absent(&configuration, target)?;
            let mut applied = apply(None, &configuration, resource, &writer, force)?;
            if let Some(metadata) = applied.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("resourceVersion");
            }
            let value = reshape(applied, resource, warnings)?;
            match insert(api, target, value, None, options) {
                Ok(outcome) => return Ok(outcome.respond(201, resource, &form)),
                // Another client created it first.
                Err(error) if error.reason == "AlreadyExists" => continue,
                Err(error) => return Err(error),
            }
        };
        check_version(&configuration, &live, resource)?;
        let old = convert(&live.value, resource, &resource.api_version());
        let mut applied = apply(Some(&old), &configuration, resource, &writer, force)?;
        if let Some(metadata) = applied.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
        }
        let value = reshape(applied, resource, warnings)?;
        match change(api, target, &live, value, options, true, warnings) {
            Ok(outcome) => return Ok(outcome.respond(200, resource, &form)),
            Err(NotChanged::Refused(error)) => return Err(error),
            Err(NotChanged::Raced) => {}
        }
    }
}

/// Sets the name and namespace of the request in a configuration.
fn settle(configuration: &mut Value, target: &Target) -> ApiResult<()> {
    let fields = configuration
        .as_object_mut()
        .ok_or_else(|| ApiError::bad_request("no object"))?;
    let metadata = fields
        .entry("metadata")
        .or_insert_with(|| Value::Object(Default::default()));
    let metadata = metadata
        .as_object_mut()
        .ok_or_else(|| ApiError::bad_request("metadata is no object"))?;
    if metadata
        .get("managedFields")
        .is_some_and(|managed| !managed.is_null())
    {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    settle_namespace(metadata, &target.namespace)?;
    metadata
        .entry("name")
        .or_insert_with(|| target.name.clone().into());
    check_name(configuration, target)
}

/// Checks that a configuration for an absent object has no UID.
fn check_absent(configuration: &Value, target: &Target) -> ApiResult<()> {
    let resource = &target.resource;
    let metadata = configuration.get("metadata");
    let text = |field: &str| {
        metadata
            .and_then(|m| m.get(field))
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let conflict = |why: &str| {
        Err(ApiError::conflict(
            &resource.group,
            &resource.plural,
            &target.name,
            why,
        ))
    };
    match text("uid") {
        "" => Ok(()),
        uid => conflict(&format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        )),
    }
}

/// The largest number of operations in one JSON patch.
const MOST_OPERATIONS: usize = 10_000;

/// The kind of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PatchKind {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// A patch other than server-side apply.
#[derive(Debug)]
pub(crate) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// Reads a patch.
    ///
    /// # Errors
    ///
    /// A malformed body.
    pub(crate) fn read(kind: PatchKind, body: &[u8]) -> ApiResult<Self> {
        let unreadable = |error: serde_json::Error| {
            ApiError::bad_request(format!("error decoding patch: {error}"))
        };
        match kind {
            PatchKind::Json => {
                let patch: json_patch::Patch = serde_json::from_slice(body).map_err(unreadable)?;
                if patch.0.len() > MOST_OPERATIONS {
                    let message = format!(
                        "The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {}",
                        patch.0.len()
                    );
                    return Err(ApiError::new(413, "RequestEntityTooLarge", message));
                }
                Ok(Self::Json(patch))
            }
            _ => {
                let value: Value = serde_json::from_slice(body).map_err(unreadable)?;
                if !value.is_object() {
                    return Err(ApiError::bad_request(
                        "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
                    ));
                }
                match kind {
                    PatchKind::Strategic => Ok(Self::Strategic(value)),
                    _ => Ok(Self::Merge(value)),
                }
            }
        }
    }

    /// Applies the patch to an object.
    ///
    /// # Errors
    ///
    /// A patch that does not apply to the object.
    pub(crate) fn apply_to(&self, object: &Value, schema: &Schema) -> ApiResult<Value> {
        match self {
            Self::Json(patch) => {
                let mut patched = object.clone();
                json_patch::patch(&mut patched, patch).map_err(|_| ApiError::rejected())?;
                Ok(patched)
            }
            Self::Merge(patch) => {
                let mut patched = object.clone();
                json_patch::merge(&mut patched, patch);
                Ok(patched)
            }
            Self::Strategic(patch) => strategic(object, patch, schema),
        }
    }
}
