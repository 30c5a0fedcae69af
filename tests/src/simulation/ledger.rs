//! The true state of the cluster and its nodes, and the safety invariants that are checked against it.
//!
//! Every write passes the ledger twice: when a process sends it, and when it has taken effect. Runtimes report every
//! change of their images. What a process may do is judged by what it can know: *informed* is the last time at which
//! its watches had delivered everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fledged_apiserver::Control;
use fledged_core::model::{
    Assignment, CountOrPercent, DesiredState, ImageCache, ImagePhase, ImageRef, NodeFacts,
    NodeReport,
};
use fledged_core::port::{PullRequest, RegistryAuth};
use fledged_kube::crd::{GROUP, PURGE_ANNOTATION, ReadCache, ReadNodeCache};
use fledged_operator::controller::ReadNode;
use serde_json::Value;

use super::call::Call;
use super::job_ledger::{JobLedger, JobLimits};
use super::statuses::{Facts, Statuses};
use super::throttles::{Pull, Throttles};

/// How much older than the last complete news an order may be that a process still follows: what is delivered in one
/// millisecond is handled in the next.
pub(super) const HANDLING: Duration = Duration::from_millis(100);
/// How long a spec must be in force before an invalid edit, to be known as the last valid one.
const SETTLED_SPEC: Duration = Duration::from_secs(60);
/// How long a leader may write after it lost its Lease: its renewal deadline.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How long after a clock was set forward a Lease may have expired too early: its duration, measured twice.
const CLOCKS_DIFFER: Duration = Duration::from_secs(30);
/// How long after the last change of its report a node with Jobs surely counts against the limit: less than the
/// controller waits for the next.
const SURELY_PROGRESSING: Duration = Duration::from_secs(60);
/// How long a node is seen to pull before it surely counts against the limit.
const SURELY_ACTIVE: Duration = Duration::from_secs(5);
/// Longest message in a status, in characters.
const MESSAGE_MAX: usize = 1_024;
/// The size of the parts of a record that the planner does not count, and the room for removals.
const RECORD_SLACK: usize = 4_096;
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
    /// Since when caches want an image on a node.
    wanted: BTreeMap<(String, ImageRef), Duration>,
    /// When the record of a node last ordered the removal of an image.
    ordered: BTreeMap<(String, ImageRef), Duration>,
    /// When the record of a node last had an image to pull.
    assigned: BTreeMap<(String, ImageRef), Duration>,
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

    fn read_cache(&self, namespace: &str, name: &str) {
        let found = self.server.object(GROUP, "imagecaches", namespace, name);
        let mut state = self.state();
        let key = (namespace.to_owned(), name.to_owned());
        let now = state.now;
        state.statuses.cache_read(&key, found.as_ref(), now);
        let Some(object) = found.and_then(|object| serde_json::from_value(object).ok()) else {
            state.caches.remove(&key);
            state.fold();
            return;
        };
        let object: ReadCache = object;
        let annotations = object.metadata.annotations.as_ref();
        let purge = annotations.is_some_and(|all| all.contains_key(PURGE_ANNOTATION));
        let facts = object.into_facts();
        let purged = facts.status.as_ref().is_some_and(|status| status.purged);
        let idle = facts.deleting || purge || purged;
        let undecided = purge && facts.refresh_requested && !facts.deleting;
        let (now, spec) = (state.now, facts.spec.ok());
        let before = state.caches.remove(&key);
        let before = before.filter(|_| !facts.deleting);
        let same = before.as_ref().is_some_and(|before| before.spec == spec);
        let since = before.as_ref().filter(|_| same).map(|before| before.since);
        // An invalid edit keeps what the last valid spec has on nodes. A purged cache has nothing.
        let frozen = before.filter(|before| !before.idle && spec.is_none());
        let frozen = frozen.map_or_else(BTreeSet::new, |before| match before.spec {
            Some(_) if now >= before.since + SETTLED_SPEC => state.held_for(&key),
            Some(_) => BTreeSet::new(),
            None => before.frozen,
        });
        let since = since.unwrap_or(now);
        let cache = Cache {
            spec,
            frozen,
            since,
            idle,
            undecided,
        };
        state.caches.insert(key, cache);
        state.fold();
    }

    fn read_node(&self, name: &str) {
        let found = self.server.object("", "nodes", "", name);
        let mut state = self.state();
        let now = state.now;
        let read = found.and_then(|object| serde_json::from_value::<ReadNode>(object).ok());
        let facts = read.and_then(|node| Some(node.clone().into_facts(node.name()?)));
        match facts {
            Some(mut facts) => {
                facts.taints.retain(|taint| !taint.is_node_condition());
                match facts.ready {
                    true => state.ready_since.entry(name.to_owned()).or_insert(now),
                    false => &mut state.ready_since.remove(name).unwrap_or_default(),
                };
                let before = state.nodes.insert(name.to_owned(), facts.clone());
                if before != Some(facts) {
                    state.statuses.node_changed(name, now);
                }
            }
            None => {
                state.ready_since.remove(name);
                state.nodes.remove(name);
                state.statuses.node_changed(name, now);
                state.forget_frozen(name);
            }
        }
        state.fold();
    }

    fn read_record(&self, name: &str) {
        let found = self.server.object(GROUP, "nodeimagecaches", "", name);
        let mut state = self.state();
        let now = state.now;
        if let Some(before) = state.records.remove(name) {
            // Until now, these were ordered or assigned.
            for entry in &before.assignment.images {
                let key = (name.to_owned(), entry.image.clone());
                match entry.state {
                    DesiredState::Absent => state.ordered.insert(key, now),
                    DesiredState::Present => state.assigned.insert(key, now),
                };
            }
        }
        state.statuses.record_read(name, found.as_ref(), now);
        let object = found.and_then(|object| serde_json::from_value::<ReadNodeCache>(object).ok());
        let Some(object) = object else {
            state.unfinished.remove(name);
            state.statuses.report_read(name, None, now);
            state.forget_frozen(name);
            return;
        };
        let (assignment, invalid) = object.assignment();
        if let Some(invalid) = invalid.first() {
            state.violate("records are valid", format!("{name}: {invalid}"));
        }
        for entry in &assignment.images {
            let key = (name.to_owned(), entry.image.clone());
            match entry.state {
                DesiredState::Present => drop(state.ours.insert(key)),
                DesiredState::Absent => drop(state.ordered.insert(key, now)),
            }
        }
        let report = object.report();
        state.statuses.report_read(name, report.as_ref(), now);
        let record = Record { assignment, report };
        match record.is_unfinished() {
            true => drop(state.unfinished.entry(name.to_owned()).or_insert(now)),
            false => drop(state.unfinished.remove(name)),
        }
        state.records.insert(name.to_owned(), record);
    }

    /// Another program removes all images from the record of a node.
    pub(super) fn emptied(&self, node: &str) {
        self.state().forget_frozen(node);
    }

    fn read_lease(&self, namespace: &str, name: &str) {
        let group = "coordination.k8s.io";
        let found = self.server.object(group, "leases", namespace, name);
        let holder = found.as_ref().and_then(|lease| {
            let holder = lease.pointer("/spec/holderIdentity")?;
            Some(holder.as_str()?.to_owned())
        });
        let mut state = self.state();
        let holder = holder.unwrap_or_default();
        if state.holder.0 != holder {
            state.holder = (holder, state.now);
        }
    }

    /// A runtime begins to hold these names.
    pub(super) fn gained<'a>(
        &self,
        node: &str,
        images: impl IntoIterator<Item = &'a ImageRef>,
        pulled_by_us: bool,
    ) {
        let mut state = self.state();
        let now = state.now;
        for image in images {
            let key = (node.to_owned(), image.clone());
            if pulled_by_us {
                state.ours.insert(key.clone());
            }
            let held = state.held.entry(key).or_insert((false, now));
            if !held.0 {
                *held = (true, now);
            }
            state.jobs.gained(node, image);
        }
    }

    /// A runtime no longer holds these names.
    pub(super) fn lost<'a>(&self, node: &str, images: impl IntoIterator<Item = &'a ImageRef>) {
        let mut state = self.state();
        let now = state.now;
        for image in images {
            let key = (node.to_owned(), image.clone());
            state.held.insert(key, (false, now));
        }
    }

    /// Another machine takes the name of the node: its runtime is empty.
    pub(super) fn replaced(&self, node: &str) {
        let mut state = self.state();
        state.held.retain(|(of, _), _| of != node);
        state.ours.retain(|(of, _)| of != node);
        state.readings.remove(node);
    }

    /// An agent read the images of its node, from this time on.
    pub(super) fn read_images(&self, node: &str, incarnation: u32, start: Duration) {
        let mut state = self.state();
        let reading = Reading {
            incarnation,
            began: start,
            ended: state.now,
        };
        state.readings.insert(node.to_owned(), reading);
    }

    /// Checks the number of pulls that run on a node.
    pub(super) fn pulling(&self, node: &str, pulls: usize) {
        let mut state = self.state();
        let limit = state.limits.pulls;
        if pulls > limit {
            let found = format!("{node} runs {pulls} pulls, the limit is {limit}");
            state.violate("no more pulls on a node than its limit", found);
        }
    }

    /// Checks the request for an image that an agent begins to pull.
    pub(super) fn asking(&self, node: &str, incarnation: u32, request: &PullRequest) {
        let mut state = self.state();
        // A kubelet has delays of its own.
        if !state.has_agents {
            return;
        }
        let pull = pull_of(&state.records, node, incarnation, request);
        let checked = pull.map(|pull| state.throttles.check(pull, state.now, state.clock_jumped));
        if let Some(Err(found)) = checked {
            state.violate("a registry's time without requests is kept", found);
        }
    }

    /// A registry asked for a time without requests.
    pub(super) fn throttled(
        &self,
        node: &str,
        incarnation: u32,
        request: &PullRequest,
        delay: Duration,
    ) {
        let mut state = self.state();
        let State {
            records,
            throttles,
            now,
            ..
        } = &mut *state;
        if let Some(pull) = pull_of(records, node, incarnation, request) {
            throttles.answered(pull, *now, delay);
        }
    }

    /// Checks a removal that an agent begins. `taken` are the names that the runtime removes with the image.
    pub(super) fn removing(&self, node: &str, informed: Duration, taken: &[ImageRef]) {
        let mut state = self.state();
        let since = informed.saturating_sub(HANDLING);
        let ordered = |state: &State, image: &ImageRef| {
            let key = (node.to_owned(), image.clone());
            let record = state.records.get(node);
            let now = record.is_some_and(|r| orders(&r.assignment).any(|of| of == image));
            now || state.ordered.get(&key).is_some_and(|at| *at >= since)
        };
        for image in taken {
            // A digest reference came with its tag, and goes with it.
            let mut tags = taken.iter().filter(|other| other.name() == image.name());
            let came_along = image.digest().is_some() && tags.any(|tag| ordered(&state, tag));
            if came_along {
                continue;
            }
            let key = (node.to_owned(), image.clone());
            // A version that a mutable tag of the record named before has no other name than its digest.
            let version = taken.iter().all(|name| name.digest().is_some());
            let mut tags = state.ours.iter().filter(|(of, _)| of == node);
            if version && tags.any(|(_, tag)| tag.name() == image.name()) {
                continue;
            }
            if !ordered(&state, image) {
                let found = format!(
                    "{node} removes {image}, which its record has not ordered since {:.1} s",
                    since.as_secs_f64()
                );
                state.violate("an agent removes only what its record orders", found);
            }
            if !state.ours.contains(&key) {
                let found = format!("{node} removes {image}, which it never had for fledged");
                state.violate("nothing is removed that fledged never had", found);
            }
        }
    }

    /// Checks that a removal is not asked for of an image that the last reading showed in use.
    pub(super) fn removing_used(&self, node: &str, image: &ImageRef) {
        let found = format!("{node} removes {image}, which a container uses");
        self.violate("nothing is removed that a container uses", found);
    }

    /// Whether the runtime of a node holds an image, and since when that is so.
    pub(super) fn is_held(&self, node: &str, image: &ImageRef) -> (bool, Duration) {
        let state = self.state();
        let key = (node.to_owned(), image.clone());
        state.held.get(&key).copied().unwrap_or_default()
    }

    /// Whether a node exists and is Ready.
    pub(super) fn is_ready(&self, node: &str) -> bool {
        let state = self.state();
        state.nodes.get(node).is_some_and(|facts| facts.ready)
    }

    /// Whether a node reports that it keeps an image that is in use.
    pub(super) fn reports_in_use(&self) -> bool {
        let state = self.state();
        let reports = state.records.values();
        let reports = reports.filter_map(|record| record.report.as_ref());
        let mut images = reports.flat_map(|report| &report.images);
        images.any(|image| image.phase == ImagePhase::InUse)
    }

    /// Whether a node lacks an image that no valid spec wants: an ImageCache whose spec has become invalid keeps its
    /// images. Convergence does not wait for such a pull, which is retried.
    pub(super) fn retries_kept(&self) -> bool {
        let state = self.state();
        let wanted = state.wanted_images(state.caches.values());
        state.records.iter().any(|(node, record)| {
            let reports = record.report.iter().flat_map(|report| &report.images);
            let cached = reports.filter(|report| report.phase == ImagePhase::Cached);
            let cached: BTreeSet<&ImageRef> = cached.map(|report| &report.image).collect();
            record.assignment.images.iter().any(|entry| {
                let key = (node.clone(), entry.image.clone());
                entry.state == DesiredState::Present
                    && !wanted.contains(&key)
                    && !cached.contains(&entry.image)
            })
        })
    }

    /// The images that the record of a Ready node has although no cache wants them there, and none may keep them,
    /// with an invalid spec or because a refresh is asked for beside a purge.
    pub(super) fn unwanted_on(&self, node: &str) -> Vec<ImageRef> {
        let state = self.state();
        let record = state.records.get(node);
        let entries = record.iter().flat_map(|record| &record.assignment.images);
        let unwanted = entries.filter(|entry| {
            let kept = entry.wanted_by.iter().any(|id| {
                let key = (id.namespace.clone(), id.name.clone());
                let cache = state.caches.get(&key);
                cache.is_some_and(|cache| cache.undecided || (cache.spec.is_none() && !cache.idle))
            });
            let key = (node.to_owned(), entry.image.clone());
            let present = entry.state == DesiredState::Present;
            present && !kept && !state.wanted.contains_key(&key)
        });
        unwanted.map(|entry| entry.image.clone()).collect()
    }

    /// The images that caches of these namespaces want on Ready nodes, and since when.
    pub(super) fn wanted_by(&self, namespaces: &[&str]) -> Vec<(String, ImageRef, Duration)> {
        let state = self.state();
        let caches = state.caches.iter();
        let caches = caches.filter(|((of, _), _)| namespaces.contains(&of.as_str()));
        let wanted = state.wanted_images(caches.map(|(_, cache)| cache));
        let wanted = wanted
            .into_iter()
            .filter(|(node, _)| state.nodes.get(node).is_some_and(|facts| facts.ready));
        let since = |key: &(String, ImageRef)| state.wanted.get(key).copied().unwrap_or_default();
        wanted
            .map(|key| (key.0.clone(), key.1.clone(), since(&key)))
            .collect()
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

    /// Whether the node reports pulls for this assignment that have not ended.
    fn is_unfinished(&self) -> bool {
        let Some(report) = &self.report else {
            return false;
        };
        if report.observed_generation != self.assignment.generation {
            return false;
        }
        let running = [
            ImagePhase::Pending,
            ImagePhase::Pulling,
            ImagePhase::BackingOff,
        ];
        let present = |image: &ImageRef| {
            let mut entries = self.assignment.images.iter();
            entries.any(|entry| entry.image == *image && entry.state == DesiredState::Present)
        };
        let mut images = report.images.iter();
        images.any(|image| running.contains(&image.phase) && present(&image.image))
    }
}

/// The pull of an image that only one namespace wants, by the record that the agent has taken up. An image of several
/// namespaces is also pulled while a registry throttles one of them.
fn pull_of<'a>(
    records: &'a BTreeMap<String, Record>,
    node: &'a str,
    incarnation: u32,
    request: &'a PullRequest,
) -> Option<Pull<'a>> {
    let image = &request.image;
    let user = match &request.auth {
        Some(RegistryAuth::Basic { username, .. }) => Some(username.as_str()),
        _ => None,
    };
    let Record { assignment, report } = records.get(node)?;
    let generation = assignment.generation;
    let taken_up = report.as_ref()?.observed_generation == generation;
    let mut images = assignment.images.iter();
    let wanted = images.find(|wanted| wanted.image == *image && taken_up)?;
    let mut namespaces = wanted.wanted_by.iter().map(|id| id.namespace.as_str());
    let namespace = namespaces.next()?;
    namespaces.all(|other| other == namespace).then_some(Pull {
        node,
        incarnation,
        image,
        namespace,
        user,
        generation,
    })
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

    /// The images that these caches want, by node.
    fn wanted_images<'a>(
        &self,
        caches: impl Iterator<Item = &'a Cache>,
    ) -> BTreeSet<(String, ImageRef)> {
        let mut wanted = BTreeSet::new();
        for cache in caches.filter(|cache| !cache.idle) {
            for group in cache.spec.iter().flat_map(|spec| &spec.groups) {
                for (node, facts) in &self.nodes {
                    if group.matches(facts) {
                        let images = group.images.iter().cloned();
                        wanted.extend(images.map(|image| (node.clone(), image)));
                    }
                }
            }
        }
        wanted
    }

    /// The images that the records of nodes have for this cache.
    fn held_for(&self, (namespace, name): &(String, String)) -> BTreeSet<(String, ImageRef)> {
        let mut held = BTreeSet::new();
        for (node, record) in &self.records {
            for entry in &record.assignment.images {
                let mut caches = entry.wanted_by.iter();
                if caches.any(|of| of.namespace == *namespace && of.name == *name) {
                    held.insert((node.clone(), entry.image.clone()));
                }
            }
        }
        held
    }

    /// Updates which images are wanted on which nodes.
    fn fold(&mut self) {
        let mut wanted = self.wanted_images(self.caches.values());
        let frozen = self.caches.values().filter(|cache| !cache.idle);
        wanted.extend(frozen.flat_map(|cache| cache.frozen.iter().cloned()));
        self.wanted.retain(|key, _| wanted.contains(key));
        for key in wanted {
            self.wanted.entry(key).or_insert(self.now);
        }
    }

    /// What an invalid edit keeps on a node, only the record of that node has.
    fn forget_frozen(&mut self, name: &str) {
        for cache in self.caches.values_mut() {
            cache.frozen.retain(|(node, _)| node != name);
        }
        self.fold();
    }

    fn check_leader(&mut self, sender: &Sender, call: &Call) {
        // The Job driver follows the records of nodes, whatever caches there are.
        let of_driver = call.resource == "jobs" || call.is("nodeimagecaches", "status");
        let needed: &[&str] = match of_driver {
            true => &["nodes", "nodeimagecaches", "jobs", "pods"],
            false => &["nodes", "nodeimagecaches", "imagecaches"],
        };
        let missing = needed.iter().filter(|of| !sender.listed.contains(**of));
        let missing: Vec<&&str> = missing.collect();
        if !missing.is_empty() {
            let found = format!(
                "{} sends {} {} without a list of {missing:?}",
                sender.identity(),
                call.method,
                call.target()
            );
            self.violate("nothing is written before all lists are complete", found);
        }
        let (holder, since) = &self.holder;
        let jumped = self.clock_jumped;
        let grace = match jumped.is_some_and(|at| self.now < at + CLOCKS_DIFFER) {
            true => RENEW_DEADLINE,
            false => Duration::ZERO,
        };
        if *holder != sender.identity() && self.now > *since + grace {
            let found = format!(
                "{} writes, but {holder:?} holds the Lease since {:.1} s",
                sender.identity(),
                since.as_secs_f64()
            );
            self.violate("only the holder of the Lease writes", found);
        }
    }

    /// Checks an assignment that a controller writes.
    fn check_assignment(&mut self, sender: &Sender, call: &Call) {
        let read: ReadNodeCache = match serde_json::from_value(call.body.clone()) {
            Ok(read) => read,
            Err(error) => return self.violate("records are valid", error.to_string()),
        };
        let (assignment, _) = read.assignment();
        let node = call.name.as_str();
        for image in orders(&assignment) {
            let key = (node.to_owned(), image.clone());
            let since = self.wanted.get(&key).copied();
            if let Some(since) = since.filter(|since| *since + HANDLING < sender.informed) {
                let found = format!(
                    "{node} is to remove {image}, which a cache wants there since {:.1} s",
                    since.as_secs_f64()
                );
                self.violate("the removal of a wanted image is never ordered", found);
            }
        }
        let size = call.bytes;
        let most = 2 * self.limits.record_bytes + RECORD_SLACK;
        if size > most {
            let found = format!("the record of {node} has {size} bytes, the limit is {most}");
            self.violate("records are bounded", found);
        }
        self.check_slots(sender, node, &assignment);
        // Whether it still pulls, its next report shows.
        self.unfinished.remove(node);
    }

    /// The most nodes that pull at once, by `--max-concurrent-nodes`: exact while one namespace has caches, and else
    /// at most twice as many and one for each namespace.
    fn most_nodes(&self) -> usize {
        let limit = self.limits.nodes.of(self.nodes.len()).unwrap_or(usize::MAX);
        let namespaces = self.caches.keys().map(|(namespace, _)| namespace);
        match namespaces.collect::<BTreeSet<_>>().len() {
            0 | 1 => limit,
            namespaces => limit.saturating_mul(2).saturating_add(namespaces),
        }
    }

    /// Checks the limit of nodes that pull: a node without unfinished pulls is given new ones only while fewer other
    /// nodes pull. Evictions and nodes that come back may exceed it.
    fn check_slots(&mut self, sender: &Sender, node: &str, next: &Assignment) {
        let present = |assignment: &Assignment| -> BTreeSet<ImageRef> {
            let entries = assignment.images.iter();
            let present = entries.filter(|entry| entry.state == DesiredState::Present);
            present.map(|entry| entry.image.clone()).collect()
        };
        let before = self
            .records
            .get(node)
            .map(|record| present(&record.assignment));
        let new = present(next);
        let adds = new
            .iter()
            .any(|image| !before.as_ref().is_some_and(|b| b.contains(image)));
        // A node that still has to report may hold its slot.
        let idle = self.records.get(node).is_none_or(|record| {
            let report = record.report.as_ref();
            let observed = report.map_or(0, |report| report.observed_generation);
            observed == record.assignment.generation && !record.is_unfinished()
        });
        if !adds || !idle {
            return;
        }
        let earlier =
            |at: Option<&Duration>| at.is_some_and(|at| *at + SURELY_ACTIVE < sender.informed);
        // A clock that is set forward ends the wait for reports at once.
        let jumped = self.clock_jumped.unwrap_or_default();
        // With Jobs, a node without progress counts as unresponsive, whatever the reason.
        let progresses = |other: &str| {
            let since = self.statuses.reported_since(other);
            self.has_agents || since.is_some_and(|since| self.now < since + SURELY_PROGRESSING)
        };
        let others = self.unfinished.keys().filter(|other| {
            let since = self.unfinished.get(*other);
            other.as_str() != node
                && progresses(other)
                && earlier(since)
                && since.is_some_and(|since| *since >= jumped)
                && earlier(self.ready_since.get(*other))
                && earlier(self.well.get(*other))
        });
        let active: Vec<&String> = others.collect();
        let limit = self.most_nodes();
        if active.len() >= limit {
            let found = format!("{node} is to pull while {active:?} pull, the limit is {limit}");
            self.violate("no more nodes pull than the limit", found);
        }
    }

    /// Checks what a status of an ImageCache says, that a finalizer is not removed too early, and that a write changes
    /// something.
    fn check_statuses(&mut self, sender: &Sender, call: &Call) {
        if !self.has_agents {
            return;
        }
        let facts = Facts {
            nodes: &self.nodes,
            ready_since: &self.ready_since,
            well: &self.well,
            clocks_jumped: self.clock_jumped.is_some(),
        };
        let mut found = Vec::new();
        if call.is("imagecaches", "status") {
            found.extend(self.statuses.check_status(sender, call, &facts));
        }
        if call.is("imagecaches", "") {
            let is_left = |node: &str, image: &ImageRef, uid: &str| {
                // Another cache may want it there whose turn has not come on that node.
                let key = (node.to_owned(), image.clone());
                let record = self.records.get(node);
                let holds = record.is_some_and(|record| record.holds_for(image, uid));
                holds && !self.wanted.contains_key(&key)
            };
            let early = self.statuses.check_finalizer(sender, call, &facts, is_left);
            found.extend(early);
        }
        found.extend(self.statuses.check_repeated(sender, call, self.now));
        for (invariant, text) in found {
            self.violate(invariant, text);
        }
    }

    /// Checks a report that an agent writes.
    fn check_report(&mut self, sender: &Sender, call: &Call) {
        let node = call.name.as_str();
        self.check_texts(call);
        let reading = self.readings.get(node).copied();
        let reading = reading.filter(|reading| {
            sender.role == Role::Agent
                && reading.incarnation == sender.incarnation
                && reading.ended + HANDLING < self.now
        });
        let start = reading.map_or(Duration::ZERO, |reading| reading.began);
        let images = call
            .body
            .pointer("/status/images")
            .and_then(Value::as_array);
        for image in images.into_iter().flatten() {
            let (name, phase) = (image["image"].as_str(), image["phase"].as_str());
            let Some(name) = name.and_then(|name| name.parse::<ImageRef>().ok()) else {
                self.violate("reports are valid", format!("{node}: {image}"));
                continue;
            };
            if phase == Some("Cached") && sender.role == Role::Controller {
                self.check_claim(sender, node, &name);
            }
            let held = self.held.get(&(node.to_owned(), name.clone())).copied();
            let (is_held, since) = held.unwrap_or_default();
            if phase == Some("Cached") && !is_held && since < start {
                let found = format!(
                    "{node} reports {name} as Cached, which is gone since {:.1} s; it read its images at {:.1} s",
                    since.as_secs_f64(),
                    start.as_secs_f64()
                );
                self.violate("no report claims what the runtime does not hold", found);
            }
        }
    }

    /// Checks a request of a controller for a Job.
    fn check_job(&mut self, sender: &Sender, call: &Call) {
        let since = sender.informed.saturating_sub(HANDLING);
        let (records, ordered, assigned) = (&self.records, &self.ordered, &self.assigned);
        let has = |node: &str, image: &ImageRef, wanted: DesiredState| {
            let entries = records.get(node).into_iter();
            let mut entries = entries.flat_map(|record| &record.assignment.images);
            let now = entries.any(|entry| entry.image == *image && entry.state == wanted);
            let before = match wanted {
                DesiredState::Absent => ordered,
                DesiredState::Present => assigned,
            };
            let before = before.get(&(node.to_owned(), image.clone()));
            now || before.is_some_and(|at| *at >= since)
        };
        let found = self.jobs.sent(sender, call, self.now, has);
        for (invariant, text) in found {
            self.violate(invariant, text);
        }
    }

    /// Reads a Job, a pod or the list of a node that was written.
    fn read_job(&mut self, call: &Call, by: Role, server: &Control) {
        let (now, ours) = (self.now, by == Role::Controller);
        let held = self.held.iter().filter(|((of, _), _)| *of == call.name);
        let lost = held.filter(|(_, (is_held, _))| !is_held);
        let lost = lost.map(|((_, image), (_, since))| (image.clone(), *since));
        self.jobs.written(call, ours, server, now, lost);
    }

    /// Checks that a report of the Job driver claims no image that the node's list lacks.
    fn check_claim(&mut self, sender: &Sender, node: &str, image: &ImageRef) {
        let since = self.jobs.lacks_since(node, image);
        if let Some(since) = since.filter(|since| *since + HANDLING < sender.informed) {
            let found = format!(
                "{node} reports {image} as Cached, which its list lacks since {:.1} s",
                since.as_secs_f64()
            );
            self.violate("no report claims what the node's list lacks", found);
        }
    }

    /// Checks the texts of a status or an event: bounded, without control characters, without Secrets of other
    /// namespaces.
    fn check_texts(&mut self, call: &Call) {
        let mut texts = Vec::new();
        collect_texts(&call.body, &mut texts);
        for text in &texts {
            if text.chars().count() > MESSAGE_MAX || text.chars().any(char::is_control) {
                let found = format!("{}: {text:?}", call.target());
                self.violate("texts are bounded and plain", found);
            }
        }
        let failures = call
            .body
            .pointer("/status/failures")
            .and_then(Value::as_object);
        let failures = failures.into_iter().flat_map(|all| all.values());
        let failures: usize = failures.filter_map(Value::as_array).map(Vec::len).sum();
        if failures > self.limits.failures {
            let found = format!("{} has {failures} failures", call.target());
            self.violate("statuses are bounded", found);
        }
        if call.namespace.is_empty() {
            return;
        }
        for text in texts {
            for (at, _) in text.match_indices("/login-of-") {
                if !text[..at].ends_with(call.namespace.as_str()) {
                    let found = format!("{}: {text:?}", call.target());
                    self.violate("no Secret of another namespace is named", found);
                }
            }
        }
    }
}

fn collect_texts<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(all) => all.iter().for_each(|one| collect_texts(one, texts)),
        Value::Object(all) => all.values().for_each(|one| collect_texts(one, texts)),
        _ => {}
    }
}
