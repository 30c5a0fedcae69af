//! The operations of a node loop, through the ports.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::FutureExt;

use super::anonymous::AnonymousDelays;
use crate::error::{ErrorClass, Failure, Reason};
use crate::model::ByteSize;
use crate::port::{
    Clock, Credentials, CredentialsRequest, FilesystemUsage, ImageRuntime, ProgressSink,
    PullRequest, RemovalScope, RuntimeImage, SharedPullLimit,
};
use crate::warmer::Inventory;

/// Time limit of all calls but pulls: the kubelet's default `--runtime-request-timeout`.
/// A pull has its image's own deadline.
const CALL_LIMIT: Duration = Duration::from_secs(120);

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
    with_disk: bool,
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
    // One that can't be read stops no pull.
    let filesystems = if with_disk {
        runtime.filesystems().await.unwrap_or_default()
    } else {
        Vec::new()
    };
    let used = filesystems.iter().filter_map(FilesystemUsage::used_percent);
    Ok(Inventory::new(images, in_use, removal).with_disk_used(used.max()))
}

/// What pulls need.
pub(super) struct PullPorts {
    pub(super) runtime: Arc<dyn ImageRuntime>,
    pub(super) credentials: Arc<dyn Credentials>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) anonymous: Arc<AnonymousDelays>,
}

/// Pulls with each set of credentials in turn until one is accepted. Also returns the
/// [warning](crate::port::FoundCredentials::warning) about others.
pub(super) async fn pull(
    ports: &PullPorts,
    request: CredentialsRequest,
    progress: ProgressSink,
    limit: SharedPullLimit,
) -> (Result<RuntimeImage, Failure>, Option<String>) {
    let PullPorts {
        runtime,
        credentials,
        clock,
        anonymous,
    } = ports;
    let found = credentials.resolve(&request).await;
    let warning = found.warning();
    let pulled = found.attempt(|auth| {
        let is_anonymous = auth.is_none();
        let pull = runtime.pull(PullRequest {
            image: request.image.clone(),
            auth,
            progress: progress.clone(),
            limit: limit.clone(),
        });
        let image = &request.image;
        async move {
            if is_anonymous {
                anonymous.keep(image, clock.as_ref(), pull).await
            } else {
                pull.await
            }
        }
    });
    let mut result = pulled.await;
    if let Err(failure) = &mut result
        && failure.class() == ErrorClass::DiskFull
    {
        failure.node_has_room = has_room(runtime.as_ref()).await;
    }
    (result, warning)
}

/// Whether all image file systems are known to have room. A registry or a proxy can claim that a disk is
/// full; only the file system knows.
async fn has_room(runtime: &dyn ImageRuntime) -> bool {
    let filesystems = runtime.filesystems().await.unwrap_or_default();
    let mut available = filesystems.iter().map(|usage| usage.available);
    !filesystems.is_empty() && available.all(|room| room.is_some_and(|room| room >= ROOM))
}
