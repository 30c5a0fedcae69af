//! One layout, and what all calls on it share.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fledged_core::model::Digest;

use super::blobs::Flights;
use super::collect::{GRACE, collect, reachable};
use super::index::Index;
use super::layout::Layout;
use super::lock::WriterLock;
use super::pins::Pins;
use crate::registry::{Platform, Registry};

/// A layout on disk, and what all calls on it share.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) layout: Layout,
    pub(crate) platform: Platform,
    pub(crate) parallel_layers: NonZeroUsize,
    pub(crate) registry: Registry,
    pub(crate) lock: WriterLock,
    pub(crate) pins: Pins,
    pub(crate) flights: Flights,
    gate: Mutex<()>,
}

impl Store {
    pub(crate) fn new(
        layout: Layout,
        lock: WriterLock,
        registry: Registry,
        platform: Platform,
        parallel_layers: NonZeroUsize,
    ) -> Self {
        Self {
            layout,
            platform,
            parallel_layers,
            registry,
            lock,
            pins: Pins::default(),
            flights: Flights::default(),
            gate: Mutex::new(()),
        }
    }

    /// Held from reading the index to having replaced it, and while blobs are collected.
    pub(crate) fn index_gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Collects what `removed` reached and nothing else does, and leftovers past their grace. The
    /// index was replaced already, so a blob that cannot be deleted now costs room and nothing
    /// else; the next collection tries again.
    pub(crate) fn collect_after(&self, index: &Index, removed: Digest) {
        let collected = reachable(&self.layout, [removed])
            .and_then(|doomed| collect(&self.layout, index, &self.pins, &doomed, GRACE));
        if let Err(error) = collected {
            tracing::warn!(%error, "not everything that is needed no more could be deleted");
        }
    }
}
