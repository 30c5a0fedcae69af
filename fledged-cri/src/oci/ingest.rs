//! Writing one blob to disk while it arrives: hashed on the way, named only when it is right.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use fledged_core::error::{Failure, Reason};
use tokio::sync::mpsc::Receiver;

use super::LayoutError;
use super::layout::Layout;
use super::lock::Writer;
use crate::registry::{Blob, Digester};

/// Takes chunks until the channel closes, and settles the blob when they are exactly its content.
///
/// Blocks: runs on a thread of its own, so that hashing and writing go on while the network is
/// read. Ends early, which closes the channel, on the first byte too many or when the disk refuses.
///
/// # Errors
///
/// [`Reason::DigestMismatch`] for anything but the content that was asked for;
/// [`Reason::DiskFull`]. Nothing is left behind then.
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
    // The name must never be there without the content, whatever happens to the power.
    file.as_file()
        .sync_data()
        .map_err(LayoutError::io("sync", file.path()))?;
    writer.written.add(&blob.digest);
    layout.settle(file, &layout.blob(&blob.digest))?;
    Ok(())
}

fn mismatch(blob: &Blob, how: &str) -> Failure {
    Failure::new(
        Reason::DigestMismatch,
        format!(
            "blob {} {how} the {} that its descriptor says",
            blob.digest, blob.size
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use fledged_core::model::Digest;
    use tokio::sync::mpsc;

    use super::*;
    use crate::oci::lock::WriterLock;

    async fn take_in(folder: &Path, blob: &Blob, chunks: &[&'static [u8]]) -> Result<(), Failure> {
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
        let left = fs::read_dir(layout.unfinished()).unwrap().count();
        assert_eq!(left, 0, "nothing unfinished is left");
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
    async fn only_the_right_content_gets_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let right = blob(b"layer content");
        take_in(folder.path(), &right, &[b"layer ", b"content"])
            .await
            .unwrap();
        let path = Layout::new(folder.path()).blob(&right.digest);
        assert_eq!(fs::read(path).unwrap(), b"layer content");
        take_in(folder.path(), &blob(b""), &[]).await.unwrap();

        for (wanted, chunks) in [
            (blob(b"short"), &[b"sho".as_slice()][..]),
            (blob(b"long"), &[b"long", b"er"]),
            (blob(b"same"), &[b"sane"]),
            (blob(b"none"), &[]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let failure = take_in(folder.path(), &wanted, chunks).await.unwrap_err();
            assert_eq!(failure.reason, Reason::DigestMismatch, "{failure}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn every_reader_of_the_layout_may_read_blobs() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let blob = blob(b"x");
        take_in(folder.path(), &blob, &[b"x"]).await.unwrap();
        let path = Layout::new(folder.path()).blob(&blob.digest);
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_ne!(mode & 0o044, 0, "{mode:o}");
    }
}
