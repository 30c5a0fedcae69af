//! Downloading blobs: each once, hashed while it is written, and named only if the digest matches. An
//! interrupted download leaves a partial file, with which the next one goes on.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::Digest;
use tokio::sync::OwnedMutexGuard;
use tokio::sync::mpsc::{self, Receiver};
use tokio_util::task::TaskTracker;

use super::folder::Temporary;
use super::layout::Layout;
use super::layout_error::LayoutError;
use super::lock::Writer;
use crate::registry::{Blob, Digester, Downloads};

/// Chunks buffered between the network and the disk. A chunk has at most some 400 KiB (the HTTP client's
/// read buffer), so a download takes about 3 MiB, enough to bridge a slow write.
const CHUNKS_AHEAD: usize = 8;
/// Bytes that are read at once from an earlier download.
const REHASH_BUFFER: usize = 256 * 1024;

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

/// Downloads a blob, unless it is present or another pull downloads it. Goes on where an earlier download
/// has ended; if that content turns out to be corrupt, the blob is downloaded once more from its start. So it is if its
/// content is wrong and another host serves it.
///
/// The blob must be pinned, and the meter must expect its bytes. Writing runs on `threads`, for which the
/// caller can wait after this future is dropped.
pub(crate) async fn fetch(
    layout: &Layout,
    flights: &Flights,
    downloads: &Downloads,
    blob: &Blob,
    writer: &Arc<Writer>,
    threads: &TaskTracker,
) -> Result<(), Failure> {
    let mut lock = flights.lock(&blob.digest).await;
    let (meter, session) = (&downloads.meter, &downloads.session);
    if layout.has(&blob.digest, blob.size)? {
        meter.forgo(blob.size);
        return Ok(());
    }
    loop {
        let (file, offset) = resumable(layout, blob)?;
        meter.forgo(offset);
        let mut download = downloads.blob(blob, offset);
        let (sender, receiver) = mpsc::channel::<Bytes>(CHUNKS_AHEAD);
        let ingesting = {
            let (layout, blob, writer) = (layout.clone(), blob.clone(), Arc::clone(writer));
            // The lock is held until the file is closed, also if this future is dropped.
            threads.spawn_blocking(move || (ingest(&layout, &blob, file, receiver, &writer), lock))
        };
        let broken = loop {
            match download.next().await {
                Ok(Some(chunk)) => {
                    // The channel is closed because the writer has ended; its result below has the error.
                    if sender.send(chunk).await.is_err() {
                        break None;
                    }
                }
                Ok(None) => break None,
                Err(failure) => break Some(failure),
            }
        };
        drop(sender);
        let ingested = ingesting.await;
        let (ingested, returned) =
            ingested.map_err(|error| Failure::new(Reason::Unknown, error.to_string()))?;
        lock = returned;
        match (broken, ingested) {
            (Some(failure), _) => return Err(failure),
            (None, Ok(None)) => return Ok(()),
            (None, Ok(Some(actual))) => {
                let failure = session.wrong_digest(blob, &actual);
                // What an earlier pull has left may be wrong. If not, another host may have the right content.
                if offset == 0 && !session.distrust(blob) {
                    return Err(failure);
                }
                tracing::info!(why = %failure, resumed_at = offset, "blob fetched again from its start");
                meter.expect(blob.size);
            }
            (None, Err(failure)) => return Err(failure),
        }
    }
}

/// The partial file of a blob, and how many bytes of the blob it has.
fn resumable(layout: &Layout, blob: &Blob) -> Result<(Temporary, u64), LayoutError> {
    let file = layout.partial_file(&blob.digest)?;
    let metadata = file.as_file().metadata();
    let length = metadata
        .map_err(LayoutError::io("read", file.path()))?
        .len();
    if length <= blob.size {
        return Ok((file, length));
    }
    file.discard();
    Ok((layout.partial_file(&blob.digest)?, 0))
}

/// Appends chunks to a partial file until the channel closes, and gives it the name of the blob if it is
/// exactly its content. Complete content with another digest is deleted; returns that digest.
///
/// Blocks: it runs on a blocking thread, so that hashing and writing overlap with reading the network.
/// It returns early, which closes the channel, on a write error.
///
/// # Errors
///
/// [`Reason::DigestMismatch`] for incomplete content, which stays, or the reason of a file system error.
fn ingest(
    layout: &Layout,
    blob: &Blob,
    mut file: Temporary,
    mut chunks: Receiver<Bytes>,
    writer: &Writer,
) -> Result<Option<String>, Failure> {
    writer.written.add(&blob.digest);
    let mut digester = Digester::like(&blob.digest);
    let mut length = rehash(&file, &mut digester).map_err(LayoutError::io("read", file.path()))?;
    while let Some(chunk) = chunks.blocking_recv() {
        length = length.saturating_add(chunk.len() as u64);
        digester.update(&chunk);
        file.write_all(&chunk)
            .map_err(LayoutError::io("write", file.path()))?;
    }
    if length < blob.size {
        if length == 0 {
            file.discard();
        }
        return Err(mismatch(blob, &format!("ended after {length} bytes of")));
    }
    let actual = digester.finish();
    if actual != blob.digest.as_str() {
        file.discard();
        return Ok(Some(actual));
    }
    // The content must be durable before the name.
    file.as_file()
        .sync_data()
        .map_err(LayoutError::io("sync", file.path()))?;
    layout.settle(file, &blob.digest)?;
    Ok(None)
}

/// Adds the content of a file to a digest. Returns its length; the file is at its end then.
fn rehash(file: &Temporary, digester: &mut Digester) -> io::Result<u64> {
    let mut buffer = vec![0; REHASH_BUFFER];
    let mut length = 0;
    loop {
        let read = file.as_file().read(&mut buffer)?;
        if read == 0 {
            return Ok(length);
        }
        digester.update(buffer.get(..read).unwrap_or_default());
        length += read as u64;
    }
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use fledged_core::port::{ProgressSink, SharedPullLimit};

    use super::*;
    use crate::captured_log::CapturedLog;
    use crate::oci::lock::WriterLock;
    use crate::registry::fake::{Fake, LAYER, image};
    use crate::registry::{
        ConnectionLimit, Connections, Meter, RateOptions, Registry, RegistryOptions, Session,
    };

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
            tokio::task::spawn_blocking(move || {
                let (file, _) = resumable(&layout, &blob)?;
                match ingest(&layout, &blob, file, receiver, &writer)? {
                    None => Ok(()),
                    Some(actual) => Err(Failure::new(Reason::DigestMismatch, actual)),
                }
            })
            .await
            .unwrap()
        };
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
        assert_eq!(Layout::new(folder.path()).partials().unwrap(), []);

        for (wanted, chunks, stays) in [
            (blob(b"short"), &[b"sho".as_slice()][..], true),
            (blob(b"same"), &[b"sane"], false),
            (blob(b"none"), &[], false),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let failure = write(folder.path(), &wanted, chunks).await.unwrap_err();
            assert_eq!(failure.reason, Reason::DigestMismatch, "{failure}");
            let partials = Layout::new(folder.path()).partials().unwrap();
            assert_eq!(!partials.is_empty(), stays, "{failure}");
        }
    }

    #[tokio::test]
    async fn wrong_content_of_an_earlier_download_is_logged() {
        let log = CapturedLog::start();
        let registry = Fake::bind(|asked, _| image(asked)).await.unwrap();
        let wanted = blob(LAYER.as_bytes());
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let mut file = layout.partial_file(&wanted.digest).unwrap();
        let wrong = "x".repeat(LAYER.len());
        file.write_all(wrong.as_bytes()).unwrap();
        drop(file);
        let image = format!("{}/team/app:1", registry.addr).parse().unwrap();
        let client = Registry::new(RegistryOptions::default()).unwrap();
        let rate = RateOptions::default();
        let downloads = Downloads {
            session: Arc::new(Session::new(client, &image, None)),
            connections: Connections::new(ConnectionLimit::default(), rate),
            meter: Arc::new(Meter::new(ProgressSink::none())),
            limit: SharedPullLimit::default(),
        };
        let writer = Arc::new(WriterLock::new(layout.clone()).acquire().await.unwrap());
        let (flights, threads) = (Flights::default(), TaskTracker::new());
        let fetched = fetch(&layout, &flights, &downloads, &wanted, &writer, &threads).await;
        assert_eq!(fetched, Ok(()));
        let lines = log.lines();
        let actual = crate::registry::sha256(wrong.as_bytes());
        let expected = format!(
            "INFO blob fetched again from its start why=blob {} came with digest {actual} resumed_at={}",
            wanted.digest,
            LAYER.len()
        );
        assert!(lines.contains(&expected), "{lines:?}");
    }

    #[tokio::test]
    async fn an_interrupted_download_is_continued() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let wanted = blob(b"layer content");
        write(folder.path(), &wanted, &[b"layer"])
            .await
            .unwrap_err();
        assert_eq!(resumable(&layout, &wanted).unwrap().1, 5);
        write(folder.path(), &wanted, &[b" cont"])
            .await
            .unwrap_err();
        write(folder.path(), &wanted, &[b"ent"]).await.unwrap();
        assert_eq!(
            fs::read(layout.blob(&wanted.digest)).unwrap(),
            b"layer content"
        );

        // A file that is longer than the blob is not its beginning.
        let shorter = blob(b"lay");
        let mut file = layout.partial_file(&shorter.digest).unwrap();
        file.write_all(b"longer").unwrap();
        drop(file);
        assert_eq!(resumable(&layout, &shorter).unwrap().1, 0);
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
}
