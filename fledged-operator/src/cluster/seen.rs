//! Which caches there are, as far as the watch has told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fledged_core::model::CacheId;
use kube::ResourceExt;

use crate::crd::ReadCache;

/// What is remembered of the cache of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    uid: String,
    /// Whether somebody else has written its status, kube-fledged for instance: what of it is not
    /// written over would stand there for ever.
    foreign: bool,
}

/// How a cache stands that a status is to be written of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// It is gone; another may have its name.
    Gone,
    /// It is there.
    Known,
    /// It is there, with a status that is not ours.
    Foreign,
}

/// Caches by namespace and name. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct SeenCaches(Arc<Mutex<BTreeMap<(String, String), Seen>>>);

impl SeenCaches {
    /// A cache is there.
    pub(super) fn note(&self, cache: &ReadCache) {
        let id = cache.id();
        let seen = Seen {
            uid: cache.uid().unwrap_or_default(),
            foreign: cache.has_foreign_status(),
        };
        self.lock().insert((id.namespace, id.name), seen);
    }

    /// A cache is gone. Another of its name stays.
    pub(super) fn forget(&self, cache: &CacheId) {
        let key = (cache.namespace.clone(), cache.name.clone());
        let mut seen = self.lock();
        if seen.get(&key).is_some_and(|seen| seen.uid == cache.uid) {
            seen.remove(&key);
        }
    }

    pub(super) fn presence(&self, cache: &CacheId) -> Presence {
        let key = (cache.namespace.clone(), cache.name.clone());
        match self.lock().get(&key) {
            Some(seen) if seen.uid != cache.uid => Presence::Gone,
            Some(seen) if seen.foreign => Presence::Foreign,
            Some(_) => Presence::Known,
            None => Presence::Gone,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_cache(uid: &str, status: serde_json::Value) -> ReadCache {
        let metadata = serde_json::json!({ "namespace": "a", "name": "web", "uid": uid });
        serde_json::from_value(serde_json::json!({ "metadata": metadata, "status": status }))
            .unwrap()
    }

    #[test]
    fn a_later_cache_of_the_same_name_is_another() {
        let caches = SeenCaches::default();
        let (old, new) = (mk_cache("1", ().into()), mk_cache("2", ().into()));
        caches.note(&old);
        assert_eq!(caches.presence(&old.id()), Presence::Known);
        caches.note(&new);
        assert_eq!(caches.presence(&old.id()), Presence::Gone);
        caches.forget(&old.id());
        assert_eq!(caches.presence(&new.id()), Presence::Known);
        caches.forget(&new.id());
        assert_eq!(caches.presence(&new.id()), Presence::Gone);
    }

    #[test]
    fn a_status_without_a_generation_is_somebody_elses() {
        let caches = SeenCaches::default();
        for (status, presence) in [
            (serde_json::json!({ "status": "Failed" }), Presence::Foreign),
            (
                serde_json::json!({ "observedGeneration": 1 }),
                Presence::Known,
            ),
            (serde_json::json!({}), Presence::Known),
        ] {
            let cache = mk_cache("1", status);
            caches.note(&cache);
            assert_eq!(caches.presence(&cache.id()), presence);
        }
    }
}
