//! Downloading blobs: each once, hashed while it is written, and named only if the digest matches.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, Digest};
use fledged_core::port::{ProgressSink, PullProgress};
use tokio::sync::OwnedMutexGuard;
use tokio::sync::mpsc::{self, Receiver};
use tokio_util::task::TaskTracker;

use super::layout::Layout;
use super::layout_error::LayoutError;
use super::lock::Writer;
use crate::registry::{Blob, Digester, Session, failure_of_transport};

/// Chunks buffered between the network and the disk. A chunk has at most some 400 KiB (the HTTP client's
/// read buffer), so a download takes about 3 MiB, enough to bridge a slow write.
const CHUNKS_AHEAD: usize = 8;

/// The downloads in progress, as a lock for each digest. The holder of the lock downloads. The others
/// wait for the lock and then find the blob, or download it if the first holder failed or was dropped.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>);

impl Flights {
    async fn lock(&self, digest: &Digest) -> OwnedMutexGuard<()> {
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

/// Downloads a blob, unless it is present or another pull downloads it.
///
/// The blob must be pinned, and `meter` must expect its bytes. Writing runs on `threads`, for which the
/// caller can wait after this future is dropped.
pub(crate) async fn fetch(
    layout: &Layout,
    flights: &Flights,
    session: &Session,
    blob: &Blob,
    meter: &Meter,
    writer: &Arc<Writer>,
    threads: &TaskTracker,
) -> Result<(), Failure> {
    let _lock = flights.lock(&blob.digest).await;
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
                "blob {} comes with {length} bytes, its descriptor has {}",
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
                // The channel is closed because the writer has ended; its result below has the error.
                if sender.send(chunk).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                broken = Some(failure_of_transport("reading a blob failed", error));
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

/// Writes chunks until the channel closes, and names the blob if they are exactly its content.
///
/// Blocks: it runs on a blocking thread, so that hashing and writing overlap with reading the network.
/// It returns early, which closes the channel, on the first excess byte or write error.
///
/// # Errors
///
/// [`Reason::DigestMismatch`] for any other content, or the reason of a file system error. No file is
/// left behind then.
pub(crate) fn ingest(
    layout: &Layout,
    blob: &Blob,
    mut chunks: Receiver<Bytes>,
    writer: Arc<Writer>,
) -> Result<(), Failure> {
    let mut file = layout.unfinished_file()?;
    let mut digester = Digester::like(&blob.digest);
    let mut length: u64 = 0;
    while let Some(chunk) = chunks.blocking_recv() {
        length = length.saturating_add(chunk.len() as u64);
        if length > blob.size {
            return Err(mismatch(blob, "is longer than"));
        }
        digester.update(&chunk);
        file.write_all(&chunk)
            .map_err(LayoutError::io("write", file.path()))?;
    }
    if length < blob.size {
        return Err(mismatch(blob, &format!("ended after {length} bytes of")));
    }
    let actual = digester.finish();
    if actual != blob.digest.as_str() {
        return Err(Failure::new(
            Reason::DigestMismatch,
            format!("blob {} came with digest {actual}", blob.digest),
        ));
    }
    // The content must be durable before the name.
    file.as_file()
        .sync_data()
        .map_err(LayoutError::io("sync", file.path()))?;
    writer.written.add(&blob.digest);
    layout.settle(file, &blob.digest)?;
    Ok(())
}

fn mismatch(blob: &Blob, how: &str) -> Failure {
    Failure::new(
        Reason::DigestMismatch,
        format!(
            "blob {} {how} the {} bytes in its descriptor",
            blob.digest, blob.size
        ),
    )
}

/// Sums up the progress of one pull's downloads and reports it.
#[derive(Debug)]
pub(crate) struct Meter {
    sink: ProgressSink,
    /// Done and total bytes.
    counts: Mutex<(u64, u64)>,
}

impl Meter {
    pub(crate) fn new(sink: ProgressSink) -> Self {
        Self {
            sink,
            counts: Mutex::new((0, 0)),
        }
    }

    /// Adds bytes that will be fetched.
    pub(crate) fn expect(&self, bytes: u64) {
        self.change(|(done, total)| (done, total.saturating_add(bytes)));
    }

    /// Subtracts bytes that another pull has fetched.
    pub(crate) fn forgo(&self, bytes: u64) {
        self.change(|(done, total)| (done, total.saturating_sub(bytes)));
    }

    /// Counts received bytes.
    pub(crate) fn advance(&self, bytes: u64) {
        self.change(|(done, total)| (done.saturating_add(bytes).min(total), total));
    }

    fn change(&self, f: impl FnOnce((u64, u64)) -> (u64, u64)) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts = f(*counts);
        let (done, total) = *counts;
        // Reported under the lock, so that reports stay in order.
        self.sink
            .report(PullProgress::new(ByteSize::new(done), ByteSize::new(total)));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::oci::lock::WriterLock;

    async fn write(folder: &Path, blob: &Blob, chunks: &[&'static [u8]]) -> Result<(), Failure> {
        let layout = Layout::new(folder);
        let writer = WriterLock::new(layout.clone()).acquire().await.unwrap();
        let (sender, receiver) = mpsc::channel(chunks.len().max(1));
        for chunk in chunks {
            sender.try_send(Bytes::from_static(chunk)).unwrap();
        }
        drop(sender);
        let result = {
            let (layout, blob) = (layout.clone(), blob.clone());
            tokio::task::spawn_blocking(move || ingest(&layout, &blob, receiver, writer))
                .await
                .unwrap()
        };
        let left = layout.unfinished().unwrap().names().unwrap();
        assert!(left.is_empty(), "unfinished downloads are left: {left:?}");
        assert_eq!(layout.blob(&blob.digest).exists(), result.is_ok());
        result
    }

    fn blob(content: &[u8]) -> Blob {
        Blob {
            digest: Digest::parse(&crate::registry::sha256(content)).unwrap(),
            size: content.len() as u64,
            urls: Vec::new(),
        }
    }

    #[tokio::test]
    async fn only_matching_content_gets_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let right = blob(b"layer content");
        write(folder.path(), &right, &[b"layer ", b"content"])
            .await
            .unwrap();
        let path = Layout::new(folder.path()).blob(&right.digest);
        assert_eq!(fs::read(path).unwrap(), b"layer content");
        write(folder.path(), &blob(b""), &[]).await.unwrap();

        for (wanted, chunks) in [
            (blob(b"short"), &[b"sho".as_slice()][..]),
            (blob(b"long"), &[b"long", b"er"]),
            (blob(b"same"), &[b"sane"]),
            (blob(b"none"), &[]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let failure = write(folder.path(), &wanted, chunks).await.unwrap_err();
            assert_eq!(failure.reason, Reason::DigestMismatch, "{failure}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn blobs_are_readable_by_every_user() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let blob = blob(b"x");
        write(folder.path(), &blob, &[b"x"]).await.unwrap();
        let path = Layout::new(folder.path()).blob(&blob.digest);
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_ne!(mode & 0o044, 0, "{mode:o}");
    }

    #[test]
    fn counts_the_bytes_of_this_pull() {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let sink = {
            let reports = Arc::clone(&reports);
            ProgressSink::new(move |p: PullProgress| {
                reports
                    .lock()
                    .unwrap()
                    .push((p.done.bytes(), p.total.unwrap().bytes()));
            })
        };
        let meter = Meter::new(sink);
        meter.expect(100);
        meter.expect(50);
        meter.advance(60);
        meter.forgo(50);
        meter.advance(70);
        assert_eq!(
            *reports.lock().unwrap(),
            [(0, 100), (0, 150), (60, 150), (60, 100), (100, 100)]
        );
    }
}
