//! Failed requests to the API server: in words, and what they mean for a write.

use std::error::Error;
use std::time::Duration;

use fledged_core::port::WriteFailure;
use kube::core::Status;
use kube::core::response::StatusCause;

/// The message of the API server, or of the client if there was no response.
#[must_use]
pub fn problem(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => {
            format!("{} ({})", status.message, status.code)
        }
        error => with_causes(error),
    }
}

/// An error with its causes, each once. "client error (Connect)" alone does not say why.
#[must_use]
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

/// Classifies a failed write: the object is gone, it has changed, or the write should be retried, with the
/// delay that the API server asked for.
#[must_use]
pub fn write_failure(error: kube::Error) -> WriteFailure {
    let kube::Error::Api(status) = &error else {
        return WriteFailure::Unavailable {
            message: with_causes(&error),
            retry_after: None,
        };
    };
    let message = status.message.clone();
    match status.code {
        // Without a name, the kind is missing (not served yet), not the object.
        404 if names_object(status) => WriteFailure::Gone(message),
        409 => WriteFailure::Conflict(message),
        503 if fledged_core::planted::is("unavailable-taken-for-gone") => {
            WriteFailure::Gone(message)
        }
        // A terminating namespace accepts no new objects.
        403 if has_cause(status, |cause| cause.reason == "NamespaceTerminating") => {
            WriteFailure::Gone(message)
        }
        // The UID in the patch does not match: the object was replaced by another of its name.
        422 if has_cause(status, |cause| cause.field == "metadata.uid") => {
            WriteFailure::Gone(message)
        }
        _ if is_too_large(status) => WriteFailure::TooLarge(message),
        _ => WriteFailure::Unavailable {
            message,
            retry_after: retry_after(&error),
        },
    }
}

/// The delay that the API server asked for.
pub fn retry_after(error: &kube::Error) -> Option<Duration> {
    let kube::Error::Api(status) = error else {
        return None;
    };
    let named = status
        .details
        .as_ref()
        .map(|details| details.retry_after_seconds);
    let seconds = match (named.unwrap_or_default(), status.code) {
        // What API Priority and Fairness asks for, in plain text and a header that a plain client drops.
        (0, 429 | 503) => 1,
        (seconds, _) => seconds,
    };
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

/// Whether the API server, or etcd behind it, refused an object because of its size.
pub fn is_too_large(status: &Status) -> bool {
    // etcd's refusals come as internal errors.
    const TEXTS: [&str; 3] = [
        "request is too large",
        "entity too large",
        "message larger than max",
    ];
    let message = status.message.to_ascii_lowercase();
    status.code == 413 || TEXTS.iter().any(|text| message.contains(text))
}

fn names_object(status: &Status) -> bool {
    let details = status.details.as_ref();
    details.is_some_and(|details| !details.name.is_empty())
}

fn has_cause(status: &Status, is: impl Fn(&StatusCause) -> bool) -> bool {
    let details = status.details.iter();
    let mut causes = details.flat_map(|details| &details.causes);
    causes.any(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_shown_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot reach x: refused")]
        struct Outer(#[source] Inner);
        #[derive(Debug, thiserror::Error)]
        #[error("refused")]
        struct Inner(#[source] std::fmt::Error);
        let text = with_causes(&Outer(Inner(std::fmt::Error)));
        let expected = format!("cannot reach x: refused: {}", std::fmt::Error);
        assert_eq!(text, expected);
    }
}
