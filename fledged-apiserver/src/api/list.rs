//! Reading objects.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::body::{self, Response};
use super::encode::{self, Form};
use super::options::{ListOptions, VersionMatch, version};
use super::{Api, Request, Target};
use crate::error::{ApiError, ApiResult};
use crate::store::{Interest as _, Key, Object, Snapshot};

/// Answers a GET of one object.
pub(crate) fn get(api: &Api, request: &Request, target: &Target) -> ApiResult<Response> {
    let form = Form::of(api, request)?;
    let at = target.at();
    if let Some(asked) = request
        .parameter("resourceVersion")
        .map(version)
        .transpose()?
    {
        let current = api.store.revision();
        if asked > current {
            return Err(ApiError::too_large_version(asked, current));
        }
    }
    let object = api
        .store
        .get(&at.table, &at.key)
        .ok_or_else(|| target.resource.not_found(&target.name))?;
    Ok(body::json(
        200,
        encode::object(&object, &target.resource, &form),
    ))
}

/// Where a list goes on.
#[derive(Debug, PartialEq)]
struct Continuation {
    /// The revision of the first page; none if it doesn't matter.
    revision: Option<u64>,
    after: Key,
}

impl Continuation {
    fn encode(&self) -> String {
        let token = json!({
            "v": "meta.k8s.io/v1",
            "rv": self.revision.map_or(-1, u64::cast_signed),
            "start": [self.after.namespace, self.after.name],
        });
        // Any text that needs no escaping in a query will do.
        token
            .to_string()
            .bytes()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn decode(token: &str) -> ApiResult<Self> {
        let invalid = || ApiError::bad_request("invalid continue token: continue key is not valid");
        let digits: Vec<char> = token.chars().collect();
        let bytes: Option<Vec<u8>> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).ok())
            .collect();
        let token: Value = bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(invalid)?;
        let start = token
            .get("start")
            .and_then(Value::as_array)
            .ok_or_else(invalid)?;
        let [Value::String(namespace), Value::String(name)] = start.as_slice() else {
            return Err(invalid());
        };
        let revision = token
            .get("rv")
            .and_then(Value::as_i64)
            .ok_or_else(invalid)?;
        Ok(Self {
            revision: u64::try_from(revision).ok(),
            after: Key::new(namespace, name),
        })
    }
}

fn key_of(object: &Object) -> Key {
    Key::new(
        object.metadata_str("namespace"),
        object.metadata_str("name"),
    )
}

/// Answers a GET of a collection.
pub(crate) fn list(api: &Api, request: &Request, target: &Target) -> ApiResult<Response> {
    let form = Form::of(api, request)?;
    let options = ListOptions::of(request, &target.resource, &target.namespace, false)?;
    let current = api.store.revision();
    let asked = options.version.filter(|asked| *asked > 0);
    if let Some(asked) = asked.filter(|asked| *asked > current) {
        return Err(ApiError::too_large_version(asked, current));
    }
    let continuation = options
        .continue_token
        .as_deref()
        .map(Continuation::decode)
        .transpose()?;
    let snapshot = match (&continuation, options.version_match, asked) {
        (
            Some(Continuation {
                revision: Some(revision),
                ..
            }),
            ..,
        ) => Snapshot::At(*revision),
        (None, VersionMatch::Exact, Some(asked)) => Snapshot::At(asked),
        // Pages of a version asked for are consistent with it, whatever the match.
        (None, VersionMatch::Unset, Some(asked)) if options.limit.is_some() => Snapshot::At(asked),
        _ => Snapshot::Now,
    };
    let namespace = &options.selection.namespace;
    let listed = api.store.list(&target.resource.table, namespace, snapshot).map_err(|oldest| match &continuation {
        Some(continuation) => {
            let mut error = ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
            );
            let inconsistent = Continuation { revision: None, after: continuation.after.clone() };
            error.continue_token = Some(inconsistent.encode());
            error
        }
        None => ApiError::too_old(asked.unwrap_or_default(), oldest),
    })?;
    let after = continuation
        .as_ref()
        .map(|continuation| &continuation.after);
    let remaining = listed
        .objects
        .iter()
        .filter(|object| after.is_none_or(|after| key_of(object) > *after));
    let selected: Vec<&Arc<Object>> = remaining
        .filter(|object| options.selection.selects(object))
        .collect();
    // What is served from memory whatever its version is not served in pages.
    let limit = options
        .limit
        .filter(|_| options.version != Some(0) || options.version_match != VersionMatch::Unset);
    let page: Vec<&Object> = selected
        .iter()
        .take(limit.unwrap_or(usize::MAX))
        .map(|object| object.as_ref())
        .collect();
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), listed.revision.to_string().into());
    if target.resource.is_custom() {
        // Lists of custom resources have it, even if there is nothing to go on with.
        metadata.insert("continue".into(), "".into());
    }
    let left = selected.len() - page.len();
    if let (true, Some(last)) = (left > 0, page.last()) {
        let next = Continuation {
            revision: Some(listed.revision),
            after: key_of(last),
        };
        metadata.insert("continue".into(), next.encode().into());
        let has_selector = ["labelSelector", "fieldSelector"]
            .iter()
            .any(|name| request.parameter(name).is_some());
        if !has_selector {
            metadata.insert("remainingItemCount".into(), left.into());
        }
    }
    Ok(encode::list(&page, &target.resource, &form, metadata))
}
