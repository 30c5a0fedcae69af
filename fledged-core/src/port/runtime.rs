//! The port to an image runtime.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::RegistryAuth;
use crate::error::Failure;
use crate::model::{ByteSize, Digest, ImageRef, PullLimit, PulledVia};

/// An image store of a node: containerd, CRI-O, Docker Engine, an OCI layout.
///
/// Every method may be called concurrently. Dropping the future of a call abandons it; a `pull`
/// that is dropped must leave the store valid, and should end within ten seconds: until then, the image may still
/// appear. The caller limits the time:
/// [`NodeLoop`](crate::runner::NodeLoop) drops a pull at its deadline and other calls after 2 minutes.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait ImageRuntime: Send + Sync {
    /// Name, version and capabilities of the runtime.
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

    /// One image by reference; `None` when it is not (completely) present. Searches
    /// [`list`](Self::list) unless the backend overrides it.
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

    /// The images that any container uses, running or stopped, also as a volume.
    ///
    /// # Errors
    ///
    /// The runtime cannot be reached or refuses the call.
    async fn in_use(&self) -> Result<Vec<ImageUse>, Failure>;

    /// Pulls one image, with one set of credentials or anonymously, also when it is present.
    ///
    /// Reports progress where the runtime provides it.
    ///
    /// # Errors
    ///
    /// The reason decides when the pull is repeated; the message is the text of the runtime or registry.
    async fn pull(&self, request: PullRequest) -> Result<RuntimeImage, Failure>;

    /// Removes one image by reference, unless a container uses it.
    ///
    /// [`RuntimeInfo::removal`] defines what a removal removes.
    ///
    /// # Errors
    ///
    /// The runtime cannot be reached or refuses to remove the image, for instance because it is pinned.
    async fn remove(&self, image: &ImageRef) -> Result<Removal, Failure>;

    /// Deletes what pulls of the image that ended early have left, unless another process continues it. Called once the
    /// image is removed or not present. Default: nothing is deleted.
    ///
    /// # Errors
    ///
    /// The runtime cannot be reached or refuses the call.
    async fn discard_unfinished(&self, image: &ImageRef) -> Result<(), Failure> {
        let _ = image;
        Ok(())
    }

    /// Usage of the file systems that hold images. Empty unless the runtime provides it.
    ///
    /// # Errors
    ///
    /// The runtime cannot be reached, or the file system cannot be read.
    async fn filesystems(&self) -> Result<Vec<FilesystemUsage>, Failure> {
        Ok(Vec::new())
    }
}

/// The result of a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Removal {
    /// The image was removed.
    Removed,
    /// The image was not present.
    Absent,
    /// A container uses the image; nothing was removed. Names the container if known.
    InUse(String),
}

/// The usage of a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FilesystemUsage {
    /// Its mount point, or the requested folder.
    pub path: String,
    /// Bytes taken by images.
    pub used: ByteSize,
    /// Bytes that can still be written, if they are known.
    pub available: Option<ByteSize>,
    /// All bytes of the file system, if they are known.
    pub capacity: Option<ByteSize>,
}

impl FilesystemUsage {
    /// A file system with this usage and unknown free space.
    pub fn new(path: impl Into<String>, used: ByteSize) -> Self {
        Self {
            path: path.into(),
            used,
            available: None,
            capacity: None,
        }
    }

    /// With the number of free bytes.
    #[must_use]
    pub fn with_available(mut self, available: impl Into<Option<ByteSize>>) -> Self {
        self.available = available.into();
        self
    }

    /// With the number of all bytes of the file system.
    #[must_use]
    pub fn with_capacity(mut self, capacity: impl Into<Option<ByteSize>>) -> Self {
        self.capacity = capacity.into();
        self
    }

    /// The used share in percent, as the kubelet computes it for its garbage collection of images; `None` if free or
    /// all bytes are not known.
    #[must_use]
    pub fn used_percent(&self) -> Option<u8> {
        let available = u128::from(self.available?.bytes());
        let capacity = u128::from(self.capacity?.bytes());
        let free = (available * 100).checked_div(capacity)?;
        u8::try_from(100_u128.saturating_sub(free)).ok()
    }
}

/// A runtime's own identifier of an image (for containerd and Docker the digest of its
/// configuration). Opaque; equal identifiers mean the same image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(pub String);

impl From<&str> for ImageId {
    fn from(id: &str) -> Self {
        Self(id.to_owned())
    }
}

impl From<String> for ImageId {
    fn from(id: String) -> Self {
        Self(id)
    }
}

/// The normalised reference, for a runtime without identifiers.
impl From<&ImageRef> for ImageId {
    fn from(image: &ImageRef) -> Self {
        Self(image.as_str().to_owned())
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// An image that containers use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct ImageUse {
    /// The image.
    pub image: ImageId,
    /// The containers, as a phrase: `container web (4f1c…)`.
    pub by: String,
}

impl ImageUse {
    /// The use of an image by these containers.
    pub fn new(image: impl Into<ImageId>, by: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            by: by.into(),
        }
    }
}

/// A use by a container without a name.
impl From<ImageId> for ImageUse {
    fn from(image: ImageId) -> Self {
        Self::new(image, "a container")
    }
}

/// The identity and the capabilities of a runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeInfo {
    /// `containerd`, `cri-o`, `docker`, `oci-layout`.
    pub name: String,
    /// The runtime's own version.
    pub version: String,
    /// The version of the runtime's API (`v1` for CRI, `1.41` for Docker); empty if the API has no version.
    pub api_version: String,
    /// What [`ImageRuntime::remove`](super::ImageRuntime::remove) removes.
    pub removal: RemovalScope,
}

impl RuntimeInfo {
    /// A runtime with this name, version and scope of removals.
    pub fn new(name: impl Into<String>, version: impl Into<String>, removal: RemovalScope) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            api_version: String::new(),
            removal,
        }
    }

    /// With the version of its API.
    #[must_use]
    pub fn with_api_version(mut self, version: impl Into<String>) -> Self {
        self.api_version = version.into();
        self
    }
}

/// The scope of a removal by reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemovalScope {
    /// Only this name; the content stays while another name needs it.
    Reference,
    /// This name, and with the last tag of a repository also the repository's digest references to the
    /// image (Docker Engine).
    ReferenceAndDigests,
    /// The image with all its names (CRI's `RemoveImage`).
    Image,
}

impl RemovalScope {
    /// The other names of `image` that are removed together with `target`.
    pub fn takes_along<'a>(
        self,
        target: &'a ImageRef,
        image: &'a RuntimeImage,
    ) -> impl Iterator<Item = &'a ImageRef> {
        let others = move || image.references.iter().filter(move |name| *name != target);
        let neighbours = move || others().filter(move |name| name.name() == target.name());
        let last_tag =
            target.digest().is_none() && neighbours().all(|name| name.digest().is_some());
        others().filter(move |name| match self {
            Self::Reference => false,
            Self::ReferenceAndDigests => last_tag && name.name() == target.name(),
            Self::Image => true,
        })
    }
}

/// One image that a runtime holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeImage {
    /// The runtime's own identifier.
    pub id: ImageId,
    /// All references of the image: tags and digests.
    pub references: Vec<ImageRef>,
    /// Digest of the manifest or index, if the runtime reports it.
    pub digest: Option<Digest>,
    /// Size on disk as the runtime counts it (unpacked for Docker, compressed for containerd).
    pub size: ByteSize,
    /// Whether the runtime protects the image from garbage collection.
    pub pinned: bool,
    /// What fetched its layers. Only in the result of a pull that fetched one, by a backend that can fetch layers itself,
    /// or with a [limit](PullRequest::limit) that was not kept.
    pub via: Option<PulledVia>,
}

impl RuntimeImage {
    /// An image with these references, without a digest, of size zero, not pinned.
    pub fn new(id: impl Into<ImageId>, references: impl IntoIterator<Item = ImageRef>) -> Self {
        Self {
            id: id.into(),
            references: references.into_iter().collect(),
            digest: None,
            size: ByteSize::ZERO,
            pinned: false,
            via: None,
        }
    }

    /// The digests that it has in the repository of that reference.
    pub fn digests_of<'a>(&'a self, image: &'a ImageRef) -> impl Iterator<Item = &'a Digest> {
        let own = self.references.iter().filter(|r| r.name() == image.name());
        own.filter_map(ImageRef::digest)
    }

    /// Its digest under that reference: that of the reference, or one of the same repository, or else
    /// [`digest`](Self::digest).
    #[must_use]
    pub fn digest_of<'a>(&'a self, image: &'a ImageRef) -> Option<&'a Digest> {
        let named = self.digest.as_ref();
        let same = || self.digests_of(image).find(|own| Some(*own) == named);
        let first = || self.digests_of(image).next();
        image.digest().or_else(same).or_else(first).or(named)
    }

    /// With the digest of its manifest or index.
    #[must_use]
    pub fn with_digest(mut self, digest: impl Into<Option<Digest>>) -> Self {
        self.digest = digest.into();
        self
    }

    /// With its size on disk.
    #[must_use]
    pub fn with_size(mut self, size: ByteSize) -> Self {
        self.size = size;
        self
    }

    /// Pinned or not.
    #[must_use]
    pub fn with_pinned(mut self, pinned: bool) -> Self {
        self.pinned = pinned;
        self
    }

    /// With what fetched its layers.
    #[must_use]
    pub fn with_via(mut self, via: impl Into<Option<PulledVia>>) -> Self {
        self.via = via.into();
        self
    }
}

/// The parameters of a pull.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PullRequest {
    /// What to pull.
    pub image: ImageRef,
    /// Credentials; the pull is anonymous without them.
    pub auth: Option<RegistryAuth>,
    /// The receiver of progress.
    pub progress: ProgressSink,
    /// The limit of the bytes of layers a second. A runtime that cannot keep it pulls without one, and says so in
    /// [`RuntimeImage::via`].
    pub limit: SharedPullLimit,
}

impl PullRequest {
    /// An anonymous pull without progress.
    #[must_use]
    pub fn new(image: ImageRef) -> Self {
        Self {
            image,
            auth: None,
            progress: ProgressSink::none(),
            limit: SharedPullLimit::default(),
        }
    }

    /// With these credentials.
    #[must_use]
    pub fn with_auth(mut self, auth: impl Into<Option<RegistryAuth>>) -> Self {
        self.auth = auth.into();
        self
    }

    /// With a receiver of progress.
    #[must_use]
    pub fn with_progress(mut self, progress: ProgressSink) -> Self {
        self.progress = progress;
        self
    }

    /// That the runtime fetched the layers, for this reason; see [`PulledVia::runtime`].
    #[must_use]
    pub fn via_runtime(&self, why: impl Into<String>) -> PulledVia {
        PulledVia::runtime(why, self.limit.get().as_ref())
    }

    /// With this limit.
    #[must_use]
    pub fn with_limit(mut self, limit: SharedPullLimit) -> Self {
        self.limit = limit;
        self
    }
}

/// The limit of a pull, which may change while it runs. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct SharedPullLimit(Arc<Mutex<Option<PullLimit>>>);

impl SharedPullLimit {
    /// This limit, until it is replaced.
    #[must_use]
    pub fn new(limit: Option<PullLimit>) -> Self {
        Self(Arc::new(Mutex::new(limit)))
    }

    /// The limit that counts now.
    #[must_use]
    pub fn get(&self) -> Option<PullLimit> {
        self.lock().clone()
    }

    /// Replaces the limit.
    pub fn set(&self, limit: Option<PullLimit>) {
        *self.lock() = limit;
    }

    fn lock(&self) -> MutexGuard<'_, Option<PullLimit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The progress of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PullProgress {
    /// Fetched bytes of layers that were missing.
    pub done: ByteSize,
    /// Bytes to fetch, once known; may grow while manifests are read.
    pub total: Option<ByteSize>,
}

impl PullProgress {
    /// Fetched bytes, and the total if known.
    pub fn new(done: ByteSize, total: impl Into<Option<ByteSize>>) -> Self {
        Self {
            done,
            total: total.into(),
        }
    }
}

/// Receives [`PullProgress`]; cheap to clone, called often, must not block.
#[derive(Clone)]
pub struct ProgressSink(Option<Arc<dyn Fn(PullProgress) + Send + Sync>>);

impl ProgressSink {
    /// A sink that calls `f`.
    pub fn new(f: impl Fn(PullProgress) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(f)))
    }

    /// A sink that drops everything.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Sends the progress to the receiver.
    pub fn report(&self, progress: PullProgress) {
        if let Some(f) = &self.0 {
            f(progress);
        }
    }
}

impl fmt::Debug for ProgressSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "ProgressSink"
        } else {
            "ProgressSink(none)"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_used_share_is_that_of_the_kubelet() {
        let of = |available, capacity| {
            let usage = FilesystemUsage::new("/", ByteSize::ZERO);
            let available = Option::<u64>::map(available, ByteSize::new);
            let capacity = Option::<u64>::map(capacity, ByteSize::new);
            let usage = usage.with_available(available).with_capacity(capacity);
            usage.used_percent()
        };
        assert_eq!(of(Some(20), Some(100)), Some(80));
        // Free bytes are rounded down to whole percent.
        assert_eq!(of(Some(209), Some(1000)), Some(80));
        assert_eq!(of(Some(u64::MAX), Some(u64::MAX)), Some(0));
        assert_eq!(of(Some(0), Some(7)), Some(100));
        assert_eq!(of(Some(9), Some(7)), Some(0));
        assert_eq!(of(Some(0), Some(0)), None);
        assert_eq!(of(None, Some(7)), None);
        assert_eq!(of(Some(7), None), None);
    }
}
