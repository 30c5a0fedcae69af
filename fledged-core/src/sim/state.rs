//! The state and the trace of a simulated runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Faults, SimRegistry};
use crate::error::{Failure, Reason};
use crate::model::{ByteSize, ImageRef};
use crate::port::{ImageId, RemovalScope, RuntimeImage, SharedPullLimit};

/// An event of a simulated runtime, with its time.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceEntry {
    /// Simulated time since the start.
    pub at: Duration,
    /// What happened.
    pub event: TraceEvent,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceEvent {
    /// A pull began; the number of running pulls includes it.
    PullBegan(ImageRef, usize),
    /// A pull succeeded.
    Pulled(ImageRef),
    /// A pull failed or was abandoned.
    PullFailed(ImageRef),
    /// The removal of a name was requested.
    RemovalBegan(ImageRef),
    /// A name was removed, together with these references.
    Removed(ImageRef, Vec<ImageRef>),
    /// An image was removed from outside.
    Evicted(ImageRef),
    /// The inventory was read.
    Listed,
}

#[derive(Debug)]
pub(super) struct Stored {
    pub(super) references: BTreeSet<ImageRef>,
    pub(super) layers: Vec<(String, ByteSize)>,
    pub(super) pinned: bool,
}

impl Stored {
    pub(super) fn described(&self, id: &ImageId) -> RuntimeImage {
        RuntimeImage {
            id: id.clone(),
            references: self.references.iter().cloned().collect(),
            digest: None,
            size: self.layers.iter().map(|(_, size)| *size).sum(),
            pinned: self.pinned,
            via: None,
        }
    }
}

#[derive(Debug)]
pub(super) struct RuntimeState {
    pub(super) registry: SimRegistry,
    pub(super) images: BTreeMap<ImageId, Stored>,
    pub(super) layers: BTreeMap<String, ByteSize>,
    pub(super) in_use: BTreeSet<ImageId>,
    pub(super) rng: fastrand::Rng,
    pub(super) faults: Faults,
    pub(super) bandwidth: Option<u64>,
    pub(super) capacity: Option<ByteSize>,
    pub(super) removal: RemovalScope,
    /// The limits of the running pulls, by number.
    pub(super) pulls: BTreeMap<u64, SharedPullLimit>,
    pub(super) last_pull: u64,
    pub(super) trace: Vec<TraceEntry>,
}

impl RuntimeState {
    pub(super) fn find(&self, image: &ImageRef) -> Option<(&ImageId, &Stored)> {
        self.images
            .iter()
            .find(|(_, stored)| stored.references.contains(image))
    }

    pub(super) fn used(&self) -> ByteSize {
        self.layers.values().copied().sum()
    }

    /// The bytes a second of a running pull: its share of the bandwidth, and of the rate of its cache. `None`: no limit.
    pub(super) fn rate_of(&self, pull: u64) -> Option<u64> {
        let share =
            |rate: u64, pulls: usize| rate / u64::try_from(pulls.max(1)).unwrap_or(u64::MAX);
        let bandwidth = self.bandwidth.map(|rate| share(rate, self.pulls.len()));
        let own = self.pulls.get(&pull).and_then(SharedPullLimit::get);
        let limit = own.map(|own| {
            let limits = self.pulls.values().filter_map(SharedPullLimit::get);
            let pulls = limits.filter(|limit| limit.cache == own.cache).count();
            share(own.rate.bytes(), pulls)
        });
        let rates = [bandwidth, limit].into_iter().flatten();
        rates.min().map(|rate| rate.max(1))
    }

    /// Fails if the disk has no room for `size` more bytes.
    pub(super) fn room_for(&self, size: ByteSize) -> Result<(), Failure> {
        match self.capacity {
            Some(capacity) if self.used() + size > capacity => {
                Err(Failure::new(Reason::DiskFull, "no space left on device"))
            }
            _ => Ok(()),
        }
    }

    /// Removes a name; returns every name that was removed with it.
    pub(super) fn unname(&mut self, image: &ImageRef, scope: RemovalScope) -> Vec<ImageRef> {
        let Some(id) = self.find(image).map(|(id, _)| id.clone()) else {
            return Vec::new();
        };
        let Some(stored) = self.images.get_mut(&id) else {
            return Vec::new();
        };
        let mut gone: Vec<ImageRef> = scope
            .takes_along(image, &stored.described(&id))
            .cloned()
            .collect();
        gone.push(image.clone());
        stored.references.retain(|name| !gone.contains(name));
        if stored.references.is_empty() {
            self.images.remove(&id);
            self.collect_layers();
        }
        gone
    }

    /// Deletes layers that no image uses.
    fn collect_layers(&mut self) {
        let needed: BTreeSet<String> = self
            .images
            .values()
            .flat_map(|stored| stored.layers.iter().map(|(name, _)| name.clone()))
            .collect();
        self.layers.retain(|name, _| needed.contains(name));
    }
}
