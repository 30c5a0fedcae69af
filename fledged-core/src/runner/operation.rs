//! The operations of a node loop, through the ports.

use std::future::Future;
use std::time::Duration;

use futures_util::future::FutureExt;

use crate::error::{ErrorClass, Failure, Reason, plain_text};
use crate::model::ByteSize;
use crate::port::{
    Clock, Credentials, CredentialsRequest, ImageRuntime, ProgressSink, PullRequest, RemovalScope,
    RuntimeImage,
};
use crate::warmer::Inventory;

/// Time limit of all calls but pulls: the kubelet's default `--runtime-request-timeout`.
/// A pull has its image's own deadline.
const CALL_LIMIT: Duration = Duration::from_secs(120);

/// Longest text about credentials that could not be read, in characters.
const UNREAD_MAX: usize = 150;

/// Room on an image file system with which it does not count as full.
const ROOM: ByteSize = ByteSize::new(1 << 30);

/// The result of a call, or a failure when it takes longer than [`CALL_LIMIT`].
pub(super) async fn answered<T>(
    clock: &dyn Clock,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let call = call.fuse();
    let timer = clock.sleep(CALL_LIMIT).fuse();
    futures_util::pin_mut!(call, timer);
    futures_util::select_biased! {
        result = call => result,
        () = timer => Err(Failure::new(
            Reason::RuntimeUnavailable,
            format!("the runtime did not answer within {} s", CALL_LIMIT.as_secs()),
        )),
    }
}

/// Reads a runtime's inventory. `removal` is its scope of removals, which never changes, if it is known.
pub(super) async fn read_inventory(
    runtime: &dyn ImageRuntime,
    with_usage: bool,
    removal: Option<RemovalScope>,
) -> Result<Inventory, Failure> {
    let removal = match removal {
        Some(removal) => removal,
        None => runtime.info().await?.removal,
    };
    // Users first: an image that a container starts to use in between is then missing from the
    // list of users but not yet removed; the runtime itself asks again before it removes.
    let in_use = if with_usage {
        runtime.in_use().await?
    } else {
        Vec::new()
    };
    let images = runtime.list().await?;
    Ok(Inventory::new(images, in_use, removal))
}

/// Pulls with each set of credentials in turn until one is accepted, as the kubelet does.
///
/// Where credentials were named but could not be read, an anonymous pull is attempted: the image may
/// be public.
pub(super) async fn pull(
    runtime: &dyn ImageRuntime,
    credentials: &dyn Credentials,
    request: CredentialsRequest,
    progress: ProgressSink,
) -> Result<RuntimeImage, Failure> {
    let (auths, unavailable) = match credentials.resolve(&request).await {
        Ok(auths) => (auths, None),
        Err(failure) => (Vec::new(), Some(failure)),
    };
    let known = auths.len();
    let mut attempts: Vec<_> = auths.into_iter().map(Some).collect();
    if attempts.is_empty() {
        attempts.push(None);
    }
    let mut last: Option<Failure> = None;
    for auth in attempts {
        let pull = PullRequest {
            image: request.image.clone(),
            auth,
            progress: progress.clone(),
        };
        match runtime.pull(pull).await {
            Ok(image) => return Ok(image),
            Err(failure) if depends_on_credentials(&failure) => {
                // A delay that a registry asks of one account is no reason to wait with others.
                let replaces = |last: &Failure| last.class() == ErrorClass::Throttled;
                if last.as_ref().is_none_or(replaces) || failure.class() != ErrorClass::Throttled {
                    last = Some(failure);
                }
            }
            Err(mut failure) => {
                if failure.class() == ErrorClass::DiskFull {
                    failure.node_has_room = has_room(runtime).await;
                }
                return Err(failure);
            }
        }
    }
    let last = last.unwrap_or_else(|| Failure::new(Reason::Unknown, "no attempt was made"));
    Err(refusal(last, known, unavailable))
}

/// Whether all image file systems are known to have room. A registry or a proxy can claim that a disk is
/// full; only the file system knows.
async fn has_room(runtime: &dyn ImageRuntime) -> bool {
    let filesystems = runtime.filesystems().await.unwrap_or_default();
    let mut available = filesystems.iter().map(|usage| usage.available);
    !filesystems.is_empty() && available.all(|room| room.is_some_and(|room| room >= ROOM))
}

/// Whether a pull may succeed with other credentials. Some registries answer "not found" to clients
/// without access, throttle by account, or fail for one account only.
fn depends_on_credentials(failure: &Failure) -> bool {
    let by_account = [
        ErrorClass::Unauthorized,
        ErrorClass::NotFound,
        ErrorClass::Throttled,
    ];
    by_account.contains(&failure.class()) || failure.reason == Reason::RegistryError
}

/// The failure of a pull that was refused with `known` sets of credentials, or anonymously because
/// the named credentials were `unavailable`.
fn refusal(last: Failure, known: usize, unavailable: Option<Failure>) -> Failure {
    if let Some(unavailable) = unavailable {
        // A transient failure to read them is retried soon; any other needs an operator, unless the registry gave
        // an answer that credentials don't change.
        let reason = if unavailable.class().is_transient() {
            unavailable.reason
        } else if last.class() == ErrorClass::Unauthorized {
            Reason::CredentialsUnavailable
        } else {
            last.reason
        };
        // The registry's text comes first, and the other one is short: long messages are cut at their end.
        let unread = plain_text(&unavailable.message, UNREAD_MAX);
        let message = format!("{last} (pulled without credentials: {unread})");
        return Failure::new(reason, message).with_retry_after(unavailable.retry_after);
    }
    if known > 1 && last.class() == ErrorClass::Unauthorized {
        let message = format!("none of {known} sets of credentials was accepted: {last}");
        return Failure { message, ..last };
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_and_missing_images_use_other_credentials() {
        for (reason, expected) in [
            (Reason::Unauthorized, true),
            (Reason::CredentialsUnavailable, true),
            (Reason::ImageNotFound, true),
            (Reason::PlatformNotFound, true),
            (Reason::TooManyRequests, true),
            (Reason::RegistryError, true),
            (Reason::ConnectionFailed, false),
            (Reason::DiskFull, false),
            (Reason::InvalidImage, false),
            (Reason::RuntimeUnavailable, false),
            (Reason::Unknown, false),
        ] {
            let failure = Failure::new(reason, "");
            assert_eq!(depends_on_credentials(&failure), expected, "{reason}");
        }
    }

    #[test]
    fn a_refused_pull_names_reason_and_credentials() {
        use Reason::{ConnectionFailed, CredentialsUnavailable, ImageNotFound, Unauthorized};
        for (last, known, unavailable, reason, message) in [
            (Unauthorized, 0, None, Unauthorized, "denied"),
            (Unauthorized, 1, None, Unauthorized, "denied"),
            (
                Unauthorized,
                3,
                None,
                Unauthorized,
                "none of 3 sets of credentials was accepted: denied",
            ),
            (ImageNotFound, 3, None, ImageNotFound, "denied"),
            (
                Unauthorized,
                0,
                Some(Unauthorized),
                CredentialsUnavailable,
                "denied (pulled without credentials: no secret)",
            ),
            (
                ImageNotFound,
                0,
                Some(Unauthorized),
                ImageNotFound,
                "denied (pulled without credentials: no secret)",
            ),
            (
                ImageNotFound,
                0,
                Some(ConnectionFailed),
                ConnectionFailed,
                "denied (pulled without credentials: no secret)",
            ),
        ] {
            let last = Failure::new(last, "denied");
            let unavailable = unavailable.map(|reason| Failure::new(reason, "no secret"));
            let found = refusal(last, known, unavailable);
            assert_eq!((found.reason, found.message.as_str()), (reason, message));
        }
    }
}
