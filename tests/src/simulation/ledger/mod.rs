//! The true state of the cluster and its nodes, and the safety invariants that are checked against it.
//!
//! Every write passes the ledger twice: when a process sends it, and when it has taken effect. Runtimes report every
//! change of their images. What a process may do is judged by what it can know: *informed* is the last time at which
//! its watches had delivered everything.

mod convergence;
mod jobs;
mod nodes;
mod objects;
mod statuses;
mod throttles;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fledged_apiserver::Control;
use fledged_core::model::{
    Assignment, CountOrPercent, DesiredState, ImageCache, ImagePhase, ImageRef, NodeFacts,
    NodeReport,
};
use fledged_kube::crd::GROUP;
use serde_json::Value;

use self::jobs::JobLedger;
pub(super) use self::jobs::{JobLimits, LIST_MAX};
use self::statuses::Statuses;
use self::throttles::Throttles;
use super::call::Call;

/// How much older than the last complete news an order may be that a process still follows: what is delivered in one
/// millisecond is handled in the next.
pub(super) const HANDLING: Duration = Duration::from_millis(100);
/// The most requests at one instant. Even a list of all objects by all processes takes far fewer.
const REQUESTS_AT_ONCE: usize = 20_000;
/// Violations that are kept.
const VIOLATIONS_MAX: usize = 5;

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Simulated time since the start.
    pub at: Duration,
    /// The invariant, in a few words that do not change between runs.
    pub invariant: &'static str,
    /// What was found.
    pub found: String,
}

/// What the ledger has to know about a process that sends a request.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    /// The name of the process, which for an agent is that of its node.
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) incarnation: u32,
    /// When its watches had last delivered everything.
    pub(super) informed: Duration,
    /// The same for its watches of Jobs and pods.
    pub(super) informed_of_jobs: Duration,
    /// The resources that this incarnation has listed.
    pub(super) listed: BTreeSet<String>,
    /// When its connection last failed in any way.
    pub(super) last_fault: Duration,
}

impl Sender {
    /// The identity of a candidate for the Lease.
    pub(super) fn identity(&self) -> String {
        format!("{}-{}", self.name, self.incarnation)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Controller,
    Agent,
    /// Users, kubelets and all others that the simulation plays.
    World,
}

/// A complete list of the images of a node.
#[derive(Clone, Copy)]
struct Reading {
    /// The incarnation of the agent that read it.
    incarnation: u32,
    began: Duration,
    ended: Duration,
}

/// A cache as it is stored.
struct Cache {
    spec: Option<ImageCache>,
    /// If the spec is invalid: what the last valid one, which was in force for a while, has on nodes.
    frozen: BTreeSet<(String, ImageRef)>,
    since: Duration,
    idle: bool,
    /// Both a purge and a refresh are asked for. Which of them the controller does depends on when it saw them.
    undecided: bool,
}

struct Record {
    assignment: Assignment,
    report: Option<NodeReport>,
}

struct State {
    now: Duration,
    violations: Vec<Violation>,
    limits: Limits,
    caches: BTreeMap<(String, String), Cache>,
    nodes: BTreeMap<String, NodeFacts>,
    ready_since: BTreeMap<String, Duration>,
    records: BTreeMap<String, Record>,
    /// Which caches want an image on a node, and since when.
    wanted: BTreeMap<(String, ImageRef), BTreeMap<(String, String), Duration>>,
    /// When the record of a node last ordered the removal of an image.
    ordered: BTreeMap<(String, ImageRef), Duration>,
    /// When the record of a node last had an image to pull.
    assigned: BTreeMap<(String, ImageRef), Duration>,
    /// When the record of a node last had an image for a cache of a namespace: node, image, namespace.
    assigned_for: BTreeMap<(String, ImageRef, String), Duration>,
    /// Since when the report of a node shows unfinished pulls.
    unfinished: BTreeMap<String, Duration>,
    /// Whether a runtime holds an image, and since when.
    held: BTreeMap<(String, ImageRef), (bool, Duration)>,
    /// Images that fledged pulled on a node, or that its record held.
    ours: BTreeSet<(String, ImageRef)>,
    /// The last complete list of the images of each node.
    readings: BTreeMap<String, Reading>,
    /// Since when the agent of a node runs without faults of its connection.
    well: BTreeMap<String, Duration>,
    /// The holder of the Lease, and the time since when another one has lost it.
    holder: (String, Duration),
    jobs: JobLedger,
    throttles: Throttles,
    /// When the wall clock of a process was last set forward.
    clock_jumped: Option<Duration>,
    statuses: Statuses,
    /// Whether records and their reports are those of agents.
    has_agents: bool,
    /// Writes of controllers and agents, by resource and by object.
    writes: BTreeMap<(String, String), u64>,
    /// The number of requests at this time.
    requests: (Duration, usize),
}

/// The limits that the invariants check.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) nodes: CountOrPercent,
    pub(super) pulls: usize,
    pub(super) record_bytes: usize,
    pub(super) failures: usize,
}

/// The ledger. Clones share their state.
#[derive(Clone)]
pub(super) struct Ledger {
    server: Control,
    origin: tokio::time::Instant,
    state: Arc<Mutex<State>>,
}

impl Ledger {
    pub(super) fn new(server: Control, origin: tokio::time::Instant, limits: Limits) -> Self {
        let state = State {
            now: Duration::ZERO,
            violations: Vec::new(),
            limits,
            caches: BTreeMap::new(),
            nodes: BTreeMap::new(),
            ready_since: BTreeMap::new(),
            records: BTreeMap::new(),
            wanted: BTreeMap::new(),
            ordered: BTreeMap::new(),
            assigned: BTreeMap::new(),
            assigned_for: BTreeMap::new(),
            unfinished: BTreeMap::new(),
            held: BTreeMap::new(),
            ours: BTreeSet::new(),
            readings: BTreeMap::new(),
            well: BTreeMap::new(),
            holder: (String::new(), Duration::ZERO),
            clock_jumped: None,
            statuses: Statuses::default(),
            has_agents: true,
            writes: BTreeMap::new(),
            jobs: JobLedger::default(),
            throttles: Throttles::default(),
            requests: (Duration::ZERO, 0),
        };
        Self {
            server,
            origin,
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.now = self.origin.elapsed();
        state
    }

    /// The violations so far.
    pub(super) fn violations(&self) -> Vec<Violation> {
        self.state().violations.clone()
    }

    /// Whether an invariant is broken.
    pub(super) fn is_broken(&self) -> bool {
        !self.state().violations.is_empty()
    }

    /// Records a violation that was found elsewhere.
    pub(super) fn violate(&self, invariant: &'static str, found: String) {
        self.state().violate(invariant, found);
    }

    /// Sets the limits of Jobs.
    pub(super) fn set_job_limits(&self, limits: JobLimits) {
        let mut state = self.state();
        state.jobs.set_limits(limits);
        state.has_agents = false;
    }

    /// Whether the driver created the Job with this UID.
    pub(super) fn is_our_job(&self, uid: &str) -> bool {
        self.state().jobs.is_ours(uid)
    }

    /// The Jobs of the driver that exist.
    pub(super) fn jobs(&self) -> Vec<String> {
        self.state().jobs.existing()
    }

    /// A clock was set forward.
    pub(super) fn set_forward(&self, by: Duration) {
        self.state().jobs.set_forward(by);
    }

    /// The numbers of writes of controllers and agents since the last call, by resource.
    pub(super) fn take_writes(&self) -> BTreeMap<String, u64> {
        let mut writes = BTreeMap::new();
        for ((part, _), count) in std::mem::take(&mut self.state().writes) {
            *writes.entry(part).or_default() += count;
        }
        writes
    }

    /// The same, by object.
    pub(super) fn take_writes_by_object(&self) -> BTreeMap<String, u64> {
        let writes = std::mem::take(&mut self.state().writes);
        let writes = writes.into_iter();
        writes.map(|((_, target), count)| (target, count)).collect()
    }

    /// The wall clock of a process is set forward.
    pub(super) fn jump(&self) {
        let mut state = self.state();
        state.clock_jumped = Some(state.now);
    }

    /// Sets which agents run without faults, and since when.
    pub(super) fn set_well(&self, well: BTreeMap<String, Duration>) {
        self.state().well = well;
    }

    /// Checks a request at the time at which a process sends it.
    pub(super) fn sent(&self, sender: &Sender, call: &Call) {
        self.state().count_request(sender);
        if sender.role == Role::World || !call.is_write() || call.resource == "leases" {
            return;
        }
        if call.resource == "nodeimagecaches" {
            // The garbage collector may have deleted it.
            self.read_record(&call.name);
        }
        let mut state = self.state();
        if call.resource == "jobs" {
            // The garbage collector may have deleted some, which the controller's watches have reported.
            state.jobs.read_all(&self.server);
        }
        // The name of an event contains the wall time.
        let target = match call.resource.as_str() {
            "events" => "events".to_owned(),
            _ => call.target(),
        };
        let part = match call.subresource.as_str() {
            "" => call.resource.clone(),
            sub => format!("{}/{sub}", call.resource),
        };
        *state.writes.entry((part, target)).or_default() += 1;
        if sender.role == Role::Controller {
            state.check_leader(sender, call);
        }
        if sender.role == Role::Controller {
            state.check_job(sender, call);
        }
        if call.is("nodeimagecaches", "") && call.method == http::Method::PATCH {
            state.check_assignment(sender, call);
        }
        if call.is("nodeimagecaches", "") && call.method == http::Method::DELETE {
            // Its slot is free when the deletion is sent: the next node is written at the same time.
            state.unfinished.remove(&call.name);
        }
        if call.is("nodeimagecaches", "status") {
            state.check_report(sender, call);
        }
        if call.is("imagecaches", "status") || call.is("events", "") {
            state.check_texts(call);
        }
        state.check_statuses(sender, call);
    }

    /// Reads an object that was written.
    pub(super) fn written(&self, call: &Call, by: Role) {
        self.state().read_job(call, by, &self.server);
        match call.resource.as_str() {
            "imagecaches" => self.read_cache(&call.namespace, &name_of(call)),
            "nodes" => self.read_node(&name_of(call)),
            "nodeimagecaches" => self.read_record(&name_of(call)),
            "leases" => self.read_lease(&call.namespace, &name_of(call)),
            _ => {}
        }
    }

    /// Reads again what the garbage collector may have deleted: it sends no requests.
    pub(super) fn read_all(&self) {
        let records: Vec<String> = self.state().records.keys().cloned().collect();
        for name in records {
            let object = self.server.object(GROUP, "nodeimagecaches", "", &name);
            if object.is_none() {
                self.read_record(&name);
            }
        }
        self.state().jobs.read_all(&self.server);
    }
}

/// The name of the object that a call writes: also of one that it creates.
fn name_of(call: &Call) -> String {
    if !call.name.is_empty() {
        return call.name.clone();
    }
    let name = call.body.pointer("/metadata/name").and_then(Value::as_str);
    name.unwrap_or_default().to_owned()
}

/// The images whose removal an assignment orders.
fn orders(assignment: &Assignment) -> impl Iterator<Item = &ImageRef> {
    let absent = assignment.images.iter();
    let absent = absent.filter(|entry| entry.state == DesiredState::Absent);
    absent.map(|entry| &entry.image)
}

impl Record {
    /// Whether it has the image for this cache only, or orders its removal while the node still reports it as present.
    fn holds_for(&self, image: &ImageRef, uid: &str) -> bool {
        let mut entries = self.assignment.images.iter();
        let Some(entry) = entries.find(|entry| entry.image == *image) else {
            return false;
        };
        let reports = self.report.iter().flat_map(|report| &report.images);
        let mut cached = reports.filter(|report| report.phase == ImagePhase::Cached);
        match entry.state {
            DesiredState::Present => entry.wanted_by.iter().all(|of| of.uid == uid),
            DesiredState::Absent => {
                let order = entry.removal.as_ref();
                order.is_some_and(|order| order.cache.uid == uid)
                    && cached.any(|report| report.image == *image)
            }
        }
    }

    /// The images whose pulls for this assignment have not ended, as the node reports.
    fn unfinished(&self) -> impl Iterator<Item = &ImageRef> {
        let generation = self.assignment.generation;
        let report = self.report.iter();
        let report = report.filter(move |report| report.observed_generation == generation);
        let running = [
            ImagePhase::Pending,
            ImagePhase::Pulling,
            ImagePhase::BackingOff,
        ];
        let images = report.flat_map(|report| &report.images);
        let images = images.filter(move |image| running.contains(&image.phase));
        let images = images.map(|image| &image.image);
        images.filter(|image| {
            let mut entries = self.assignment.images.iter();
            entries.any(|entry| entry.image == **image && entry.state == DesiredState::Present)
        })
    }

    /// Whether the node reports pulls for this assignment that have not ended.
    fn is_unfinished(&self) -> bool {
        self.unfinished().next().is_some()
    }
}

impl State {
    fn violate(&mut self, invariant: &'static str, found: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation {
                at: self.now,
                invariant,
                found,
            });
        }
    }

    fn count_request(&mut self, sender: &Sender) {
        let (at, count) = self.requests;
        let count = if at == self.now { count + 1 } else { 1 };
        self.requests = (self.now, count);
        if count > REQUESTS_AT_ONCE {
            self.violate(
                "no process repeats requests without a pause",
                sender.name.clone(),
            );
        }
    }
}
