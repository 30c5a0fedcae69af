//! One writing process at a time.

use std::fs::{self, File, TryLockError};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use tokio::sync::Mutex;

use super::LayoutError;
use super::layout::{Layout, State};
use super::written::Written;

/// How often a process that waits tries again. Pulls take seconds; a tenth is not felt.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// Proof that this process is the writer. Everything that changes the layout holds one, also what
/// outlives its caller; the last one to be dropped lets other processes in.
#[derive(Debug)]
pub(crate) struct Writer {
    /// What was written and is not needed yet, also by earlier writers of this process.
    pub(crate) written: Written,
    /// Closing it releases the lock, also when the process is killed.
    _file: File,
}

/// Where a [`Writer`] comes from.
#[derive(Debug)]
pub(crate) struct WriterLock {
    layout: Layout,
    current: Mutex<Weak<Writer>>,
    written: Written,
}

impl WriterLock {
    pub(crate) fn new(layout: Layout) -> Self {
        Self {
            layout,
            current: Mutex::new(Weak::new()),
            written: Written::default(),
        }
    }

    /// Becomes the writer, or joins those of this process who are; waits for other processes.
    ///
    /// The first one makes the folder a layout, where it is not one yet, and sweeps what writers
    /// that died left unfinished: nobody else can be at work then.
    pub(crate) async fn acquire(&self) -> Result<Arc<Writer>, Failure> {
        let mut current = self.current.lock().await;
        if let Some(writer) = current.upgrade() {
            return Ok(writer);
        }
        let mut told = false;
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
            if !told {
                tracing::info!(layout = %self.layout.root().display(), "waiting for another process that writes to this layout");
                told = true;
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Sweeps what writers that died left unfinished, unless one is at work.
    pub(crate) fn sweep(&self) -> Result<(), LayoutError> {
        if self.layout.corner().is_dir() {
            attempt(&self.layout)?;
        }
        Ok(())
    }
}

/// The lock, held until the file is closed; `None` when another process has it.
fn attempt(layout: &Layout) -> Result<Option<File>, LayoutError> {
    let state = layout.state()?;
    layout.create_corner()?;
    let path = layout.lock_file();
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(LayoutError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(LayoutError::io("lock", &path)(error)),
    }
    sweep(layout.unfinished())?;
    if state == State::Vacant {
        layout.initialise()?;
    }
    Ok(Some(file))
}

fn sweep(folder: PathBuf) -> Result<(), LayoutError> {
    for entry in fs::read_dir(&folder).map_err(LayoutError::io("read", &folder))? {
        let path = entry.map_err(LayoutError::io("read", &folder))?.path();
        fs::remove_file(&path).map_err(LayoutError::io("remove", &path))?;
        tracing::debug!(path = %path.display(), "removed an unfinished download");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock_on(folder: &std::path::Path) -> WriterLock {
        WriterLock::new(Layout::new(folder))
    }

    #[tokio::test]
    async fn one_process_shares_it_another_waits() {
        let folder = tempfile::tempdir().unwrap();
        // Two of these are two processes as far as the lock can tell: each opens the file itself.
        let (ours, theirs) = (lock_on(folder.path()), lock_on(folder.path()));
        let first = ours.acquire().await.unwrap();
        let second = ours.acquire().await.unwrap();
        assert!(Arc::ptr_eq(&first, &second));

        let layout = Layout::new(folder.path());
        assert!(attempt(&layout).unwrap().is_none(), "it is taken");
        let waiting = tokio::spawn(async move { theirs.acquire().await.map(drop) });
        drop(first);
        assert!(attempt(&layout).unwrap().is_none(), "one still writes");
        drop(second);
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_next_writer_sweeps_what_was_left_unfinished() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let writer = lock_on(folder.path()).acquire().await.unwrap();
        let left = layout.unfinished().join("left");
        fs::write(&left, "half").unwrap();
        let other = lock_on(folder.path());
        other.sweep().unwrap();
        assert!(left.exists(), "a writer is at work, it may be its file");
        drop(writer);
        other.sweep().unwrap();
        assert!(!left.exists());
    }
}
