//! Which object an assignment came from.

use std::sync::{Arc, Mutex, PoisonError};

use super::reporter::Source;

/// The object of the assignment that the loop takes next.
///
/// Core knows nothing of objects: the loop tells its observer of an assignment right after it took it
/// from its inputs, and that is how the two find together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Taken(Arc<Mutex<Option<Source>>>);

impl Taken {
    pub(crate) fn put(&self, source: Option<Source>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = source;
    }

    pub(crate) fn take(&self) -> Option<Source> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
