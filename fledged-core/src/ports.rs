//! The ports: what the machines act through. Implement them for a runtime, a credential store or a
//! clock of your own.
//!
//! All are object-safe (`async-trait`) and have a `mockall` mock behind the feature `mock`.

mod cluster;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;

use crate::error::{Failure, RuntimeError};
use crate::model::{ByteSize, Digest, ImageRef, ObjectName};

#[cfg(feature = "mock")]
pub use cluster::MockCluster;
pub use cluster::{Cluster, ClusterError, WriteFailure};

/// Whatever holds images on a node: containerd, CRI-O, Docker Engine, a folder.
///
/// Every method may be called concurrently. Dropping the future of a call abandons it; a `pull`
/// that is dropped must leave the store valid. Whoever calls sets the limit on time: a pull is
/// dropped at its deadline, anything else by [`NodeLoop`](crate::driver::NodeLoop) after 2 minutes.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait ImageRuntime: Send + Sync {
    /// Name, version and what the runtime is able to do.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Info`]; a runtime that is too old says so with
    /// [`Reason::RuntimeUnsupported`](crate::error::Reason::RuntimeUnsupported).
    async fn info(&self) -> Result<RuntimeInfo, RuntimeError>;

    /// Every image that is completely present, by all its names.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::List`].
    async fn list(&self) -> Result<Vec<RuntimeImage>, RuntimeError>;

    /// One image by reference; `None` when it is not (completely) present.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Lookup`].
    async fn lookup(&self, image: &ImageRef) -> Result<Option<RuntimeImage>, RuntimeError>;

    /// The IDs of images that any container uses, running or stopped.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Usage`].
    async fn in_use(&self) -> Result<Vec<ImageId>, RuntimeError>;

    /// Pulls one image, with one set of credentials or anonymously, also when it is present.
    ///
    /// Progress is reported where the runtime tells any.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Pull`]; its failure carries the runtime's own text.
    async fn pull(&self, request: PullRequest) -> Result<RuntimeImage, RuntimeError>;

    /// Removes one image by reference, unless a container uses it.
    ///
    /// What is removed is told by [`RuntimeInfo::removal`].
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Remove`].
    async fn remove(&self, image: &ImageRef) -> Result<Removal, RuntimeError>;

    /// How full the file systems that hold images are.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Filesystem`].
    async fn filesystems(&self) -> Result<Vec<FilesystemUsage>, RuntimeError>;
}

/// A runtime's own identifier of an image (for containerd and Docker the digest of its
/// configuration). Opaque; equal identifiers mean the same image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(pub String);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a runtime is and can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// `containerd`, `cri-o`, `docker`, `oci-layout`.
    pub name: String,
    /// The runtime's own version.
    pub version: String,
    /// The version of the interface spoken with it (`v1` for CRI, `1.41` for Docker).
    pub api_version: String,
    /// What [`ImageRuntime::remove`] takes away.
    pub removal: RemovalScope,
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

/// One pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// What to pull.
    pub image: ImageRef,
    /// Credentials to use; anonymous without.
    pub auth: Option<RegistryAuth>,
    /// Where progress goes.
    pub progress: ProgressSink,
}

impl PullRequest {
    /// An anonymous pull without progress.
    #[must_use]
    pub fn new(image: ImageRef) -> Self {
        Self {
            image,
            auth: None,
            progress: ProgressSink::none(),
        }
    }
}

/// How far a pull has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PullProgress {
    /// Bytes fetched, of layers that were not there before.
    pub done: ByteSize,
    /// Bytes to fetch, once known; may grow while manifests are read.
    pub total: Option<ByteSize>,
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

    /// Tells the receiver.
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

/// How a removal ended.
#[derive(Debug, Clone, PartialEq, Eq)]
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
pub struct FilesystemUsage {
    /// Where it is mounted, or the folder that was asked for.
    pub path: String,
    /// Bytes taken by images.
    pub used: ByteSize,
    /// Bytes that can still be written, where the runtime tells it.
    pub available: Option<ByteSize>,
}

/// Credentials for one registry. `Debug` never shows the secret part.
#[derive(Debug, Clone)]
pub enum RegistryAuth {
    /// User name and password (HTTP basic, or to obtain a token with).
    Basic {
        /// User name.
        username: String,
        /// Password or access token used as one.
        password: SecretString,
    },
    /// An OAuth2 refresh token (`identitytoken` in a docker configuration).
    IdentityToken(SecretString),
    /// A bearer token sent to the registry as it stands (`registrytoken`).
    RegistryToken(SecretString),
}

/// What credentials are wanted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialsRequest {
    /// The image that is about to be pulled.
    pub image: ImageRef,
    /// Secrets that may hold credentials, in the order to try them.
    pub pull_secrets: Vec<ObjectName>,
    /// ServiceAccounts whose `imagePullSecrets` may hold them.
    pub service_accounts: Vec<ObjectName>,
}

/// Where registry credentials come from; asked before every pull, nothing is kept.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Credentials: Send + Sync {
    /// Every set of credentials that matches the image, in the order to try them. Empty: pull
    /// anonymously.
    ///
    /// # Errors
    ///
    /// A [`Failure`] with [`Reason::CredentialsUnavailable`](crate::error::Reason) when a named
    /// source is missing or malformed and no other matched; one of a transient
    /// [class](crate::error::ErrorClass::is_transient) when that can't be told for now.
    async fn resolve(&self, request: &CredentialsRequest) -> Result<Vec<RegistryAuth>, Failure>;
}

/// Credentials for nobody: every pull is anonymous.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

#[async_trait]
impl Credentials for Anonymous {
    async fn resolve(&self, _request: &CredentialsRequest) -> Result<Vec<RegistryAuth>, Failure> {
        Ok(Vec::new())
    }
}

/// Time, as the driver sees it.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Clock: Send + Sync {
    /// The time now. Must never go back, whatever happens to the machine's wall clock.
    fn now(&self) -> Timestamp;

    /// Returns when `now()` has passed that far.
    async fn sleep(&self, duration: Duration);
}
