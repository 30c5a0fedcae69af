//! What users do to caches: create, edit, annotate, delete.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::cache::{CacheState, Request, has, matches};
use super::event::{CacheEvent, CacheFacts, ClusterCommand};
use super::planner::Planner;
use super::status::{ActionReason, ActionStatus};
use crate::model::{CacheId, DeletionPolicy, NodeFacts};
use crate::warmer::time::{after, between};

/// How long after a write the state before it may still be seen: longer than any watch lags, shorter
/// than a person repeats themselves.
pub(super) const ECHO: Duration = Duration::from_secs(10);

impl Planner {
    pub(super) fn cache_applied(&mut self, facts: CacheFacts, now: Timestamp) {
        let id = Arc::new(facts.id.clone());
        let known = self.caches.remove(&id);
        let first = known.is_none();
        let mut cache = known.unwrap_or_else(|| CacheState::new(&facts, now));
        self.last_revision = self.last_revision.max(cache.revision);
        cache.finalizer = facts.finalizer;
        if cache.finalizer_asked == Some(facts.finalizer) {
            cache.finalizer_asked = None;
        }
        let returned = std::mem::take(&mut cache.gone);
        let spec = facts.spec.clone().map(Arc::new);
        let respecified = first || returned || cache.spec != spec;
        if respecified {
            self.touch(&id, &cache);
            cache.spec = spec;
            self.touch(&id, &cache);
        }
        self.follow(&id, &mut cache, first, &facts, now);
        if first {
            // Whatever stands recorded may name it, also on nodes that it does not match any more.
            cache.refresh_at = self.first_refresh(&cache, now);
        }
        cache.recorded = facts.status;
        self.dirty_caches.insert(Arc::clone(&id));
        self.caches.insert(Arc::clone(&id), cache);
        self.check_echo(&id, now);
    }

    /// Finds out which action the object asks for, if any that is not taken up yet.
    fn follow(
        &mut self,
        id: &Arc<CacheId>,
        cache: &mut CacheState,
        first: bool,
        facts: &CacheFacts,
        now: Timestamp,
    ) {
        if facts.deleting {
            if !cache.deleting {
                cache.deleting = true;
                self.touch(id, cache);
                if cache.action.reason != ActionReason::ImageCacheDelete {
                    self.begin(id, cache, ActionReason::ImageCacheDelete, now);
                }
            }
            cache.generation = facts.generation;
            return;
        }
        let created = first && facts.status.is_none();
        if created || facts.generation != cache.generation {
            cache.generation = facts.generation;
            if std::mem::take(&mut cache.purged) {
                self.touch(id, cache);
            }
            let reason = match (&cache.spec, created) {
                (Err(_), _) => ActionReason::CacheSpecValidationFailed,
                (Ok(_), true) => ActionReason::ImageCacheCreate,
                (Ok(_), false) => ActionReason::ImageCacheUpdate,
            };
            self.begin(id, cache, reason, now);
        }
        // A refresh keeps images, so it wins over a purge that is asked for at the same time.
        let purge = is_new(&mut cache.purge, facts.purge_requested, now);
        let refresh = is_new(&mut cache.refresh, facts.refresh_requested, now);
        if refresh && cache.spec.is_ok() {
            cache.purged = false;
            self.refresh(id, cache, now);
            // Somebody wants to be sure of everything.
            cache.verify = cache.revision;
        } else if purge {
            cache.purged = true;
            self.touch(id, cache);
            self.begin(id, cache, ActionReason::ImageCachePurge, now);
        }
    }

    pub(super) fn cache_gone(&mut self, id: &CacheId) {
        let Some((id, mut cache)) = self.caches.remove_entry(id) else {
            return;
        };
        cache.gone = true;
        self.touch(&id, &cache);
        self.gone.insert(Arc::clone(&id));
        self.caches.insert(id, cache);
    }

    /// Asks for a new pull of whatever moves.
    fn refresh(&mut self, id: &Arc<CacheId>, cache: &mut CacheState, now: Timestamp) {
        let clock = u64::try_from(now.as_millisecond()).unwrap_or(0);
        self.last_revision = clock.max(self.last_revision.saturating_add(1));
        cache.revision = self.last_revision;
        self.touch(id, cache);
        self.begin(id, cache, ActionReason::ImageCacheRefresh, now);
    }

    /// Refreshes what is due by the interval.
    pub(super) fn refresh_due(&mut self, now: Timestamp) {
        let due = |cache: &CacheState| cache.refresh_at.is_some_and(|at| at <= now);
        let due: Vec<_> = self
            .caches
            .iter()
            .filter(|(_, cache)| due(cache))
            .map(|(id, _)| Arc::clone(id))
            .collect();
        for id in due {
            let Some(mut cache) = self.caches.remove(&id) else {
                continue;
            };
            let idle = cache.action.completed.is_some();
            if idle && cache.moves(self.config.defaults.pull_policy) {
                self.refresh(&id, &mut cache, now);
                self.dirty_caches.insert(Arc::clone(&id));
            }
            cache.refresh_at = self.next_refresh(now);
            self.caches.insert(id, cache);
        }
    }

    fn next_refresh(&mut self, from: Timestamp) -> Option<Timestamp> {
        let interval = self.config.refresh_interval;
        if interval.is_zero() {
            return None;
        }
        let share = self.config.refresh_jitter.clamp(0.0, 1.0) * self.rng.f64();
        Some(after(
            from,
            interval.saturating_add(interval.mul_f64(share)),
        ))
    }

    /// Counted from the last action, so that a restart neither skips nor repeats one.
    fn first_refresh(&mut self, cache: &CacheState, now: Timestamp) -> Option<Timestamp> {
        let interval = self.config.refresh_interval;
        let passed = between(cache.action.started, now).min(interval);
        let at = self.next_refresh(now)?;
        Some(at.checked_sub(passed).unwrap_or(at))
    }

    fn begin(
        &mut self,
        id: &Arc<CacheId>,
        cache: &mut CacheState,
        reason: ActionReason,
        now: Timestamp,
    ) {
        cache.begin(reason, now);
        let (warning, message) = match (&cache.spec, reason) {
            (Err(error), ActionReason::CacheSpecValidationFailed) => {
                cache.action.status = ActionStatus::Failed;
                cache.action.completed = Some(now);
                (true, error.to_string())
            }
            _ => (false, format!("{} started", in_words(reason))),
        };
        self.queue.push(ClusterCommand::RecordEvent {
            cache: (**id).clone(),
            event: CacheEvent {
                warning,
                reason,
                message,
            },
        });
    }

    /// Every node that the cache matches or is on has to be planned anew.
    fn touch(&mut self, id: &Arc<CacheId>, cache: &CacheState) {
        self.shapes.clear();
        for (name, node) in &self.nodes {
            let frozen = cache.spec.is_err()
                && node
                    .pairs
                    .iter()
                    .any(|p| p.entry.wanted_by.contains(id.as_ref()));
            let matching = || node.facts.as_ref().is_some_and(|f| cache.concerns(f));
            if frozen || has(&node.tallies, id) || matching() {
                self.dirty_nodes.insert(name.clone());
            }
        }
    }

    /// The cache's finalizer, its annotations, its end.
    pub(super) fn settle_object(&mut self, id: &Arc<CacheId>) {
        let Some(cache) = self.caches.get_mut(id) else {
            return;
        };
        if cache.gone {
            return;
        }
        let purging = cache
            .spec
            .as_ref()
            .is_ok_and(|s| s.deletion_policy == DeletionPolicy::Purge);
        let wanted = match cache.deleting {
            // Nothing can be added to what is being deleted.
            true => cache.finalizer && purging && cache.totals.sum.removing > 0,
            false if cache.spec.is_err() => cache.finalizer,
            false => purging,
        };
        if wanted != cache.finalizer && cache.finalizer_asked != Some(wanted) {
            cache.finalizer_asked = Some(wanted);
            self.queue.push(ClusterCommand::SetFinalizer {
                cache: (**id).clone(),
                present: wanted,
            });
        }
        for annotation in cache.done_requests() {
            self.queue.push(ClusterCommand::RemoveAnnotation {
                cache: (**id).clone(),
                annotation,
            });
        }
    }

    /// Whether that node is meant by a cache that takes its images away.
    pub(super) fn is_purged_from(cache: &CacheState, facts: &NodeFacts) -> bool {
        !cache.gone && cache.removes().is_some_and(|spec| matches(spec, facts))
    }
}

/// Whether an annotation is a request that is not taken up yet; takes it up.
fn is_new(request: &mut Request, present: bool, now: Timestamp) -> bool {
    let echo = match *request {
        Request::None => false,
        Request::Taken | Request::Removing => true,
        Request::Removed(at) => between(at, now) < ECHO,
    };
    if !present {
        *request = Request::None;
        return false;
    }
    if echo {
        return false;
    }
    *request = Request::Taken;
    true
}

/// The action at the start of a sentence.
pub(super) fn in_words(reason: ActionReason) -> &'static str {
    match reason {
        ActionReason::ImageCacheCreate => "creating the image cache",
        ActionReason::ImageCacheUpdate => "updating the image cache",
        ActionReason::ImageCacheRefresh => "refreshing the image cache",
        ActionReason::ImageCachePurge => "purging the image cache",
        ActionReason::ImageCacheDelete => "deleting the image cache",
        ActionReason::CacheSpecValidationFailed => "validating the image cache",
    }
}
