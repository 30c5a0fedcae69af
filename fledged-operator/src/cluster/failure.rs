//! What an answer of the API server means for a write.

use std::time::Duration;

use fledged_core::ports::WriteFailure;

/// Sorts a failed request.
pub(super) fn write_failure(error: kube::Error) -> WriteFailure {
    let kube::Error::Api(status) = &error else {
        return WriteFailure::Unavailable {
            message: error.to_string(),
            retry_after: None,
        };
    };
    let message = status.message.clone();
    match status.code {
        404 | 410 => WriteFailure::Gone(message),
        409 => WriteFailure::Conflict(message),
        _ => {
            let details = status.details.as_ref();
            let seconds = details.map_or(0, |details| details.retry_after_seconds);
            WriteFailure::Unavailable {
                message,
                retry_after: (seconds > 0).then(|| Duration::from_secs(seconds.into())),
            }
        }
    }
}
