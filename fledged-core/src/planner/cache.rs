//! One cache: its spec, the action in progress, and its totals.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::cluster_event::{Annotation, CacheEvent, CacheFacts, ClusterCommand};
use super::namespace_limit::listed_images;
use super::node_state::{NodeState, Pair};
use super::status::{ActionReason, ActionStatus, CacheStatus, LastActions, RemovedCounts};
use super::tally::{Tally, Totals};
use super::trouble::Troubles;
use crate::model::{
    CacheId, DeletionPolicy, ImageCache, ImagePullPolicy, ImageRef, InvalidField, InvalidSpec,
    NodeFacts, NodeName, RemovalCause,
};
use crate::time::{after, between};

/// Largest number of events of a cache that are recorded at once, and the interval in which one more is: the
/// same as client-go's.
const EVENT_BURST: u32 = 25;
const EVENT_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// How long after a write a watch may still show the state before it: longer than watches lag, shorter
/// than people repeat a request.
pub(super) const ECHO_DELAY: Duration = Duration::from_secs(10);

/// How far a recorded revision, which is a time, may be ahead of the clock: more than clocks differ. Statuses can be
/// edited, and every later revision of any cache has to be greater than all known ones.
const REVISION_LEAD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The revision of a refresh at `now`.
pub(super) fn revision_at(now: Timestamp) -> u64 {
    u64::try_from(now.as_millisecond()).unwrap_or(0)
}

/// The last action on a cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Action {
    pub(super) reason: ActionReason,
    pub(super) status: ActionStatus,
    pub(super) started: Timestamp,
    pub(super) completed: Option<Timestamp>,
    /// What a purge or deletion has removed so far.
    pub(super) removed: RemovedCounts,
}

/// Progress of a request by annotation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Request {
    #[default]
    None,
    /// Accepted, and not begun: the last refresh was too short a time ago.
    Waiting,
    /// In progress. The annotation stays until the result is recorded.
    Accepted,
    /// Done. The removal of the annotation was requested.
    Removing,
    /// The annotation was removed at that time.
    Removed(Timestamp),
}

impl Request {
    /// Whether the annotation is a request that is not accepted yet. Accepts it. `repeated`: a manifest declares
    /// it with a value that is done.
    fn accept(&mut self, present: bool, repeated: bool, now: Timestamp) -> bool {
        if !present {
            *self = Self::None;
            return false;
        }
        let known = match *self {
            Self::None => repeated,
            Self::Waiting | Self::Accepted | Self::Removing => true,
            Self::Removed(at) => repeated || between(at, now) < ECHO_DELAY,
        };
        if !known {
            *self = Self::Accepted;
        }
        !known
    }
}

/// What happens to images that are recorded for a cache and not in its spec any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OrphanPolicy {
    /// They stay assigned, because the spec is invalid.
    Freeze,
    /// They are deleted.
    Delete,
    /// They stay on the node without being assigned.
    Orphan,
}

/// The effects of an update of the object.
#[derive(Debug, Default)]
pub(super) struct CacheUpdate {
    /// Whether the desired images of its nodes may have changed.
    pub(super) affects_nodes: bool,
    pub(super) events: Vec<CacheEvent>,
}

#[derive(Debug, Clone)]
pub(super) struct CacheState {
    pub(super) generation: u64,
    /// The spec that counts.
    pub(super) spec: Result<Arc<ImageCache>, InvalidSpec>,
    /// The spec of the object. It does not count if it exceeds the limit of its namespace.
    pub(super) declared: Result<Arc<ImageCache>, InvalidSpec>,
    /// Whether it exceeds that limit.
    pub(super) above_limit: bool,
    pub(super) created_at: Option<Timestamp>,
    /// The longest deadline that counts.
    pub(super) longest_deadline: Duration,
    pub(super) deleting: bool,
    /// The object is deleted. Kept until all its nodes are planned without it.
    pub(super) gone: bool,
    finalizer: bool,
    /// The finalizer state that was last requested, until it is observed.
    finalizer_requested: Option<bool>,
    refresh: Request,
    purge: Request,
    pub(super) purged: bool,
    /// The values of declared annotations that are done.
    pub(super) last_actions: LastActions,
    /// When a requested refresh begins that has to wait.
    pub(super) refresh_waits_until: Option<Timestamp>,
    /// Time of the last refresh: the revision of images that are pulled again.
    pub(super) revision: u64,
    /// Time of the last refresh on demand: the revision of all other images.
    pub(super) verify: u64,
    pub(super) action: Action,
    pub(super) totals: Totals,
    /// Nodes with failed or failing images of this cache.
    pub(super) failing: BTreeSet<NodeName>,
    /// What is wrong with its images, and which of that was announced by an event.
    pub(super) troubles: Troubles,
    /// Nodes that wait for one of its slots.
    pub(super) waiting: BTreeSet<NodeName>,
    pub(super) refresh_at: Option<Timestamp>,
    /// The status that was last published.
    pub(super) published: Option<CacheStatus>,
    pub(super) published_at: Option<Timestamp>,
    /// Whether the object was observed after that. If not, its watch may hang, and what is recorded is not known.
    pub(super) observed_since: bool,
    /// When the budget for events is full again.
    events_full_at: Timestamp,
    /// The status that is known to be recorded.
    pub(super) recorded: Option<CacheStatus>,
}

impl CacheState {
    pub(super) fn new(facts: &CacheFacts, now: Timestamp) -> Self {
        let recorded = facts.status.as_ref();
        // A request that was in progress when the last planner ended is not a new one.
        let resumed = |reason| {
            let unfinished = recorded.is_some_and(|status| {
                status.observed_generation == facts.generation
                    && status.reason == reason
                    && status.completion_time.is_none()
            });
            if unfinished {
                Request::Accepted
            } else {
                Request::None
            }
        };
        let greatest = revision_at(after(now, REVISION_LEAD_MAX));
        Self {
            generation: recorded.map_or(0, |s| s.observed_generation),
            spec: Err(InvalidSpec { fields: Vec::new() }),
            declared: Err(InvalidSpec { fields: Vec::new() }),
            above_limit: false,
            created_at: facts.created_at,
            longest_deadline: Duration::MAX,
            deleting: false,
            gone: false,
            finalizer: facts.finalizer,
            finalizer_requested: None,
            refresh: resumed(ActionReason::ImageCacheRefresh),
            purge: resumed(ActionReason::ImageCachePurge),
            purged: recorded.is_some_and(|s| s.purged),
            revision: recorded.map_or(0, |s| s.refresh_revision.min(greatest)),
            verify: recorded.map_or(0, |s| s.verify_revision.min(greatest)),
            last_actions: recorded.map(|s| s.last_actions.clone()).unwrap_or_default(),
            refresh_waits_until: None,
            action: Action {
                reason: recorded.map_or(ActionReason::ImageCacheCreate, |s| s.reason),
                status: recorded.map_or(ActionStatus::Processing, |s| s.status),
                started: recorded.map_or(now, |s| s.start_time),
                completed: recorded.and_then(|s| s.completion_time),
                // The records still show what an unfinished action has removed.
                removed: recorded
                    .filter(|s| s.completion_time.is_some())
                    .map_or_else(RemovedCounts::default, |s| s.removed),
            },
            totals: Totals::default(),
            failing: BTreeSet::new(),
            troubles: recorded.map_or_else(Troubles::default, Troubles::announced_in),
            waiting: BTreeSet::new(),
            refresh_at: None,
            published: facts.status.clone(),
            published_at: None,
            observed_since: true,
            events_full_at: now,
            recorded: facts.status.clone(),
        }
    }

    /// The spec whose images nodes should hold now. `None` if it is invalid, purged or being deleted.
    pub(super) fn desired_spec(&self) -> Option<&Arc<ImageCache>> {
        let idle = self.deleting || self.gone || self.purged;
        self.spec.as_ref().ok().filter(|_| !idle)
    }

    /// The spec whose images are being removed, or were removed, by a purge or deletion.
    pub(super) fn removed_spec(&self) -> Option<&Arc<ImageCache>> {
        let spec = self.spec.as_ref().ok()?;
        let removes = if self.deleting || self.gone {
            spec.deletion_policy == DeletionPolicy::Purge
        } else {
            self.purged
        };
        removes.then_some(spec)
    }

    /// Whether a purge or deletion covers the nodes that it matches.
    pub(super) fn is_removing(&self) -> bool {
        !self.gone && self.removed_spec().is_some()
    }

    /// Whether only taints exclude the image from that node.
    pub(super) fn is_repelled(&self, node: &NodeState, image: &ImageRef) -> bool {
        let (Some(spec), Some(facts)) = (self.desired_spec(), &node.facts) else {
            return false;
        };
        let mut groups = spec.groups.iter();
        groups.any(|group| group.selects(facts) && group.images.contains(image))
    }

    /// Whether it has not had too many events.
    pub(super) fn may_record_event(&self, now: Timestamp) -> bool {
        let full_at = self.events_full_at.max(now);
        between(now, full_at) < EVENT_INTERVAL.saturating_mul(EVENT_BURST)
    }

    /// The command that records an event, unless the cache had too many.
    pub(super) fn event(
        &mut self,
        id: &CacheId,
        event: CacheEvent,
        now: Timestamp,
    ) -> Option<ClusterCommand> {
        if !self.may_record_event(now) {
            return None;
        }
        self.events_full_at = after(self.events_full_at.max(now), EVENT_INTERVAL);
        let cache = id.clone();
        Some(ClusterCommand::RecordEvent { cache, event })
    }

    /// Why the planner that wrote the status refused this spec. It may know limits that a reader does not.
    pub(super) fn refused_by_status(&self) -> Option<InvalidSpec> {
        let status = self.recorded.as_ref()?;
        let refused = status.reason == ActionReason::CacheSpecValidationFailed
            && status.observed_generation == self.generation;
        let problem = status.message.strip_prefix("the spec is invalid: ");
        let problem = problem.unwrap_or(&status.message);
        let named = problem.split_once(": ");
        let named = named.filter(|(field, _)| field.starts_with("spec"));
        let (field, problem) = named.unwrap_or(("spec", problem));
        refused.then(|| InvalidSpec::new([InvalidField::new(field, "", problem)]))
    }

    /// What counts for the limit of its namespace: its images, and its place in the order of creation. `None` if it does
    /// not count.
    pub(super) fn counted_images(&self) -> Option<(usize, Option<Timestamp>)> {
        let images = self.declared.as_ref().map_or(0, |spec| listed_images(spec));
        (!self.deleting && !self.gone).then_some((images, self.created_at))
    }

    /// Begins the action of a cache that exceeds the limit of its namespace now, or fits again.
    pub(super) fn note_limit(&mut self, now: Timestamp) -> Option<CacheEvent> {
        let refused = self.action.reason == ActionReason::CacheSpecValidationFailed;
        if self.deleting || self.gone || refused == self.spec.is_err() {
            return None;
        }
        let reason = if self.above_limit {
            ActionReason::CacheSpecValidationFailed
        } else if refused {
            ActionReason::ImageCacheUpdate
        } else {
            return None;
        };
        Some(self.begin(reason, now))
    }

    /// Replaces its spec.
    pub(super) fn set_spec(&mut self, spec: Result<Arc<ImageCache>, InvalidSpec>) {
        let images = |spec: &Result<Arc<ImageCache>, InvalidSpec>| -> BTreeSet<ImageRef> {
            let groups = spec.iter().flat_map(|spec| &spec.groups);
            groups.flat_map(|group| &group.images).cloned().collect()
        };
        let added = &images(&spec) - &images(&self.spec);
        self.troubles.edited(added);
        self.spec = spec;
    }

    /// The first image of its spec, as spelled there.
    pub(super) fn first_image(&self) -> Option<String> {
        let groups = self.spec.iter().flat_map(|spec| &spec.groups);
        let mut images = groups.flat_map(|group| &group.images);
        images.next().map(ToString::to_string)
    }

    /// The image as its spec spells it. Other caches and older records may spell it otherwise.
    pub(super) fn as_written<'a>(&'a self, image: &'a ImageRef) -> &'a ImageRef {
        let groups = self.spec.iter().flat_map(|spec| &spec.groups);
        let mut images = groups.flat_map(|group| &group.images);
        images.find(|known| *known == image).unwrap_or(image)
    }

    /// The part of a report about unused credentials that is about Secrets and ServiceAccounts of its own spec.
    /// The report is that of all caches with the image.
    pub(super) fn own_credentials(&self, unused: Option<&str>) -> Option<String> {
        let spec = self.spec.as_ref().ok()?;
        let names: Vec<String> = spec
            .pull_secrets
            .iter()
            .chain(&spec.service_account)
            .map(|name| format!(" {name}"))
            .collect();
        let is_own = |part: &&str| {
            let names = names.iter();
            names.into_iter().any(|name| {
                let rest = part.split_once(name).map(|(_, rest)| rest);
                rest.is_some_and(|rest| rest.starts_with([':', ' ']))
            })
        };
        let own: Vec<&str> = unused?.split("; ").filter(is_own).collect();
        Some(own.join("; ")).filter(|own| !own.is_empty())
    }

    /// The images that a purge or deletion in progress removes from that node.
    pub(super) fn removing_from<'a>(
        &'a self,
        node: &'a NodeState,
    ) -> impl Iterator<Item = &'a ImageRef> {
        let in_progress = !self.gone && self.action.completed.is_none();
        let spec = self.removed_spec().filter(|_| in_progress);
        let groups = spec.into_iter().flat_map(|spec| &spec.groups);
        groups
            .filter(|group| node.facts.as_ref().is_some_and(|f| group.matches(f)))
            .flat_map(|group| &group.images)
    }

    /// What happens to images that are recorded for it and not in its spec any more.
    pub(super) fn orphan_policy(&self) -> OrphanPolicy {
        match (&self.spec, self.deleting || self.gone) {
            (Ok(spec), true) if spec.deletion_policy == DeletionPolicy::Purge => {
                OrphanPolicy::Delete
            }
            (_, true) => OrphanPolicy::Orphan,
            // Its images would count for the namespace otherwise.
            (Err(_), false) if self.above_limit && !self.purged => OrphanPolicy::Orphan,
            (Err(_), false) if !self.purged && !crate::planted::is("invalid-edit-removes") => {
                OrphanPolicy::Freeze
            }
            (_, false) => OrphanPolicy::Delete,
        }
    }

    /// Counts what a node has removed for a purge or deletion: images now, and at its last report.
    pub(super) fn count_removed(&mut self, images: u64, before: u64) {
        let removed = &mut self.action.removed;
        removed.images += images.saturating_sub(before);
        removed.nodes += u64::from(before == 0 && images > 0);
    }

    /// Why its images are removed that are not desired.
    pub(super) fn removal_cause(&self) -> RemovalCause {
        if self.deleting || self.gone {
            RemovalCause::Deletion
        } else if self.purged {
            RemovalCause::Purge
        } else {
            RemovalCause::Edit
        }
    }

    /// Whether its groups match the node, also while it is purged or being deleted.
    pub(super) fn matches(&self, facts: Option<&NodeFacts>) -> bool {
        match (&self.spec, facts) {
            (Ok(spec), Some(facts)) => !self.gone && matches(spec, facts),
            _ => false,
        }
    }

    /// Whether what is recorded for the node changes with the cache, whether or not it matches the node.
    pub(super) fn is_recorded_for(&self, node: &NodeState, id: &CacheId) -> bool {
        let orders = |pair: &Pair| pair.entry.removal.as_ref().is_some_and(|o| o.cache == *id);
        // It may have stopped matching the node, whose record is not written yet.
        let keeps_or_removes = self.spec.is_err() || self.removed_spec().is_some();
        let wanted = || {
            let mut pairs = node.pairs.iter();
            keeps_or_removes && pairs.any(|pair| pair.entry.wanted_by.contains(id))
        };
        has_share(&node.tallies, id)
            || wanted()
            || (node.has_removals && node.pairs.iter().any(orders))
    }

    /// Whether it has images that a refresh pulls again.
    pub(super) fn has_mutable_tags(&self, default: ImagePullPolicy) -> bool {
        self.desired_spec().is_some_and(|spec| {
            spec.groups.iter().any(|group| {
                group.pull_policy.unwrap_or(default) == ImagePullPolicy::Always
                    || group.images.iter().any(|image| image.is_mutable())
            })
        })
    }

    /// The revision for which failed images are pulled again: a refresh in progress retries these, too,
    /// whatever their pull policy.
    pub(super) fn retry_revision(&self) -> u64 {
        let refreshing = self.action.reason == ActionReason::ImageCacheRefresh
            && self.action.completed.is_none();
        if refreshing { self.revision } else { 0 }
    }

    /// Applies a newer state of the object, except for the spec and the recorded status.
    /// `next_revision` is called if it requests a refresh.
    pub(super) fn update(
        &mut self,
        facts: &CacheFacts,
        created: bool,
        next_revision: impl FnOnce() -> u64,
        min_interval: Duration,
        now: Timestamp,
    ) -> CacheUpdate {
        let mut update = CacheUpdate::default();
        self.finalizer = facts.finalizer;
        if self.finalizer_requested == Some(facts.finalizer) {
            self.finalizer_requested = None;
        }
        if facts.deleting {
            self.generation = facts.generation;
            if !std::mem::replace(&mut self.deleting, true) {
                update.affects_nodes = true;
                if self.action.reason != ActionReason::ImageCacheDelete {
                    update
                        .events
                        .push(self.begin(ActionReason::ImageCacheDelete, now));
                }
            }
            return update;
        }
        if created || facts.generation != self.generation {
            self.generation = facts.generation;
            update.affects_nodes |= std::mem::take(&mut self.purged);
            let reason = match (&self.spec, created) {
                (Err(_), _) => ActionReason::CacheSpecValidationFailed,
                (Ok(_), true) => ActionReason::ImageCacheCreate,
                (Ok(_), false) => ActionReason::ImageCacheUpdate,
            };
            update.events.push(self.begin(reason, now));
        }
        let repeated =
            |value: &Option<String>, done: &Option<String>| value.is_some() && value == done;
        let purge_repeated = repeated(&facts.declared_purge, &self.last_actions.purge);
        let refresh_repeated = repeated(&facts.declared_refresh, &self.last_actions.refresh);
        let purge = self
            .purge
            .accept(facts.purge_requested, purge_repeated, now);
        let refresh = self
            .refresh
            .accept(facts.refresh_requested, refresh_repeated, now);
        let done = &mut self.last_actions;
        if purge && facts.declared_purge.is_some() {
            done.purge.clone_from(&facts.declared_purge);
        }
        if refresh && facts.declared_refresh.is_some() {
            done.refresh.clone_from(&facts.declared_refresh);
        }
        if self.refresh != Request::Waiting {
            self.refresh_waits_until = None;
        }
        let earliest = self
            .earliest_refresh(min_interval)
            .min(after(now, min_interval));
        // A refresh keeps images, so it wins over a purge that is requested at the same time.
        if refresh && self.spec.is_ok() && earliest > now {
            self.refresh = Request::Waiting;
            self.refresh_waits_until = Some(earliest);
        } else if refresh && self.spec.is_ok() {
            update.affects_nodes = true;
            update
                .events
                .push(self.begin_requested_refresh(next_revision(), now));
        }
        if purge && (!refresh || self.spec.is_err() || self.refresh == Request::Waiting) {
            self.purged = true;
            update.affects_nodes = true;
            update
                .events
                .push(self.begin(ActionReason::ImageCachePurge, now));
        }
        update
    }

    /// The earliest time of the next refresh on demand: that long after the last one.
    fn earliest_refresh(&self, min_interval: Duration) -> Timestamp {
        let last = i64::try_from(self.verify).ok();
        let last = last.and_then(|at| Timestamp::from_millisecond(at).ok());
        match last {
            Some(last) if self.verify > 0 => after(last, min_interval),
            _ => Timestamp::MIN,
        }
    }

    /// Starts a refresh that verifies all images and pulls mutable tags again.
    pub(super) fn begin_requested_refresh(&mut self, revision: u64, now: Timestamp) -> CacheEvent {
        self.refresh = Request::Accepted;
        self.troubles.forget_failures();
        self.refresh_waits_until = None;
        self.purged = false;
        let event = self.begin_refresh(revision, now);
        self.verify = self.revision;
        event
    }

    /// Starts a refresh that pulls mutable tags again.
    pub(super) fn begin_refresh(&mut self, revision: u64, now: Timestamp) -> CacheEvent {
        if !crate::planted::is("refresh-without-revision") {
            self.revision = revision;
        }
        self.begin(ActionReason::ImageCacheRefresh, now)
    }

    /// Starts an action. An invalid spec ends its action at once.
    fn begin(&mut self, reason: ActionReason, now: Timestamp) -> CacheEvent {
        // A deletion continues a purge that has not ended.
        let removes = |reason| {
            matches!(
                reason,
                ActionReason::ImageCachePurge | ActionReason::ImageCacheDelete
            )
        };
        let continued = removes(reason) && removes(self.action.reason);
        let continued = continued && self.action.completed.is_none();
        let removed = self.action.removed;
        self.action = Action {
            reason,
            status: ActionStatus::Processing,
            started: now,
            completed: None,
            removed: if continued {
                removed
            } else {
                RemovedCounts::default()
            },
        };
        match &self.spec {
            Err(error) if reason == ActionReason::CacheSpecValidationFailed => {
                self.action.status = ActionStatus::Failed;
                self.action.completed = Some(now);
                CacheEvent::warning(reason, error.to_string())
            }
            _ => CacheEvent::normal(reason, format!("Started {}", in_words(reason))),
        }
    }

    /// A write was refused because the object had changed: whatever was requested is requested again.
    pub(super) fn invalidate_writes(&mut self) {
        self.published = self.recorded.clone();
        if !crate::planted::is("finalizer-lost-after-conflict") {
            self.finalizer_requested = None;
        }
        for request in [&mut self.refresh, &mut self.purge] {
            if matches!(request, Request::Removing)
                && !crate::planted::is("request-lost-after-conflict")
            {
                *request = Request::Accepted;
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

    /// The next node that may take one of its slots.
    pub(super) fn pop_waiting(&mut self) -> Option<NodeName> {
        if self.has_slot() {
            self.waiting.pop_first()
        } else {
            None
        }
    }

    /// An annotation was removed.
    pub(super) fn annotation_removed(&mut self, annotation: Annotation, now: Timestamp) {
        let request = match annotation {
            Annotation::Refresh => &mut self.refresh,
            Annotation::Purge => &mut self.purge,
        };
        if *request == Request::Removing {
            *request = Request::Removed(now);
        }
    }

    /// Annotations to remove: their requests are done, and the result is recorded.
    pub(super) fn take_completed_requests(&mut self) -> Vec<Annotation> {
        let recorded = self.recorded.as_ref().is_some_and(|status| {
            status.refresh_revision == self.revision
                && status.purged == self.purged
                && status.reason == self.action.reason
                && status.completion_time.is_some()
        });
        let mut completed = Vec::new();
        if !recorded
            || self.action.completed.is_none()
            || crate::planted::is("request-not-finished")
        {
            return completed;
        }
        let requests = [
            (Annotation::Refresh, &mut self.refresh),
            (Annotation::Purge, &mut self.purge),
        ];
        for (annotation, request) in requests {
            if *request == Request::Accepted {
                *request = Request::Removing;
                completed.push(annotation);
            }
        }
        completed
    }

    /// The finalizer state to request, if it differs from the observed and the requested one.
    pub(super) fn take_finalizer_change(&mut self) -> Option<bool> {
        let purges = |spec: &Arc<ImageCache>| spec.deletion_policy == DeletionPolicy::Purge;
        let purging = self.spec.as_ref().is_ok_and(purges);
        let needed = if self.deleting && crate::planted::is("finalizer-stays") {
            self.finalizer
        } else if self.deleting {
            // A finalizer can't be added to an object that is being deleted.
            self.finalizer
                && purging
                && self.totals.sum.removing > 0
                && !crate::planted::is("finalizer-removed-early")
        } else if self.spec.is_err() {
            self.finalizer
        } else {
            purging
        };
        if needed == self.finalizer || self.finalizer_requested == Some(needed) {
            return None;
        }
        self.finalizer_requested = Some(needed);
        Some(needed)
    }

    /// Whether the recorded status is not the published one although the write is long done: another
    /// planner or a person wrote it. The status must then be published again.
    pub(super) fn reset_foreign_status(&mut self, now: Timestamp) -> bool {
        let published_lately = self
            .published_at
            .is_some_and(|at| now < after(at, ECHO_DELAY));
        let same = match (&self.published, &self.recorded) {
            (Some(published), Some(recorded)) => published.is_equivalent(recorded),
            (published, recorded) => published.is_none() && recorded.is_none(),
        };
        let foreign = !published_lately
            && self.observed_since
            && !same
            && !crate::planted::is("overwritten-status-stays");
        if foreign {
            self.published.clone_from(&self.recorded);
        }
        foreign
    }
}

/// Whether any group of the cache matches that node.
pub(super) fn matches(cache: &ImageCache, facts: &NodeFacts) -> bool {
    cache.groups.iter().any(|group| group.matches(facts))
}

/// The share of a node in that cache. The tallies are sorted by cache.
pub(super) fn share_of(tallies: &[(Arc<CacheId>, Tally)], id: &CacheId) -> Option<Tally> {
    let at = tallies.binary_search_by(|(known, _)| (**known).cmp(id));
    tallies.get(at.ok()?).map(|(_, tally)| *tally)
}

/// Whether a node has a share in that cache.
pub(super) fn has_share(tallies: &[(Arc<CacheId>, Tally)], id: &CacheId) -> bool {
    share_of(tallies, id).is_some()
}

/// The action as a phrase, for messages.
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
