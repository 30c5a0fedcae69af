//! Blobs that this process wrote and no entry needs yet.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fledged_core::model::Digest;

/// What would be left over if every pull under way failed. Tells our own leftovers from blobs that
/// another tool has just written and whose entry is still to come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Written(Arc<Mutex<BTreeSet<Digest>>>);

impl Written {
    /// A blob was written.
    pub(crate) fn add(&self, digest: &Digest) {
        self.digests().insert(digest.clone());
    }

    /// An entry needs these now, or they are gone.
    pub(crate) fn forget<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) {
        let mut held = self.digests();
        for digest in digests {
            held.remove(digest);
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> BTreeSet<Digest> {
        self.digests().clone()
    }

    fn digests(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
