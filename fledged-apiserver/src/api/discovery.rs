//! Discovery: groups, versions and resources.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};

use super::http_request::Request;
use super::response::{self, Response};
use super::shared_state::Api;
use crate::error::{ApiError, ApiResult};
use crate::kinds::{Resource, version_rank};

const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const STATUS_VERBS: [&str; 3] = ["get", "patch", "update"];

/// The oldest minor version of Kubernetes that behaves like this server.
const MINOR: &str = "33";

/// The content type of aggregated discovery.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The response to `/version`.
pub(super) fn version() -> Value {
    json!({
        "major": "1",
        "minor": MINOR,
        "gitVersion": format!("v1.{MINOR}.0"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// Groups with their versions and resources.
type Groups = BTreeMap<String, BTreeMap<String, Vec<Arc<Resource>>>>;

fn all(api: &Api) -> Groups {
    let mut groups = Groups::new();
    for resource in api.catalogue.all() {
        let versions = groups.entry(resource.group.clone()).or_default();
        versions
            .entry(resource.version.clone())
            .or_default()
            .push(resource);
    }
    groups
}

/// Versions of a group, the preferred one first.
fn ordered<T>(versions: &BTreeMap<String, T>) -> Vec<(&String, &T)> {
    let mut versions: Vec<_> = versions.iter().collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(version_rank(version)));
    versions
}

fn wants_aggregated(request: &Request) -> bool {
    let wanted = |range: &str| {
        ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"]
            .iter()
            .all(|parameter| range.split(';').any(|part| part.trim() == *parameter))
    };
    request.accept().split(',').any(wanted)
}

fn aggregated(groups: &Groups) -> Response {
    let items: Vec<Value> = groups
        .iter()
        .map(|(group, versions)| {
            let versions = ordered(versions).into_iter().map(|(version, resources)| {
                let resources: Vec<Value> = resources
                    .iter()
                    .map(|resource| aggregated_resource(resource))
                    .collect();
                json!({"version": version, "resources": resources, "freshness": "Current"})
            });
            let metadata = match group.as_str() {
                "" => json!({"creationTimestamp": null}),
                group => json!({"name": group, "creationTimestamp": null}),
            };
            json!({"metadata": metadata, "versions": versions.collect::<Vec<_>>()})
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    });
    let mut response = response::json(200, list.to_string());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    response
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": kind,
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": VERBS,
        "shortNames": resource.short_names,
        "categories": resource.categories,
    });
    if let (true, Some(entry)) = (resource.status, entry.as_object_mut()) {
        let status =
            json!([{"subresource": "status", "responseKind": kind, "verbs": STATUS_VERBS}]);
        entry.insert("subresources".into(), status);
    }
    entry
}

/// The response to `/api`.
pub(super) fn core(api: &Api, request: &Request) -> Response {
    if wants_aggregated(request) {
        let mut groups = all(api);
        groups.retain(|group, _| group.is_empty());
        return aggregated(&groups);
    }
    let versions = json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [],
    });
    response::json(200, versions.to_string())
}

fn api_group(group: &str, versions: &BTreeMap<String, Vec<Arc<Resource>>>) -> Value {
    let versions: Vec<Value> = ordered(versions)
        .into_iter()
        .map(|(version, _)| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
}

/// The response to `/apis`.
pub(super) fn groups(api: &Api, request: &Request) -> Response {
    let mut groups = all(api);
    groups.retain(|group, _| !group.is_empty());
    if wants_aggregated(request) {
        return aggregated(&groups);
    }
    let groups: Vec<Value> = groups
        .iter()
        .map(|(group, versions)| api_group(group, versions))
        .collect();
    let list = json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups});
    response::json(200, list.to_string())
}

/// The response to `/apis/GROUP`.
pub(super) fn group(api: &Api, group: &str) -> ApiResult<Response> {
    let groups = all(api);
    let versions = groups
        .get(group)
        .filter(|_| !group.is_empty())
        .ok_or_else(ApiError::no_such_path)?;
    let mut found = api_group(group, versions);
    if let Some(found) = found.as_object_mut() {
        found.insert("kind".into(), "APIGroup".into());
        found.insert("apiVersion".into(), "v1".into());
    }
    Ok(response::json(200, found.to_string()))
}

/// The response to `/api/VERSION` and `/apis/GROUP/VERSION`.
pub(super) fn resources(api: &Api, group: &str, version: &str) -> ApiResult<Response> {
    let groups = all(api);
    let found = groups
        .get(group)
        .and_then(|versions| versions.get(version))
        .ok_or_else(ApiError::no_such_path)?;
    let mut resources = Vec::new();
    for resource in found {
        let mut entry = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": VERBS,
        });
        if let Some(entry) = entry.as_object_mut() {
            if !resource.short_names.is_empty() {
                entry.insert("shortNames".into(), resource.short_names.clone().into());
            }
            if !resource.categories.is_empty() {
                entry.insert("categories".into(), resource.categories.clone().into());
            }
        }
        resources.push(entry);
        if resource.status {
            resources.push(json!({
                "name": format!("{}/status", resource.plural),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": resource.kind,
                "verbs": STATUS_VERBS,
            }));
        }
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    let list = json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": resources,
    });
    Ok(response::json(200, list.to_string()))
}
