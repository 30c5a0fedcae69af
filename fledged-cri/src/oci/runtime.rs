//! The port [`ImageRuntime`] for an image layout.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::ImageRef;
use fledged_core::port::{
    FilesystemUsage, ImageRuntime, ImageUse, PullRequest, Removal, RemovalScope, RuntimeImage,
    RuntimeInfo,
};
use tokio_util::task::AbortOnDropHandle;

use super::inventory;
use super::layout::{LAYOUT_VERSION, Layout};
use super::layout_error::LayoutError;
use super::lock::WriterLock;
use super::pull::pull;
use super::store::{Store, blocking};
use crate::PullSlowdowns;
use crate::registry::{
    ConnectionLimit, Platform, PressureLimits, PullRate, Registry, RegistryOptions,
};

/// Layers of one image that are fetched in parallel: the default of containerd and Docker. Many take
/// bandwidth from everything else on the node.
const PARALLEL_LAYERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(2);

/// Options of an [`OciLayoutRuntime`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OciLayoutOptions {
    /// The platform whose images are pulled.
    pub platform: Platform,
    /// How registries are reached.
    pub registry: RegistryOptions,
    /// How many layers of one image are fetched in parallel.
    pub parallel_layers: NonZeroUsize,
    /// How many connections fetch layers, of all images together. A large layer comes over several, in parts
    /// of 8 MiB, each of which is in memory until those before it are written.
    pub max_connections: ConnectionLimit,
    /// Bytes of layers that are received in a second, at most, by all pulls together. Default: no limit.
    pub max_pull_rate: Option<PullRate>,
    /// The pressure on the machine above which layers are received slower.
    pub pressure: PressureLimits,
    /// Counts what slows the pulls down.
    pub slowdowns: PullSlowdowns,
}

impl OciLayoutOptions {
    /// Sets [`platform`](Self::platform).
    #[must_use]
    pub fn with_platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Sets [`registry`](Self::registry).
    #[must_use]
    pub fn with_registry(mut self, options: RegistryOptions) -> Self {
        self.registry = options;
        self
    }
}

impl Default for OciLayoutOptions {
    /// This machine's platform, [`RegistryOptions::default`], three layers, eight connections.
    fn default() -> Self {
        Self {
            platform: Platform::host(),
            registry: RegistryOptions::default(),
            parallel_layers: PARALLEL_LAYERS,
            max_connections: ConnectionLimit::default(),
            max_pull_rate: None,
            pressure: PressureLimits::default(),
            slowdowns: PullSlowdowns::default(),
        }
    }
}

/// An OCI image layout (image specification 1.1) into which images are pulled.
///
/// [`oci`](crate::oci) documents the files and their guarantees. Needs a tokio runtime. No container
/// runs from a layout, so no image is ever in use.
#[derive(Debug, Clone)]
pub struct OciLayoutRuntime {
    store: Arc<Store>,
}

impl OciLayoutRuntime {
    /// Opens the layout in `folder`. Nothing is written until the first pull or removal, which creates a
    /// missing layout and deletes temporary files of processes that died.
    ///
    /// # Errors
    ///
    /// [`LayoutError`] if the folder holds something else or a layout of another version, or cannot
    /// be read, or if this machine's certificates cannot be read.
    pub fn open(folder: impl AsRef<Path>, options: OciLayoutOptions) -> Result<Self, LayoutError> {
        let layout = Layout::new(folder.as_ref());
        let lock = WriterLock::new(layout.clone());
        layout.state()?;
        let registry = Registry::new(options.registry.clone()).map_err(LayoutError::Registry)?;
        Ok(Self {
            store: Arc::new(Store::new(layout, lock, registry, &options)),
        })
    }

    /// The folder of the layout.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.store.layout.root()
    }

    /// The registry client that pulls use.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.store.registry
    }
}

#[async_trait]
impl ImageRuntime for OciLayoutRuntime {
    async fn info(&self) -> Result<RuntimeInfo, Failure> {
        Ok(RuntimeInfo::new(
            "oci-layout",
            env!("CARGO_PKG_VERSION"),
            RemovalScope::Reference,
        )
        .with_api_version(LAYOUT_VERSION))
    }

    async fn list(&self) -> Result<Vec<RuntimeImage>, Failure> {
        let store = Arc::clone(&self.store);
        blocking(move || Ok(inventory::list(&store.layout, &store.platform)?)).await
    }

    async fn lookup(&self, image: &ImageRef) -> Result<Option<RuntimeImage>, Failure> {
        let (store, wanted) = (Arc::clone(&self.store), image.clone());
        blocking(move || Ok(inventory::lookup(&store.layout, &store.platform, &wanted)?)).await
    }

    async fn in_use(&self) -> Result<Vec<ImageUse>, Failure> {
        Ok(Vec::new())
    }

    /// See [`ImageRuntime::pull`]. The pull runs on its own task, which dropping the future aborts.
    async fn pull(&self, request: PullRequest) -> Result<RuntimeImage, Failure> {
        let task = tokio::spawn(pull(Arc::clone(&self.store), request));
        AbortOnDropHandle::new(task)
            .await
            .unwrap_or_else(|error| Err(Failure::new(Reason::Unknown, error.to_string())))
    }

    async fn remove(&self, image: &ImageRef) -> Result<Removal, Failure> {
        Arc::clone(&self.store).remove(image.clone()).await
    }

    async fn filesystems(&self) -> Result<Vec<FilesystemUsage>, Failure> {
        let store = Arc::clone(&self.store);
        blocking(move || Ok(vec![store.usage()?])).await
    }
}
