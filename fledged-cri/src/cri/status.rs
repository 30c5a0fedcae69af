//! From a gRPC status to a failure.

use std::error::Error;
use std::path::Path;

use fledged_core::error::{Failure, Reason};
use tonic::{Code, Status};

use crate::classify::{known_reason_of_text, redact, retry_after_of_text};

/// The failure that a status stands for. The text decides before the code does: runtimes give most
/// of the registry's errors as `Unknown`.
///
/// `secrets` are those sent along with the call; they never come back in the message.
pub(super) fn failure_of_status(status: &Status, socket: &Path, secrets: &[&str]) -> Failure {
    if is_transport(status) {
        return unavailable(socket, &causes(status));
    }
    let text = status.message();
    let reason = known_reason_of_text(text).unwrap_or_else(|| reason_of_code(status.code(), text));
    let message = redact(without_prefix(text), secrets);
    let message = if message.is_empty() {
        format!(
            "the runtime gives no more than the gRPC code {:?}",
            status.code()
        )
    } else {
        message
    };
    Failure::new(reason, message).with_retry_after(retry_after_of_text(text))
}

/// The failure of a call that got no answer.
pub(super) fn unavailable(socket: &Path, cause: &str) -> Failure {
    Failure::new(
        Reason::RuntimeUnavailable,
        format!(
            "no answer from the runtime at {}: {cause}",
            socket.display()
        ),
    )
}

/// Whether the server does not know the service or the method at all, in the words of gRPC's Go
/// implementation, which containerd, CRI-O and cri-dockerd use. Other implementations leave the text
/// empty. "Unimplemented" alone may also be a runtime's word for a media type.
pub(super) fn is_unserved(status: &Status) -> bool {
    let text = status.message();
    status.code() == Code::Unimplemented
        && (text.is_empty()
            || text.starts_with("unknown service")
            || text.starts_with("unknown method"))
}

/// Whether the status was made on this side, because the connection failed: those have a source.
fn is_transport(status: &Status) -> bool {
    status.source().is_some()
}

/// What lies behind a status made on this side: the innermost cause says most, an operating system
/// error as a rule.
fn causes(status: &Status) -> String {
    let mut cause = status.message().to_owned();
    let mut next = status.source();
    while let Some(error) = next {
        let text = error.to_string();
        if !text.is_empty() {
            cause = text;
        }
        next = error.source();
    }
    cause
}

fn reason_of_code(code: Code, text: &str) -> Reason {
    match code {
        Code::Unavailable => Reason::RuntimeUnavailable,
        Code::Unimplemented => Reason::RuntimeUnsupported,
        Code::DeadlineExceeded => Reason::DeadlineExceeded,
        Code::Unauthenticated | Code::PermissionDenied => Reason::Unauthorized,
        Code::NotFound => Reason::ImageNotFound,
        Code::InvalidArgument => Reason::InvalidReference,
        // The runtime's limit on a message, not the registry's on requests.
        Code::ResourceExhausted if text.contains("larger than max") => Reason::Unknown,
        Code::ResourceExhausted => Reason::TooManyRequests,
        // The runtime gave up a pull of its own accord: no progress, or it is being stopped.
        Code::Cancelled | Code::Aborted => Reason::ConnectionFailed,
        Code::DataLoss => Reason::DigestMismatch,
        _ => Reason::Unknown,
    }
}

/// The text without gRPC's own words, which runtimes leave in when they pass an error on.
fn without_prefix(text: &str) -> &str {
    let mut text = text.trim();
    while let Some(rest) = text.strip_prefix("rpc error: code = ") {
        let Some((_, description)) = rest.split_once(" desc = ") else {
            break;
        };
        text = description;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: Code, text: &str) -> Failure {
        failure_of_status(
            &Status::new(code, text),
            Path::new("/run/x.sock"),
            &["hunter2"],
        )
    }

    #[test]
    fn the_text_decides_before_the_code() {
        for (code, text, reason) in [
            (
                Code::NotFound,
                "no match for platform in manifest: not found",
                Reason::PlatformNotFound,
            ),
            (
                Code::ResourceExhausted,
                "no space left on device",
                Reason::DiskFull,
            ),
            (
                Code::ResourceExhausted,
                "429 Too Many Requests",
                Reason::TooManyRequests,
            ),
            (
                Code::Unavailable,
                "unexpected status: 503 Service Unavailable",
                Reason::RegistryError,
            ),
            (
                Code::Unavailable,
                "ref layer-sha256:1 locked for 2s: unavailable",
                Reason::Unknown,
            ),
            (
                Code::Unimplemented,
                "unsupported media type application/x: not implemented",
                Reason::InvalidImage,
            ),
        ] {
            assert_eq!(failure(code, text).reason, reason, "{code:?} {text}");
        }
    }

    #[test]
    fn the_code_decides_where_the_text_is_unknown() {
        for (code, reason) in [
            (Code::Unavailable, Reason::RuntimeUnavailable),
            (Code::Unimplemented, Reason::RuntimeUnsupported),
            (Code::DeadlineExceeded, Reason::DeadlineExceeded),
            (Code::Unauthenticated, Reason::Unauthorized),
            (Code::PermissionDenied, Reason::Unauthorized),
            (Code::NotFound, Reason::ImageNotFound),
            (Code::InvalidArgument, Reason::InvalidReference),
            (Code::ResourceExhausted, Reason::TooManyRequests),
            (Code::Cancelled, Reason::ConnectionFailed),
            (Code::Internal, Reason::Unknown),
        ] {
            assert_eq!(failure(code, "something new").reason, reason, "{code:?}");
        }
        let too_large = "grpc: trying to send message larger than max (17 vs. 16)";
        assert_eq!(
            failure(Code::ResourceExhausted, too_large).reason,
            Reason::Unknown
        );
    }

    #[test]
    fn the_message_is_the_runtimes_own_without_secrets() {
        let text = "rpc error: code = Unknown desc = login with hunter2 failed: 401 Unauthorized";
        let failure = failure(Code::Unknown, text);
        assert_eq!(
            failure.message,
            "login with [redacted] failed: 401 Unauthorized"
        );
        assert_eq!(failure.reason, Reason::Unauthorized);
    }

    #[test]
    fn a_status_without_text_still_says_something() {
        assert!(failure(Code::Internal, "").message.contains("Internal"));
    }

    #[test]
    fn only_grpcs_own_words_mean_that_a_service_is_missing() {
        assert!(is_unserved(&Status::unimplemented(
            "unknown service runtime.v1.ImageService"
        )));
        assert!(is_unserved(&Status::unimplemented("")));
        assert!(!is_unserved(&Status::unimplemented(
            "schema 1: not implemented"
        )));
        assert!(!is_unserved(&Status::unknown("unknown service")));
    }
}
