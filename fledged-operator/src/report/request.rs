//! One request to the API server.
//!
//! The client's own methods lose the `Retry-After` header, and log what they can't parse.

use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use kube::core::Status;

use crate::api::error::with_causes;

/// What is waited where a server is busy and names no delay: what API servers name when their queues
/// are full.
const BUSY: Duration = Duration::from_secs(1);
/// Longest part of an answer that is no Status that is repeated, in characters.
const TEXT_MAX: usize = 200;

/// A request that was not done.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// What the server said; `None` where there was no answer.
    pub(crate) status: Option<Box<Status>>,
    /// The same in words.
    pub(crate) problem: String,
    /// How long the server asked to be left alone, if it did.
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    pub(crate) fn no_answer(problem: String) -> Self {
        Self {
            status: None,
            problem,
            retry_after: None,
        }
    }
}

/// The body of the answer to a request that was done.
pub(crate) async fn request(
    client: &Client,
    request: Request<Vec<u8>>,
    limit: Duration,
) -> Result<Bytes, Refusal> {
    let call = async {
        let body = answer(client, request).await?.collect().await;
        Ok(body.map_err(lost)?.to_bytes())
    };
    within(limit, call).await
}

/// The same, with a body that is still to come, for which the limit does not count.
pub(crate) async fn open(
    client: &Client,
    request: Request<Vec<u8>>,
    limit: Duration,
) -> Result<Body, Refusal> {
    within(limit, answer(client, request)).await
}

async fn answer(client: &Client, request: Request<Vec<u8>>) -> Result<Body, Refusal> {
    let response = client.send(request.map(Body::from)).await;
    let (parts, body) = response.map_err(lost)?.into_parts();
    if parts.status.is_success() {
        return Ok(body);
    }
    let body = body.collect().await.map_err(lost)?.to_bytes();
    Err(refusal(parts.status, &parts.headers, &body))
}

fn lost(error: kube::Error) -> Refusal {
    Refusal::no_answer(with_causes(&error))
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer,
        Err(_) => {
            let problem = format!("no answer within {} s", limit.as_secs());
            Err(Refusal::no_answer(problem))
        }
    }
}

/// Longest that is waited because a server asked for it: a proxy's maintenance page may name a day.
const ASKED_MAX: Duration = Duration::from_secs(60);

fn refusal(code: StatusCode, headers: &HeaderMap, body: &[u8]) -> Refusal {
    let mut status = serde_json::from_slice(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(body);
        let text: String = text.trim().chars().take(TEXT_MAX).collect();
        Status::failure(&text, "")
    });
    status.code = code.as_u16();
    let header = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    let named = header.and_then(|value| value.trim().parse::<u64>().ok());
    Refusal {
        problem: match status.message.is_empty() {
            true => format!("HTTP status {code}"),
            false => format!("{} ({})", status.message, status.code),
        },
        retry_after: named
            .map(|seconds| Duration::from_secs(seconds).min(ASKED_MAX))
            .or_else(|| retry_after(&status)),
        status: Some(status.boxed()),
    }
}

/// How long a server asked to be left alone, if it did.
pub(crate) fn retry_after(status: &Status) -> Option<Duration> {
    let seconds = status.details.as_ref().map(|d| d.retry_after_seconds);
    match seconds.filter(|seconds| *seconds > 0) {
        Some(seconds) => Some(Duration::from_secs(seconds.into())),
        None => matches!(status.code, 429 | 503).then_some(BUSY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_refusal(code: u16, header: Option<&'static str>, body: &str) -> Refusal {
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(RETRY_AFTER, value.parse().unwrap());
        }
        refusal(
            StatusCode::from_u16(code).unwrap(),
            &headers,
            body.as_bytes(),
        )
    }

    #[test]
    fn a_delay_is_taken_from_where_it_stands() {
        let status = r#"{"kind":"Status","message":"busy","details":{"retryAfterSeconds":5}}"#;
        for (code, header, body, seconds) in [
            (429, Some("7"), "Too many requests", Some(7)),
            (429, None, status, Some(5)),
            (503, Some("soon"), "", Some(1)),
            (500, None, "", None),
        ] {
            let refusal = mk_refusal(code, header, body);
            assert_eq!(refusal.retry_after.map(|delay| delay.as_secs()), seconds);
        }
    }

    #[test]
    fn whatever_the_answer_is_there_are_words_for_it() {
        assert_eq!(
            mk_refusal(413, None, "").problem,
            "HTTP status 413 Payload Too Large"
        );
        let html = format!("<html>{}", "x".repeat(5_000));
        let refusal = mk_refusal(502, None, &html);
        assert!(refusal.problem.starts_with("<html>") && refusal.problem.len() < 300);
        let refusal = mk_refusal(404, None, r#"{"message":"gone","reason":"NotFound"}"#);
        assert_eq!(refusal.problem, "gone (404)");
        assert!(refusal.status.unwrap().is_not_found());
    }
}
