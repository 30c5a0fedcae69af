//! From the client library's errors and the Engine's texts to a failure.

use std::error::Error as _;
use std::path::Path;

use bollard::errors::Error;
use fledged_core::error::{Failure, Reason};

use crate::classify::{known_reason_of_text, redact, retry_after_of_text};

/// The failure for an error of the client library, with the Engine's text.
///
/// `secret` was part of the request. The message does not repeat it.
pub(super) fn of(error: &Error, socket: &Path, secret: Option<&str>) -> Failure {
    match error {
        Error::DockerResponseServerError {
            status_code,
            message,
        } => of_text(*status_code, message, secret),
        Error::DockerStreamError { error } => of_text(200, error, secret),
        Error::SocketNotFoundError(_)
        | Error::IOError { .. }
        | Error::HyperResponseError { .. }
        | Error::HyperLegacyError { .. }
        | Error::RequestTimeoutError => Failure::new(
            Reason::RuntimeUnavailable,
            format!(
                "Docker Engine does not answer on {}: {}",
                socket.display(),
                with_sources(error)
            ),
        ),
        other => Failure::new(Reason::Unknown, with_sources(other)),
    }
}

/// The HTTP status of the Engine's answer; 0 for any other error.
pub(super) fn status(error: &Error) -> u16 {
    match error {
        Error::DockerResponseServerError { status_code, .. } => *status_code,
        _ => 0,
    }
}

/// The text decides before the status: the Engine answers 500 to every refusal of a registry.
fn of_text(status: u16, text: &str, secret: Option<&str>) -> Failure {
    let reason = known_reason_of_text(text).unwrap_or(match status {
        404 => Reason::ImageNotFound,
        401 | 403 => Reason::Unauthorized,
        503 => Reason::RuntimeUnavailable,
        _ => Reason::Unknown,
    });
    Failure::new(reason, redact(text, secret.as_slice()))
        .with_retry_after(retry_after_of_text(text))
}

/// An error and its sources, on one line. The client library's texts leave the sources out.
fn with_sources(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answer(status_code: u16, message: &str) -> Error {
        let message = message.to_owned();
        Error::DockerResponseServerError {
            status_code,
            message,
        }
    }

    fn reason(status: u16, message: &str) -> Reason {
        of(&answer(status, message), Path::new("/docker.sock"), None).reason
    }

    #[test]
    fn the_text_decides_before_the_status() {
        let denied = "pull access denied for x, repository does not exist or may require \
                      'docker login': denied: requested access to the resource is denied";
        let cases = [
            (404, denied, Reason::Unauthorized),
            (
                404,
                "manifest for x:1 not found: manifest unknown: manifest unknown",
                Reason::ImageNotFound,
            ),
            (404, "it is nowhere to be seen", Reason::ImageNotFound),
            (
                500,
                "Get \"http://x/v2/\": no basic auth credentials",
                Reason::Unauthorized,
            ),
            (
                500,
                "write /var/lib/docker/tmp/x: no space left on device",
                Reason::DiskFull,
            ),
            (503, "starting up", Reason::RuntimeUnavailable),
            (500, "something else", Reason::Unknown),
        ];
        for (status, message, expected) in cases {
            assert_eq!(reason(status, message), expected, "{status} {message}");
        }
    }

    #[test]
    fn messages_hold_no_secret_and_delays_are_read() {
        let error = answer(
            500,
            "login with hush-hush failed: toomanyrequests: retry-after: 3s",
        );
        let failure = of(&error, Path::new("/docker.sock"), Some("hush-hush"));
        assert_eq!(failure.reason, Reason::TooManyRequests);
        assert_eq!(failure.retry_after, Some(Duration::from_secs(3)));
        assert!(!failure.message.contains("hush"), "{failure:?}");
    }

    #[test]
    fn an_unavailable_engine_is_named_by_its_socket() {
        let error = Error::SocketNotFoundError("/run/d.sock".to_owned());
        let failure = of(&error, Path::new("/run/d.sock"), None);
        assert_eq!(failure.reason, Reason::RuntimeUnavailable);
        assert_eq!(
            failure.message,
            "Docker Engine does not answer on /run/d.sock: Socket not found: /run/d.sock"
        );
    }
}
