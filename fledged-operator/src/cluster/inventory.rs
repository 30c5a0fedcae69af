//! What a watch has told of, so that a new list tells what is gone.

use std::collections::{BTreeMap, BTreeSet};

/// Objects by key, with what has to be remembered of each.
#[derive(Debug)]
pub(crate) struct Inventory<K, V> {
    known: BTreeMap<K, V>,
    /// What a list under way has told of so far.
    listed: Option<BTreeSet<K>>,
}

impl<K: Ord + Clone, V> Inventory<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            known: BTreeMap::new(),
            listed: None,
        }
    }

    /// A list begins.
    pub(crate) fn begin(&mut self) {
        self.listed = Some(BTreeSet::new());
    }

    /// An object is there; returns what was remembered of it.
    pub(crate) fn put(&mut self, key: K, value: V) -> Option<V> {
        if let Some(listed) = &mut self.listed {
            listed.insert(key.clone());
        }
        self.known.insert(key, value)
    }

    /// An object is gone.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.known.remove(key)
    }

    /// The list has ended; returns what it did not tell of any more.
    pub(crate) fn end(&mut self) -> Vec<K> {
        let Some(listed) = self.listed.take() else {
            return Vec::new();
        };
        let gone = self.known.keys().filter(|key| !listed.contains(*key));
        let gone: Vec<K> = gone.cloned().collect();
        for key in &gone {
            self.known.remove(key);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_list_tells_what_is_gone() {
        let mut inventory = Inventory::new();
        inventory.begin();
        inventory.put("a", 1);
        inventory.put("b", 1);
        assert!(inventory.end().is_empty());
        assert_eq!(inventory.put("a", 2), Some(1));
        inventory.begin();
        inventory.put("b", 2);
        assert_eq!(inventory.end(), ["a"]);
        assert_eq!(inventory.remove(&"a"), None);
        assert!(inventory.end().is_empty(), "no list was under way");
    }
}
