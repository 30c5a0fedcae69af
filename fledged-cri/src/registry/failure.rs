//! From what an HTTP client and a registry say to a failure with a reason.

use std::error::Error;

use fledged_core::error::{Failure, Reason};
use jiff::Timestamp;
use reqwest::Response;
use reqwest::header::RETRY_AFTER;

use crate::classify;

/// How much of a refusal's body is read; registries answer with a few hundred bytes.
const BODY_MAX: usize = 16 * 1024;
/// How much of a registry's text a message repeats, in characters.
const TEXT_MAX: usize = 400;

/// The failure for a request that got no (whole) answer.
///
/// The address is left out: after a redirect it may be a signed one.
pub(crate) fn of_transport(action: &str, error: reqwest::Error) -> Failure {
    let reason = if error.is_builder() {
        Reason::InvalidReference
    } else if error.is_redirect() {
        Reason::RegistryError
    } else {
        Reason::ConnectionFailed
    };
    let error = error.without_url();
    let mut message = format!("{action}: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        // Wrappers repeat what is inside them.
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        cause = inner.source();
    }
    Failure::new(reason, message)
}

/// The failure for an answer that refuses.
pub(crate) async fn of_response(action: &str, response: Response) -> Failure {
    let status = response.status();
    let delay = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| classify::retry_after(value, Timestamp::now()));
    let said = registry_text(&first_bytes(response).await);
    let message = if said.is_empty() {
        format!("{action}: {status}")
    } else {
        format!("{action}: {status}: {said}")
    };
    let failure = classify::from_status(status.as_u16(), message);
    failure.with_retry_after(delay)
}

/// The failure for a handshake that the token server refused with that text.
///
/// The status is not known here, so the text decides; anything unclear counts as refused
/// credentials.
pub(crate) fn of_token_server(action: &str, body: &str) -> Failure {
    let reason = match classify::reason_of_text(body) {
        reason @ (Reason::TooManyRequests | Reason::RegistryError) => reason,
        _ => Reason::Unauthorized,
    };
    Failure::new(
        reason,
        format!(
            "{action}: the token server refused: {}",
            registry_text(body.as_bytes())
        ),
    )
}

async fn first_bytes(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() >= BODY_MAX {
            body.truncate(BODY_MAX);
            break;
        }
    }
    body
}

/// The messages of a distribution-specification error body, or the text as it stands; one line.
fn registry_text(body: &[u8]) -> String {
    let messages = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|json| {
            let errors = json.get("errors")?.as_array()?;
            let texts: Vec<String> = errors
                .iter()
                .map(|error| {
                    let field = |name| error.get(name).and_then(|v| v.as_str()).unwrap_or("");
                    match (field("code"), field("message")) {
                        (code, "") => code.to_lowercase(),
                        ("", message) => message.to_owned(),
                        (code, message) => format!("{}: {message}", code.to_lowercase()),
                    }
                })
                .filter(|text| !text.is_empty())
                .collect();
            (!texts.is_empty()).then(|| texts.join("; "))
        });
    let text = messages.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut shown: String = line
        .chars()
        .filter(|c| !c.is_control())
        .take(TEXT_MAX)
        .collect();
    if line.chars().count() > TEXT_MAX {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_body_becomes_one_line() {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"v9"}}]}"#;
        assert_eq!(registry_text(body), "manifest_unknown: manifest unknown");
        assert_eq!(
            registry_text(b"<h1>502\n Bad  Gateway</h1>"),
            "<h1>502 Bad Gateway</h1>"
        );
        assert_eq!(registry_text(b""), "");
        let long = "x".repeat(10_000);
        assert_eq!(registry_text(long.as_bytes()).chars().count(), TEXT_MAX + 1);
    }

    #[test]
    fn a_token_server_that_throttles_is_not_a_refusal() {
        let of = |body| of_token_server("cannot log in to r.example", body).reason;
        assert_eq!(
            of(r#"{"details":"incorrect username or password"}"#),
            Reason::Unauthorized
        );
        assert_eq!(of("toomanyrequests: slow down"), Reason::TooManyRequests);
        assert_eq!(of("503 Service Unavailable"), Reason::RegistryError);
        assert_eq!(of(""), Reason::Unauthorized);
    }
}
