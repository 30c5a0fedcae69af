//! The one folder of the demo.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::DemoError;

/// A file system call of a pull that was abandoned may still be under way when its node has ended; it can
/// undo the removal of a folder. As often is that begun anew, ...
const ATTEMPTS: usize = 40;
/// ... after that long.
const INTERVAL: Duration = Duration::from_millis(50);

/// Everything that the demo writes is in it; it is removed at the latest when this is dropped.
#[derive(Debug)]
pub(super) struct Folder(TempDir);

impl Folder {
    /// A new one, for this user alone, below `$TMPDIR`.
    pub(super) fn create() -> Result<Self, DemoError> {
        let folder = tempfile::Builder::new().prefix("fledged-demo-").tempdir();
        folder.map(Self).map_err(|source| DemoError::Folder {
            path: std::env::temp_dir(),
            source,
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Removes it with all that is in it.
    pub(super) async fn remove(self) -> Result<(), DemoError> {
        let path: PathBuf = self.0.keep();
        let mut attempt = 0;
        loop {
            let gone = tokio::fs::remove_dir_all(&path).await;
            attempt += 1;
            match gone {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(source) if attempt == ATTEMPTS => {
                    return Err(DemoError::File { path, source });
                }
                Err(_) => tokio::time::sleep(INTERVAL).await,
            }
        }
    }
}
