//! From a gRPC status to a failure.

use std::error::Error;
use std::path::Path;

use fledged_core::error::{Failure, Reason};
use tonic::{Code, Status};

use crate::classify::{known_reason_of_text, redact, retry_after_of_text};

/// The failure for a gRPC status. The text decides before the code, because runtimes report most
/// errors of registries as `Unknown`.
///
/// `secrets` were part of the request. The message does not repeat them.
pub(crate) fn failure_of_status(status: &Status, socket: &Path, secrets: &[&str]) -> Failure {
    if is_transport(status) {
        return unavailable(socket, &causes(status));
    }
    let text = status.message();
    let reason = known_reason_of_text(text).unwrap_or_else(|| reason_of_code(status.code(), text));
    let message = redact(without_prefix(text), secrets);
    let message = if message.is_empty() {
        format!("the runtime reports only the gRPC code {:?}", status.code())
    } else {
        message
    };
    Failure::new(reason, message).with_retry_after(retry_after_of_text(text))
}

/// The failure of a call without an answer.
pub(super) fn unavailable(socket: &Path, cause: &str) -> Failure {
    Failure::new(
        Reason::RuntimeUnavailable,
        format!(
            "no answer from the runtime at {}: {cause}",
            socket.display()
        ),
    )
}

/// Whether the server does not serve the service or the method. These are the texts of gRPC's Go
/// implementation, which containerd, CRI-O and cri-dockerd use; other implementations leave the text
/// empty. The code alone is not enough: runtimes also use it for unsupported media types.
pub(super) fn is_unserved(status: &Status) -> bool {
    let text = status.message();
    status.code() == Code::Unimplemented
        && (text.is_empty()
            || text.starts_with("unknown service")
            || text.starts_with("unknown method"))
}

/// Whether the status comes from this side because the connection failed. Those have a source.
fn is_transport(status: &Status) -> bool {
    status.source().is_some()
}

/// The innermost cause of a status from this side, usually an operating system error.
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
        // gRPC's limit on message size, not a registry's rate limit.
        Code::ResourceExhausted if text.contains("larger than max") => Reason::Unknown,
        Code::ResourceExhausted => Reason::TooManyRequests,
        // The runtime cancelled the pull: no progress, or the runtime is stopping.
        Code::Cancelled | Code::Aborted => Reason::ConnectionFailed,
        Code::DataLoss => Reason::DigestMismatch,
        _ => Reason::Unknown,
    }
}

/// The text without gRPC's prefixes, which runtimes leave in when they pass an error on.
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
    fn the_message_is_the_runtimes_text_without_secrets() {
        let text = "rpc error: code = Unknown desc = login with hunter2 failed: 401 Unauthorized";
        let failure = failure(Code::Unknown, text);
        assert_eq!(
            failure.message,
            "login with [redacted] failed: 401 Unauthorized"
        );
        assert_eq!(failure.reason, Reason::Unauthorized);
    }

    #[test]
    fn a_status_without_text_names_its_code() {
        assert!(failure(Code::Internal, "").message.contains("Internal"));
    }

    #[test]
    fn only_grpcs_texts_mean_an_unserved_method() {
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
