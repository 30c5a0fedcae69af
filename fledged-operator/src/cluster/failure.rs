//! What an answer of the API server means for a write.

use std::time::Duration;

use fledged_core::port::WriteFailure;
use kube::core::Status;
use kube::core::response::StatusCause;

use crate::problem::with_causes;

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
