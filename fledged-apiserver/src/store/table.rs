//! The objects of one resource.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::history::History;
use super::watchers::Watchers;
use super::{Change, Event, Key, Object};

/// The objects of one resource, with their history and their watchers.
#[derive(Default)]
pub(crate) struct Table {
    pub(super) objects: BTreeMap<Key, Arc<Object>>,
    pub(super) history: History,
    pub(super) watchers: Watchers,
}

impl Table {
    pub(super) fn put(&mut self, key: &Key, object: Arc<Object>, length: usize) {
        let previous = self.objects.insert(key.clone(), Arc::clone(&object));
        let change = match previous {
            Some(_) => Change::Modified,
            None => Change::Added,
        };
        self.record(key, Event::new(change, object, previous), length);
    }

    /// Removes an object whose last state is `last`.
    pub(super) fn remove(&mut self, key: &Key, last: Arc<Object>, length: usize) {
        let previous = self.objects.remove(key);
        self.record(key, Event::new(Change::Deleted, last, previous), length);
    }

    fn record(&mut self, key: &Key, event: Event, length: usize) {
        let event = Arc::new(event);
        self.watchers.publish(&key.name, &event);
        self.history.push(key.clone(), event, length);
    }
}
