//! Responses: bodies, refusals and warnings.

use std::convert::Infallible;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use serde_json::Value;

use crate::error::{ApiError, NO_SUCH_PATH};

/// A body: whole, or a stream.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A response.
pub(crate) type Response = hyper::Response<Body>;

const TEXT: &str = "text/plain; charset=utf-8";

/// A body of known length.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

fn with_type(code: u16, body: Body, kind: &'static str) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A JSON response.
pub(crate) fn json(code: u16, bytes: impl Into<Bytes>) -> Response {
    with_type(code, whole(bytes), "application/json")
}

/// A response that streams JSON lines.
pub(crate) fn stream(body: Body) -> Response {
    with_type(200, body, "application/json")
}

/// A plain-text response.
pub(crate) fn text(code: u16, text: impl Into<Bytes>) -> Response {
    with_type(code, whole(text), TEXT)
}

/// An error response.
pub(crate) fn refusal(error: &ApiError) -> Response {
    if error.reason == NO_SUCH_PATH {
        return with_type(error.code, whole(error.message.clone()), TEXT);
    }
    let mut response = json(error.code, error.to_status().to_string());
    if let Some(seconds) = error
        .details
        .get("retryAfterSeconds")
        .and_then(Value::as_u64)
    {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds warnings, each once.
pub(crate) fn warn(response: &mut Response, warnings: &[String]) {
    let mut seen = Vec::new();
    for warning in warnings {
        if seen.contains(&warning) {
            continue;
        }
        seen.push(warning);
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}
