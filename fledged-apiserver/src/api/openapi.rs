//! OpenAPI v3 documents.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::response::{self, Response};
use super::shared_state::Api;
use crate::error::{ApiError, ApiResult};
use crate::kinds::{Resource, builtin_document};
use crate::object_store::{CRDS, Key};
use crate::schema::object_meta_document;

/// The index of documents. Their URLs change with every write, so that clients may cache them.
pub(super) fn index(api: &Api) -> Value {
    let versions: BTreeSet<(String, String)> = api
        .catalogue
        .all()
        .iter()
        .map(|resource| (resource.group.clone(), resource.version.clone()))
        .collect();
    let revision = api.store.revision();
    let paths = versions.into_iter().map(|(group, version)| {
        let path = match group.as_str() {
            "" => format!("api/{version}"),
            group => format!("apis/{group}/{version}"),
        };
        let url = format!("/openapi/v3/{path}?hash={revision}");
        (path, json!({"serverRelativeURL": url}))
    });
    json!({"paths": paths.collect::<Map<_, _>>()})
}

/// The document of a version of a group.
pub(super) fn document(api: &Api, group: &str, version: &str) -> ApiResult<Response> {
    let all = api.catalogue.all();
    let resources: Vec<&Arc<Resource>> = all
        .iter()
        .filter(|r| r.group == group && r.version == version)
        .collect();
    if resources.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for resource in resources {
        add_paths(&mut paths, resource);
        let name = schema_name(resource);
        let mut schema = schema_of(api, resource);
        if let Some(fields) = schema.as_object_mut() {
            fields.insert(
                "x-kubernetes-group-version-kind".into(),
                json!([kind(resource)]),
            );
            complete(fields, resource);
        }
        schemas.insert(name, schema);
    }
    let document = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.33.0"},
        "paths": paths,
        "components": {"schemas": schemas},
    });
    Ok(response::json(200, document.to_string()))
}

fn kind(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

fn schema_name(resource: &Resource) -> String {
    let mut parts: Vec<&str> = resource.group.split('.').rev().collect();
    if resource.builtin.is_some() {
        parts = vec![
            "io",
            "k8s",
            "api",
            if resource.group.is_empty() {
                "core"
            } else {
                resource.group.as_str()
            },
        ];
    }
    parts.push(&resource.version);
    parts.push(&resource.kind);
    parts.join(".")
}

fn schema_of(api: &Api, resource: &Resource) -> Value {
    if let Some(document) = builtin_document(resource) {
        return document.clone();
    }
    // The table of custom resources has the name of the CRD.
    let key = Key::new("", &resource.table);
    let crd = api.store.get(CRDS, &key);
    let versions = crd
        .as_ref()
        .and_then(|crd| crd.value.get("spec")?.get("versions")?.as_array());
    let version = versions
        .into_iter()
        .flatten()
        .find(|v| v.get("name") == Some(&resource.version.as_str().into()));
    version
        .and_then(|version| version.get("schema")?.get("openAPIV3Schema"))
        .cloned()
        .unwrap_or_default()
}

/// Adds the fields that every object has and a CRD does not list.
fn complete(schema: &mut Map<String, Value>, resource: &Resource) {
    if !resource.is_custom() {
        return;
    }
    let properties = schema.entry("properties").or_insert_with(|| json!({}));
    let Some(properties) = properties.as_object_mut() else {
        return;
    };
    for (field, description) in [
        (
            "apiVersion",
            "APIVersion defines the versioned schema of this representation of an object.",
        ),
        (
            "kind",
            "Kind is a string value representing the REST resource this object represents.",
        ),
    ] {
        properties
            .entry(field)
            .or_insert_with(|| json!({"type": "string", "description": description}));
    }
    properties.insert("metadata".into(), object_meta_document().clone());
}

fn add_paths(paths: &mut Map<String, Value>, resource: &Resource) {
    let root = match resource.group.as_str() {
        "" => format!("/api/{}", resource.version),
        group => format!("/apis/{group}/{}", resource.version),
    };
    let scope = if resource.namespaced {
        "/namespaces/{namespace}"
    } else {
        ""
    };
    let collection = format!("{root}{scope}/{}", resource.plural);
    let operation = |action: &str, parameters: &[&str]| {
        let parameters: Vec<Value> = parameters
            .iter()
            .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
            .collect();
        json!({
            "parameters": parameters,
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind(resource),
        })
    };
    let writes = ["dryRun", "fieldManager", "fieldValidation"];
    paths.insert(
        collection.clone(),
        json!({"get": operation("list", &["limit", "continue"]), "post": operation("post", &writes)}),
    );
    paths.insert(
        format!("{collection}/{{name}}"),
        json!({
            "get": operation("get", &[]),
            "put": operation("put", &writes),
            "patch": operation("patch", &["dryRun", "fieldManager", "fieldValidation", "force"]),
            "delete": operation("delete", &["dryRun"]),
        }),
    );
}
