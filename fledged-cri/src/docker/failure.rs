//! What went wrong, from the client's errors and the Engine's texts.

use std::error::Error as _;
use std::path::Path;

use bollard::errors::Error;
use fledged_core::error::{Failure, Reason};

use crate::classify::reason_of_text;

/// The failure in an error of the client, with the Engine's own text.
pub(super) fn of(error: &Error, socket: &Path) -> Failure {
    match error {
        Error::DockerResponseServerError {
            status_code,
            message,
        } => Failure::new(reason_of_answer(*status_code, message), message.as_str()),
        Error::DockerStreamError { error } => Failure::new(reason_of_text(error), error.as_str()),
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

/// The status of an error that the Engine answers with; 0 for any other error.
pub(super) fn status(error: &Error) -> u16 {
    match error {
        Error::DockerResponseServerError { status_code, .. } => *status_code,
        _ => 0,
    }
}

/// The text says more than the status: the Engine answers 500 to whatever a registry refuses.
fn reason_of_answer(status: u16, message: &str) -> Reason {
    match (reason_of_text(message), status) {
        (Reason::Unknown, 404) => Reason::ImageNotFound,
        (Reason::Unknown, 401 | 403) => Reason::Unauthorized,
        (Reason::Unknown, 503) => Reason::RuntimeUnavailable,
        (reason, _) => reason,
    }
}

/// An error and what it came from, in one line; the client's own texts leave the sources out.
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
    use super::*;

    fn reason(status_code: u16, message: &str) -> Reason {
        let error = Error::DockerResponseServerError {
            status_code,
            message: message.to_owned(),
        };
        of(&error, Path::new("/docker.sock")).reason
    }

    #[test]
    fn the_text_decides_and_the_status_helps_out() {
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
    fn an_engine_that_is_away_is_named_by_its_socket() {
        let error = Error::SocketNotFoundError("/run/d.sock".to_owned());
        let failure = of(&error, Path::new("/run/d.sock"));
        assert_eq!(failure.reason, Reason::RuntimeUnavailable);
        assert_eq!(
            failure.message,
            "Docker Engine does not answer on /run/d.sock: Socket not found: /run/d.sock"
        );
    }
}
