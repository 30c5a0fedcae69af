//! Failed requests to the API server: in words, and what they mean for a write.

use std::error::Error;
use std::time::Duration;

use fledged_core::port::WriteFailure;
use kube::core::Status;
use kube::core::response::StatusCause;

/// What an API server said, or why it said nothing.
#[must_use]
pub fn problem(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => {
            format!("{} ({})", status.message, status.code)
        }
        error => with_causes(error),
    }
}

/// An error with its causes, as far as they say anything new: "client error (Connect)" alone does not
/// tell why.
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

/// Sorts a failed request of a Kubernetes client: what is gone, what was changed meanwhile, and what is
/// to be tried again, with the delay that the API server asked for.
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
        // Without a name it is not the object that is missing, but its kind, for now.
        404 if names_object(status) => WriteFailure::Gone(message),
        409 => WriteFailure::Conflict(message),
        // Nothing new is taken by a namespace that is going.
        403 if has_cause(status, |cause| cause.reason == "NamespaceTerminating") => {
            WriteFailure::Gone(message)
        }
        // The UID in a patch is not that of the object: another one has the name by now.
        422 if has_cause(status, |cause| cause.field == "metadata.uid") => {
            WriteFailure::Gone(message)
        }
        _ => {
            let details = status.details.as_ref();
            let seconds = details.map_or(0, |details| details.retry_after_seconds);
            // A server's fairness answers in plain text, and its header is lost on the way here.
            let seconds = match status.code {
                429 | 503 => seconds.max(1),
                _ => seconds,
            };
            WriteFailure::Unavailable {
                message,
                retry_after: (seconds > 0).then(|| Duration::from_secs(seconds.into())),
            }
        }
    }
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
    fn causes_are_told_once() {
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
