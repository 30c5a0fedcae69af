//! The port to a runtime.

use async_trait::async_trait;

use super::{ImageId, PullRequest, RuntimeImage, RuntimeInfo};
use crate::error::Failure;
use crate::model::{ByteSize, ImageRef};

/// Whatever holds images on a node: containerd, CRI-O, Docker Engine, a folder.
///
/// Every method may be called concurrently. Dropping the future of a call abandons it; a `pull`
/// that is dropped must leave the store valid. Whoever calls sets the limit on time: a pull is
/// dropped at its deadline, anything else by [`NodeLoop`](crate::runner::NodeLoop) after 2 minutes.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait ImageRuntime: Send + Sync {
    /// Name, version and what the runtime is able to do.
    ///
    /// # Errors
    ///
    /// A runtime that is too old fails with
    /// [`Reason::RuntimeUnsupported`](crate::error::Reason::RuntimeUnsupported).
    async fn info(&self) -> Result<RuntimeInfo, Failure>;

    /// Every image that is completely present, by all its names.
    ///
    /// # Errors
    ///
    /// The runtime cannot be reached or refuses the call.
    async fn list(&self) -> Result<Vec<RuntimeImage>, Failure>;

    /// One image by reference; `None` when it is not (completely) present. Looks through
    /// [`list`](Self::list) unless the runtime has a shorter way.
    ///
    /// # Errors
    ///
    /// Those of [`list`](Self::list).
    async fn lookup(&self, image: &ImageRef) -> Result<Option<RuntimeImage>, Failure> {
        let images = self.list().await?;
        Ok(images
            .into_iter()
            .find(|held| held.references.contains(image)))
    }

    /// The IDs of images that any container uses, running or stopped.
    ///
    /// # Errors
    ///
    /// The runtime cannot be reached or refuses the call.
    async fn in_use(&self) -> Result<Vec<ImageId>, Failure>;

    /// Pulls one image, with one set of credentials or anonymously, also when it is present.
    ///
    /// Progress is reported where the runtime tells any.
    ///
    /// # Errors
    ///
    /// The reason decides when the pull is repeated; the message is the text of the runtime or registry.
    async fn pull(&self, request: PullRequest) -> Result<RuntimeImage, Failure>;

    /// Removes one image by reference, unless a container uses it.
    ///
    /// What is removed is told by [`RuntimeInfo::removal`].
    ///
    /// # Errors
    ///
    /// The runtime cannot be reached or refuses to remove the image, for instance because it is pinned.
    async fn remove(&self, image: &ImageRef) -> Result<Removal, Failure>;

    /// How full the file systems that hold images are; for people, nothing is decided by it. None
    /// unless the runtime tells.
    ///
    /// # Errors
    ///
    /// The runtime cannot be reached, or the file system cannot be read.
    async fn filesystems(&self) -> Result<Vec<FilesystemUsage>, Failure> {
        Ok(Vec::new())
    }
}

/// How a removal ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Removal {
    /// It was there and is gone.
    Removed,
    /// It was not there.
    Absent,
    /// A container uses it; nothing was removed. Says which, where known.
    InUse(String),
}

/// How full one file system is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FilesystemUsage {
    /// Where it is mounted, or the folder that was asked for.
    pub path: String,
    /// Bytes taken by images.
    pub used: ByteSize,
    /// Bytes that can still be written, where the runtime tells it.
    pub available: Option<ByteSize>,
}

impl FilesystemUsage {
    /// A file system of which images take that much; how much is left is not known.
    pub fn new(path: impl Into<String>, used: ByteSize) -> Self {
        Self {
            path: path.into(),
            used,
            available: None,
        }
    }

    /// With the bytes that can still be written.
    #[must_use]
    pub fn with_available(mut self, available: impl Into<Option<ByteSize>>) -> Self {
        self.available = available.into();
        self
    }
}
