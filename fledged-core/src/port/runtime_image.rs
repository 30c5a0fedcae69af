//! What a runtime is, and the images that it holds.

use std::fmt;

use crate::model::{ByteSize, Digest, ImageRef};

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

/// For a runtime that has no identifiers of its own: the normalised reference.
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

/// What a runtime is and can do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeInfo {
    /// `containerd`, `cri-o`, `docker`, `oci-layout`.
    pub name: String,
    /// The runtime's own version.
    pub version: String,
    /// The version of the interface spoken with it (`v1` for CRI, `1.41` for Docker); empty where there
    /// is none but the runtime's own.
    pub api_version: String,
    /// What [`ImageRuntime::remove`](super::ImageRuntime::remove) takes away.
    pub removal: RemovalScope,
}

impl RuntimeInfo {
    /// A runtime of that name and version, from which a removal takes that much.
    pub fn new(name: impl Into<String>, version: impl Into<String>, removal: RemovalScope) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            api_version: String::new(),
            removal,
        }
    }

    /// With the version of the interface spoken with it.
    #[must_use]
    pub fn with_api_version(mut self, version: impl Into<String>) -> Self {
        self.api_version = version.into();
        self
    }
}

/// What a removal by reference takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemovalScope {
    /// Only that name; the content stays while another name holds it.
    Reference,
    /// That name, and with the last tag of a repository the repository's digest references to the
    /// image too (Docker Engine).
    ReferenceAndDigests,
    /// The image with every name it has (CRI's `RemoveImage`).
    Image,
}

impl RemovalScope {
    /// The other names of `image` that go when `target` is removed from it.
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
    /// Every reference it can be started by: tags and digests.
    pub references: Vec<ImageRef>,
    /// Digest of the manifest or index, where the runtime tells it.
    pub digest: Option<Digest>,
    /// Size on disk as the runtime counts it (unpacked for Docker, compressed for containerd).
    pub size: ByteSize,
    /// Whether the runtime keeps it from garbage collection.
    pub pinned: bool,
}

impl RuntimeImage {
    /// An image by all its references; of unknown digest and size zero, not pinned.
    pub fn new(id: impl Into<ImageId>, references: impl IntoIterator<Item = ImageRef>) -> Self {
        Self {
            id: id.into(),
            references: references.into_iter().collect(),
            digest: None,
            size: ByteSize::ZERO,
            pinned: false,
        }
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

    /// Kept from garbage collection by the runtime, or not.
    #[must_use]
    pub fn with_pinned(mut self, pinned: bool) -> Self {
        self.pinned = pinned;
        self
    }
}
