//! All caches, with what is looked up more often than it changes: when refreshes are due, and which caches keep the
//! images of an invalid spec. A cluster may have ten thousand caches, so that no event may cost a look at each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::cache::{CacheState, OrphanPolicy};
use crate::model::CacheId;

/// All caches. The keys are shared with the tallies of nodes.
#[derive(Debug, Clone, Default)]
pub(super) struct Caches {
    by_id: BTreeMap<Arc<CacheId>, CacheState>,
    /// When caches refresh by their interval, or because a request had to wait.
    refreshes: BTreeSet<(Timestamp, Arc<CacheId>)>,
    /// Caches with an invalid spec, whose recorded images stay.
    frozen: BTreeSet<Arc<CacheId>>,
}

/// The times at which a cache refreshes.
fn refresh_times(cache: &CacheState) -> impl Iterator<Item = Timestamp> {
    let times = [cache.refresh_at, cache.refresh_waits_until];
    times.into_iter().flatten()
}

impl Caches {
    pub(super) fn get(&self, id: &CacheId) -> Option<&CacheState> {
        self.by_id.get(id)
    }

    /// The cache and its shared key.
    pub(super) fn get_key_value(&self, id: &CacheId) -> Option<(&Arc<CacheId>, &CacheState)> {
        self.by_id.get_key_value(id)
    }

    /// A cache whose totals, requests or status change. Its spec, its deletion, its purge and the times of its refreshes
    /// may not: for these it is [taken](Self::take) and inserted again.
    pub(super) fn get_mut(&mut self, id: &CacheId) -> Option<&mut CacheState> {
        self.by_id.get_mut(id)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Arc<CacheId>> {
        self.by_id.keys()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<CacheId>, &CacheState)> {
        self.by_id.iter()
    }

    /// The caches of a namespace.
    pub(super) fn of_namespace<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Arc<CacheId>, &'a CacheState)> {
        let first = Arc::new(CacheId::new(namespace, "", ""));
        let from_first = self.by_id.range(first..);
        from_first.take_while(move |(id, _)| id.namespace == namespace)
    }

    /// Removes a cache, to change anything about it.
    pub(super) fn take(&mut self, id: &CacheId) -> Option<(Arc<CacheId>, CacheState)> {
        let (id, cache) = self.by_id.remove_entry(id)?;
        for at in refresh_times(&cache) {
            self.refreshes.remove(&(at, Arc::clone(&id)));
        }
        self.frozen.remove(&id);
        Some((id, cache))
    }

    pub(super) fn insert(&mut self, id: Arc<CacheId>, cache: CacheState) {
        for at in refresh_times(&cache) {
            self.refreshes.insert((at, Arc::clone(&id)));
        }
        if cache.orphan_policy() == OrphanPolicy::Freeze {
            self.frozen.insert(Arc::clone(&id));
        }
        self.by_id.insert(id, cache);
    }

    /// Whether any cache keeps the images of an invalid spec.
    pub(super) fn has_frozen(&self) -> bool {
        !self.frozen.is_empty()
    }

    /// Whether the cache keeps the recorded images of its last valid spec.
    pub(super) fn is_frozen(&self, id: &CacheId) -> bool {
        self.frozen.contains(id)
    }

    /// When the first refresh is due.
    pub(super) fn next_refresh(&self) -> Option<Timestamp> {
        self.refreshes.first().map(|(at, _)| *at)
    }

    /// The caches whose refresh is due, in their order.
    pub(super) fn due_refreshes(&self, now: Timestamp) -> BTreeSet<Arc<CacheId>> {
        let due = self.refreshes.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, id)| Arc::clone(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{CacheSpecImages, ImageCacheSpec};
    use crate::planner::CacheFacts;
    use crate::time::after;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn at(seconds: u64) -> Timestamp {
        after(NOW, Duration::from_secs(seconds))
    }

    /// Caches that refresh after so many seconds.
    fn mk_caches(refreshes: &[(&str, u64)]) -> Caches {
        let mut caches = Caches::default();
        for (name, seconds) in refreshes {
            let id = CacheId::new("shop", *name, "1");
            let spec = ImageCacheSpec::new([CacheSpecImages::new(["app:1"])]);
            let facts = CacheFacts::of_spec(id.clone(), 1, &spec);
            let mut cache = CacheState::new(&facts, NOW);
            cache.refresh_at = Some(at(*seconds));
            cache.set_spec(facts.spec.map(Arc::new));
            caches.insert(Arc::new(id), cache);
        }
        caches
    }

    fn due(caches: &Caches, seconds: u64) -> Vec<String> {
        let due = caches.due_refreshes(at(seconds));
        due.iter().map(|id| id.name.clone()).collect()
    }

    #[test]
    fn due_refreshes_follow_every_change() {
        let mut caches = mk_caches(&[("web", 10), ("api", 10), ("jobs", 30)]);
        assert_eq!(due(&caches, 9), [""; 0]);
        assert_eq!(due(&caches, 10), ["api", "web"]);
        let (id, mut cache) = caches.take(&CacheId::new("shop", "web", "1")).unwrap();
        cache.refresh_at = Some(at(40));
        cache.refresh_waits_until = Some(at(20));
        assert_eq!(due(&caches, 100), ["api", "jobs"]);
        caches.insert(id, cache);
        assert_eq!(due(&caches, 10), ["api"]);
        assert_eq!(due(&caches, 20), ["api", "web"]);
        caches.take(&CacheId::new("shop", "api", "1"));
        assert_eq!(caches.next_refresh(), Some(at(20)));
        caches.take(&CacheId::new("shop", "web", "1"));
        assert_eq!(caches.next_refresh(), Some(at(30)));
        assert_eq!(due(&caches, 100), ["jobs"]);
    }

    #[test]
    fn a_cache_is_frozen_while_its_spec_is_invalid() {
        let mut caches = mk_caches(&[("web", 10)]);
        let web = CacheId::new("shop", "web", "1");
        assert!(!caches.has_frozen());
        let (id, mut cache) = caches.take(&web).unwrap();
        let valid = cache.spec.clone();
        cache.set_spec(Err(crate::model::InvalidSpec::new([])));
        caches.insert(id, cache);
        assert!(caches.has_frozen() && caches.is_frozen(&web));
        let (id, mut cache) = caches.take(&web).unwrap();
        assert!(!caches.has_frozen());
        cache.set_spec(valid);
        caches.insert(id, cache);
        assert!(!caches.is_frozen(&web));
    }
}
