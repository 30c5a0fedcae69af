//! A client whose requests end within a limit, and whose errors keep the Retry-After of the response.
//!
//! A plain client waits without limit for a server that accepts connections and does not respond, and drops the
//! Retry-After header.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use kube::core::response::StatusDetails;
use tower::service_fn;

/// Longest excerpt of a response that is no Status, in characters.
const TEXT_MAX: usize = 200;
/// Longest accepted Retry-After in seconds. The maintenance page of a proxy may name a day.
const RETRY_AFTER_MAX: u32 = 60;

/// Limit for most requests, the same as the API server's.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// A client that sends its requests through this one.
///
/// A request fails if its response is not complete within `limit`; of a watch, only the start is limited. An
/// unsuccessful response becomes a [`kube::Error::Api`] with the code of the response and the delay of its
/// Retry-After header. Needs a tokio runtime.
pub fn bounded(client: &Client, limit: Duration) -> Client {
    let namespace = client.default_namespace().to_owned();
    let client = client.clone();
    let service = service_fn(move |request| {
        let response = tokio::time::timeout(limit, send(client.clone(), request));
        async move {
            response.await.unwrap_or_else(|_| {
                let problem = format!("no response within {} s", limit.as_secs());
                Err(kube::Error::Service(problem.into()))
            })
        }
    });
    Client::new(service, namespace)
}

async fn send(client: Client, request: Request<Body>) -> Result<Response<Body>, kube::Error> {
    let query = request.uri().query().unwrap_or_default();
    let watches = query.split('&').any(|pair| pair == "watch=true");
    let response = client.send(request).await?;
    let code = response.status();
    if code.is_success() && watches {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = body.collect_bytes().await?;
    if code.is_success() {
        return Ok(Response::from_parts(parts, body.into()));
    }
    let status = failure(code, &parts.headers, &body);
    Err(kube::Error::Api(status.boxed()))
}

fn failure(code: StatusCode, headers: &HeaderMap, body: &[u8]) -> Status {
    let mut status: Status = serde_json::from_slice(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(body);
        let text: String = text.trim().chars().take(TEXT_MAX).collect();
        Status::failure(&text, "")
    });
    status.code = code.as_u16();
    if status.message.is_empty() {
        status.message = format!("HTTP status {code}");
    }
    let header = headers.get(RETRY_AFTER);
    let seconds = header.and_then(|value| value.to_str().ok()?.trim().parse::<u32>().ok());
    if let Some(seconds) = seconds {
        let details = status.details.get_or_insert_with(|| StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
        });
        details.retry_after_seconds = seconds.min(RETRY_AFTER_MAX);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_error::{problem, retry_after};

    fn mk_failure(code: u16, header: Option<&'static str>, body: &str) -> kube::Error {
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(RETRY_AFTER, value.parse().unwrap());
        }
        let code = StatusCode::from_u16(code).unwrap();
        kube::Error::Api(failure(code, &headers, body.as_bytes()).boxed())
    }

    #[test]
    fn the_header_or_the_status_names_the_delay() {
        let status = r#"{"kind":"Status","message":"busy","details":{"retryAfterSeconds":5}}"#;
        for (code, header, body, seconds) in [
            (429, Some("7"), "Too many requests", Some(7)),
            (429, Some("7"), status, Some(7)),
            (429, None, status, Some(5)),
            (503, Some("86400"), "", Some(60)),
            (503, Some("soon"), "", Some(1)),
            (500, None, "", None),
        ] {
            let error = mk_failure(code, header, body);
            assert_eq!(retry_after(&error).map(|delay| delay.as_secs()), seconds);
        }
    }

    #[test]
    fn every_failure_has_a_text() {
        let text = problem(&mk_failure(413, None, ""));
        assert_eq!(text, "HTTP status 413 Payload Too Large (413)");
        let html = format!("<html>{}", "x".repeat(5_000));
        let text = problem(&mk_failure(502, None, &html));
        assert!(text.starts_with("<html>") && text.len() < 300);
        let error = mk_failure(404, None, r#"{"message":"gone","reason":"NotFound"}"#);
        assert_eq!(problem(&error), "gone (404)");
        assert!(matches!(error, kube::Error::Api(status) if status.is_not_found()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_a_response_fails_at_its_limit() {
        let silent = service_fn(|_: Request<Body>| {
            std::future::pending::<Result<Response<Body>, std::convert::Infallible>>()
        });
        let silent = Client::new(silent, "default");
        let client = bounded(&silent, Duration::from_secs(60));
        let began = tokio::time::Instant::now();
        let error = client.apiserver_version().await.unwrap_err();
        assert_eq!(began.elapsed().as_secs(), 60);
        let text = problem(&error);
        assert!(text.ends_with("no response within 60 s"), "{text}");
    }
}
