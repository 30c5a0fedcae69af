//! The machine: events in, commands out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::cache::CacheState;
use super::config::PlannerConfig;
use super::event::{ClusterCommand, ClusterEvent, WriteTarget};
use super::fold::{Interner, ShapeKey};
use super::node::{NodeState, Wanted};
use crate::model::{Assignment, CacheId, NodeFacts, NodeName};
use crate::warmer::time::after;

/// Decides what every node should hold, and says how far every cache has got.
///
/// Pure: no clock, no I/O, no randomness but the seed's. After [`apply`](Self::apply) and at every
/// [`next_wakeup`](Self::next_wakeup), call [`poll`](Self::poll) and carry out what it says; many
/// events may be applied before one poll.
///
/// A node is planned when something about it changed, and costs its own images then; a cache that is
/// edited costs the nodes that it matches. What must survive a restart is in the assignments (who
/// wants an image) and in the statuses, from which a new planner goes on.
///
/// A slot of the rollout's budget is given to a node while fewer than the limit have unfinished
/// pulls. One that turns NotReady or silent gives it back; if it returns with its pulls unfinished,
/// it goes on with them at once, and the next slot is given when there are fewer than the limit
/// again.
#[derive(Debug)]
pub struct Planner {
    pub(super) config: PlannerConfig,
    pub(super) rng: fastrand::Rng,
    pub(super) synced: bool,
    pub(super) caches: BTreeMap<Arc<CacheId>, CacheState>,
    pub(super) nodes: BTreeMap<NodeName, NodeState>,
    /// Nodes that exist; others are records left behind.
    pub(super) known_nodes: usize,
    pub(super) interner: Interner,
    /// What nodes should hold, until a cache changes.
    pub(super) shapes: BTreeMap<ShapeKey, Wanted>,
    pub(super) last_revision: u64,
    /// Nodes with unfinished pulls.
    pub(super) active: usize,
    /// Nodes that wait for a slot of the cluster.
    pub(super) waiting: BTreeSet<NodeName>,
    /// Caches whose slots may have become free.
    pub(super) freed: BTreeSet<Arc<CacheId>>,
    pub(super) dirty_nodes: BTreeSet<NodeName>,
    pub(super) dirty_caches: BTreeSet<Arc<CacheId>>,
    /// Caches that are gone, until their nodes are planned without them.
    pub(super) gone: BTreeSet<Arc<CacheId>>,
    /// When which status has to be what is seen of it.
    pub(super) echoes: BTreeSet<(Timestamp, Arc<CacheId>)>,
    /// When which node is taken for silent.
    pub(super) silences: BTreeSet<(Timestamp, NodeName)>,
    pub(super) queue: Vec<ClusterCommand>,
}

impl Planner {
    /// A planner that knows nothing yet. The same seed and the same events give the same commands.
    #[must_use]
    pub fn new(config: PlannerConfig, seed: u64) -> Self {
        Self {
            config,
            rng: fastrand::Rng::with_seed(seed),
            synced: false,
            caches: BTreeMap::new(),
            nodes: BTreeMap::new(),
            known_nodes: 0,
            interner: Interner::default(),
            shapes: BTreeMap::new(),
            last_revision: 0,
            active: 0,
            waiting: BTreeSet::new(),
            freed: BTreeSet::new(),
            dirty_nodes: BTreeSet::new(),
            dirty_caches: BTreeSet::new(),
            gone: BTreeSet::new(),
            echoes: BTreeSet::new(),
            silences: BTreeSet::new(),
            queue: Vec::new(),
        }
    }

    /// Takes note of something that happened at `now`.
    pub fn apply(&mut self, event: ClusterEvent, now: Timestamp) {
        match event {
            ClusterEvent::Synced => self.sync(now),
            ClusterEvent::CacheApplied(facts) => self.cache_applied(*facts, now),
            ClusterEvent::CacheGone(id) => self.cache_gone(&id),
            ClusterEvent::NodeApplied(facts) => self.node_applied(facts, now),
            ClusterEvent::NodeGone(name) => {
                if let Some(node) = self.nodes.get_mut(&name)
                    && node.facts.take().is_some()
                {
                    self.known_nodes = self.known_nodes.saturating_sub(1);
                    // Another machine of that name may be there before anybody looks: nothing that was
                    // written is known to have reached it.
                    node.unwrite();
                    self.dirty_nodes.insert(name);
                }
            }
            ClusterEvent::AssignmentRecorded { node, assignment } => {
                self.assignment_recorded(node, assignment, now);
            }
            ClusterEvent::AssignmentGone(name) => {
                if let Some(node) = self.nodes.get_mut(&name) {
                    if node.is_writing() {
                        // Perhaps it went after that write: it is written again to be sure.
                        node.unwrite();
                    }
                    // A later record counts its generations anew.
                    node.forget();
                    self.dirty_nodes.insert(name);
                }
            }
            ClusterEvent::Reported { node: name, report } => {
                let node = self.nodes.entry(name.clone());
                let node = node.or_insert_with(|| NodeState::new(now));
                let interner = &self.interner;
                node.hear(report, |image| interner.image(image), now);
                self.dirty_nodes.insert(name);
            }
            ClusterEvent::AgentUnresponsive(name) => {
                if let Some(node) = self.nodes.get_mut(&name)
                    && !node.pairs.is_empty()
                    && !std::mem::replace(&mut node.silent, true)
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
                    node.confirm(ticket, generation);
                    node.heard_at = now;
                    self.dirty_nodes.insert(name);
                }
            }
            ClusterEvent::AssignmentDeleted { node: name, ticket } => {
                if let Some(node) = self.nodes.get_mut(&name)
                    && node.ticket == ticket
                {
                    node.forget();
                }
            }
            ClusterEvent::AnnotationRemoved { cache, annotation } => {
                if let Some(cache) = self.caches.get_mut(&cache) {
                    cache.removed(annotation, now);
                }
            }
            ClusterEvent::Conflicted(WriteTarget::Assignment(name)) => {
                if let Some(node) = self.nodes.get_mut(&name) {
                    // What stands there now is not known: it is written anew, whatever it is.
                    node.unwrite();
                    self.dirty_nodes.insert(name);
                }
            }
            ClusterEvent::Conflicted(WriteTarget::Cache(id)) => {
                if let Some((id, _)) = self.caches.get_key_value(&id) {
                    let id = Arc::clone(id);
                    if let Some(cache) = self.caches.get_mut(&id) {
                        cache.ask_again();
                    }
                    self.dirty_caches.insert(id);
                }
            }
        }
    }

    fn sync(&mut self, now: Timestamp) {
        if std::mem::replace(&mut self.synced, true) {
            return;
        }
        for node in self.nodes.values_mut() {
            node.heard_at = now;
        }
        self.dirty_nodes.extend(self.nodes.keys().cloned());
        self.dirty_caches.extend(self.caches.keys().cloned());
    }

    fn node_applied(&mut self, mut facts: NodeFacts, now: Timestamp) {
        facts.taints.retain(|taint| !taint.is_passing());
        let name = facts.name.clone();
        let node = self.nodes.entry(name.clone());
        let node = node.or_insert_with(|| NodeState::new(now));
        if node.facts.as_ref() == Some(&facts) {
            return;
        }
        let was_ready = node.facts.as_ref().is_some_and(|facts| facts.ready);
        if facts.ready && !was_ready {
            // It gets another chance to say something.
            node.silent = false;
            node.heard_at = now;
        }
        if node.facts.replace(facts).is_none() {
            self.known_nodes += 1;
        }
        self.dirty_nodes.insert(name);
    }

    fn assignment_recorded(&mut self, name: NodeName, assignment: Assignment, now: Timestamp) {
        let node = self.nodes.entry(name.clone());
        let node = node.or_insert_with(|| NodeState::new(now));
        // An echo of a write: the newest says what stands there, and an older one nothing at all.
        if node.is_writing() || (self.synced && assignment.generation < node.generation) {
            return;
        }
        for entry in &assignment.images {
            self.last_revision = self.last_revision.max(entry.revision);
        }
        let interner = &mut self.interner;
        node.adopt(assignment, |entry| interner.entry(entry));
        self.dirty_nodes.insert(name);
    }

    /// What to do now; nothing before [`ClusterEvent::Synced`]. Calling it again without a change in
    /// between gives nothing.
    pub fn poll(&mut self, now: Timestamp) -> Vec<ClusterCommand> {
        if !self.synced {
            return Vec::new();
        }
        self.expire_silences(now);
        self.check_echoes(now);
        self.refresh_due(now);
        loop {
            let dirty = std::mem::take(&mut self.dirty_nodes);
            // First who holds a slot, then who gets one.
            for name in &dirty {
                self.look_at(name, now);
            }
            for name in &dirty {
                self.plan(name, now);
            }
            self.fill_slots(now);
            self.drop_gone();
            self.tell(now);
            // An action that has ended leaves its nodes something to drop.
            if self.dirty_nodes.is_empty() {
                break;
            }
        }
        std::mem::take(&mut self.queue)
    }

    fn expire_silences(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.silences.first()
            && *at <= now
        {
            let Some((_, name)) = self.silences.pop_first() else {
                return;
            };
            if let Some(node) = self.nodes.get_mut(&name) {
                node.silence_at = None;
                node.silent = true;
                self.dirty_nodes.insert(name);
            }
        }
    }

    fn drop_gone(&mut self) {
        let gone = std::mem::take(&mut self.gone);
        if gone.is_empty() {
            return;
        }
        for id in gone {
            if self.caches.get(&id).is_some_and(|cache| cache.gone) {
                self.caches.remove(&id);
                self.dirty_caches.remove(&id);
            }
        }
        self.shapes.clear();
        self.interner.sweep();
    }

    /// When [`poll`](Self::poll) is next to be called if nothing happens before. Right after a
    /// poll it lies in the future.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        if !self.synced {
            return None;
        }
        let silence = self.silences.first().map(|(at, _)| *at);
        let refreshes = self.caches.values().filter_map(|cache| cache.refresh_at);
        let statuses = self.dirty_caches.iter().filter_map(|id| {
            let told_at = self.caches.get(id)?.told_at?;
            Some(after(told_at, self.config.status_interval))
        });
        let echo = self.echoes.first().map(|(at, _)| *at);
        let fixed = silence.into_iter().chain(echo);
        fixed.chain(refreshes).chain(statuses).min()
    }
}
