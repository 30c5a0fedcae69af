//! Deleting objects.

use std::sync::Arc;

use serde_json::{Value, json};

use super::encode::{self, Form};
use super::http_request::{ListOptions, Request, Target, WriteOptions};
use super::prepare::parse;
use super::response::{self, Response};
use super::shared_state::Api;
use super::strategy::is_done;
use crate::error::{ApiError, ApiResult, FieldError};
use crate::kinds::{Builtin, Resource};
use crate::object_store::{Interest as _, Key, Object, ObjectRef, Snapshot};
use crate::selectors::Selection;

/// Options of a deletion.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deletion {
    pub(crate) grace_seconds: Option<i64>,
    /// `Foreground`, `Background` or `Orphan`.
    pub(crate) propagation: Option<String>,
    pub(crate) uid: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) dry_run: bool,
}

/// The result of a deletion.
pub(crate) enum Deleted {
    Gone(Arc<Object>),
    /// The object stays until its finalizers are removed.
    Marked(Arc<Object>),
}

/// The finalizers that select what happens to dependents.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";

/// The finalizer that keeps a CRD until its objects are removed.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

impl Deletion {
    fn of(request: &Request) -> ApiResult<Self> {
        let mut deletion = Self {
            dry_run: WriteOptions::of(request, "DeleteOptions")?.dry_run,
            propagation: request.parameter("propagationPolicy").map(str::to_owned),
            grace_seconds: request
                .parameter("gracePeriodSeconds")
                .and_then(|text| text.parse().ok()),
            ..Self::default()
        };
        if !request.body.is_empty() {
            let options = parse(request)?;
            let kind = options
                .get("kind")
                .and_then(Value::as_str)
                .unwrap_or("DeleteOptions");
            if kind != "DeleteOptions" {
                return Err(ApiError::bad_request(format!(
                    "decoded object cannot be converted to DeleteOptions: {kind}"
                )));
            }
            let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
            let preconditions = options.get("preconditions");
            deletion.uid = text(preconditions.and_then(|p| p.get("uid")));
            deletion.version = text(preconditions.and_then(|p| p.get("resourceVersion")));
            deletion.propagation = text(options.get("propagationPolicy")).or(deletion.propagation);
            deletion.grace_seconds = options
                .get("gracePeriodSeconds")
                .and_then(Value::as_i64)
                .or(deletion.grace_seconds);
            let orphan = options.get("orphanDependents").and_then(Value::as_bool);
            if let (None, Some(orphan)) = (&deletion.propagation, orphan) {
                deletion.propagation =
                    Some(if orphan { "Orphan" } else { "Background" }.to_owned());
            }
            deletion.dry_run |= options
                .get("dryRun")
                .and_then(Value::as_array)
                .is_some_and(|all| !all.is_empty());
        }
        match deletion.propagation.as_deref() {
            None | Some("Foreground" | "Background" | "Orphan") => Ok(deletion),
            Some(other) => {
                let known = ["Foreground", "Background", "Orphan", "nil"].map(str::to_owned);
                let fault = FieldError::not_supported("propagationPolicy", &other.into(), &known);
                Err(ApiError::invalid(
                    "meta.k8s.io",
                    "DeleteOptions",
                    "",
                    vec![fault],
                ))
            }
        }
    }
}

/// Handles a DELETE of one object.
pub(crate) fn delete_one(api: &Api, request: &Request, target: &Target) -> ApiResult<Response> {
    let deletion = Deletion::of(request)?;
    let form = Form::of(api, request)?;
    let resource = &target.resource;
    match delete(api, resource, &target.at(), &deletion)? {
        Deleted::Gone(object)
            if !matches!(
                resource.builtin,
                Some(Builtin::Pod | Builtin::ServiceAccount)
            ) =>
        {
            let mut details = json!({
                "name": target.name,
                "kind": resource.plural,
                "uid": object.uid(),
            });
            if let (false, Some(details)) = (resource.group.is_empty(), details.as_object_mut()) {
                details.insert("group".into(), resource.group.clone().into());
            }
            let status = json!({
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Success",
                "details": details,
            });
            Ok(response::json(200, status.to_string()))
        }
        Deleted::Gone(object) | Deleted::Marked(object) => Ok(response::json(
            200,
            encode::object(&object, resource, &form),
        )),
    }
}

/// Handles a DELETE of a collection.
pub(crate) fn delete_all(api: &Api, request: &Request, target: &Target) -> ApiResult<Response> {
    let deletion = Deletion::of(request)?;
    let form = Form::of(api, request)?;
    let options = ListOptions::of(request, &target.resource, &target.namespace, false)?;
    let deleted = delete_selected(api, &target.resource, &options.selection, &deletion)?;
    let objects: Vec<&Object> = deleted.iter().map(Arc::as_ref).collect();
    let metadata = json!({"resourceVersion": api.store.revision().to_string()});
    let metadata = metadata.as_object().cloned().unwrap_or_default();
    Ok(encode::list(&objects, &target.resource, &form, metadata))
}

/// Deletes everything in a selection.
pub(crate) fn delete_selected(
    api: &Api,
    resource: &Arc<Resource>,
    selection: &Selection,
    deletion: &Deletion,
) -> ApiResult<Vec<Arc<Object>>> {
    let listed = api
        .store
        .list(&resource.table, &selection.namespace, Snapshot::Now);
    let listed = listed.map(|listed| listed.objects).unwrap_or_default();
    let mut deleted = Vec::new();
    for object in listed
        .into_iter()
        .filter(|object| selection.selects(object))
    {
        let key = Key::new(
            object.metadata_str("namespace"),
            object.metadata_str("name"),
        );
        let at = ObjectRef {
            table: Arc::clone(&resource.table),
            key,
        };
        match delete(api, resource, &at, deletion) {
            Ok(Deleted::Gone(object) | Deleted::Marked(object)) => deleted.push(object),
            // Another client deleted it first.
            Err(error) if error.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

/// Deletes an object, or marks it for deletion if it has finalizers or a grace period.
///
/// # Errors
///
/// An object that does not exist or does not meet the preconditions.
pub(crate) fn delete(
    api: &Api,
    resource: &Arc<Resource>,
    at: &ObjectRef,
    deletion: &Deletion,
) -> ApiResult<Deleted> {
    let name = &at.key.name;
    if resource.builtin == Some(Builtin::Namespace)
        && matches!(name.as_str(), "default" | "kube-system" | "kube-public")
    {
        return Err(ApiError::forbidden(
            "",
            "namespaces",
            name,
            "this namespace may not be deleted",
        ));
    }
    loop {
        let Some(live) = api.store.get(&at.table, &at.key) else {
            return Err(resource.not_found(name));
        };
        if let Some(uid) = deletion.uid.as_ref().filter(|uid| *uid != live.uid()) {
            let why = format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
                live.uid()
            );
            return Err(ApiError::conflict(
                &resource.group,
                &resource.kind,
                name,
                &why,
            ));
        }
        if let Some(version) = deletion
            .version
            .as_ref()
            .filter(|version| **version != live.revision.to_string())
        {
            let why = format!(
                "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
                live.revision
            );
            return Err(ApiError::conflict(
                &resource.group,
                &resource.kind,
                name,
                &why,
            ));
        }
        let mut value = live.value.clone();
        let unheld = mark(api, &mut value, resource, &live, deletion);
        if deletion.dry_run {
            return Ok(Deleted::Gone(live));
        }
        // The last state of an object that is removed at once is its live state.
        let written = match unheld {
            true if live.is_deleting() || resource.builtin == Some(Builtin::Pod) => {
                api.store.remove(at, &live, value)
            }
            true => api.store.remove(at, &live, live.value.clone()),
            false if value == live.value => Ok(Arc::clone(&live)),
            false => api.store.put(at, Some(&live), value),
        };
        match written {
            Ok(object) if unheld => return Ok(Deleted::Gone(object)),
            Ok(object) => return Ok(Deleted::Marked(object)),
            Err(_) => {}
        }
    }
}

/// Marks an object for deletion. Returns whether it can be removed at once.
fn mark(
    api: &Api,
    value: &mut Value,
    resource: &Resource,
    live: &Object,
    deletion: &Deletion,
) -> bool {
    let phase = value
        .get("status")
        .and_then(|status| status.get("phase"))
        .and_then(Value::as_str)
        .unwrap_or_default();
    let is_finished = matches!(phase, "Succeeded" | "Failed");
    let is_bound = value
        .get("spec")
        .and_then(|spec| spec.get("nodeName"))
        .is_some_and(|name| name != "");
    // Only running pods have a grace period.
    let grace = match resource.builtin {
        Some(Builtin::Pod) if is_bound && !is_finished => {
            let wanted = value
                .get("spec")
                .and_then(|spec| spec.get("terminationGracePeriodSeconds"));
            deletion
                .grace_seconds
                .unwrap_or_else(|| wanted.and_then(Value::as_i64).unwrap_or(30))
                .max(0)
        }
        _ => 0,
    };
    if resource.builtin == Some(Builtin::Namespace)
        && let Some(status) = value.get_mut("status").and_then(Value::as_object_mut)
    {
        status.insert("phase".into(), "Terminating".into());
    }
    let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
        return true;
    };
    let mut finalizers: Vec<String> = live.finalizers().into_iter().map(str::to_owned).collect();
    if let Some(policy) = &deletion.propagation {
        finalizers.retain(|name| name != FOREGROUND && name != ORPHAN);
        match policy.as_str() {
            "Foreground" => finalizers.push(FOREGROUND.to_owned()),
            "Orphan" => finalizers.push(ORPHAN.to_owned()),
            _ => {}
        }
    }
    let is_crd = resource.builtin == Some(Builtin::CustomResourceDefinition);
    if is_crd && !live.is_deleting() && !finalizers.iter().any(|name| name == CLEANUP) {
        finalizers.push(CLEANUP.to_owned());
    }
    match finalizers.is_empty() {
        true => metadata.remove("finalizers"),
        false => metadata.insert("finalizers".into(), finalizers.into()),
    };
    let before = metadata
        .get("deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    // Namespaces and CRDs have no grace period.
    let is_plain = !matches!(
        resource.builtin,
        Some(Builtin::Namespace | Builtin::CustomResourceDefinition)
    );
    if !live.is_deleting() {
        if let Some(generation) = metadata
            .get("generation")
            .and_then(Value::as_i64)
            .filter(|n| *n > 0 && is_plain)
        {
            metadata.insert("generation".into(), (generation + 1).into());
        }
        metadata.insert("deletionTimestamp".into(), api.now_plus(grace).into());
        if is_plain {
            metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
        }
    } else if before.is_some_and(|before| grace < before) {
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    }
    is_done(value, resource)
}
