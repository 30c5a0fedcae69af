//! One layout on disk, with the state that all calls on it share.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, Digest, ImageRef};
use fledged_core::port::{FilesystemUsage, Removal};

use super::collect::{GRACE, Pins, collect, reachable};
use super::download::Flights;
use super::index::Index;
use super::layout::Layout;
use super::layout_error::LayoutError;
use super::lock::WriterLock;
use super::runtime::OciLayoutOptions;
use crate::disk::with_stat;
use crate::registry::{Connections, Platform, RateOptions, Registry};

/// A layout on disk, with the state that all calls on it share.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) layout: Layout,
    pub(super) platform: Platform,
    pub(super) parallel_layers: NonZeroUsize,
    pub(super) registry: Registry,
    pub(super) connections: Connections,
    pub(super) lock: WriterLock,
    pub(super) pins: Pins,
    pub(super) flights: Flights,
    gate: Mutex<()>,
}

impl Store {
    pub(super) fn new(
        layout: Layout,
        lock: WriterLock,
        registry: Registry,
        options: &OciLayoutOptions,
    ) -> Self {
        let rate = RateOptions {
            limit: options.max_pull_rate,
            pressure: options.pressure.clone(),
            slowdowns: options.slowdowns.clone(),
        };
        Self {
            layout,
            platform: options.platform.clone(),
            parallel_layers: options.parallel_layers,
            connections: Connections::new(options.max_connections, rate),
            registry,
            lock,
            pins: Pins::default(),
            flights: Flights::default(),
            gate: Mutex::new(()),
        }
    }

    /// Held from reading the index until it is replaced, and while blobs are collected.
    pub(super) fn index_gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes one reference, and the blobs that no other entry reaches.
    pub(super) async fn remove(self: Arc<Self>, image: ImageRef) -> Result<Removal, Failure> {
        // Reads first: a removal must not turn an empty folder into a layout.
        let (store, wanted) = (Arc::clone(&self), image.clone());
        let has_entry = move || Ok(Index::load(&store.layout)?.get(&wanted).is_some());
        if !blocking(has_entry).await? {
            return Ok(Removal::Absent);
        }
        let writer = self.lock.acquire().await?;
        blocking(move || {
            let _writer = writer;
            let _gate = self.index_gate();
            let mut index = Index::load(&self.layout)?;
            let Some(before) = index.remove(&image) else {
                return Ok(Removal::Absent);
            };
            // The entry first: a blob without an entry is valid, an entry without its blob is not.
            index.store(&self.layout)?;
            self.collect_after(&index, before.digest);
            Ok(Removal::Removed)
        })
        .await
    }

    /// Deletes the blobs that only `removed` reached, and unreachable ones that are older than
    /// [`GRACE`]. The index is already replaced, so a blob that cannot be deleted costs only space;
    /// the next collection tries again.
    pub(super) fn collect_after(&self, index: &Index, removed: Digest) {
        let collected = reachable(&self.layout, [removed])
            .and_then(|doomed| collect(&self.layout, index, &self.pins, &doomed, GRACE));
        if let Err(error) = collected {
            tracing::warn!(%error, "unused blobs not deleted");
        }
    }

    /// The bytes of all blobs, and the free space of the file system.
    pub(super) fn usage(&self) -> Result<FilesystemUsage, LayoutError> {
        let blobs = self.layout.present()?;
        let used = blobs.iter().map(|(_, size)| ByteSize::new(*size)).sum();
        // A missing folder will be created on the file system of its nearest ancestor.
        let existing = self
            .layout
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
        let stat = rustix::fs::statvfs(existing)
            .map_err(|error| LayoutError::io("measure", existing)(error.into()))?;
        let path = self.layout.root().display().to_string();
        Ok(with_stat(FilesystemUsage::new(path, used), &stat))
    }
}

/// Runs file-system work on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::new(Reason::Unknown, error.to_string()))?
}
