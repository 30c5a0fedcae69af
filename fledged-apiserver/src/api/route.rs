//! Routing of requests to their handlers.

use std::sync::Arc;

use http::Method;

use super::create::create;
use super::delete::{delete_all, delete_one};
use super::http_request::{Request, Target};
use super::patch::{PatchKind, kind_of, patch};
use super::pod_proxy::{PROXY, connect};
use super::read::{get, list, watch};
use super::response::{self, Response};
use super::shared_state::Api;
use super::update::replace;
use super::{discovery, openapi};
use crate::error::{ApiError, ApiResult};
use crate::request_counts::{AnswerKey, RequestKey, metrics};

/// Handles a request and counts it.
///
/// Only a request to a pod waits.
pub(crate) async fn serve(api: &Arc<Api>, request: &Request) -> Response {
    let (key, response) = answer(api, request).await;
    let selector = request.parameter("fieldSelector").unwrap_or_default();
    // A real server counts a list of one name as a get.
    let verb = match key.verb.as_str() {
        "list" if selector.starts_with("metadata.name=") => "get".to_owned(),
        _ => key.verb,
    };
    let key = AnswerKey {
        group: key.group,
        resource: key.resource,
        subresource: key.subresource,
        verb,
        code: response.status().as_u16(),
    };
    api.requests.answered(key, request.body.len());
    response
}

async fn answer(api: &Arc<Api>, request: &Request) -> (RequestKey, Response) {
    let segments: Vec<&str> = request
        .path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .collect();
    let target = match find(api, &segments) {
        Ok(target) => target,
        Err(error) => {
            let key = key(request, None);
            api.requests.count(key.clone());
            return (key, response::refusal(&error));
        }
    };
    let key = key(request, target.as_ref());
    let refused = api
        .faults
        .next(&key, target.as_ref().map(|target| target.name.as_str()));
    api.requests.count(key.clone());
    let answer = match (refused, &target) {
        (Some(error), _) => Err(error),
        (None, Some(target)) if target.subresource == PROXY => {
            let path = segments.iter().skip_while(|segment| **segment != PROXY);
            let mut path = path.skip(1).copied().collect::<Vec<_>>().join("/");
            if !path.is_empty() && request.path.ends_with('/') {
                path.push('/');
            }
            connect(api, request, target, &path).await
        }
        (None, Some(target)) => resource(api, request, target),
        (None, None) => other(api, request, &segments),
    };
    let mut response = answer.unwrap_or_else(|error| response::refusal(&error));
    let deprecation = target.and_then(|target| target.resource.deprecation.clone());
    let warnings: Vec<String> = deprecation
        .into_iter()
        .chain(request.warnings.take())
        .collect();
    response::warn(&mut response, &warnings);
    (key, response)
}

fn key(request: &Request, target: Option<&Target>) -> RequestKey {
    let named = target.is_some_and(|target| !target.name.is_empty());
    let verb = match (&request.method, named) {
        (&Method::GET, false) if target.is_some() && request.flag("watch") => "watch",
        (&Method::GET, false) if target.is_some() => "list",
        (&Method::GET, _) => "get",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => match target.map(|target| kind_of(request, target)) {
            Some(Ok(PatchKind::Apply)) => "apply",
            _ => "patch",
        },
        (&Method::DELETE, true) => "delete",
        (&Method::DELETE, false) => "deletecollection",
        _ => "other",
    };
    let of = |part: fn(&Target) -> &str| target.map(part).unwrap_or_default().to_owned();
    let writes = !matches!(verb, "get" | "list" | "watch" | "other");
    RequestKey {
        verb: verb.to_owned(),
        group: of(|target| &target.resource.group),
        resource: of(|target| &target.resource.plural),
        subresource: of(|target| &target.subresource),
        user_agent: request.user_agent().to_owned(),
        field_manager: if writes {
            request.manager()
        } else {
            String::new()
        },
    }
}

/// The target of a resource path; none for other paths.
fn find(api: &Api, segments: &[&str]) -> ApiResult<Option<Target>> {
    let (group, version, rest) = match segments {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return Ok(None),
    };
    let (namespace, plural, rest) = match rest {
        ["namespaces", namespace, plural, rest @ ..]
            if !matches!(*plural, "status" | "finalize") =>
        {
            (*namespace, *plural, rest)
        }
        [plural, rest @ ..] => ("", *plural, rest),
        [] => return Ok(None),
    };
    let resource = api
        .catalogue
        .find(group, version, plural)
        .ok_or_else(ApiError::no_such_path)?;
    let (name, subresource) = match rest {
        [] => ("", ""),
        [name] => (*name, ""),
        [name, "status"] if resource.status => (*name, "status"),
        [name, "proxy", ..] if group.is_empty() && resource.plural == "pods" => (*name, PROXY),
        [_, _] => return Err(ApiError::no_such_part(&resource.group, &resource.plural)),
        _ => return Err(ApiError::no_such_path()),
    };
    // Namespaced objects are only found in a namespace, others only at the root.
    if (!resource.namespaced && !namespace.is_empty())
        || (resource.namespaced && namespace.is_empty() && !name.is_empty())
    {
        return Err(ApiError::no_such_path());
    }
    Ok(Some(Target {
        resource,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
    }))
}

fn resource(api: &Arc<Api>, request: &Request, target: &Target) -> ApiResult<Response> {
    let named = !target.name.is_empty();
    let is_whole = target.subresource.is_empty();
    match (request.method.as_str(), named, is_whole) {
        ("GET", false, true) if request.flag("watch") => watch(api, request, target),
        ("GET", true, _) => get(api, request, target),
        ("GET", false, true) => list(api, request, target),
        ("POST", false, true) if !target.resource.namespaced || !target.namespace.is_empty() => {
            create(api, request, target)
        }
        ("PUT", true, _) => replace(api, request, target),
        ("PATCH", true, _) => patch(api, request, target),
        ("DELETE", true, true) => delete_one(api, request, target),
        ("DELETE", false, true) if !target.resource.namespaced || !target.namespace.is_empty() => {
            delete_all(api, request, target)
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn other(api: &Api, request: &Request, segments: &[&str]) -> ApiResult<Response> {
    if request.method != Method::GET {
        return match segments {
            []
            | [
                "api" | "apis" | "version" | "healthz" | "livez" | "readyz" | "metrics",
                ..,
            ] => Err(ApiError::method_not_allowed()),
            _ => Err(ApiError::no_such_path()),
        };
    }
    match segments {
        ["healthz" | "livez" | "readyz"] => Ok(response::text(200, "ok")),
        ["metrics"] => Ok(response::text(200, metrics(&api.requests.answers()))),
        ["version"] => Ok(response::json(200, discovery::version().to_string())),
        ["api"] => Ok(discovery::core(api, request)),
        ["apis"] => Ok(discovery::groups(api, request)),
        ["api", version] => discovery::resources(api, "", version),
        ["apis", group] => discovery::group(api, group),
        ["apis", group, version] => discovery::resources(api, group, version),
        ["openapi", "v3"] => Ok(response::json(200, openapi::index(api).to_string())),
        ["openapi", "v3", "api", version] => openapi::document(api, "", version),
        ["openapi", "v3", "apis", group, version] => openapi::document(api, group, version),
        _ => Err(ApiError::no_such_path()),
    }
}
