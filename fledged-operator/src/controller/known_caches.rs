//! The ImageCaches that exist, as their watch last sent them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fledged_core::model::CacheId;
use fledged_kube::crd::ReadCache;
use kube::ResourceExt;

/// The cache that currently has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KnownCache {
    uid: String,
    /// Whether another operator, for example kube-fledged, wrote its status. Fields that the controller does not
    /// write would otherwise stay for ever.
    foreign: bool,
}

/// Whether a status can be written to a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatusTarget {
    /// It does not exist; another cache may have its name.
    Gone,
    /// It exists, without a status of another operator.
    Ours,
    /// It exists, with a status of another operator that must be cleared first.
    Foreign,
}

/// The existing caches by namespace and name. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownCaches(Arc<Mutex<BTreeMap<(String, String), KnownCache>>>);

impl KnownCaches {
    /// Adds or updates a cache.
    pub(super) fn insert(&self, cache: &ReadCache) {
        let id = cache.id();
        let seen = KnownCache {
            uid: cache.uid().unwrap_or_default(),
            foreign: cache.has_foreign_status(),
        };
        self.lock().insert((id.namespace, id.name), seen);
    }

    /// Removes a cache. A later cache of the same name stays.
    pub(super) fn remove(&self, cache: &CacheId) {
        let key = (cache.namespace.clone(), cache.name.clone());
        let mut seen = self.lock();
        if seen.get(&key).is_some_and(|seen| seen.uid == cache.uid) {
            seen.remove(&key);
        }
    }

    /// Whether a status can be written to that cache.
    pub(super) fn status_target(&self, cache: &CacheId) -> StatusTarget {
        let key = (cache.namespace.clone(), cache.name.clone());
        match self.lock().get(&key) {
            Some(seen)
                if seen.uid != cache.uid
                    && !fledged_core::planted::is("status-of-deleted-cache") =>
            {
                StatusTarget::Gone
            }
            Some(seen) if seen.foreign => StatusTarget::Foreign,
            Some(_) => StatusTarget::Ours,
            None => StatusTarget::Gone,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), KnownCache>> {
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
    fn a_later_cache_of_the_same_name_is_distinct() {
        let caches = KnownCaches::default();
        let (old, new) = (mk_cache("1", ().into()), mk_cache("2", ().into()));
        caches.insert(&old);
        assert_eq!(caches.status_target(&old.id()), StatusTarget::Ours);
        caches.insert(&new);
        assert_eq!(caches.status_target(&old.id()), StatusTarget::Gone);
        caches.remove(&old.id());
        assert_eq!(caches.status_target(&new.id()), StatusTarget::Ours);
        caches.remove(&new.id());
        assert_eq!(caches.status_target(&new.id()), StatusTarget::Gone);
    }

    #[test]
    fn a_status_without_generation_is_foreign() {
        let caches = KnownCaches::default();
        for (status, presence) in [
            (
                serde_json::json!({ "status": "Failed" }),
                StatusTarget::Foreign,
            ),
            (
                serde_json::json!({ "observedGeneration": 1 }),
                StatusTarget::Ours,
            ),
            (serde_json::json!({}), StatusTarget::Ours),
        ] {
            let cache = mk_cache("1", status);
            caches.insert(&cache);
            assert_eq!(caches.status_target(&cache.id()), presence);
        }
    }
}
