//! Limits of a warmer.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::backoff::Backoff;

/// Shortest interval and deadline that are honoured: with none at all the loop would spin.
pub(super) const SHORTEST: Duration = Duration::from_secs(1);

/// Limits and intervals of a [`Warmer`](super::Warmer).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WarmerConfig {
    /// Pulls under way at once. Default 3: enough to hide latencies, few enough to leave a starting
    /// pod its share (the kubelet itself pulls one at a time by default).
    pub max_parallel_pulls: NonZeroUsize,
    /// How often the runtime's inventory is read without any other cause, at most once a second. Up to
    /// a tenth of it sooner, so that nodes do not keep the same time. Default 60 s, so that an image
    /// that the kubelet collected is back within about a minute.
    pub inventory_interval: Duration,
    /// An image that vanishes sooner than this after it was cached counts towards
    /// [`Backoff::evicted`]. Default 30 min: the kubelet's garbage collection runs every 5 min, and
    /// pulling at once what it keeps collecting would only wear the disk.
    pub eviction_window: Duration,
    /// When failed attempts are repeated.
    pub backoff: Backoff,
}

impl WarmerConfig {
    /// With another number of pulls at once.
    #[must_use]
    pub fn with_max_parallel_pulls(mut self, pulls: NonZeroUsize) -> Self {
        self.max_parallel_pulls = pulls;
        self
    }

    /// With another time between readings of the inventory.
    #[must_use]
    pub fn with_inventory_interval(mut self, interval: Duration) -> Self {
        self.inventory_interval = interval;
        self
    }

    /// With another time within which an image that vanishes counts as evicted.
    #[must_use]
    pub fn with_eviction_window(mut self, window: Duration) -> Self {
        self.eviction_window = window;
        self
    }

    /// With other delays after failures.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }
}

impl Default for WarmerConfig {
    fn default() -> Self {
        Self {
            max_parallel_pulls: NonZeroUsize::MIN.saturating_add(2),
            inventory_interval: Duration::from_secs(60),
            eviction_window: Duration::from_secs(30 * 60),
            backoff: Backoff::default(),
        }
    }
}
