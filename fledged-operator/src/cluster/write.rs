//! The bodies of what is written.

use fledged_core::model::CacheId;
use fledged_core::planner::{Annotation, CacheEvent};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use super::FIELD_MANAGER;
use crate::crd::{GROUP, PURGE_ANNOTATION, REFRESH_ANNOTATION, VERSION};

/// Longest message of an event, in bytes: the API server refuses more.
const EVENT_MESSAGE_MAX: usize = 1_024;

/// A cache's status.
pub(super) fn status(cache: &CacheId, status: impl serde::Serialize) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "ImageCache",
        "metadata": { "name": cache.name },
        "status": status,
    })
}

/// A merge patch that takes a status away.
pub(super) fn no_status() -> Value {
    json!({ "status": null })
}

/// A merge patch that takes an annotation away, unless another cache has the name by now.
pub(super) fn without_annotation(cache: &CacheId, annotation: Annotation) -> Value {
    let name = match annotation {
        Annotation::Refresh => REFRESH_ANNOTATION,
        Annotation::Purge => PURGE_ANNOTATION,
    };
    json!({ "metadata": { "uid": cache.uid, "annotations": { name: null } } })
}

/// A merge patch that sets the finalizers, unless the object was changed since.
pub(super) fn finalizers(metadata: &ObjectMeta, finalizers: &[String]) -> Value {
    json!({
        "metadata": {
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
            "finalizers": finalizers,
        }
    })
}

/// An event about a cache.
pub(super) fn event(cache: &CacheId, event: &CacheEvent, now: Timestamp) -> Event {
    let mut end = event.message.len().min(EVENT_MESSAGE_MAX);
    while !event.message.is_char_boundary(end) {
        end -= 1;
    }
    Event {
        metadata: ObjectMeta {
            // As client-go names them: unique without asking.
            name: Some(event_name(cache, now)),
            namespace: Some(cache.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some("ImageCache".to_owned()),
            namespace: Some(cache.namespace.clone()),
            name: Some(cache.name.clone()),
            uid: Some(cache.uid.clone()),
            ..ObjectReference::default()
        },
        reason: Some(event.reason.to_string()),
        message: event.message.get(..end).map(str::to_owned),
        type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource {
            component: Some(FIELD_MANAGER.to_owned()),
            host: None,
        }),
        reporting_component: Some(FIELD_MANAGER.to_owned()),
        ..Event::default()
    }
}

fn event_name(cache: &CacheId, now: Timestamp) -> String {
    // 253 in all; a dot and up to 32 digits follow.
    let name: String = cache.name.chars().take(220).collect();
    format!("{name}.{:x}", now.as_nanosecond())
}
