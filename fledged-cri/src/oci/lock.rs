//! The lock that admits one writing process at a time.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::Digest;

use super::folder::TEMPORARY_PREFIX;
use super::layout::{Layout, State};
use super::layout_error::LayoutError;

/// How often a waiting process retries. Pulls take seconds, so a tenth does not matter.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// Proof that this process holds the lock. Every task that changes the layout holds a clone, also one
/// that outlives its caller. The lock is released when the last clone is dropped.
#[derive(Debug)]
pub(crate) struct Writer {
    /// Blobs without an entry that this process has written, now or under an earlier lock.
    pub(crate) written: Written,
    /// Closing it releases the lock, also if the process is killed.
    _file: File,
}

/// The lock, from which a [`Writer`] is acquired.
#[derive(Debug)]
pub(crate) struct WriterLock {
    layout: Layout,
    current: tokio::sync::Mutex<Weak<Writer>>,
    written: Written,
}

impl WriterLock {
    pub(crate) fn new(layout: Layout) -> Self {
        Self {
            layout,
            current: tokio::sync::Mutex::new(Weak::new()),
            written: Written::default(),
        }
    }

    /// Acquires the lock, or shares it with other tasks of this process. Waits for other processes.
    ///
    /// The first holder creates the layout if the folder is empty, and deletes temporary files: no other
    /// writer exists then.
    pub(crate) async fn acquire(&self) -> Result<Arc<Writer>, Failure> {
        let mut current = self.current.lock().await;
        if let Some(writer) = current.upgrade() {
            return Ok(writer);
        }
        let mut logged = false;
        loop {
            let layout = self.layout.clone();
            let attempt = tokio::task::spawn_blocking(move || attempt(&layout)).await;
            let attempt =
                attempt.map_err(|error| Failure::new(Reason::Unknown, error.to_string()))?;
            if let Some(file) = attempt? {
                let writer = Arc::new(Writer {
                    written: self.written.clone(),
                    _file: file,
                });
                *current = Arc::downgrade(&writer);
                return Ok(writer);
            }
            if !logged {
                tracing::info!(layout = %self.layout.root().display(), "waiting for the layout's lock, which another process holds");
                logged = true;
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }
}

/// Takes the lock, which is held until the file is closed, or returns `None` if another process holds
/// it.
fn attempt(layout: &Layout) -> Result<Option<File>, LayoutError> {
    let state = layout.state()?;
    layout.create_own_folder()?;
    let (file, path) = layout.lock_file()?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(LayoutError::io("lock", &path)(error)),
    }
    sweep(layout)?;
    if state == State::Vacant {
        layout.initialise()?;
    }
    Ok(Some(file))
}

/// Deletes the temporary files of processes that died. Partial blobs stay; the next pull completes them.
/// Only files that fledged has named are deleted.
fn sweep(layout: &Layout) -> Result<(), LayoutError> {
    let folder = layout.unfinished()?;
    for name in folder.names()? {
        if name.starts_with(TEMPORARY_PREFIX) && folder.is_file(&name)? {
            folder.delete(&name)?;
            tracing::debug!(path = %folder.path_of(&name).display(), "temporary file deleted");
        }
    }
    Ok(())
}

/// Blobs that this process has written and no entry needs yet. They may be deleted when their pull
/// fails, unlike blobs whose entry another tool is about to write.
#[derive(Debug, Clone, Default)]
pub(crate) struct Written(Arc<Mutex<BTreeSet<Digest>>>);

impl Written {
    /// Records a written blob.
    pub(crate) fn add(&self, digest: &Digest) {
        self.digests().insert(digest.clone());
    }

    /// Drops blobs that an entry needs now, or that are deleted.
    pub(crate) fn forget<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) {
        let mut held = self.digests();
        for digest in digests {
            held.remove(digest);
        }
    }

    /// All recorded blobs.
    pub(crate) fn all(&self) -> BTreeSet<Digest> {
        self.digests().clone()
    }

    fn digests(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock_on(folder: &std::path::Path) -> WriterLock {
        WriterLock::new(Layout::new(folder))
    }

    #[tokio::test]
    async fn a_process_shares_the_lock_and_another_waits() {
        let folder = tempfile::tempdir().unwrap();
        // Each of these opens the file itself, as two processes would.
        let (ours, theirs) = (lock_on(folder.path()), lock_on(folder.path()));
        let first = ours.acquire().await.unwrap();
        let second = ours.acquire().await.unwrap();
        assert!(Arc::ptr_eq(&first, &second));

        let layout = Layout::new(folder.path());
        assert!(attempt(&layout).unwrap().is_none(), "the lock is held");
        let waiting = tokio::spawn(async move { theirs.acquire().await.map(drop) });
        drop(first);
        assert!(attempt(&layout).unwrap().is_none(), "one writer is left");
        drop(second);
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_next_writer_deletes_temporary_files() {
        let folder = tempfile::tempdir().unwrap();
        let writer = lock_on(folder.path()).acquire().await.unwrap();
        let unfinished = folder.path().join(".fledged/unfinished");
        let left = unfinished.join(format!("{TEMPORARY_PREFIX}1-1"));
        let theirs = unfinished.join("notes.txt");
        let partial = unfinished.join("fledged-part-sha256-00");
        for path in [&left, &theirs, &partial] {
            std::fs::write(path, "half").unwrap();
        }
        drop(writer);
        lock_on(folder.path()).acquire().await.unwrap();
        assert!(!left.exists());
        assert!(partial.exists(), "the next pull completes it");
        assert!(theirs.exists(), "a file that fledged has not named");
    }
}
