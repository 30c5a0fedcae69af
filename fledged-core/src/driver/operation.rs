//! What one command comes to, through the ports.

use crate::error::{ErrorClass, Failure, Reason, RuntimeError};
use crate::node::Inventory;
use crate::ports::{
    Credentials, CredentialsRequest, ImageRuntime, ProgressSink, PullRequest, RemovalScope,
    RuntimeImage,
};

/// Reads what a runtime holds. What a removal takes away is asked once and then known.
pub(super) async fn read_inventory(
    runtime: &dyn ImageRuntime,
    with_usage: bool,
    removal: Option<RemovalScope>,
) -> Result<Inventory, Failure> {
    let failure = |error: RuntimeError| error.failure().clone();
    let removal = match removal {
        Some(removal) => removal,
        None => runtime.info().await.map_err(failure)?.removal,
    };
    // Users first: an image that a container starts to use in between is then missing from the
    // list of users but not yet removed; the runtime itself asks again before it removes.
    let in_use = match with_usage {
        true => runtime.in_use().await.map_err(failure)?,
        false => Vec::new(),
    };
    let images = runtime.list().await.map_err(failure)?;
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
            Err(error) => {
                refused = error.failure().clone();
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
        return Err(Failure::new(
            Reason::CredentialsUnavailable,
            format!("{unavailable}; without credentials: {refused}"),
        ));
    }
    if known > 1 {
        refused.message = format!("none of {known} sets of credentials was accepted: {refused}");
    }
    Err(refused)
}
