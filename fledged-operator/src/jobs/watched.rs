//! Objects of this driver, as they are watched.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};

use crate::api::watch::Inventory;

/// An object of a namespace.
pub(super) type Key = (String, String);

/// Objects of this driver, by their names.
pub(super) struct Watched<K> {
    seen: Inventory<Key, ()>,
    pub(super) known: BTreeMap<Key, Arc<K>>,
}

impl<K: Resource<DynamicType = ()>> Watched<K> {
    pub(super) fn new() -> Self {
        Self {
            seen: Inventory::new(),
            known: BTreeMap::new(),
        }
    }

    /// What is there now, what is gone, and whether a list has ended.
    pub(super) fn read(&mut self, event: Event<K>) -> (Option<Arc<K>>, Vec<Arc<K>>, bool) {
        match event {
            Event::Init => {
                self.seen.begin();
                (None, Vec::new(), false)
            }
            Event::InitApply(object) | Event::Apply(object) => {
                let (key, object) = (key(&object), Arc::new(object));
                self.seen.put(key.clone(), ());
                self.known.insert(key, Arc::clone(&object));
                (Some(object), Vec::new(), false)
            }
            Event::Delete(object) => {
                self.seen.remove(&key(&object));
                self.known.remove(&key(&object));
                (None, vec![Arc::new(object)], false)
            }
            Event::InitDone => {
                let gone = self.seen.end().into_iter();
                let gone = gone.filter_map(|key| self.known.remove(&key)).collect();
                (None, gone, true)
            }
        }
    }
}

fn key<K: Resource<DynamicType = ()>>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}
