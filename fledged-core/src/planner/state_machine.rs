//! The state machine: events in, commands out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::cache::{CacheState, ECHO_DELAY, has_share, revision_at};
use super::caches::Caches;
use super::cluster_event::{CacheFacts, ClusterCommand, ClusterEvent, NodeRecord, WriteTarget};
use super::config::PlannerConfig;
use super::desired::{Desired, Interner, with_frozen};
use super::due::DueNodes;
use super::explain::{self, Explanation};
use super::namespace_limit::{caches_above, listed_images};
use super::node_state::{NodeState, ReportLimits};
use super::rollout::{self, NodeProgress, Obstacle, RemovalClock};
use super::slots::Slots;
use super::status_update::{finish_action, publish_at, status};
use super::tally::joined;
use super::trouble_event;
use crate::model::{
    Assignment, CacheId, ImageCache, ImageRef, InvalidField, InvalidSpec, NodeFacts, NodeName,
};
use crate::time::{after, between};

/// A greater step of the clock between two polls is a jump. While removals wait, the planner asks for a poll within half
/// that time.
const CLOCK_JUMP: Duration = Duration::from_secs(3600);

/// Decides which images every node should hold, and derives the status of every cache.
///
/// Pure: no clock, no I/O, and no randomness except from the seed. After [`apply`](Self::apply) and at
/// every [`next_wakeup`](Self::next_wakeup), call [`poll`](Self::poll) and execute its commands. Several
/// events may be applied before one poll.
///
/// Planning is incremental: a change to a node costs the images of that node, and an edit of a cache costs
/// the nodes that it matches. All state that must survive a restart is in the assignments (which caches
/// want an image) and in the statuses. A new planner continues from these.
///
/// A node takes a slot of the rollout when it is assigned a pull, and holds it until all its pulls are
/// finished. The slots are shared between namespaces, see [`PlannerConfig::max_concurrent_nodes`]. A node that becomes NotReady or unresponsive returns its slot. If it comes back with
/// unfinished pulls, it continues with them at once, and the next slot is given when fewer nodes than the
/// limit are active again.
#[derive(Debug, Clone)]
pub struct Planner {
    config: PlannerConfig,
    rng: fastrand::Rng,
    synced: bool,
    /// Removals wait from this time at the earliest: earlier times are those of another clock.
    removals_from: Timestamp,
    /// When it was last polled.
    polled_at: Timestamp,
    caches: Caches,
    nodes: BTreeMap<NodeName, NodeState>,
    interner: Interner,
    desired: Desired,
    slots: Slots,
    last_revision: u64,
    /// Caches whose slots may have become free.
    freed: BTreeSet<Arc<CacheId>>,
    dirty_nodes: BTreeSet<NodeName>,
    /// Nodes to plan.
    due: DueNodes,
    /// Whether nodes that wait for a slot are planned before those that are due.
    slots_first: bool,
    dirty_caches: BTreeSet<Arc<CacheId>>,
    /// When statuses are compared that changed too soon after the last write.
    held_statuses: BTreeSet<(Timestamp, Arc<CacheId>)>,
    /// Caches that were deleted since the last poll.
    gone: BTreeSet<Arc<CacheId>>,
    /// Deleted caches, until their nodes are planned without them: each with the number of nodes taken from `due` by
    /// then.
    leaving: BTreeMap<Arc<CacheId>, u64>,
    /// When to compare the recorded status of a cache with the published one.
    status_checks: BTreeSet<(Timestamp, Arc<CacheId>)>,
    /// When nodes count as unresponsive unless they report.
    report_deadlines: BTreeSet<(Timestamp, NodeName)>,
    /// When nodes have removals to give up.
    removal_deadlines: BTreeSet<(Timestamp, NodeName)>,
    /// When the records of nodes are created again that other programs delete.
    recreations: BTreeSet<(Timestamp, NodeName)>,
    queue: Vec<ClusterCommand>,
}

impl Planner {
    /// A planner without state. The same seed and the same events give the same commands.
    #[must_use]
    pub fn new(config: PlannerConfig, seed: u64) -> Self {
        Self {
            slots: Slots::new(config.max_concurrent_nodes.clone()),
            config,
            rng: fastrand::Rng::with_seed(seed),
            synced: false,
            removals_from: Timestamp::MIN,
            polled_at: Timestamp::MIN,
            caches: Caches::default(),
            nodes: BTreeMap::new(),
            interner: Interner::default(),
            desired: Desired::default(),
            last_revision: 0,
            freed: BTreeSet::new(),
            dirty_nodes: BTreeSet::new(),
            due: DueNodes::default(),
            slots_first: false,
            dirty_caches: BTreeSet::new(),
            held_statuses: BTreeSet::new(),
            gone: BTreeSet::new(),
            leaving: BTreeMap::new(),
            status_checks: BTreeSet::new(),
            report_deadlines: BTreeSet::new(),
            removal_deadlines: BTreeSet::new(),
            recreations: BTreeSet::new(),
            queue: Vec::new(),
        }
    }

    /// A planner for readers of the cluster, with the state that these objects show at `now`. Use it for
    /// [`explain`](Self::explain), not to write: requests by annotation are ignored, because only the
    /// controller acts on them.
    ///
    /// Pass all objects of the cluster: whether a rollout limit is reached depends on all nodes.
    ///
    /// Nodes count as unresponsive by the times in their records. A record without times belongs to a
    /// node that is not unresponsive.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use fledged_core::model::{Assignment, CacheId, CacheSpecImages, ImageCacheSpec, NodeFacts};
    /// use fledged_core::planner::{CacheFacts, Cause, NodeRecord, Planner, PlannerConfig};
    ///
    /// let now = "2026-01-01T00:10:00Z".parse()?;
    /// let (id, node, app) = (CacheId::new("shop", "web", "uid-1"), "node-1".parse()?, "app:1".parse()?);
    /// let cache = CacheFacts::of_spec(id.clone(), 1, &ImageCacheSpec::new([CacheSpecImages::new(["app:1"])]));
    /// let mut record = NodeRecord::new("node-1".parse()?, Assignment::present(["app:1".parse()?]));
    /// record.written_at = Some("2026-01-01T00:00:00Z".parse()?);
    ///
    /// let nodes = [NodeFacts::new("node-1".parse()?)];
    /// let planner = Planner::from_records(PlannerConfig::default(), [cache], nodes, [record], now);
    /// let explanation = planner.explain(&id, &node, &app);
    /// assert!(matches!(explanation.cause, Cause::AgentUnresponsive { .. }));
    /// assert_eq!(explanation.cause.to_string(), "the agent of the node does not respond");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn from_records(
        config: PlannerConfig,
        caches: impl IntoIterator<Item = CacheFacts>,
        nodes: impl IntoIterator<Item = NodeFacts>,
        records: impl IntoIterator<Item = NodeRecord>,
        now: Timestamp,
    ) -> Self {
        let mut planner = Self::new(config, 0);
        for mut facts in caches {
            facts.refresh_requested = false;
            facts.purge_requested = false;
            planner.cache_applied(facts, now);
        }
        for facts in nodes {
            planner.node_applied(facts, now);
        }
        for record in records {
            let node = planner.nodes.entry(record.node.clone());
            let node = node.or_insert_with(|| NodeState::new(now));
            let interner = &mut planner.interner;
            node.adopt_record(record, |entry| interner.entry(entry), now);
        }
        planner.dirty_nodes.extend(planner.nodes.keys().cloned());
        planner.recompute_dirty(now);
        planner.expire_reports(now);
        planner.recompute_dirty(now);
        planner.queue.clear();
        planner
    }

    /// Applies a change that happened at `now`.
    pub fn apply(&mut self, event: ClusterEvent, now: Timestamp) {
        match event {
            ClusterEvent::Synced => self.sync(now),
            ClusterEvent::CacheApplied(facts) => self.cache_applied(*facts, now),
            ClusterEvent::CacheGone(id) => self.cache_gone(&id, now),
            ClusterEvent::NodeApplied(facts) => self.node_applied(facts, now),
            ClusterEvent::NodeGone(name) => self.node_gone(name),
            ClusterEvent::AssignmentRecorded { node, assignment } => {
                self.assignment_recorded(node, assignment, now);
            }
            ClusterEvent::AssignmentGone(name) => {
                if let Some(node) = self.nodes.get_mut(&name) {
                    if node.is_writing() {
                        // The record may have been deleted after that write.
                        node.invalidate();
                    }
                    node.record_deleted(now);
                    // A later record counts its generations from the start.
                    node.clear();
                    self.dirty_nodes.insert(name);
                }
            }
            ClusterEvent::Reported { node: name, report } => {
                let node = self.nodes.entry(name.clone());
                let node = node.or_insert_with(|| NodeState::new(now));
                let interner = &self.interner;
                node.apply_report(report, |image| interner.image(image), now);
                self.dirty_nodes.insert(name);
            }
            ClusterEvent::AgentUnresponsive(name) => {
                if let Some(node) = self.nodes.get_mut(&name)
                    && !node.pairs.is_empty()
                    && !std::mem::replace(&mut node.unresponsive, true)
                {
                    self.dirty_nodes.insert(name);
                }
            }
            ClusterEvent::AssignmentWritten {
                node: name,
                ticket,
                generation,
            } => {
                if let Some(node) = self.nodes.get_mut(&name) {
                    node.acknowledge(ticket, generation);
                    node.last_active_at = now;
                    self.dirty_nodes.insert(name);
                }
            }
            ClusterEvent::AssignmentDeleted { node: name, ticket } => {
                if let Some(node) = self.nodes.get_mut(&name)
                    && node.ticket == ticket
                {
                    node.clear();
                }
            }
            ClusterEvent::AnnotationRemoved { cache, annotation } => {
                if let Some(cache) = self.caches.get_mut(&cache) {
                    cache.annotation_removed(annotation, now);
                }
            }
            ClusterEvent::AssignmentTooLarge(name) => {
                if let Some(node) = self.nodes.get_mut(&name) {
                    node.invalidate();
                    node.room = node.room.min(self.config.record_bytes_max) / 2;
                    node.outdated = true;
                    self.dirty_nodes.insert(name);
                }
            }
            ClusterEvent::Conflicted(WriteTarget::Assignment(name)) => {
                if let Some(node) = self.nodes.get_mut(&name)
                    && !crate::planted::is("assignment-lost-after-conflict")
                {
                    node.invalidate();
                    self.dirty_nodes.insert(name);
                }
            }
            ClusterEvent::Conflicted(WriteTarget::Cache(id)) => {
                if let Some(cache) = self.caches.get_mut(&id) {
                    cache.invalidate_writes();
                    self.mark_cache(&id);
                }
            }
        }
    }

    fn sync(&mut self, now: Timestamp) {
        if std::mem::replace(&mut self.synced, true) {
            return;
        }
        (self.removals_from, self.polled_at) = (now, now);
        for node in self.nodes.values_mut() {
            node.last_active_at = now;
        }
        let namespaces: BTreeSet<_> = self.caches.keys().map(|id| id.namespace.clone()).collect();
        for namespace in namespaces {
            // Also without a limit, for caches that an earlier one refused.
            self.apply_limit(&namespace, now);
        }
        self.dirty_nodes.extend(self.nodes.keys().cloned());
        self.dirty_caches.extend(self.caches.keys().cloned());
    }

    fn node_applied(&mut self, mut facts: NodeFacts, now: Timestamp) {
        facts.taints.retain(|taint| !taint.is_node_condition());
        let name = facts.name.clone();
        let node = self.nodes.entry(name.clone());
        let node = node.or_insert_with(|| NodeState::new(now));
        let labelled =
            |of: &NodeFacts| of.ready == facts.ready && crate::planted::is("label-change-missed");
        if node.facts.as_ref() == Some(&facts) || node.facts.as_ref().is_some_and(labelled) {
            return;
        }
        let known = node.facts.as_ref();
        let was_ready = known.is_some_and(|known| known.ready);
        if known.is_none_or(|known| !known.is_selected_as(&facts)) {
            let matching = self.caches.iter();
            let matching = matching.filter(|(_, cache)| cache.matches(Some(&facts)));
            node.set_matching(matching.map(|(id, _)| Arc::clone(id)).collect());
        }
        if facts.ready && !was_ready {
            // The time within which it must report starts again.
            node.unresponsive = false;
            node.last_active_at = now;
        }
        if node.facts.replace(facts).is_none() {
            self.slots.node_added();
        }
        self.dirty_nodes.insert(name);
    }

    fn node_gone(&mut self, name: NodeName) {
        if let Some(node) = self.nodes.get_mut(&name)
            && node.facts.take().is_some()
        {
            self.slots.node_removed();
            node.set_matching(Vec::new());
            // Another machine may take the name before the record is deleted.
            node.machine_gone();
            self.dirty_nodes.insert(name);
        }
    }

    fn assignment_recorded(&mut self, name: NodeName, assignment: Assignment, now: Timestamp) {
        let node = self.nodes.entry(name.clone());
        let node = node.or_insert_with(|| NodeState::new(now));
        // The result of the write decides, and an older echo is outdated.
        if node.is_writing() || (self.synced && assignment.generation < node.generation) {
            return;
        }
        for entry in &assignment.images {
            self.last_revision = self.last_revision.max(entry.revision);
        }
        if assignment.generation > node.generation {
            // Written by another program. The node has to answer it.
            node.last_active_at = now;
        }
        let interner = &mut self.interner;
        node.adopt(assignment, |entry| interner.entry(entry));
        self.dirty_nodes.insert(name);
    }

    /// Checks a spec against the limits of the configuration.
    fn check_limits(&self, spec: ImageCache) -> Result<ImageCache, InvalidSpec> {
        let images = listed_images(&spec);
        let most = self.config.images_per_cache_max;
        if images <= most {
            return Ok(spec);
        }
        let problem = format!("lists {images} images, the limit of this cluster is {most}");
        let field = InvalidField::new("spec.cacheSpec", images.to_string(), problem);
        Err(InvalidSpec::new([field]))
    }

    fn cache_applied(&mut self, mut facts: CacheFacts, now: Timestamp) {
        facts.spec = facts.spec.and_then(|spec| self.check_limits(spec));
        let known = self.caches.take(&facts.id);
        let first = known.is_none();
        let new = || (Arc::new(facts.id.clone()), CacheState::new(&facts, now));
        let (id, mut cache) = known.unwrap_or_else(new);
        let counted = (!first).then(|| cache.counted_images());
        self.last_revision = self.last_revision.max(cache.revision);
        cache.longest_deadline = self.config.defaults.longest_deadline();
        let returned = std::mem::take(&mut cache.gone);
        cache.declared = facts.spec.clone().map(Arc::new);
        cache.created_at = facts.created_at;
        let spec = match &cache.spec {
            Err(invalid) if cache.above_limit => Err(invalid.clone()),
            _ => cache.declared.clone(),
        };
        let busy =
            cache.action.completed.is_none() && crate::planted::is("edit-during-action-lost");
        let edited = first || returned || (cache.spec != spec && !busy);
        if first {
            cache.spec = spec;
        } else if edited {
            cache.set_spec(spec);
        }
        let created = first && facts.status.is_none();
        let min_interval = self.config.refresh_min_interval;
        let next_revision = || self.next_revision(now);
        let update = cache.update(&facts, created, next_revision, min_interval, now);
        if edited || update.affects_nodes {
            self.mark_nodes(&id, &cache);
        }
        for event in update.events {
            self.queue.extend(cache.event(&id, event, now));
        }
        if first {
            cache.refresh_at = self.first_refresh(&cache, now);
        }
        cache.recorded = facts.status;
        cache.observed_since = true;
        cache.reset_foreign_status(now);
        self.dirty_caches.insert(Arc::clone(&id));
        let recounted = counted != Some(cache.counted_images());
        self.caches.insert(Arc::clone(&id), cache);
        if recounted {
            self.limit_images(&id.namespace, now);
        }
    }

    /// Applies the limit of images of a namespace after a change of one of its caches.
    fn limit_images(&mut self, namespace: &str, now: Timestamp) {
        // Before it is synced, some of the caches are not known.
        if self.synced && self.config.images_per_namespace_max < usize::MAX {
            self.apply_limit(namespace, now);
        }
    }

    fn apply_limit(&mut self, namespace: &str, now: Timestamp) {
        let most = self.config.images_per_namespace_max;
        let above = caches_above(&self.caches, namespace, most);
        let ids = self.caches.of_namespace(namespace);
        let ids = ids.map(|(id, _)| Arc::clone(id));
        for id in ids.collect::<Vec<_>>() {
            let Some((_, mut cache)) = self.caches.take(&id) else {
                continue;
            };
            let problem = above.get(&id);
            let spec =
                problem.map_or_else(|| cache.declared.clone(), |problem| Err(problem.clone()));
            let above_limit = problem.is_some();
            if cache.spec != spec || cache.above_limit != above_limit {
                cache.set_spec(spec);
                cache.above_limit = above_limit;
                self.mark_nodes(&id, &cache);
                self.dirty_caches.insert(Arc::clone(&id));
            }
            if let Some(event) = cache.note_limit(now) {
                self.queue.extend(cache.event(&id, event, now));
            }
            self.caches.insert(id, cache);
        }
    }

    fn cache_gone(&mut self, id: &CacheId, now: Timestamp) {
        let Some((id, mut cache)) = self.caches.take(id) else {
            return;
        };
        cache.gone = true;
        self.mark_nodes(&id, &cache);
        self.gone.insert(Arc::clone(&id));
        self.caches.insert(Arc::clone(&id), cache);
        self.limit_images(&id.namespace, now);
    }

    /// The revision of a refresh at `now`: a time that no earlier refresh has.
    fn next_revision(&mut self, now: Timestamp) -> u64 {
        self.last_revision = revision_at(now).max(self.last_revision.saturating_add(1));
        self.last_revision
    }

    /// Plans all nodes that the cache matches, matched before or is assigned to, with its new state.
    fn mark_nodes(&mut self, id: &Arc<CacheId>, cache: &CacheState) {
        self.desired.clear();
        for (name, node) in &mut self.nodes {
            let matches = cache.matches(node.facts.as_ref());
            if node.note_match(id, matches) || cache.is_recorded_for(node, id) {
                self.dirty_nodes.insert(name.clone());
            }
        }
    }

    fn mark_cache(&mut self, id: &CacheId) {
        if let Some((id, _)) = self.caches.get_key_value(id) {
            self.dirty_caches.insert(Arc::clone(id));
        }
    }

    /// The commands to execute at `now`. Empty before [`ClusterEvent::Synced`], and empty if it is called
    /// again without a change.
    pub fn poll(&mut self, now: Timestamp) -> Vec<ClusterCommand> {
        self.poll_with_room(now, usize::MAX)
    }

    /// Like [`poll`](Self::poll), with at most `records` commands for records of nodes. The other nodes are
    /// [due](Self::due_nodes), in the order in which they became so, and are planned by later calls: call it again
    /// when there is room, whatever [`next_wakeup`](Self::next_wakeup) returns.
    ///
    /// So a record is planned from the newest events just before it can be written. An edit that comes while the records
    /// of an earlier one wait costs no second plan of these, and leaves no removals of images that were never written.
    pub fn poll_with_room(&mut self, now: Timestamp, records: usize) -> Vec<ClusterCommand> {
        let mut room = records;
        if !self.synced {
            return Vec::new();
        }
        self.note_jump(now);
        self.expire_reports(now);
        self.expire_removals(now);
        self.expire_recreations(now);
        self.check_statuses(now);
        self.start_refreshes(now);
        loop {
            // First find out which nodes hold a slot, then give slots to others.
            self.recompute_dirty(now);
            room = self.plan_due(room, now);
            self.drop_gone();
            self.publish_statuses(now);
            // An action that ended leaves its nodes removals to drop.
            if self.dirty_nodes.is_empty() {
                break;
            }
        }
        std::mem::take(&mut self.queue)
    }

    /// Number of nodes that a later [`poll_with_room`](Self::poll_with_room) plans.
    #[must_use]
    pub fn due_nodes(&self) -> usize {
        self.due.len()
    }

    /// When to call [`poll`](Self::poll) next if no event comes before. Right after a poll, this is in the
    /// future.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        if !self.synced {
            return None;
        }
        let report = self.report_deadlines.first().map(|(at, _)| *at);
        let status_check = self.status_checks.first().map(|(at, _)| *at);
        let status = self.held_statuses.first().map(|(at, _)| *at);
        let refresh = self.caches.next_refresh();
        let removal = self.removal_deadlines.first();
        let removal = removal.map(|(at, _)| (*at).min(after(self.polled_at, CLOCK_JUMP / 2)));
        let recreation = self.recreations.first().map(|(at, _)| *at);
        let times = [report, status_check, status, refresh, removal, recreation];
        times.into_iter().flatten().min()
    }

    /// Why an image of a cache is on a node, or what prevents it. Call it after [`poll`](Self::poll), or
    /// on a planner that was created [`from_records`](Self::from_records).
    #[must_use]
    pub fn explain(&self, cache: &CacheId, node: &NodeName, image: &ImageRef) -> Explanation {
        let node = self.nodes.get(node);
        explain::explain(cache, node, image, &self.caches, &self.slots)
    }

    /// When an unresponsive node last reported or was last assigned something. `None` if it responds.
    #[must_use]
    pub fn unresponsive_since(&self, node: &NodeName) -> Option<Timestamp> {
        let node = self.nodes.get(node)?;
        node.unresponsive.then_some(node.last_active_at)
    }

    fn expire_reports(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.report_deadlines.first()
            && *at <= now
        {
            let Some((_, name)) = self.report_deadlines.pop_first() else {
                return;
            };
            let limits = self.report_limits();
            if let Some(node) = self.nodes.get_mut(&name) {
                node.report_due_at = None;
                // A report since the last poll has moved the time.
                let due_at = node.report_due(&limits);
                node.unresponsive |= due_at.is_some_and(|at| at <= now);
                self.dirty_nodes.insert(name);
            }
        }
    }

    /// Plans nodes again whose records were deleted by others.
    fn expire_recreations(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.recreations.first()
            && *at <= now
        {
            if let Some((_, name)) = self.recreations.pop_first() {
                self.dirty_nodes.insert(name);
            }
        }
    }

    /// After a jump of the clock, removals wait from now on: otherwise, those that were just asked for are given up.
    fn note_jump(&mut self, now: Timestamp) {
        let forwards = now > after(self.polled_at, CLOCK_JUMP);
        if forwards || now < self.polled_at {
            self.removals_from = now;
        }
        self.polled_at = now;
    }

    /// Plans nodes again whose removals have waited too long.
    fn expire_removals(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.removal_deadlines.first()
            && *at <= now
        {
            let Some((_, name)) = self.removal_deadlines.pop_first() else {
                return;
            };
            if let Some(node) = self.nodes.get_mut(&name) {
                node.removal_ends_at = None;
                self.dirty_nodes.insert(name);
            }
        }
    }

    /// Compares recorded statuses with the published ones, some time after they were written.
    fn check_statuses(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.status_checks.first()
            && *at <= now
        {
            let Some((_, id)) = self.status_checks.pop_first() else {
                return;
            };
            let cache = self.caches.get_mut(&id);
            if cache.is_some_and(|cache| cache.reset_foreign_status(now)) {
                self.dirty_caches.insert(id);
            }
        }
    }

    /// Starts refreshes on demand that had to wait, and those whose interval has passed.
    fn start_refreshes(&mut self, now: Timestamp) {
        for id in self.caches.due_refreshes(now) {
            let Some((_, mut cache)) = self.caches.take(&id) else {
                continue;
            };
            if cache.refresh_waits_until.is_some_and(|at| at <= now) {
                self.start_waiting_refresh(&id, &mut cache, now);
            }
            if cache.refresh_at.is_some_and(|at| at <= now) {
                self.start_due_refresh(&id, &mut cache, now);
            }
            self.caches.insert(id, cache);
        }
    }

    fn start_waiting_refresh(&mut self, id: &Arc<CacheId>, cache: &mut CacheState, now: Timestamp) {
        cache.refresh_waits_until = None;
        if cache.spec.is_ok() && !cache.deleting && !cache.gone {
            let event = cache.begin_requested_refresh(self.next_revision(now), now);
            self.mark_nodes(id, cache);
            self.queue.extend(cache.event(id, event, now));
            self.dirty_caches.insert(Arc::clone(id));
        }
    }

    /// Refreshes a cache whose interval has passed. With an action in progress, it waits for the next.
    fn start_due_refresh(&mut self, id: &Arc<CacheId>, cache: &mut CacheState, now: Timestamp) {
        let idle = cache.action.completed.is_some() && !cache.gone;
        if idle && cache.has_mutable_tags(self.config.defaults.pull_policy) {
            let event = cache.begin_refresh(self.next_revision(now), now);
            self.mark_nodes(id, cache);
            self.queue.extend(cache.event(id, event, now));
            self.dirty_caches.insert(Arc::clone(id));
        }
        cache.refresh_at = self.next_refresh(now);
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

    /// Counts from the last action, so that a restart neither skips nor repeats a refresh.
    fn first_refresh(&mut self, cache: &CacheState, now: Timestamp) -> Option<Timestamp> {
        let interval = self.config.refresh_interval;
        let passed = between(cache.action.started, now).min(interval);
        let at = self.next_refresh(now)?;
        Some(at.checked_sub(passed).unwrap_or(at))
    }

    /// Recomputes desired images and totals of all changed nodes, which are then due.
    fn recompute_dirty(&mut self, now: Timestamp) {
        for name in std::mem::take(&mut self.dirty_nodes) {
            self.due.add(&name);
            let Some(mut node) = self.nodes.remove(&name) else {
                continue;
            };
            let (caches, interner) = (&self.caches, &mut self.interner);
            if std::mem::take(&mut node.outdated) {
                let room = node.room.min(self.config.record_bytes_max);
                let defaults = self.config.defaults;
                node.images = self.desired.images(&node, caches, defaults, room, interner);
            }
            let images = Arc::clone(&node.images.images);
            node.desired = with_frozen(&node, images, caches, interner);
            self.update_totals(&name, &mut node, now);
            self.nodes.insert(name, node);
        }
        let planned_at = self.due.end();
        let gone = std::mem::take(&mut self.gone);
        self.leaving
            .extend(gone.into_iter().map(|id| (id, planned_at)));
    }

    /// Plans nodes for at most `room` commands, and returns the room that is left.
    fn plan_due(&mut self, mut room: usize, now: Timestamp) -> usize {
        if room == 0 {
            return 0;
        }
        // While nodes are due all the time, those that wait for a slot have every second turn.
        if self.slots_first {
            room = self.fill_slots(room, now);
        }
        while room > 0
            && let Some(name) = self.due.take_next()
        {
            room -= usize::from(self.plan(&name, now));
        }
        self.slots_first = self.due.len() > 0 && !self.slots_first;
        self.fill_slots(room, now)
    }

    /// Writes the next assignment of a node if it differs from the written one. Returns whether it does.
    fn plan(&mut self, name: &NodeName, now: Timestamp) -> bool {
        let Some(mut node) = self.nodes.remove(name) else {
            return false;
        };
        let mut next = Vec::new();
        let clock = RemovalClock {
            now,
            start: self.removals_from,
            limit: self.config.removal_limit,
        };
        if node.is_suitable() {
            let obstacles;
            let room = node.room.min(self.config.record_bytes_max);
            (next, obstacles) = rollout::next_assignment(
                &node,
                &self.caches,
                &self.slots,
                room,
                clock,
                &mut self.interner,
            );
            for obstacle in obstacles {
                self.wait_for(obstacle, name);
            }
        }
        let held = node
            .recreate_from
            .filter(|at| *at > now && !next.is_empty());
        if let Some(at) = held {
            self.recreations.insert((at, name.clone()));
        }
        let differs = held.is_none() && !node.is_written(&next);
        if differs {
            let ticket = node.write(&next, now);
            let node_name = name.clone();
            let command = if next.is_empty() {
                // Nothing is left to report. The report stays until the record is deleted: if it is
                // written again before, the node does not report again.
                node.unresponsive = false;
                node.acknowledge_delete();
                ClusterCommand::DeleteAssignment {
                    node: node_name,
                    ticket,
                }
            } else {
                ClusterCommand::WriteAssignment {
                    node: node_name,
                    ticket,
                    images: next.iter().map(|entry| (**entry).clone()).collect(),
                }
            };
            self.queue.push(command);
            self.update_totals(name, &mut node, now);
        }
        self.update_removal_deadline(name, &mut node, clock);
        if node.facts.is_some() || !node.pairs.is_empty() {
            self.nodes.insert(name.clone(), node);
        } else if !node.tallies.is_empty() {
            // It kept the images of an invalid spec until now.
            node.desired = Arc::from([]);
            self.update_totals(name, &mut node, now);
        }
        differs
    }

    /// Remembers when the first of its removals is given up.
    fn update_removal_deadline(
        &mut self,
        name: &NodeName,
        node: &mut NodeState,
        clock: RemovalClock,
    ) {
        let orders = node
            .pairs
            .iter()
            .filter_map(|pair| pair.entry.removal.as_ref());
        let ends = orders.map(|order| clock.end_of(order));
        // One that has ended waits for its write.
        let next = ends.filter(|at| *at > clock.now).min();
        if next == node.removal_ends_at {
            return;
        }
        if let Some(old) = std::mem::replace(&mut node.removal_ends_at, next) {
            self.removal_deadlines.remove(&(old, name.clone()));
        }
        if let Some(at) = next {
            self.removal_deadlines.insert((at, name.clone()));
        }
    }

    /// Queues a node for what prevents one of its pulls.
    fn wait_for(&mut self, obstacle: Obstacle, node: &NodeName) {
        match obstacle {
            Obstacle::NodeUnreachable => {}
            Obstacle::ClusterLimit(namespaces) => self.slots.wait(node, namespaces),
            Obstacle::CacheLimit(ids) => {
                for id in ids {
                    if let Some(cache) = self.caches.get_mut(&id) {
                        cache.waiting.insert(node.clone());
                    }
                }
            }
        }
    }

    /// Gives free slots to waiting nodes, for at most `room` commands. Returns the room that is left.
    fn fill_slots(&mut self, mut room: usize, now: Timestamp) -> usize {
        while room > 0 {
            let Some(name) = self.next_for_slot() else {
                break;
            };
            room -= usize::from(self.plan(&name, now));
        }
        room
    }

    /// The next node that waits for a slot, of a cache or of the cluster, and may have one.
    fn next_for_slot(&mut self) -> Option<NodeName> {
        while let Some(id) = self.freed.first() {
            let cache = self.caches.get_mut(id);
            if let Some(name) = cache.and_then(CacheState::pop_waiting) {
                return Some(name);
            }
            self.freed.pop_first();
        }
        self.slots.pop_waiting()
    }

    /// Counts the node's images again, and updates the totals that it is part of.
    fn update_totals(&mut self, name: &NodeName, node: &mut NodeState, now: Timestamp) {
        let NodeProgress {
            tallies,
            mut troubles,
        } = rollout::progress(node, &self.caches);
        let activity = rollout::activity(node);
        if node.facts.is_some() || !crate::planted::is("slot-of-gone-node") {
            self.slots.set_activity(&node.activity, &activity);
        }
        node.activity = activity;
        self.update_report_deadline(name, node, now);
        let old = std::mem::replace(&mut node.tallies, tallies);
        let failing = !node.failed.is_empty();
        // Most reports change the shares of a few caches.
        let quiet = !failing && troubles.is_empty() && !node.has_troubles;
        node.has_troubles = !troubles.is_empty();
        for (id, before, after) in joined(&old, &node.tallies) {
            if quiet && before == after {
                continue;
            }
            if before != after || failing || troubles.contains_key(id) {
                self.dirty_caches.insert(Arc::clone(id));
            }
            // A percentage of more nodes is a greater limit.
            if before.is_none_or(|before| {
                before.in_progress > 0 && !crate::planted::is("freed-slot-not-given")
            }) {
                self.freed.insert(Arc::clone(id));
            }
            let Some(cache) = self.caches.get_mut(id) else {
                continue;
            };
            if let Some(before) = before
                && (node.facts.is_some() || !crate::planted::is("gone-node-counted"))
            {
                cache.totals.subtract(before);
            }
            cache.troubles.remove(name);
            if let Some(troubles) = troubles.remove(id) {
                cache.troubles.set(name, troubles);
            }
            let share = after.unwrap_or_default();
            if share.failed + share.removal_failed + share.failing > 0 {
                cache.failing.insert(name.clone());
            } else {
                cache.failing.remove(name);
            }
            if after.is_some() {
                cache.totals.add(share);
                let removed = before.map_or(0, |before| before.removed);
                cache.count_removed(share.removed, removed);
            }
        }
    }

    fn report_limits(&self) -> ReportLimits {
        ReportLimits {
            answer_grace: self.config.answer_grace,
            report_grace: self.config.report_grace,
            removal: self.config.defaults.deadline,
        }
    }

    /// A node with work in progress must report within a time limit.
    fn update_report_deadline(&mut self, name: &NodeName, node: &mut NodeState, now: Timestamp) {
        let due_at = node.report_due(&self.report_limits());
        let due_at = due_at.map(|at| at.max(now));
        if due_at != node.report_due_at {
            if let Some(old) = node.report_due_at {
                self.report_deadlines.remove(&(old, name.clone()));
            }
            if let Some(at) = due_at {
                self.report_deadlines.insert((at, name.clone()));
            }
            node.report_due_at = due_at;
        }
    }

    fn drop_gone(&mut self) {
        let taken = self.due.taken();
        let known = self.leaving.len();
        self.leaving.retain(|id, planned_at| {
            if *planned_at <= taken && self.caches.get(id).is_some_and(|cache| cache.gone) {
                self.caches.take(id);
                self.dirty_caches.remove(id);
            }
            *planned_at > taken
        });
        if self.leaving.len() == known {
            return;
        }
        self.desired.clear();
        self.interner.sweep();
    }

    /// Compares the held statuses whose interval has passed.
    fn release_statuses(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.held_statuses.first()
            && *at <= now
        {
            let Some((_, id)) = self.held_statuses.pop_first() else {
                return;
            };
            self.dirty_caches.insert(id);
        }
    }

    /// Publishes the status of every changed cache, and settles its finalizer and annotations.
    fn publish_statuses(&mut self, now: Timestamp) {
        self.release_statuses(now);
        for id in std::mem::take(&mut self.dirty_caches) {
            let cache = self.caches.get_mut(&id);
            let Some(cache) = cache.filter(|cache| !cache.gone) else {
                continue;
            };
            announce_troubles(&id, cache, &self.nodes, &mut self.queue, now);
            if let Some(finished) = finish_action(cache, now) {
                if finished.drops_removals {
                    let nodes = self.nodes.iter();
                    let nodes = nodes.filter(|(_, node)| has_share(&node.tallies, &id));
                    self.dirty_nodes.extend(nodes.map(|(name, _)| name.clone()));
                }
                let event = finished.event;
                let event = event.and_then(|event| cache.event(&id, event, now));
                self.queue.extend(event);
            }
            let at = publish_at(cache, self.config.status_interval);
            if let Some(at) = at.filter(|at| *at > now) {
                // It is not computed before, because thousands of caches may share a node.
                self.held_statuses.insert((at, Arc::clone(&id)));
            } else {
                let status = status(&id, cache, &self.nodes, self.config.failures_max, now);
                if cache.published.as_ref() != Some(&status) {
                    cache.published = Some(status.clone());
                    cache.published_at = Some(now);
                    cache.observed_since = false;
                    let check_at = after(now, ECHO_DELAY);
                    self.status_checks.insert((check_at, Arc::clone(&id)));
                    self.queue.push(ClusterCommand::WriteStatus {
                        cache: (*id).clone(),
                        status: Box::new(status),
                    });
                }
            }
            if let Some(present) = cache.take_finalizer_change() {
                self.queue.push(ClusterCommand::SetFinalizer {
                    cache: (*id).clone(),
                    present,
                });
            }
            for annotation in cache.take_completed_requests() {
                self.queue.push(ClusterCommand::RemoveAnnotation {
                    cache: (*id).clone(),
                    annotation,
                });
            }
        }
    }
}

/// Records events of what is wrong with a cache, as far as it has begun and the limit of events allows.
fn announce_troubles(
    id: &CacheId,
    cache: &mut CacheState,
    nodes: &BTreeMap<NodeName, NodeState>,
    queue: &mut Vec<ClusterCommand>,
    now: Timestamp,
) {
    let sum = cache.totals.sum;
    let settled = sum.pulling + sum.verifying + sum.removing == 0;
    cache.troubles.forget_ended(settled);
    // A trouble that is not announced is counted over all nodes each time.
    if !cache.may_record_event(now) {
        return;
    }
    for (trouble, event) in trouble_event::begun(id, cache, nodes) {
        if let Some(command) = cache.event(id, event, now) {
            cache.troubles.set_announced(trouble);
            queue.push(command);
        }
    }
}
