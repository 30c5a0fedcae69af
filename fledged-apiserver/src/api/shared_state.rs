//! The state that all requests share.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::pod_proxy::PodRoutes;
use crate::failures::Faults;
use crate::kinds::Catalogue;
use crate::object_store::Store;
use crate::request_counts::Requests;
use crate::timestamps::Clock;

/// The state of the API.
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) catalogue: Catalogue,
    pub(crate) requests: Requests,
    pub(crate) faults: Faults,
    pub(crate) clock: Clock,
    pub(crate) pod_routes: PodRoutes,
    random: Mutex<fastrand::Rng>,
}

impl Api {
    pub(crate) fn new(store: Store, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            store,
            catalogue: Catalogue::new(),
            requests: Requests::default(),
            faults: Faults::default(),
            clock,
            pod_routes: PodRoutes::default(),
            random: Mutex::new(fastrand::Rng::new()),
        })
    }

    /// The current time in the form of object metadata, in whole seconds.
    pub(crate) fn now(&self) -> String {
        self.now_plus(0)
    }

    /// The time in `seconds`, in the form of object metadata.
    pub(crate) fn now_plus(&self, seconds: i64) -> String {
        self.clock
            .now()
            .saturating_add(SignedDuration::from_secs(seconds))
            .unwrap_or(Timestamp::MAX)
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string()
    }

    /// A random UUID.
    pub(crate) fn uid(&self) -> String {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        // Version 4, variant 1 of RFC 9562.
        let bits = (random.u128(..) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
        let hex = format!("{bits:032x}");
        let part = |from, to| hex.get(from..to).unwrap_or_default();
        [
            part(0, 8),
            part(8, 12),
            part(12, 16),
            part(16, 20),
            part(20, 32),
        ]
        .join("-")
    }

    /// A number from zero to one.
    pub(crate) fn fraction(&self) -> f64 {
        self.random
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .f64()
    }

    /// The random end of a generated name.
    pub(crate) fn suffix(&self) -> String {
        // The API server uses no vowels and nothing that looks like one.
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        (0..5)
            .filter_map(|_| random.choice(LETTERS.iter().copied()))
            .map(char::from)
            .collect()
    }
}
