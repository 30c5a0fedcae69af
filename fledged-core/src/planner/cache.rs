//! One cache: what it asks for, which action is under way, and how far it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::event::{Annotation, CacheFacts};
use super::node::NodeState;
use super::status::{ActionReason, ActionStatus, CacheStatus};
use super::tally::Totals;
use crate::model::{
    CacheId, DeletionPolicy, ImageCache, ImageGroup, ImagePullPolicy, ImageRef, InvalidSpec,
    NodeFacts, NodeName,
};

/// What somebody wants of a cache, and how it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Action {
    pub(super) reason: ActionReason,
    pub(super) status: ActionStatus,
    pub(super) started: Timestamp,
    pub(super) completed: Option<Timestamp>,
}

/// How far a request by annotation is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Request {
    /// There is none.
    #[default]
    None,
    /// Taken up; the annotation stays until that is recorded.
    Taken,
    /// Done; the annotation was asked to be removed.
    Removing,
    /// The annotation was removed at that time.
    Removed(Timestamp),
}

/// What becomes of an image that a cache had wanted and does not want any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is left as it stands: nobody knows what the cache wants.
    Frozen,
    /// It is removed.
    Remove,
    /// It stays on the node, but nobody keeps it there.
    Forget,
}

#[derive(Debug)]
pub(super) struct CacheState {
    pub(super) generation: u64,
    pub(super) spec: Result<Arc<ImageCache>, InvalidSpec>,
    pub(super) deleting: bool,
    /// It is gone; kept until every node it was on is planned without it.
    pub(super) gone: bool,
    pub(super) finalizer: bool,
    /// The finalizer that was last asked for, until it is there.
    pub(super) finalizer_asked: Option<bool>,
    pub(super) refresh: Request,
    pub(super) purge: Request,
    pub(super) purged: bool,
    /// Of the last refresh: what is asked of images that move.
    pub(super) revision: u64,
    /// Of the last refresh on demand: what is asked of all images.
    pub(super) verify: u64,
    pub(super) action: Action,
    pub(super) totals: Totals,
    /// Nodes where something of it failed.
    pub(super) failing: BTreeSet<NodeName>,
    /// Nodes that wait for one of its slots.
    pub(super) waiting: BTreeSet<NodeName>,
    pub(super) refresh_at: Option<Timestamp>,
    /// The status as it was last asked to be written.
    pub(super) told: Option<CacheStatus>,
    /// The status as it is known to be recorded.
    pub(super) recorded: Option<CacheStatus>,
    pub(super) told_at: Option<Timestamp>,
}

impl CacheState {
    pub(super) fn new(facts: &CacheFacts, now: Timestamp) -> Self {
        let recorded = facts.status.as_ref();
        let goes_on = |reason| {
            let current = |s: &&CacheStatus| s.observed_generation == facts.generation;
            let unfinished = |s: &&CacheStatus| s.reason == reason && s.completion_time.is_none();
            match recorded.filter(current).filter(unfinished) {
                Some(_) => Request::Taken,
                None => Request::None,
            }
        };
        Self {
            generation: recorded.map_or(0, |s| s.observed_generation),
            spec: Err(InvalidSpec { fields: Vec::new() }),
            deleting: false,
            gone: false,
            finalizer: facts.finalizer,
            finalizer_asked: None,
            // What was under way when the last planner ended is no new request.
            refresh: goes_on(ActionReason::ImageCacheRefresh),
            purge: goes_on(ActionReason::ImageCachePurge),
            purged: recorded.is_some_and(|s| s.purged),
            revision: recorded.map_or(0, |s| s.refresh_revision),
            verify: recorded.map_or(0, |s| s.verify_revision),
            action: Action {
                reason: recorded.map_or(ActionReason::ImageCacheCreate, |s| s.reason),
                status: recorded.map_or(ActionStatus::Processing, |s| s.status),
                started: recorded.map_or(now, |s| s.start_time),
                completed: recorded.and_then(|s| s.completion_time),
            },
            totals: Totals::default(),
            failing: BTreeSet::new(),
            waiting: BTreeSet::new(),
            refresh_at: None,
            told: facts.status.clone(),
            recorded: facts.status.clone(),
            told_at: None,
        }
    }

    /// What it wants on nodes now; `None` while it wants nothing, or nobody knows.
    pub(super) fn wants(&self) -> Option<&Arc<ImageCache>> {
        let idle = self.deleting || self.gone || self.purged;
        self.spec.as_ref().ok().filter(|_| !idle)
    }

    /// What it takes from nodes now.
    pub(super) fn removes(&self) -> Option<&Arc<ImageCache>> {
        let spec = self.spec.as_ref().ok()?;
        let purging = spec.deletion_policy == DeletionPolicy::Purge;
        match self.deleting || self.gone {
            true => Some(spec).filter(|_| purging),
            false => Some(spec).filter(|_| self.purged),
        }
    }

    /// Whether only taints keep that image from being wanted on that node.
    pub(super) fn repelled(&self, node: &NodeState, image: &ImageRef) -> bool {
        let groups = self.wants().map_or(&[][..], |spec| &spec.groups);
        let selected = |facts| {
            let mut groups = groups.iter();
            groups.any(|group| group.selects(facts) && group.images.contains(image))
        };
        node.facts.as_ref().is_some_and(selected)
    }

    /// The image in the words of its spec, whatever another cache or an older record calls it.
    pub(super) fn as_written<'a>(&'a self, image: &'a ImageRef) -> &'a ImageRef {
        let groups = self.spec.iter().flat_map(|spec| &spec.groups);
        let mut images = groups.flat_map(|group| &group.images);
        images.find(|known| *known == image).unwrap_or(image)
    }

    /// What a purge or deletion under way takes from that node.
    pub(super) fn removing_from<'a>(
        &'a self,
        node: &'a NodeState,
    ) -> impl Iterator<Item = &'a ImageRef> {
        let under_way = !self.gone && self.action.completed.is_none();
        let spec = self.removes().filter(|_| under_way);
        let groups = spec.into_iter().flat_map(|spec| &spec.groups);
        let matching = |group: &&ImageGroup| node.facts.as_ref().is_some_and(|f| group.matches(f));
        groups.filter(matching).flat_map(|group| &group.images)
    }

    /// What becomes of an image that stands recorded as wanted by it, and is wanted no more.
    pub(super) fn fate(&self) -> Fate {
        match (&self.spec, self.deleting || self.gone) {
            (Ok(spec), true) if spec.deletion_policy == DeletionPolicy::Purge => Fate::Remove,
            (_, true) => Fate::Forget,
            (Err(_), false) if !self.purged => Fate::Frozen,
            (_, false) => Fate::Remove,
        }
    }

    /// Whether an edit or a deletion may change what that node holds.
    pub(super) fn concerns(&self, facts: &NodeFacts) -> bool {
        self.spec.as_ref().is_ok_and(|spec| matches(spec, facts))
    }

    /// Whether it has images that a refresh pulls again.
    pub(super) fn moves(&self, default: ImagePullPolicy) -> bool {
        self.wants().is_some_and(|spec| {
            spec.groups.iter().any(|group| {
                group.pull_policy.unwrap_or(default) == ImagePullPolicy::Always
                    || group.images.iter().any(|image| image.is_mutable())
            })
        })
    }

    /// The revision that what has failed is to be pulled for: a refresh that is under way asks for
    /// that too, also of what does not move.
    pub(super) fn retry(&self) -> u64 {
        let refreshing = self.action.reason == ActionReason::ImageCacheRefresh;
        match refreshing && self.action.completed.is_none() {
            true => self.revision,
            false => 0,
        }
    }

    pub(super) fn begin(&mut self, reason: ActionReason, now: Timestamp) {
        self.action = Action {
            reason,
            status: ActionStatus::Processing,
            started: now,
            completed: None,
        };
    }

    /// What was asked to be written may not stand there: it is asked for again.
    pub(super) fn ask_again(&mut self) {
        self.told = self.recorded.clone();
        self.finalizer_asked = None;
        for request in [&mut self.refresh, &mut self.purge] {
            if matches!(request, Request::Removing) {
                *request = Request::Taken;
            }
        }
    }

    /// Most nodes that may pull for it at once.
    pub(super) fn limit(&self) -> Option<usize> {
        let rollout = &self.spec.as_ref().ok()?.rollout;
        let limit = rollout.max_concurrent_nodes.as_ref()?;
        limit.of(self.totals.nodes)
    }

    pub(super) fn has_slot(&self) -> bool {
        self.limit().is_none_or(|limit| self.totals.active < limit)
    }

    /// An annotation was taken away.
    pub(super) fn removed(&mut self, annotation: Annotation, now: Timestamp) {
        let request = match annotation {
            Annotation::Refresh => &mut self.refresh,
            Annotation::Purge => &mut self.purge,
        };
        if *request == Request::Removing {
            *request = Request::Removed(now);
        }
    }

    /// Annotations that may be taken away: what they asked for is done, and recorded.
    pub(super) fn done_requests(&mut self) -> Vec<Annotation> {
        let recorded = self.recorded.as_ref();
        let settled = recorded.is_some_and(|s| {
            s.refresh_revision == self.revision
                && s.purged == self.purged
                && s.reason == self.action.reason
                && s.completion_time.is_some()
        });
        let settled = settled && self.action.completed.is_some();
        let requests = [
            (Annotation::Refresh, &mut self.refresh),
            (Annotation::Purge, &mut self.purge),
        ];
        let mut done = Vec::new();
        for (annotation, request) in requests {
            if settled && *request == Request::Taken {
                *request = Request::Removing;
                done.push(annotation);
            }
        }
        done
    }
}

/// Whether any of its groups means that node.
pub(super) fn matches(cache: &ImageCache, facts: &NodeFacts) -> bool {
    cache.groups.iter().any(|group| group.matches(facts))
}

/// The nodes of a cache, by its identity.
pub(super) fn has(tallies: &[(Arc<CacheId>, super::tally::Tally)], id: &CacheId) -> bool {
    tallies.iter().any(|(known, _)| **known == *id)
}
