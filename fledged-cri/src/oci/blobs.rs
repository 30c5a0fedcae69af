//! Fetching blobs, each once however many pulls want it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::Digest;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_util::task::TaskTracker;

use super::ingest::ingest;
use super::layout::Layout;
use super::lock::Writer;
use super::meter::Meter;
use crate::registry::{Blob, Session, failure};

/// Chunks between the network and the disk. A chunk is at most some 400 KiB (the HTTP client's read
/// buffer), so this bounds a download to about 3 MiB, and is enough to bridge a slow write.
const CHUNKS_AHEAD: usize = 8;

/// Who is fetching what. Whoever holds a digest's lock fetches; the others wait for it and find the
/// blob there, or take over when the fetcher failed or was dropped.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>);

impl Flights {
    async fn board(&self, digest: &Digest) -> OwnedMutexGuard<()> {
        let lock = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match flights.get(digest).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    flights.retain(|_, lock| lock.strong_count() > 0);
                    let lock = Arc::new(tokio::sync::Mutex::new(()));
                    flights.insert(digest.clone(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

/// Makes sure that a blob is there; fetches it unless somebody else does or did.
///
/// The blob must be pinned, and `meter` expect its bytes. Writing runs on `threads`, which may be
/// waited for when this future was dropped.
pub(crate) async fn fetch(
    layout: &Layout,
    flights: &Flights,
    session: &Session,
    blob: &Blob,
    meter: &Meter,
    writer: &Arc<Writer>,
    threads: &TaskTracker,
) -> Result<(), Failure> {
    let _flight = flights.board(&blob.digest).await;
    if layout.has(&blob.digest, blob.size)? {
        meter.forgo(blob.size);
        return Ok(());
    }
    let mut response = session.blob(blob).await?;
    if let Some(length) = response.content_length()
        && length != blob.size
    {
        return Err(Failure::new(
            Reason::DigestMismatch,
            format!(
                "blob {} comes with {length} bytes, its descriptor says {}",
                blob.digest, blob.size
            ),
        ));
    }
    let (sender, receiver) = mpsc::channel::<Bytes>(CHUNKS_AHEAD);
    let ingesting = {
        let (layout, blob, writer) = (layout.clone(), blob.clone(), Arc::clone(writer));
        threads.spawn_blocking(move || ingest(&layout, &blob, receiver, writer))
    };
    let mut broken = None;
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                meter.advance(chunk.len() as u64);
                // Closed: the other side has ended, and says why below.
                if sender.send(chunk).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                broken = Some(failure::of_transport("reading a blob broke off", error));
                break;
            }
        }
    }
    drop(sender);
    let ingested = ingesting
        .await
        .map_err(|error| Failure::new(Reason::Unknown, error.to_string()))?;
    match broken {
        Some(failure) => Err(failure),
        None => ingested,
    }
}
