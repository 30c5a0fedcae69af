//! Downloads of missing layers into containerd's content store.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, Digest, PulledVia};
use futures_util::future::join_all;
use futures_util::stream::{self, TryStreamExt as _};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::content::Content;
use super::ingest::{Ingest, Opened};
use super::priority::OwnLayers;
use crate::classify::redact;
use crate::registry::{Blob, BlobDownload, Downloads, FirstPart};

/// Layers that are fetched in parallel: containerd's default. The lowest come first, so that containerd unpacks
/// them meanwhile.
const PARALLEL_LAYERS: usize = 3;
/// Bytes of one write.
const WRITE: usize = 1024 * 1024;
/// How long a layer that another client writes is tried again. The write of a pull that has just been cancelled
/// ends within that.
const LOCKED_MAX: Duration = Duration::from_secs(2);
const LOCKED_RETRY: Duration = Duration::from_millis(100);

/// Where the layers of one pull go.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub(super) content: &'a Content,
    pub(super) own: &'a OwnLayers,
    pub(super) outcome: &'a Outcome,
    /// If one connection receives that many bytes a second, the layers are left to the runtime.
    pub(super) fast_enough: Option<ByteSize>,
}

/// What has become of the layers of one pull so far.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    has_fetched: AtomicBool,
    /// Whether the registry could not be reached: the remaining layers are left to the runtime.
    is_unreachable: AtomicBool,
    left: OnceLock<String>,
}

impl Outcome {
    /// A layer is left to the runtime, for this reason.
    fn leave(&self, layer: &Blob, why: &str) {
        self.leave_as(layer, why, why.to_owned());
    }

    /// A layer is left to the runtime. `why` is for the log, `reported` for a status.
    fn leave_as(&self, layer: &Blob, why: &str, reported: String) {
        tracing::debug!(digest = %layer.digest, why, "layer left to the runtime");
        // The first one is reported.
        let _ = self.left.set(reported);
    }

    /// A layer is left to the runtime, because of this failure. What others have written does not become part of a
    /// status.
    fn failed(&self, layer: &Blob, failure: &Failure) {
        if failure.reason == Reason::ConnectionFailed {
            self.is_unreachable.store(true, Ordering::Relaxed);
        }
        let reported = format!("{}: the log has the details", failure.reason);
        self.leave_as(layer, &redact(&failure.message, &[]), reported);
    }

    /// What fetched the layers.
    pub(super) fn via(&self) -> PulledVia {
        if self.has_fetched.load(Ordering::Relaxed) {
            return PulledVia::Fetcher;
        }
        let left = self.left.get().map(String::as_str);
        let why = left.unwrap_or("containerd had the layers, or another client was writing them");
        PulledVia::Runtime(why.to_owned())
    }
}

/// Fetches layers, the lowest first. `first_ended` is dropped when the first of them is complete, or given up.
///
/// A layer that cannot be fetched, or that another client writes, is left to containerd.
///
/// # Errors
///
/// [`Reason::TooManyRequests`], or [`Reason::DigestMismatch`] for a layer whose content is wrong.
pub(super) async fn fetch(
    downloads: &Downloads,
    target: &Target<'_>,
    layers: &[Blob],
    first_ended: oneshot::Sender<()>,
) -> Result<(), Failure> {
    let mut begun = match begin(downloads, target, layers).await? {
        Begun::FastEnough => return Ok(()),
        Begun::With(digest, ingest) => Some((digest, ingest)),
        Begun::Nothing => None,
    };
    // All are opened before the others are fetched: containerd fetches layers that no client writes.
    let opened = layers.iter().map(|layer| {
        let own = begun.take_if(|(digest, _)| **digest == layer.digest);
        async move {
            match own {
                Some((_, ingest)) => Some(*ingest),
                None => open(target, layer).await,
            }
        }
    });
    let opened = join_all(opened.collect::<Vec<_>>()).await;
    let ingests: Vec<(&Blob, Ingest)> = layers
        .iter()
        .zip(opened)
        .filter_map(|(layer, ingest)| Some((layer, ingest?)))
        .collect();
    for (layer, ingest) in &ingests {
        downloads
            .meter
            .expect(layer.size.saturating_sub(ingest.offset()));
    }
    // Only the first layer gets the sender.
    let ends = std::iter::once(Some(first_ended)).chain(std::iter::repeat_with(|| None));
    stream::iter(ingests.into_iter().zip(ends).map(Ok))
        .try_for_each_concurrent(PARALLEL_LAYERS, |((layer, ingest), ended)| async move {
            let _ended = ended;
            let outcome = target.outcome;
            if outcome.is_unreachable.load(Ordering::Relaxed) {
                return Ok(());
            }
            let length = layer.size.saturating_sub(ingest.offset());
            match fetch_layer(downloads, target.content, layer, ingest).await {
                // containerd would get the same content, or come too early.
                Err(failure)
                    if matches!(
                        failure.reason,
                        Reason::TooManyRequests | Reason::DigestMismatch
                    ) =>
                {
                    Err(failure)
                }
                Err(failure) => {
                    outcome.failed(layer, &failure);
                    Ok(())
                }
                Ok(()) => {
                    outcome.has_fetched.store(true, Ordering::Relaxed);
                    tracing::debug!(digest = %layer.digest, bytes = length, "layer fetched");
                    Ok(())
                }
            }
        })
        .await
}

/// How a fetch begins.
enum Begun<'a> {
    /// One connection is fast enough: the layers are left to the runtime.
    FastEnough,
    /// With the first part of this layer.
    With(&'a Digest, Box<Ingest>),
    Nothing,
}

/// Fetches the first part of the largest layer over one connection, to see how fast that is. The runtime continues the
/// layer where this ends.
///
/// # Errors
///
/// [`Reason::TooManyRequests`].
async fn begin<'a>(
    downloads: &Downloads,
    target: &Target<'_>,
    layers: &'a [Blob],
) -> Result<Begun<'a>, Failure> {
    let Some(fast_enough) = target.fast_enough else {
        return Ok(Begun::Nothing);
    };
    let Some(largest) = layers.iter().max_by_key(|layer| layer.size) else {
        return Ok(Begun::Nothing);
    };
    let Some(mut ingest) = open(target, largest).await else {
        return Ok(Begun::Nothing);
    };
    let part = downloads.first_part(largest, ingest.offset()).await;
    let part = match part {
        Ok(part) => part,
        Err(failure) if failure.reason == Reason::TooManyRequests => return Err(failure),
        // It is fetched once more, with retries.
        Err(failure) => {
            tracing::debug!(digest = %largest.digest, %failure, "first part not fetched");
            None
        }
    };
    let Some(FirstPart { chunks, rate }) = part else {
        return Ok(Begun::With(&largest.digest, Box::new(ingest)));
    };
    for chunk in chunks {
        if let Err(failure) = ingest.write(chunk).await {
            target.outcome.failed(largest, &failure);
            return Ok(Begun::Nothing);
        }
    }
    if rate < fast_enough {
        return Ok(Begun::With(&largest.digest, Box::new(ingest)));
    }
    if let Err(failure) = ingest.close().await {
        target.outcome.failed(largest, &failure);
        return Ok(Begun::Nothing);
    }
    let why = format!("one connection is fast enough: {fast_enough}/s or more");
    target.outcome.leave(largest, &why);
    Ok(Begun::FastEnough)
}

/// Opens a layer, unless it is present or another client writes it.
async fn open(target: &Target<'_>, layer: &Blob) -> Option<Ingest> {
    let Target {
        content,
        own,
        outcome,
        ..
    } = target;
    let deadline = Instant::now() + LOCKED_MAX;
    loop {
        match content.open("layer", &layer.digest, layer.size).await {
            Ok(Opened::Ingest(ingest)) => return Some(*ingest),
            Ok(Opened::Present) => return None,
            Ok(Opened::Locked) if own.is_shared(&layer.digest) => {
                // Another pull of this process fetches it.
                outcome.has_fetched.store(true, Ordering::Relaxed);
                return None;
            }
            Ok(Opened::Locked) if Instant::now() < deadline => {
                tokio::time::sleep(LOCKED_RETRY).await;
            }
            Ok(Opened::Locked) => {
                outcome.leave(layer, "another client of the runtime fetches the layers");
                return None;
            }
            Err(failure) => {
                outcome.failed(layer, &failure);
                return None;
            }
        }
    }
}

async fn fetch_layer(
    downloads: &Downloads,
    content: &Content,
    layer: &Blob,
    mut ingest: Ingest,
) -> Result<(), Failure> {
    let session = &downloads.session;
    loop {
        let offset = ingest.offset();
        let appended = append(downloads, layer, &mut ingest).await;
        if let Err(failure) = appended {
            // The registry has another length for the layer: what it has sent so far is not to be continued.
            if failure.reason == Reason::DigestMismatch {
                ingest.truncate().await?;
            }
            return Err(failure);
        }
        let digest = ingest.digest().await?;
        if digest == layer.digest.as_str() {
            return content.commit(ingest).await;
        }
        let failure = session.wrong_digest(layer, digest);
        // Before it is closed, because containerd continues what a closed ingest has.
        ingest.truncate().await?;
        // What an earlier pull has left may be wrong. If not, another host may have the right content.
        if offset == 0 && !session.distrust(layer) {
            return Err(failure);
        }
        tracing::info!(why = %failure, resumed_at = offset, "blob fetched again from its start");
        downloads.meter.expect(layer.size);
    }
}

/// Writes what is missing of a layer. On an error, everything that has arrived in order is written.
///
/// # Errors
///
/// [`Reason::DigestMismatch`] if the registry states another length; other failures of the download or of the
/// write.
async fn append(downloads: &Downloads, layer: &Blob, ingest: &mut Ingest) -> Result<(), Failure> {
    let mut download = downloads.blob(layer, ingest.offset());
    let mut buffer = BytesMut::with_capacity(WRITE);
    loop {
        let next = next_chunk(&mut download, ingest).await?;
        match &next {
            Ok(Some(chunk)) => buffer.extend_from_slice(chunk),
            Ok(None) | Err(_) => ingest.write(buffer.split().freeze()).await?,
        }
        if buffer.len() >= WRITE {
            ingest.write(buffer.split().freeze()).await?;
            buffer.reserve(WRITE);
        }
        if next?.is_none() {
            return Ok(());
        }
    }
}

/// The next bytes of a download. Meanwhile, containerd's answers are read, because it can end the write at any
/// time.
///
/// # Errors
///
/// A failed write. A failed download is an error in the inner result.
async fn next_chunk(
    download: &mut BlobDownload,
    ingest: &mut Ingest,
) -> Result<Result<Option<Bytes>, Failure>, Failure> {
    let next = download.next();
    tokio::pin!(next);
    loop {
        tokio::select! {
            biased;
            chunk = &mut next => return Ok(chunk),
            answered = ingest.answer() => answered?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::captured_log::CapturedLog;
    use crate::registry::sha256;

    #[test]
    fn the_log_has_the_details_of_a_layer_that_is_left() {
        let log = CapturedLog::start();
        let layer = Blob {
            digest: Digest::parse(&sha256(b"layer")).unwrap(),
            size: 5,
            urls: Vec::new(),
        };
        let outcome = Outcome::default();
        let failure = Failure::new(Reason::RegistryError, "r.lan refuses the blob: 500");
        outcome.failed(&layer, &failure);
        let lines = log.lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].ends_with(r#" why="r.lan refuses the blob: 500""#),
            "{lines:?}"
        );
        let reported = PulledVia::Runtime("RegistryError: the log has the details".to_owned());
        assert_eq!(outcome.via(), reported);
    }
}
