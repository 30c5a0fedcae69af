//! Blobs that a pull under way needs, and that must therefore not be collected.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fledged_core::model::Digest;

/// How many pulls need a blob, by digest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pins(Arc<Mutex<HashMap<Digest, usize>>>);

impl Pins {
    /// An empty set for one pull; dropping it frees what it holds.
    pub(crate) fn hold(&self) -> PinSet {
        PinSet {
            pins: self.clone(),
            mine: Mutex::new(Vec::new()),
        }
    }

    /// Runs `delete` unless the blob is pinned; no pin can be set in between.
    pub(crate) fn unless_pinned<T>(
        &self,
        digest: &Digest,
        delete: impl FnOnce() -> T,
    ) -> Option<T> {
        let counts = self.counts();
        (!counts.contains_key(digest)).then(delete)
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pins of one pull.
#[derive(Debug)]
pub(crate) struct PinSet {
    pins: Pins,
    mine: Mutex<Vec<Digest>>,
}

impl PinSet {
    /// Pins a blob. Must come before looking whether it is there.
    pub(crate) fn add(&self, digest: &Digest) {
        // Both under the first lock, so that a release in between frees what was counted.
        let mut counts = self.pins.counts();
        *counts.entry(digest.clone()).or_insert(0) += 1;
        self.mine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(digest.clone());
    }

    /// Everything this set holds.
    pub(crate) fn digests(&self) -> Vec<Digest> {
        self.mine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Frees everything this set holds.
    pub(crate) fn release(&self) {
        let mut counts = self.pins.counts();
        let mut mine = self.mine.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in mine.drain(..) {
            if let Some(count) = counts.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&digest);
                }
            }
        }
    }
}

impl Drop for PinSet {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_free_when_the_last_pull_let_go() {
        let pins = Pins::default();
        let digest = Digest::parse(&crate::registry::sha256(b"x")).unwrap();
        let free = || pins.unless_pinned(&digest, || ()).is_some();
        assert!(free());
        let (one, two) = (pins.hold(), pins.hold());
        one.add(&digest);
        one.add(&digest);
        two.add(&digest);
        assert!(!free());
        drop(one);
        assert!(!free());
        drop(two);
        assert!(free());
    }
}
