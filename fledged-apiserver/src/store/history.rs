//! The last writes to a resource.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::{Event, Key, Object};

/// A bounded history; what it has forgotten can neither be watched from nor listed at.
#[derive(Debug, Default)]
pub(crate) struct History {
    events: VecDeque<(Key, Arc<Event>)>,
    /// Revision of the last event that was forgotten.
    forgotten: u64,
}

impl History {
    pub(crate) fn push(&mut self, key: Key, event: Arc<Event>, length: usize) {
        self.events.push_back((key, event));
        while self.events.len() > length {
            if let Some((_, event)) = self.events.pop_front() {
                self.forgotten = event.revision();
            }
        }
    }

    /// Forgets everything up to `revision`.
    pub(crate) fn forget(&mut self, revision: u64) {
        self.events.retain(|(_, event)| event.revision() > revision);
        self.forgotten = self.forgotten.max(revision);
    }

    /// The events after `revision`.
    ///
    /// # Errors
    ///
    /// The oldest revision that can be resumed from.
    pub(crate) fn since(&self, revision: u64) -> Result<impl Iterator<Item = &Arc<Event>>, u64> {
        if revision < self.forgotten {
            return Err(self.forgotten);
        }
        let from = self
            .events
            .partition_point(|(_, event)| event.revision() <= revision);
        Ok(self.events.iter().skip(from).map(|(_, event)| event))
    }

    /// The objects as they were at `revision`, found by undoing what happened since.
    ///
    /// # Errors
    ///
    /// The oldest revision that is still known.
    pub(crate) fn rewind(
        &self,
        now: &BTreeMap<Key, Arc<Object>>,
        revision: u64,
    ) -> Result<BTreeMap<Key, Arc<Object>>, u64> {
        if revision < self.forgotten {
            return Err(self.forgotten);
        }
        let mut objects = now.clone();
        let later = self.events.iter().rev();
        for (key, event) in later.take_while(|(_, event)| event.revision() > revision) {
            match &event.previous {
                Some(previous) => objects.insert(key.clone(), Arc::clone(previous)),
                None => objects.remove(key),
            };
        }
        Ok(objects)
    }
}
