//! The image layout as an [`ImageRuntime`].

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, ImageRef};
use fledged_core::port::{
    FilesystemUsage, ImageId, ImageRuntime, PullRequest, Removal, RemovalScope, RuntimeImage,
    RuntimeInfo,
};
use tokio_util::task::AbortOnDropHandle;

use super::LayoutError;
use super::collect::present;
use super::index::Index;
use super::inventory;
use super::layout::{LAYOUT_VERSION, Layout, State};
use super::lock::WriterLock;
use super::pull::{blocking, pull};
use super::store::Store;
use crate::registry::{Platform, Registry, RegistryOptions};

/// Layers of one image that are fetched at once: what containerd and Docker default to. One
/// connection rarely fills a link; many take it from everybody else on the node.
const PARALLEL_LAYERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(2);

/// How an [`OciLayoutRuntime`] works.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OciLayoutOptions {
    /// Which platform's images are kept.
    pub platform: Platform,
    /// How registries are reached.
    pub registry: RegistryOptions,
    /// How many layers of one image are fetched at once.
    pub parallel_layers: NonZeroUsize,
}

impl OciLayoutOptions {
    /// With images of another platform.
    #[must_use]
    pub fn with_platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// With registries reached in another way.
    #[must_use]
    pub fn with_registry(mut self, options: RegistryOptions) -> Self {
        self.registry = options;
        self
    }

    /// With another number of layers of one image at once.
    #[must_use]
    pub fn with_parallel_layers(mut self, layers: NonZeroUsize) -> Self {
        self.parallel_layers = layers;
        self
    }
}

impl Default for OciLayoutOptions {
    /// This machine's platform, [`RegistryOptions::default`], three layers.
    fn default() -> Self {
        Self {
            platform: Platform::host(),
            registry: RegistryOptions::default(),
            parallel_layers: PARALLEL_LAYERS,
        }
    }
}

/// An OCI image layout (image specification 1.1) that images are pulled into.
///
/// What is on disk and what holds at every moment is told by the [module](crate::oci). Needs a
/// tokio runtime. Nobody starts containers from a layout, so no image is ever in use.
#[derive(Debug, Clone)]
pub struct OciLayoutRuntime {
    inner: Arc<Store>,
}

/// Why a layout could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The way to registries.
    #[error(transparent)]
    Registry(#[from] Failure),
}

impl OciLayoutRuntime {
    /// Opens the layout in `folder`. One that is missing or empty becomes a layout with the first
    /// pull; until then nothing is created. Downloads that a process left unfinished are swept.
    ///
    /// # Errors
    ///
    /// [`OpenError::Layout`] for a folder that holds something else, a layout of another version,
    /// or one that cannot be read; [`OpenError::Registry`] when this machine's certificates cannot
    /// be read.
    pub fn open(folder: impl AsRef<Path>, options: OciLayoutOptions) -> Result<Self, OpenError> {
        let layout = Layout::new(folder.as_ref());
        let lock = WriterLock::new(layout.clone());
        if layout.state()? == State::Ready
            && let Err(error) = lock.sweep()
        {
            // Reading is possible all the same; who cannot write is told when writing.
            tracing::debug!(%error, "unfinished downloads are not swept");
        }
        Ok(Self {
            inner: Arc::new(Store::new(
                layout,
                lock,
                Registry::new(options.registry)?,
                options.platform,
                options.parallel_layers,
            )),
        })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.inner.layout.root()
    }

    /// The way to registries that pulls use.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
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
        let inner = Arc::clone(&self.inner);
        blocking(move || Ok(inventory::list(&inner.layout, &inner.platform)?)).await
    }

    async fn lookup(&self, image: &ImageRef) -> Result<Option<RuntimeImage>, Failure> {
        let (inner, wanted) = (Arc::clone(&self.inner), image.clone());
        blocking(move || Ok(inventory::lookup(&inner.layout, &inner.platform, &wanted)?)).await
    }

    async fn in_use(&self) -> Result<Vec<ImageId>, Failure> {
        Ok(Vec::new())
    }

    /// See [`ImageRuntime::pull`]. Runs on a task of its own, so that the caller's one is free;
    /// dropping the future ends it.
    async fn pull(&self, request: PullRequest) -> Result<RuntimeImage, Failure> {
        let task = tokio::spawn(pull(Arc::clone(&self.inner), request));
        AbortOnDropHandle::new(task)
            .await
            .unwrap_or_else(|error| Err(Failure::new(Reason::Unknown, error.to_string())))
    }

    async fn remove(&self, image: &ImageRef) -> Result<Removal, Failure> {
        remove(Arc::clone(&self.inner), image.clone()).await
    }

    async fn filesystems(&self) -> Result<Vec<FilesystemUsage>, Failure> {
        let inner = Arc::clone(&self.inner);
        blocking(move || Ok(vec![usage(&inner.layout)?])).await
    }
}

async fn remove(inner: Arc<Store>, image: ImageRef) -> Result<Removal, Failure> {
    // A folder that is no layout yet must not become one by this.
    let (seen, wanted) = (Arc::clone(&inner), image.clone());
    let there = blocking(move || Ok(Index::load(&seen.layout)?.get(&wanted).is_some())).await?;
    if !there {
        return Ok(Removal::Absent);
    }
    let writer = inner.lock.acquire().await?;
    blocking(move || {
        let _writer = writer;
        let _gate = inner.index_gate();
        let mut index = Index::load(&inner.layout)?;
        let Some(before) = index.remove(&image) else {
            return Ok(Removal::Absent);
        };
        // The entry goes first: a blob may be there without an entry, never the other way round.
        index.store(&inner.layout)?;
        inner.collect_after(&index, before.digest);
        Ok(Removal::Removed)
    })
    .await
}

fn usage(layout: &Layout) -> Result<FilesystemUsage, LayoutError> {
    let used = present(layout)?
        .iter()
        .map(|(_, metadata)| ByteSize::new(metadata.len()))
        .sum();
    // A folder that is still to be created will be on its nearest ancestor's file system.
    let existing = layout
        .root()
        .ancestors()
        .map(|path| {
            if path.as_os_str().is_empty() {
                Path::new(".")
            } else {
                path
            }
        })
        .find(|path| path.exists())
        .unwrap_or_else(|| Path::new("/"));
    let figures = rustix::fs::statvfs(existing)
        .map_err(|error| LayoutError::io("measure", existing)(error.into()))?;
    // What an ordinary user may still write, without the blocks kept for root.
    let available = ByteSize::new(figures.f_bavail.saturating_mul(figures.f_frsize));
    let path = layout.root().display().to_string();
    Ok(FilesystemUsage::new(path, used).with_available(available))
}
