//! What one command comes to, through the ports.

use std::future::Future;
use std::time::Duration;

use futures_util::future::FutureExt;

use crate::error::{ErrorClass, Failure, Reason};
use crate::port::{
    Clock, Credentials, CredentialsRequest, ImageRuntime, ProgressSink, PullRequest, RemovalScope,
    RuntimeImage,
};
use crate::warmer::Inventory;

/// Longest that anything but a pull may take: the kubelet's default `--runtime-request-timeout`.
/// A pull has its image's own deadline.
const CALL_LIMIT: Duration = Duration::from_secs(120);

/// The answer of a call, or a failure when it takes too long.
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

/// Reads what a runtime holds. What a removal takes away is asked once and then known.
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
    let in_use = match with_usage {
        true => runtime.in_use().await?,
        false => Vec::new(),
    };
    let images = runtime.list().await?;
    Ok(Inventory::new(images, in_use, removal))
}

/// Pulls with each set of credentials in turn until one is accepted, as the kubelet does.
///
/// Where credentials were named but could not be read, an anonymous pull is tried all the same: the
/// image may be public. If that is refused too, the failure says both.
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
    let mut refused = Failure::new(Reason::Unknown, "no attempt was made");
    for auth in attempts {
        let pull = PullRequest {
            image: request.image.clone(),
            auth,
            progress: progress.clone(),
        };
        match runtime.pull(pull).await {
            Ok(image) => return Ok(image),
            Err(failure) => {
                refused = failure;
                // Some registries say "not found" to whoever may not look.
                if !matches!(
                    refused.class(),
                    ErrorClass::Unauthorized | ErrorClass::NotFound
                ) {
                    return Err(refused);
                }
            }
        }
    }
    if let Some(unavailable) = unavailable {
        let message = format!("{unavailable}; without credentials: {refused}");
        // What passes by itself is not held against the credentials.
        let reason = match unavailable.class().is_transient() {
            true => unavailable.reason,
            false => Reason::CredentialsUnavailable,
        };
        return Err(Failure::new(reason, message).with_retry_after(unavailable.retry_after));
    }
    if known > 1 && refused.class() == ErrorClass::Unauthorized {
        refused.message = format!("none of {known} sets of credentials was accepted: {refused}");
    }
    Err(refused)
}
