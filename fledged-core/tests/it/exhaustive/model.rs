//! The model: two nodes with their runtimes and warmers, two images, two caches, one planner, and the objects that a
//! cluster stores. A step is one thing that happens; the planner and the warmers then run until they have nothing to do.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{
    AssignedImage, Assignment, ByteSize, CacheId, CountOrPercent, DeletionPolicy, DesiredState,
    ImagePhase, ImageRef, NodeName, NodeReport,
};
use fledged_core::planner::{
    Annotation, CacheFacts, CacheStatus, ClusterCommand, ClusterEvent, ConditionKind, Planner,
    PlannerConfig,
};
use fledged_core::port::{Removal, RemovalScope, RuntimeImage};
use fledged_core::warmer::{
    Inventory, InventoryId, NodeCommand, NodeEvent, PullId, Warmer, WarmerConfig,
};
use jiff::Timestamp;

use crate::world::{mk_facts, mk_id, mk_name, mk_node, mk_ref, mk_spec};

pub(super) const NODES: [&str; 2] = ["n1", "n2"];
/// A fixed and a mutable tag.
pub(super) const IMAGES: [&str; 2] = ["app:1", "tool"];
/// The first removes its images when it is deleted, the second leaves them.
pub(super) const CACHES: [&str; 2] = ["purge", "retain"];
/// The image that each machine of the second node holds before fledged comes.
const PRELOADED: &str = IMAGES[1];
/// Nodes that pull at the same time.
const NODES_PULL_MAX: usize = 1;

/// What a rule says, and how it was broken.
pub(super) type Checked = Result<(), String>;

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// A user creates the cache, or edits it so that it lists these images.
    Apply(usize, &'static [usize]),
    Refresh(usize),
    Purge(usize),
    Delete(usize),
    Join(usize),
    Leave(usize),
    /// The node is NotReady: its agent reads and reports nothing.
    NotReady(usize),
    Ready(usize),
    /// The agent reads its record.
    Assign(usize),
    /// The agent's report is written, and the controller reads it.
    Report(usize),
    /// The running pull ends.
    Pulled(usize),
    PullFails(usize),
    /// The running removal ends.
    Removed(usize),
    /// The runtime loses an image.
    Lost(usize, usize),
    RestartAgent(usize),
    RestartController,
    /// Time passes to the next moment at which a machine is due.
    Wait,
}

/// The stored record of a node.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) assignment: Assignment,
    pub(super) report: Option<NodeReport>,
    /// The generation from which a report answers the entry.
    covered_from: BTreeMap<ImageRef, u64>,
}

impl Record {
    /// Whether the reports say that the node is done with the image.
    fn is_done(&self, entry: &AssignedImage) -> bool {
        let Some(report) = &self.report else {
            return false;
        };
        let covered = self.covered_from.get(&entry.image).copied();
        if covered.is_none_or(|from| report.observed_generation < from) {
            return false;
        }
        let mut images = report.images.iter();
        let Some(seen) = images.find(|seen| seen.image == entry.image) else {
            return false;
        };
        let current = seen.revision.unwrap_or(0) >= entry.revision;
        seen.phase == ImagePhase::Failed || (seen.phase == ImagePhase::Cached && current)
    }

    fn pulls(&self) -> bool {
        let mut present = self.assignment.images.iter();
        present.any(|entry| entry.state == DesiredState::Present && !self.is_done(entry))
    }
}

/// A machine: a runtime with its images, and an agent.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) ready: bool,
    pub(super) warmer: Warmer,
    /// What the agent last read.
    assigned: Assignment,
    pub(super) holds: BTreeSet<ImageRef>,
    /// Images that were lost after the last reading of the inventory.
    lost: BTreeSet<ImageRef>,
    /// Images that the agent was assigned to hold.
    had: BTreeSet<ImageRef>,
    pub(super) pull: Option<(PullId, ImageRef)>,
    pub(super) removal: Option<ImageRef>,
    pub(super) readings: InventoryId,
    pub(super) pulls: PullId,
}

impl Machine {
    fn new(node: usize) -> Self {
        let preloaded = (node == 1).then(|| mk_ref(PRELOADED));
        Self {
            ready: true,
            warmer: mk_warmer(),
            assigned: Assignment::default(),
            holds: preloaded.into_iter().collect(),
            lost: BTreeSet::new(),
            had: BTreeSet::new(),
            pull: None,
            removal: None,
            readings: InventoryId(0),
            pulls: PullId(0),
        }
    }

    fn wants(&self, image: &ImageRef) -> bool {
        let mut images = self.assigned.images.iter();
        images.any(|entry| entry.image == *image && entry.state == DesiredState::Present)
    }

    fn apply(&mut self, event: NodeEvent, now: Timestamp) -> Checked {
        self.warmer.apply(event, now);
        self.run(now)
    }

    fn assign(&mut self, assignment: Assignment, now: Timestamp) -> Checked {
        self.assigned = assignment.clone();
        let present = assignment.images.iter();
        let present = present.filter(|entry| entry.state == DesiredState::Present);
        self.had.extend(present.map(|entry| entry.image.clone()));
        self.apply(NodeEvent::Assigned(assignment), now)
    }

    /// Executes the warmer's commands until there are none. Readings of the inventory end at once.
    fn run(&mut self, now: Timestamp) -> Checked {
        for _ in 0..100 {
            let commands = self.warmer.poll(now);
            if commands.is_empty() {
                let wakeup = self.warmer.next_wakeup();
                if wakeup.is_some_and(|at| at <= now) {
                    return Err("the agent would spin".to_owned());
                }
                return self.check_report();
            }
            for command in commands {
                self.execute(command, now)?;
            }
        }
        Err("the warmer does not settle".to_owned())
    }

    fn execute(&mut self, command: NodeCommand, now: Timestamp) -> Checked {
        match command {
            NodeCommand::Report(_) | NodeCommand::LimitPull { .. } => {}
            NodeCommand::ReadInventory { id, .. } => {
                let images = self.holds.iter().map(mk_image).collect();
                let inventory = Inventory::new(images, [], RemovalScope::Image);
                self.lost.clear();
                self.readings = id;
                let result = Ok(inventory);
                self.warmer
                    .apply(NodeEvent::InventoryRead { id, result }, now);
            }
            NodeCommand::Pull {
                id, credentials, ..
            } => {
                if let Some((_, other)) = &self.pull {
                    return Err(format!(
                        "{} and {other} are pulled at once",
                        credentials.image
                    ));
                }
                if !self.wants(&credentials.image) {
                    return Err(format!("{} is pulled unasked", credentials.image));
                }
                self.pulls = id;
                self.pull = Some((id, credentials.image));
            }
            NodeCommand::CancelPull { id } => self.pull = self.pull.take().filter(|p| p.0 != id),
            NodeCommand::Remove { image } => {
                if self.wants(&image) {
                    return Err(format!("{image} is removed although it is wanted"));
                }
                if !self.had.contains(&image) {
                    return Err(format!("{image} is removed, and fledged never had it"));
                }
                self.removal = Some(image);
            }
        }
        Ok(())
    }

    /// No report claims what the runtime does not hold, as far as the last reading and later pulls show.
    fn check_report(&self) -> Checked {
        for report in self.warmer.report().images {
            let known = self.holds.contains(&report.image) || self.lost.contains(&report.image);
            if report.phase == ImagePhase::Cached && !known {
                return Err(format!("{} is reported and not there", report.image));
            }
        }
        Ok(())
    }
}

/// The whole state.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) now: Timestamp,
    pub(super) planner: Planner,
    pub(super) caches: BTreeMap<CacheId, CacheFacts>,
    pub(super) machines: [Option<Machine>; 2],
    pub(super) records: BTreeMap<NodeName, Record>,
    /// Names the next record.
    next_record: u64,
    /// Writes of records and statuses.
    pub(super) writes: u64,
}

fn mk_image(image: &ImageRef) -> RuntimeImage {
    RuntimeImage::new(image.as_str(), [image.clone()]).with_size(ByteSize::new(1_000))
}

/// Without jitter: states that differ in the drawn numbers only are taken for the same.
fn mk_warmer() -> Warmer {
    let mut config = WarmerConfig::default();
    config.max_parallel_pulls = NonZeroUsize::MIN;
    config.inventory_interval = Duration::from_secs(600);
    config.backoff.jitter = 0.0;
    Warmer::new(config, 1)
}

fn mk_planner() -> Planner {
    let mut config = PlannerConfig::default();
    config.max_concurrent_nodes = CountOrPercent::Count(1);
    config.refresh_interval = Duration::ZERO;
    config.refresh_jitter = 0.0;
    Planner::new(config, 1)
}

fn images_of(cache: usize) -> [&'static [usize]; 2] {
    match cache {
        0 => [&[0], &[0, 1]],
        _ => [&[1], &[0, 1]],
    }
}

fn spec_of(cache: usize, images: &[usize]) -> fledged_core::model::ImageCacheSpec {
    let images: Vec<_> = images.iter().map(|image| IMAGES[*image]).collect();
    let mut spec = mk_spec(&images, &[]);
    spec.deletion_policy = (cache == 0).then_some(DeletionPolicy::Purge);
    spec
}

impl Model {
    /// Two Ready nodes and no caches.
    pub(super) fn new() -> Self {
        let mut model = Self {
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            planner: mk_planner(),
            caches: BTreeMap::new(),
            machines: [0, 1].map(|node| Some(Machine::new(node))),
            records: BTreeMap::new(),
            next_record: 0,
            writes: 0,
        };
        for name in NODES {
            model.apply(ClusterEvent::NodeApplied(mk_node(name, &[])));
        }
        model.apply(ClusterEvent::Synced);
        model.run_planner().unwrap();
        model
    }

    /// Everything that may happen next.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = self.due_steps();
        for (cache, name) in CACHES.iter().enumerate() {
            let facts = self.caches.get(&mk_id(name));
            if facts.is_some_and(|facts| facts.deleting) {
                continue;
            }
            let listed = facts.and_then(|facts| facts.spec.as_ref().ok());
            for images in images_of(cache) {
                let spec = spec_of(cache, images).validate(mk_id(name)).unwrap();
                if listed != Some(&spec) {
                    steps.push(Step::Apply(cache, images));
                }
            }
            if let Some(facts) = facts {
                steps.push(Step::Delete(cache));
                steps.extend((!facts.refresh_requested).then_some(Step::Refresh(cache)));
                steps.extend((!facts.purge_requested).then_some(Step::Purge(cache)));
            }
        }
        for node in 0..NODES.len() {
            let Some(machine) = &self.machines[node] else {
                steps.push(Step::Join(node));
                continue;
            };
            steps.push(Step::Leave(node));
            steps.push(if machine.ready {
                Step::NotReady(node)
            } else {
                Step::Ready(node)
            });
            steps.extend(machine.pull.as_ref().map(|_| Step::PullFails(node)));
            for (image, name) in IMAGES.iter().enumerate() {
                let held = machine.holds.contains(&mk_ref(name));
                steps.extend(held.then_some(Step::Lost(node, image)));
            }
            steps.push(Step::RestartAgent(node));
        }
        steps.push(Step::RestartController);
        steps.extend(self.next_wakeup().map(|_| Step::Wait));
        steps
    }

    /// What happens next if nothing fails and nothing is late, except that time passes.
    pub(super) fn due_steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (node, name) in NODES.iter().enumerate() {
            let Some(machine) = &self.machines[node] else {
                continue;
            };
            steps.extend(machine.pull.as_ref().map(|_| Step::Pulled(node)));
            steps.extend(machine.removal.as_ref().map(|_| Step::Removed(node)));
            if !machine.ready {
                continue;
            }
            let record = self.records.get(&mk_name(name));
            let current = record.map(|record| &record.assignment);
            if current.unwrap_or(&Assignment::default()) != &machine.assigned {
                steps.push(Step::Assign(node));
            }
            if let Some(record) = record
                && record.assignment.record == machine.assigned.record
            {
                let report = machine.warmer.report();
                let known = record.report.as_ref().is_some_and(|known| {
                    known.images == report.images
                        && known.observed_generation == report.observed_generation
                });
                steps.extend((!known).then_some(Step::Report(node)));
            }
        }
        steps
    }

    fn next_wakeup(&self) -> Option<Timestamp> {
        let machines = self.machines.iter().flatten();
        let warmers = machines.filter_map(|machine| machine.warmer.next_wakeup());
        warmers.chain(self.planner.next_wakeup()).min()
    }

    /// Takes a step that is possible, and checks every rule.
    pub(super) fn take(&mut self, step: Step) -> Checked {
        let now = self.now;
        match step {
            Step::Apply(cache, images) => {
                let mut facts = mk_facts(CACHES[cache], &spec_of(cache, images));
                if let Some(known) = self.caches.get(&facts.id) {
                    let spec = facts.spec;
                    facts = known.clone();
                    facts.generation += 1;
                    facts.spec = spec;
                }
                self.caches.insert(facts.id.clone(), facts.clone());
                self.apply(ClusterEvent::CacheApplied(Box::new(facts)));
            }
            Step::Refresh(cache) => self.change(cache, |facts| facts.refresh_requested = true),
            Step::Purge(cache) => self.change(cache, |facts| facts.purge_requested = true),
            Step::Delete(cache) => self.change(cache, |facts| facts.deleting = true),
            Step::Join(node) => {
                self.machines[node] = Some(Machine::new(node));
                self.apply(ClusterEvent::NodeApplied(mk_node(NODES[node], &[])));
            }
            Step::Leave(node) => {
                self.machines[node] = None;
                self.apply(ClusterEvent::NodeGone(mk_name(NODES[node])));
            }
            Step::NotReady(node) => self.set_ready(node, false),
            Step::Ready(node) => self.set_ready(node, true),
            Step::Assign(node) => {
                let record = self.records.get(&mk_name(NODES[node]));
                let assignment = record.map(|record| record.assignment.clone());
                self.machine(node)
                    .assign(assignment.unwrap_or_default(), now)?;
            }
            Step::Report(node) => {
                let report = self.machine(node).warmer.report();
                let name = mk_name(NODES[node]);
                if let Some(record) = self.records.get_mut(&name) {
                    record.report = Some(report.clone());
                }
                self.apply(ClusterEvent::Reported { node: name, report });
            }
            Step::Pulled(node) => {
                let machine = self.machine(node);
                if let Some((_, image)) = &machine.pull {
                    machine.holds.insert(image.clone());
                    machine.lost.remove(image);
                }
                let pulled = machine.pull.as_ref().map(|(_, image)| mk_image(image));
                machine.pull_ended(pulled.ok_or_else(mk_failure), now)?;
            }
            Step::PullFails(node) => self.machine(node).pull_ended(Err(mk_failure()), now)?,
            Step::Removed(node) => {
                let machine = self.machine(node);
                if let Some(image) = machine.removal.take() {
                    machine.holds.remove(&image);
                    let result = Ok(Removal::Removed);
                    machine.apply(NodeEvent::RemovalEnded { image, result }, now)?;
                }
            }
            Step::Lost(node, image) => {
                let machine = self.machine(node);
                machine.holds.remove(&mk_ref(IMAGES[image]));
                machine.lost.insert(mk_ref(IMAGES[image]));
            }
            Step::RestartAgent(node) => {
                let record = self.records.get(&mk_name(NODES[node])).cloned();
                let machine = self.machine(node);
                machine.warmer = mk_warmer();
                machine.assigned = Assignment::default();
                machine.pull = None;
                machine.removal = None;
                machine.lost.clear();
                if let Some(record) = record.filter(|_| machine.ready) {
                    let reports = record.report.map(|report| report.images);
                    let resumed = NodeEvent::Resumed(reports.unwrap_or_default());
                    machine.warmer.apply(resumed, now);
                    machine.assign(record.assignment, now)?;
                }
            }
            Step::RestartController => self.restart_controller(),
            Step::Wait => {
                self.now = self.next_wakeup().unwrap_or(now);
                for machine in self.machines.iter_mut().flatten() {
                    machine.run(self.now)?;
                }
            }
        }
        self.run_planner()
    }

    fn machine(&mut self, node: usize) -> &mut Machine {
        self.machines[node].as_mut().expect("the node exists")
    }

    fn set_ready(&mut self, node: usize, ready: bool) {
        self.machine(node).ready = ready;
        let mut facts = mk_node(NODES[node], &[]);
        facts.ready = ready;
        self.apply(ClusterEvent::NodeApplied(facts));
    }

    fn apply(&mut self, event: ClusterEvent) {
        self.planner.apply(event, self.now);
    }

    fn change(&mut self, cache: usize, change: impl FnOnce(&mut CacheFacts)) {
        self.echo(&mk_id(CACHES[cache]), change);
    }

    /// Changes an object, and sends the resulting watch event.
    fn echo(&mut self, id: &CacheId, change: impl FnOnce(&mut CacheFacts)) {
        let Some(facts) = self.caches.get_mut(id) else {
            return;
        };
        change(facts);
        if facts.deleting && !facts.finalizer {
            self.caches.remove(id);
            self.apply(ClusterEvent::CacheGone(id.clone()));
            return;
        }
        let facts = facts.clone();
        self.apply(ClusterEvent::CacheApplied(Box::new(facts)));
    }

    fn restart_controller(&mut self) {
        self.planner = mk_planner();
        for facts in self.caches.clone().into_values() {
            self.apply(ClusterEvent::CacheApplied(Box::new(facts)));
        }
        for (node, record) in self.records.clone() {
            let assignment = record.assignment;
            self.apply(ClusterEvent::AssignmentRecorded {
                node: node.clone(),
                assignment,
            });
            if let Some(report) = record.report {
                self.apply(ClusterEvent::Reported { node, report });
            }
        }
        for (node, name) in NODES.iter().enumerate() {
            if let Some(machine) = &self.machines[node] {
                let mut facts = mk_node(name, &[]);
                facts.ready = machine.ready;
                self.apply(ClusterEvent::NodeApplied(facts));
            }
        }
        // The new planner does not know which entries an older report covers.
        for record in self.records.values_mut() {
            let generation = record.assignment.generation;
            record
                .covered_from
                .values_mut()
                .for_each(|from| *from = generation);
        }
        self.apply(ClusterEvent::Synced);
    }

    /// Executes the planner's commands until there are none.
    fn run_planner(&mut self) -> Checked {
        for _ in 0..100 {
            let commands = self.planner.poll(self.now);
            if commands.is_empty() {
                let wakeup = self.planner.next_wakeup();
                if wakeup.is_some_and(|at| at <= self.now) {
                    return Err("the controller would spin".to_owned());
                }
                return Ok(());
            }
            for command in commands {
                self.execute(command)?;
            }
        }
        Err("the planner does not settle".to_owned())
    }

    fn execute(&mut self, command: ClusterCommand) -> Checked {
        match command {
            ClusterCommand::WriteAssignment {
                node,
                ticket,
                images,
            } => {
                self.writes += 1;
                self.check_assignment(&node, &images)?;
                let pulled = self.is_pulling(&node);
                let generation = self.write_record(&node, images);
                if !pulled && self.is_pulling(&node) {
                    self.check_limit()?;
                }
                let assignment = self.records[&node].assignment.clone();
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
                self.apply(ClusterEvent::AssignmentDeleted {
                    node: node.clone(),
                    ticket,
                });
                self.apply(ClusterEvent::AssignmentGone(node));
            }
            ClusterCommand::WriteStatus { cache, status } => {
                self.writes += 1;
                self.check_status(&cache, &status)?;
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
                self.echo(&cache, |facts| facts.finalizer = present);
            }
            ClusterCommand::RecordEvent { .. } => {}
        }
        Ok(())
    }

    /// Writes the spec of a record, and returns its generation.
    fn write_record(&mut self, node: &NodeName, images: Vec<AssignedImage>) -> u64 {
        let before = self.records.remove(node);
        let generation = before.as_ref().map_or(1, |r| r.assignment.generation + 1);
        let uid = match &before {
            Some(record) => record.assignment.record.clone(),
            None => {
                self.next_record += 1;
                Some(format!("record-{}", self.next_record))
            }
        };
        let covered = |entry: &AssignedImage| {
            let before = before.as_ref()?;
            let mut entries = before.assignment.images.iter();
            let known = entries.any(|known| {
                known.image == entry.image
                    && known.state == entry.state
                    && known.pull_policy == entry.pull_policy
                    && known.revision >= entry.revision
            });
            before
                .covered_from
                .get(&entry.image)
                .copied()
                .filter(|_| known)
        };
        let covered_from = images
            .iter()
            .map(|entry| (entry.image.clone(), covered(entry).unwrap_or(generation)));
        let covered_from = covered_from.collect();
        let record = Record {
            assignment: Assignment::new(generation, images).with_record(uid),
            report: before.and_then(|record| record.report),
            covered_from,
        };
        self.records.insert(node.clone(), record);
        generation
    }

    /// Whether the node pulls, as far as the reports show.
    fn is_pulling(&self, node: &NodeName) -> bool {
        let at = NODES.iter().position(|name| *name == node.as_str());
        let machine = at.and_then(|at| self.machines[at].as_ref());
        machine.is_some_and(|machine| machine.ready)
            && self.planner.unresponsive_since(node).is_none()
            && self.records.get(node).is_some_and(Record::pulls)
    }

    fn check_limit(&self) -> Checked {
        let pulling = NODES.iter().filter(|name| self.is_pulling(&mk_name(name)));
        match pulling.count() {
            0..=NODES_PULL_MAX => Ok(()),
            nodes => Err(format!("{nodes} nodes pull, the limit is {NODES_PULL_MAX}")),
        }
    }

    /// The images that the caches want on every node.
    fn wanted(&self) -> Vec<AssignedImage> {
        let purged = |facts: &CacheFacts| facts.status.as_ref().is_some_and(|s| s.purged);
        let facts = self.caches.values();
        let facts = facts.filter(|f| !f.deleting && !f.purge_requested && !purged(f));
        let caches = facts.filter_map(|facts| facts.spec.as_ref().ok());
        let node = mk_node(NODES[0], &[]);
        let defaults = PlannerConfig::default().defaults;
        Assignment::for_node(&node, caches, defaults).images
    }

    fn check_assignment(&self, node: &NodeName, images: &[AssignedImage]) -> Checked {
        let wanted = self.wanted();
        for entry in images.iter().filter(|i| i.state == DesiredState::Absent) {
            if wanted.iter().any(|wanted| wanted.image == entry.image) {
                return Err(format!("{node}: {} is wanted and removed", entry.image));
            }
            let record = self.records.get(node);
            let mut before = record.into_iter().flat_map(|r| &r.assignment.images);
            if !before.any(|known| known.image == entry.image) {
                return Err(format!("{node} never had {}", entry.image));
            }
        }
        Ok(())
    }

    /// A cache is Ready only if the last reports of all nodes that can act show all its images.
    fn check_status(&self, cache: &CacheId, status: &CacheStatus) -> Checked {
        let ready = status.condition(ConditionKind::Ready);
        if !ready.is_some_and(|ready| ready.status) {
            return Ok(());
        }
        for (node, name) in NODES.iter().enumerate() {
            let acts = self.machines[node]
                .as_ref()
                .is_some_and(|machine| machine.ready);
            let name = mk_name(name);
            if !acts || self.planner.unresponsive_since(&name).is_some() {
                continue;
            }
            let report = self.records.get(&name).and_then(|r| r.report.as_ref());
            for entry in self.wanted() {
                let mut seen = report.into_iter().flat_map(|report| &report.images);
                let cached = seen.any(|r| r.image == entry.image && r.phase == ImagePhase::Cached);
                if entry.wanted_by.contains(cache) && !cached {
                    return Err(format!(
                        "{cache} is Ready, and {name} did not report {}",
                        entry.image
                    ));
                }
            }
        }
        Ok(())
    }

    /// Ends the faults: every node that exists is Ready.
    pub(super) fn end_faults(&mut self) -> Checked {
        for node in 0..NODES.len() {
            if self.machines[node].as_ref().is_some_and(|m| !m.ready) {
                self.take(Step::Ready(node))?;
            }
        }
        Ok(())
    }

    /// What is still to be done, if anything.
    pub(super) fn unfinished(&self) -> Option<String> {
        for (id, facts) in &self.caches {
            let status = facts.status.as_ref();
            if facts.deleting || facts.refresh_requested || facts.purge_requested {
                return Some(format!("{id} is not deleted, or still asks for something"));
            }
            let done = status.filter(|status| {
                status.completion_time.is_some() && status.observed_generation == facts.generation
            });
            let Some(status) = done else {
                return Some(format!("the action of {id} has not ended"));
            };
            let ready = status.condition(ConditionKind::Ready);
            let expected = !status.purged && self.machines.iter().flatten().count() > 0;
            if expected && !ready.is_some_and(|ready| ready.status) {
                return Some(format!("{id} is not Ready: {}", status.message));
            }
        }
        let wanted = self.wanted();
        for (node, name) in NODES.iter().enumerate() {
            let Some(machine) = &self.machines[node] else {
                continue;
            };
            if let Some(entry) = wanted.iter().find(|w| !machine.holds.contains(&w.image)) {
                return Some(format!("{name} lacks {}", entry.image));
            }
            let record = self.records.get(&mk_name(name));
            let mut ordered = record.into_iter().flat_map(|r| &r.assignment.images);
            let left = ordered.find(|entry| {
                entry.state == DesiredState::Absent
                    && machine.had.contains(&entry.image)
                    && machine.holds.contains(&entry.image)
            });
            if let Some(entry) = left {
                return Some(format!("{name} still has {}", entry.image));
            }
        }
        None
    }
}

impl Machine {
    fn pull_ended(&mut self, result: Result<RuntimeImage, Failure>, now: Timestamp) -> Checked {
        let Some((id, _)) = self.pull.take() else {
            return Ok(());
        };
        let unused_credentials = None;
        let ended = NodeEvent::PullEnded {
            id,
            result,
            unused_credentials,
        };
        self.apply(ended, now)
    }
}

fn mk_failure() -> Failure {
    Failure::new(Reason::RegistryError, "the registry failed")
}
