//! Failures on demand.

use std::sync::{Mutex, PoisonError};

use crate::error::ApiError;
use crate::request_counts::RequestKey;

/// Selects the requests that fail. Every field that is set must match.
#[derive(Debug, Clone, Default)]
pub struct RequestFilter {
    /// The verb, as in [`RequestKey::verb`].
    pub verb: Option<String>,
    /// The plural name of the resource.
    pub resource: Option<String>,
    /// The subresource; empty for the object itself.
    pub subresource: Option<String>,
    /// The name of the object.
    pub name: Option<String>,
    /// A part of the user agent.
    pub user_agent: Option<String>,
    /// The field manager.
    pub field_manager: Option<String>,
    /// Selects writes only.
    pub writes_only: bool,
}

impl RequestFilter {
    fn fits(&self, key: &RequestKey, name: Option<&str>) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        is(&self.verb, &key.verb)
            && is(&self.resource, &key.resource)
            && is(&self.subresource, &key.subresource)
            && is(&self.name, name.unwrap_or_default())
            && is(&self.field_manager, &key.field_manager)
            && self
                .user_agent
                .as_ref()
                .is_none_or(|part| key.user_agent.contains(part.as_str()))
            && (!self.writes_only || key.is_write())
    }
}

/// How a request fails.
#[derive(Debug, Clone)]
pub struct Failure(ApiError);

impl Failure {
    /// 429 with `Retry-After`, in seconds.
    pub fn too_many_requests(retry_after: u64) -> Self {
        let message =
            "the server has received too many requests and has asked us to try again later";
        Self(ApiError::new(429, "TooManyRequests", message).retry_after(retry_after))
    }

    /// 500.
    pub fn internal_error() -> Self {
        Self(ApiError::internal("failed on demand"))
    }

    /// 503.
    pub fn unavailable() -> Self {
        let message = "the server is currently unable to handle the request";
        Self(ApiError::new(503, "ServiceUnavailable", message))
    }

    /// 504.
    pub fn timeout() -> Self {
        Self(ApiError::new(
            504,
            "Timeout",
            "request did not complete within the allotted timeout",
        ))
    }

    /// 409, as for an object that was modified since it was read.
    pub fn conflict() -> Self {
        Self(ApiError::modified("", "objects", ""))
    }

    /// 403.
    pub fn forbidden(why: &str) -> Self {
        Self(ApiError::forbidden("", "objects", "", why))
    }

    /// 410.
    pub fn expired() -> Self {
        Self(ApiError::expired(
            "The resourceVersion for the provided watch is too old.",
        ))
    }
}

#[derive(Debug)]
struct Planned {
    filter: RequestFilter,
    failure: Failure,
    left: usize,
}

/// The failures that are planned.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Vec<Planned>>);

impl Faults {
    pub(crate) fn plan(&self, count: usize, filter: RequestFilter, failure: Failure) {
        let planned = Planned {
            filter,
            failure,
            left: count,
        };
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(planned);
    }

    pub(crate) fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// The failure planned for a request, if any.
    pub(crate) fn next(&self, key: &RequestKey, name: Option<&str>) -> Option<ApiError> {
        let mut planned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = planned
            .iter_mut()
            .find(|planned| planned.filter.fits(key, name))?;
        let error = found.failure.0.clone();
        found.left = found.left.saturating_sub(1);
        planned.retain(|planned| planned.left > 0);
        Some(error)
    }
}
