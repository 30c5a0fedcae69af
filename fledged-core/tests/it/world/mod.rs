//! A planner in a cluster without I/O: writes are recorded at once, and agents act when a test runs them. The world
//! checks the invariants of every poll.
mod agent;
mod invariants;
mod mk;

use std::collections::BTreeMap;
use std::time::Duration;

use fledged_core::model::{
    AssignedImage, Assignment, CacheId, CountOrPercent, DeletionPolicy, DesiredState, ImageCache,
    ImageCacheSpec, NodeFacts, NodeName,
};
use fledged_core::planner::{
    ActionReason, ActionStatus, Annotation, CacheEvent, CacheFacts, CacheStatus, ClusterCommand,
    ClusterEvent, Planner, PlannerConfig,
};
use jiff::Timestamp;

pub(crate) use agent::Agent;
pub(crate) use mk::{mk_facts, mk_id, mk_limited, mk_name, mk_node, mk_ref, mk_spec};

pub(crate) struct World {
    pub planner: Planner,
    /// When it was started again.
    pub planner_since: Timestamp,
    pub config: PlannerConfig,
    pub now: Timestamp,
    pub caches: BTreeMap<CacheId, CacheFacts>,
    pub nodes: BTreeMap<NodeName, NodeFacts>,
    pub records: BTreeMap<NodeName, Assignment>,
    pub agents: BTreeMap<NodeName, Agent>,
    pub events: Vec<(String, CacheEvent)>,
    pub writes: usize,
    pub status_writes: usize,
    pub most_active: usize,
    /// Most commands for records in a poll. With a limit, one poll follows each event, and other nodes stay due.
    pub room: usize,
    /// Whether the planner does not observe what it has written to caches.
    pub watch_hangs: bool,
    /// Time of a node's last report or last reason to report; `None` if its agent is known to be unresponsive.
    active_at: BTreeMap<NodeName, Option<Timestamp>>,
    /// Time at which a node last reported or turned Ready.
    reported_at: BTreeMap<NodeName, Timestamp>,
    /// Counts actions of agents, because the clock does not advance with them.
    step: u64,
    requests: BTreeMap<CacheId, invariants::PendingRefresh>,
}

fn purges_when_deleted(facts: &CacheFacts) -> bool {
    let purges = |spec: &ImageCache| spec.deletion_policy == DeletionPolicy::Purge;
    facts.deleting && facts.spec.as_ref().is_ok_and(purges)
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(PlannerConfig::default())
    }

    /// Returns a world with a synced planner and an empty cluster.
    pub(crate) fn with(config: PlannerConfig) -> Self {
        let mut world = Self::unsynced(config);
        world.send(ClusterEvent::Synced);
        world
    }

    pub(crate) fn unsynced(config: PlannerConfig) -> Self {
        Self {
            planner: Planner::new(config.clone(), 1),
            planner_since: Timestamp::MIN,
            config,
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            caches: BTreeMap::new(),
            nodes: BTreeMap::new(),
            records: BTreeMap::new(),
            agents: BTreeMap::new(),
            events: Vec::new(),
            writes: 0,
            status_writes: 0,
            most_active: 0,
            room: usize::MAX,
            watch_hangs: false,
            active_at: BTreeMap::new(),
            reported_at: BTreeMap::new(),
            step: 0,
            requests: BTreeMap::new(),
        }
    }

    pub(crate) fn budget(limit: u32) -> Self {
        let mut config = PlannerConfig::default();
        config.max_concurrent_nodes = CountOrPercent::Count(limit);
        Self::with(config)
    }

    pub(crate) fn apply(&mut self, event: ClusterEvent) {
        self.planner.apply(event, self.now);
    }

    /// Sends an event to the planner and executes its commands until there are none.
    pub(crate) fn send(&mut self, event: ClusterEvent) {
        self.apply(event);
        self.run();
    }

    pub(crate) fn run(&mut self) {
        if self.room < usize::MAX {
            let commands = self.planner.poll_with_room(self.now, self.room);
            let is_record = |command: &&ClusterCommand| {
                matches!(
                    command,
                    ClusterCommand::WriteAssignment { .. }
                        | ClusterCommand::DeleteAssignment { .. }
                )
            };
            assert!(commands.iter().filter(is_record).count() <= self.room);
            for command in commands {
                self.carry_out(command);
            }
            return;
        }
        for _ in 0..100 {
            let commands = self.planner.poll(self.now);
            assert_eq!(
                self.planner.poll(self.now),
                [],
                "a second poll returned commands"
            );
            let wakeup = self.planner.next_wakeup();
            assert!(wakeup.is_none_or(|at| at > self.now), "the loop would spin");
            if commands.is_empty() {
                return;
            }
            for command in commands {
                self.carry_out(command);
            }
        }
        panic!("the planner does not settle");
    }

    /// Plans all nodes that are due.
    fn plan_all(&mut self) {
        let room = std::mem::replace(&mut self.room, usize::MAX);
        self.run();
        self.room = room;
    }

    fn carry_out(&mut self, command: ClusterCommand) {
        match command {
            ClusterCommand::WriteAssignment {
                node,
                ticket,
                images,
            } => {
                self.writes += 1;
                self.check_wanted(&node, &images);
                // A node that has not reported yet may hold a slot, and keeps it.
                let was_active = self.is_active(&node) || self.owes_report(&node);
                self.note_reason_to_report(&node);
                let generation = self.records.get(&node).map_or(1, |r| r.generation + 1);
                let assignment = Assignment::new(generation, images);
                self.records.insert(node.clone(), assignment.clone());
                if !was_active && self.is_active(&node) {
                    self.check_budget();
                }
                self.apply(ClusterEvent::AssignmentWritten {
                    node: node.clone(),
                    ticket,
                    generation,
                });
                self.apply(ClusterEvent::AssignmentRecorded { node, assignment });
            }
            ClusterCommand::DeleteAssignment { node, ticket } => {
                self.writes += 1;
                self.records.remove(&node);
                if let Some(agent) = self.agents.get_mut(&node) {
                    agent.reported = None;
                }
                self.apply(ClusterEvent::AssignmentDeleted {
                    node: node.clone(),
                    ticket,
                });
                self.apply(ClusterEvent::AssignmentGone(node));
            }
            ClusterCommand::WriteStatus { cache, status } => {
                self.status_writes += 1;
                self.check_request(&cache, &status);
                let is_purged = |status: &CacheStatus| {
                    status.reason == ActionReason::ImageCachePurge
                        && status.completion_time.is_some()
                };
                let known = self
                    .caches
                    .get(&cache)
                    .and_then(|facts| facts.status.as_ref());
                if is_purged(&status) && !known.is_some_and(is_purged) {
                    self.check_ordered(&cache);
                }
                self.echo(&cache, |facts| facts.status = Some(*status));
            }
            ClusterCommand::RemoveAnnotation { cache, annotation } => {
                self.apply(ClusterEvent::AnnotationRemoved {
                    cache: cache.clone(),
                    annotation,
                });
                self.echo(&cache, |facts| match annotation {
                    Annotation::Refresh => facts.refresh_requested = false,
                    Annotation::Purge => facts.purge_requested = false,
                });
            }
            ClusterCommand::SetFinalizer { cache, present } => {
                if !present && self.caches.get(&cache).is_some_and(purges_when_deleted) {
                    self.check_ordered(&cache);
                }
                self.echo(&cache, |facts| facts.finalizer = present);
            }
            ClusterCommand::RecordEvent { cache, event } => {
                self.events.push((cache.name, event));
            }
        }
    }

    /// Changes an object as the planner requested, and sends the resulting watch event.
    fn echo(&mut self, id: &CacheId, change: impl FnOnce(&mut CacheFacts)) {
        let Some(facts) = self.caches.get_mut(id) else {
            return;
        };
        change(facts);
        if self.watch_hangs {
            return;
        }
        if facts.deleting && !facts.finalizer {
            self.caches.remove(id);
            self.apply(ClusterEvent::CacheGone(id.clone()));
            return;
        }
        let facts = facts.clone();
        self.apply(ClusterEvent::CacheApplied(Box::new(facts)));
    }

    /// Returns the caches with desired images, by their recorded status.
    pub(crate) fn wanting(&self) -> Vec<&ImageCache> {
        let purged = |facts: &CacheFacts| facts.status.as_ref().is_some_and(|s| s.purged);
        let active = self.caches.values();
        let active = active.filter(|f| !f.deleting && !f.purge_requested && !purged(f));
        active
            .filter_map(|facts| facts.spec.as_ref().ok())
            .collect()
    }

    /// Returns the images that the node should hold by the rules of the model.
    pub(crate) fn expected(&self, node: &NodeFacts) -> Vec<AssignedImage> {
        let caches = self.wanting();
        let mut images = Assignment::for_node(node, caches, self.config.defaults).images;
        for image in &mut images {
            let status = |id| self.caches.get(id)?.status.as_ref();
            let revision = |id| status(id).map_or(0, |s: &CacheStatus| s.refresh_revision);
            if image.pull_policy == fledged_core::model::ImagePullPolicy::Always {
                image.revision = image.wanted_by.iter().map(revision).max().unwrap_or(0);
            }
        }
        images
    }

    /// Returns the recorded images of a node without the revisions of fixed tags, which only request
    /// verification.
    pub(crate) fn recorded(&self, node: &NodeName) -> Vec<AssignedImage> {
        let record = self.records.get(node);
        let mut images = record.map(|r| r.images.clone()).unwrap_or_default();
        for image in &mut images {
            if image.pull_policy == fledged_core::model::ImagePullPolicy::IfNotPresent {
                image.revision = 0;
            }
        }
        images.sort_by(|a, b| a.image.cmp(&b.image));
        images
    }

    fn check_wanted(&self, node: &NodeName, images: &[AssignedImage]) {
        let Some(facts) = self.nodes.get(node) else {
            panic!("an assignment for {node}, which does not exist");
        };
        self.check_removals(node, images);
        let wanted = self.expected(facts);
        for image in images.iter().filter(|i| i.state == DesiredState::Absent) {
            let wanted = wanted.iter().find(|w| w.image == image.image);
            assert_eq!(wanted, None, "is marked absent on {node}");
        }
    }

    pub(crate) fn node(&mut self, facts: NodeFacts) {
        let known = self.nodes.insert(facts.name.clone(), facts.clone());
        self.agents.entry(facts.name.clone()).or_default();
        let was_ready = known.is_some_and(|known| known.ready);
        if facts.ready && !was_ready {
            self.active_at.insert(facts.name.clone(), Some(self.now));
            self.reported_at.insert(facts.name.clone(), self.now);
        }
        self.send(ClusterEvent::NodeApplied(facts));
    }

    pub(crate) fn set_ready(&mut self, name: &str, ready: bool) {
        let mut facts = self.nodes[&mk_name(name)].clone();
        facts.ready = ready;
        self.node(facts);
    }

    pub(crate) fn node_gone(&mut self, name: &str) {
        self.nodes.remove(&mk_name(name));
        self.agents.remove(&mk_name(name));
        self.send(ClusterEvent::NodeGone(mk_name(name)));
    }

    /// Creates or edits a cache.
    pub(crate) fn cache(&mut self, name: &str, spec: &ImageCacheSpec) {
        let mut facts = mk_facts(name, spec);
        if let Some(known) = self.caches.get(&facts.id) {
            let spec = std::mem::replace(&mut facts, known.clone()).spec;
            facts.generation += 1;
            facts.spec = spec;
        } else {
            // Caches of one name have one UID here, so an earlier one must be forgotten.
            self.plan_all();
        }
        self.caches.insert(facts.id.clone(), facts.clone());
        self.send(ClusterEvent::CacheApplied(Box::new(facts)));
    }

    pub(crate) fn change(&mut self, name: &str, change: impl FnOnce(&mut CacheFacts)) {
        self.echo(&mk_id(name), change);
        self.run();
    }

    pub(crate) fn refresh(&mut self, name: &str) {
        self.note_request(name);
        self.change(name, |facts| facts.refresh_requested = true);
    }

    pub(crate) fn purge(&mut self, name: &str) {
        self.change(name, |facts| facts.purge_requested = true);
    }

    pub(crate) fn delete(&mut self, name: &str) {
        self.change(name, |facts| facts.deleting = true);
    }

    /// Runs one agent: executes its assignment and reports.
    pub(crate) fn act(&mut self, name: &str) {
        let name = mk_name(name);
        let facts = &self.nodes[&name];
        let Some(record) = self.records.get(&name).filter(|_| facts.ready) else {
            return;
        };
        self.step += 1;
        let agent = self.agents.entry(name.clone()).or_default();
        let report = agent.act(record, self.step);
        self.active_at.insert(name.clone(), Some(self.now));
        self.reported_at.insert(name.clone(), self.now);
        self.send(ClusterEvent::Reported { node: name, report });
    }

    /// Runs all agents until nothing changes.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100 {
            let writes = (self.writes, self.status_writes);
            let names: Vec<_> = self.nodes.keys().cloned().collect();
            for name in names {
                self.act(name.as_str());
            }
            self.pass(1);
            if writes == (self.writes, self.status_writes) && self.planner.due_nodes() == 0 {
                return;
            }
        }
        panic!("the cluster does not settle");
    }

    /// Sends the event that the node's agent is unresponsive.
    pub(crate) fn unresponsive(&mut self, name: &str) {
        let name = mk_name(name);
        if self.nodes.contains_key(&name) {
            self.active_at.insert(name.clone(), None);
        }
        self.send(ClusterEvent::AgentUnresponsive(name));
    }

    /// Moves the clock, and polls the planner.
    pub(crate) fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.run();
    }

    /// Lets time pass: the planner is polled whenever it asks for it.
    pub(crate) fn wait(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while let Some(at) = self.planner.next_wakeup()
            && self.now < at
            && at < end
        {
            self.now = at;
            self.run();
        }
        self.now = end;
        self.run();
    }

    /// Replaces the planner by a new one with the recorded state.
    pub(crate) fn restart(&mut self) {
        self.planner = Planner::new(self.config.clone(), 2);
        self.planner_since = self.now;
        let now = Some(self.now);
        self.active_at.values_mut().for_each(|at| *at = now);
        let caches: Vec<_> = self.caches.values().cloned().collect();
        for facts in caches {
            self.apply(ClusterEvent::CacheApplied(Box::new(facts)));
        }
        for (node, assignment) in self.records.clone() {
            self.apply(ClusterEvent::AssignmentRecorded { node, assignment });
        }
        for facts in self.nodes.values().cloned().collect::<Vec<_>>() {
            self.apply(ClusterEvent::NodeApplied(facts));
        }
        for (node, agent) in self.agents.clone() {
            if let Some(report) = agent.reported {
                self.apply(ClusterEvent::Reported { node, report });
            }
        }
        assert_eq!(
            self.planner.poll(self.now),
            [],
            "the planner wrote before it was synced"
        );
        self.send(ClusterEvent::Synced);
    }

    pub(crate) fn status(&self, name: &str) -> &CacheStatus {
        let facts = self.caches.get(&mk_id(name)).expect("the cache exists");
        facts.status.as_ref().expect("a status was written")
    }

    pub(crate) fn word(&self, name: &str) -> ActionStatus {
        self.status(name).status
    }

    /// Returns a node's recorded images; absent ones have the prefix `-`.
    pub(crate) fn assigned(&self, name: &str) -> Vec<String> {
        let record = self.records.get(&mk_name(name));
        let images = record.map_or(&[][..], |record| &record.images);
        let sign = |image: &AssignedImage| match image.state {
            DesiredState::Present => "",
            DesiredState::Absent => "-",
        };
        let words = images.iter().map(|i| format!("{}{}", sign(i), i.image));
        words.collect()
    }
}
