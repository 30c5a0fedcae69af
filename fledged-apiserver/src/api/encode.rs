//! Objects and lists in the form that a client accepts: whole, metadata only, or a table.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::http_request::Request;
use super::printing::{TableOptions, table};
use super::response::{self, Response};
use super::shared_state::Api;
use crate::error::{ApiError, ApiResult};
use crate::kinds::{Resource, convert};
use crate::object_store::Object;

/// The form of objects in a response.
#[derive(Debug, Clone)]
pub(crate) enum Form {
    Whole,
    Table(TableOptions),
    Metadata,
}

const SUPPORTED: &[&str] = &["application/json"];

impl Form {
    /// The first supported form in `Accept`.
    ///
    /// # Errors
    ///
    /// No form in `Accept` is supported.
    pub(crate) fn of(api: &Api, request: &Request) -> ApiResult<Self> {
        let accept = request.accept();
        if accept.trim().is_empty() {
            return Ok(Self::Whole);
        }
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let parameters: Vec<(&str, &str)> =
                parts.filter_map(|part| part.split_once('=')).collect();
            let parameter = |name: &str| {
                parameters
                    .iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| *value)
            };
            if !matches!(kind, "application/json" | "*/*" | "application/*") {
                continue;
            }
            let known = parameter("g") == Some("meta.k8s.io") && parameter("v") == Some("v1");
            match parameter("as") {
                None => return Ok(Self::Whole),
                Some("Table") if known => return Ok(Self::Table(TableOptions::of(api, request)?)),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") if known => {
                    return Ok(Self::Metadata);
                }
                Some(_) => {}
            }
        }
        Err(ApiError::not_acceptable(SUPPORTED))
    }
}

/// An object reduced to its metadata.
fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}

/// One object.
pub(crate) fn object(object: &Object, resource: &Resource, form: &Form) -> Bytes {
    match form {
        Form::Whole if resource.stored_as == resource.api_version() => object.json().clone(),
        Form::Whole => {
            Bytes::from(convert(&object.value, resource, &resource.api_version()).to_string())
        }
        Form::Metadata => Bytes::from(partial(&object.value).to_string()),
        Form::Table(options) => {
            let version = object.revision.to_string();
            Bytes::from(
                table(
                    &[object],
                    resource,
                    options,
                    json!({"resourceVersion": version}),
                    true,
                )
                .to_string(),
            )
        }
    }
}

/// An object that was not written, in the version of the request.
pub(crate) fn unwritten(value: Value, resource: &Resource, form: &Form) -> Bytes {
    match form {
        Form::Whole => Bytes::from(value.to_string()),
        Form::Metadata => Bytes::from(partial(&value).to_string()),
        Form::Table(_) => {
            let stored = convert(&value, resource, &resource.stored_as).into_owned();
            self::object(&Object::new(stored, 0), resource, form)
        }
    }
}

/// A list.
pub(crate) fn list(
    objects: &[&Object],
    resource: &Resource,
    form: &Form,
    metadata: Map<String, Value>,
) -> Response {
    let bytes = match form {
        Form::Table(options) => table(objects, resource, options, Value::Object(metadata), true)
            .to_string()
            .into_bytes(),
        Form::Metadata => {
            let items: Vec<Value> = objects
                .iter()
                .map(|object| partial(&object.value))
                .collect();
            let list = json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "items": items,
            });
            list.to_string().into_bytes()
        }
        Form::Whole => {
            let head = json!({"kind": resource.list_kind, "apiVersion": resource.api_version(), "metadata": metadata});
            let head = head.to_string();
            let mut bytes = head.strip_suffix('}').unwrap_or(&head).as_bytes().to_vec();
            bytes.extend_from_slice(b",\"items\":[");
            for (index, object) in objects.iter().enumerate() {
                if index > 0 {
                    bytes.push(b',');
                }
                bytes.extend_from_slice(&item(object, resource));
            }
            bytes.extend_from_slice(b"]}");
            bytes
        }
    };
    response::json(200, bytes)
}

fn item(object: &Object, resource: &Resource) -> Bytes {
    if resource.stored_as != resource.api_version() {
        let mut value = convert(&object.value, resource, &resource.api_version()).into_owned();
        if let (false, Some(fields)) = (resource.is_custom(), value.as_object_mut()) {
            fields.remove("apiVersion");
            fields.remove("kind");
        }
        return Bytes::from(value.to_string());
    }
    match resource.is_custom() {
        true => object.json().clone(),
        // Only lists of custom resources repeat the kind in every item.
        false => object.untyped_json().clone(),
    }
}

/// The object of an event of a watch, as bytes.
pub(crate) fn watched(object: &Object, resource: &Resource, form: &Form, first: bool) -> Bytes {
    match form {
        Form::Table(options) => {
            let version = object.revision.to_string();
            let metadata = json!({"resourceVersion": version});
            Bytes::from(table(&[object], resource, options, metadata, first).to_string())
        }
        _ => self::object(object, resource, form),
    }
}

/// The object of a bookmark.
pub(crate) fn bookmark(
    resource: &Resource,
    form: &Form,
    revision: u64,
    ends_initial: bool,
) -> Bytes {
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let (true, Some(metadata)) = (ends_initial, metadata.as_object_mut()) {
        metadata.insert(
            "annotations".into(),
            json!({"k8s.io/initial-events-end": "true"}),
        );
    }
    let bookmark = match form {
        Form::Whole => {
            json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata})
        }
        Form::Metadata => {
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
        }
        Form::Table(_) => json!({
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": {"resourceVersion": revision.to_string()},
            "columnDefinitions": null,
            "rows": [{
                "cells": [],
                "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata},
            }],
        }),
    };
    Bytes::from(bookmark.to_string())
}
