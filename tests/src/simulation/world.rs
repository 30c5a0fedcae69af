//! The world of a simulation: an API server, registries, nodes, users, and the processes under test.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fledged_apiserver::{Clock, Server, Service};
use fledged_core::model::{DesiredState, ImagePhase, ImageRef};
use fledged_core::planner::ActionStatus;
use fledged_core::planner::ConditionKind;
use fledged_core::port::RemovalScope;
use fledged_kube::crd::{
    GROUP, PURGE_ANNOTATION, REFRESH_ANNOTATION, ReadCache, ReadNodeCache, install,
};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Namespace, Node, Secret};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use super::clock::wall_time;
use super::faults::Connection;
use super::jobs::{JobWorld, PROGRAM};
use super::kubelets::KubeletConfig;
use super::ledger::{Ledger, Limits, Role};
use super::machine::Machine;
use super::moves::{
    CacheName, FIXED, HOSTILE, MUTABLE, Move, PRIVATE, ROLLOUT_BYTES, STRANGE, Setup, TARPITS,
    TENANTS, Target, node_name, rollout_images, tarpit,
};
use super::processes::{OPERATOR, Process, planner_config};
use super::registry::{Published, Registries, login_of};
use super::trace::Trace;

/// The number of controllers.
const CONTROLLERS: usize = 2;
/// Simulated time between two looks at the processes and the state of the cluster.
const STEP: Duration = Duration::from_secs(1);
/// Simulated time between two readings of all objects.
const READ_ALL: Duration = Duration::from_secs(10);

pub(super) struct World {
    pub(super) trace: Trace,
    pub(super) ledger: Ledger,
    setup: Setup,
    seed: u64,
    service: Service,
    registries: Registries,
    users: Client,
    machines: BTreeMap<usize, Arc<Machine>>,
    agents: BTreeMap<usize, Process>,
    controllers: Vec<Process>,
    /// Disks that are enlarged later.
    disks: Vec<(Instant, usize)>,
    /// With Jobs in place of agents: their parts of the world.
    jobs: Option<JobWorld>,
    /// When all objects are read again.
    read_at: Instant,
    /// Whether users asked for a refresh when the faults ended, which no earlier one includes.
    refreshed: bool,
}

impl World {
    /// Builds the world, without caches.
    pub(super) async fn new(seed: u64, setup: &Setup, trace: Trace) -> Self {
        let origin = trace.origin();
        let clock = Clock::from_fn(move || wall_time(origin));
        let service = Server::builder().clock(clock).service().unwrap();
        let planner = planner_config(setup);
        let limits = Limits {
            nodes: planner.max_concurrent_nodes,
            // The limit is of agents: kubelets have their own.
            pulls: setup.jobs.as_ref().map_or(setup.pulls, |_| usize::MAX),
            record_bytes: planner.record_bytes_max,
            failures: planner.failures_max,
        };
        let ledger = Ledger::new((*service).clone(), origin, limits);
        let users = Connection::new(
            "users",
            Role::World,
            seed,
            service.clone(),
            ledger.clone(),
            trace.clone(),
        );
        let mut world = Self {
            users: users.client().0,
            trace,
            ledger,
            setup: setup.clone(),
            seed,
            service,
            registries: publish(),
            machines: BTreeMap::new(),
            agents: BTreeMap::new(),
            controllers: Vec::new(),
            disks: Vec::new(),
            jobs: None,
            read_at: Instant::now(),
            refreshed: false,
        };
        install(&world.users).await.unwrap();
        for namespace in TENANTS.into_iter().chain([HOSTILE, OPERATOR]) {
            world.create_namespace(namespace).await;
        }
        if let Some(jobs) = &setup.jobs {
            world.ledger.set_job_limits(jobs.limits());
            let process = world.process("kube-controller-manager", Role::World);
            let clients = (process.connection.client().0, world.users.clone());
            let parts = JobWorld::start(seed, clients, world.service.clone(), &world.trace);
            world.jobs = Some(parts);
        }
        for number in 0..setup.nodes {
            world.join(number).await;
        }
        for number in 0..CONTROLLERS {
            let process = world.process(&format!("controller-{number}"), Role::Controller);
            world.controllers.push(process);
        }
        world
    }

    fn process(&self, name: &str, role: Role) -> Process {
        let (service, ledger) = (self.service.clone(), self.ledger.clone());
        let trace = self.trace.clone();
        let connection = Connection::new(name, role, self.seed, service, ledger, trace);
        Process::new(name, connection, &self.trace)
    }

    async fn create_namespace(&self, name: &str) {
        let namespaces: Api<Namespace> = Api::all(self.users.clone());
        let namespace = from(json!({ "metadata": { "name": name } }));
        let params = PostParams::default();
        namespaces.create(&params, &namespace).await.unwrap();
        self.set_secret(name, true).await;
    }

    async fn set_secret(&self, namespace: &str, present: bool) {
        let secrets: Api<Secret> = Api::namespaced(self.users.clone(), namespace);
        let name = format!("login-of-{namespace}");
        if !present {
            let _ = secrets.delete(&name, &DeleteParams::default()).await;
            return;
        }
        let hosts = ["r0.test", "r1.test", "private.test"];
        let login = json!({ "username": login_of(namespace), "password": "secret" });
        let auths: BTreeMap<&str, Value> = hosts.map(|host| (host, login.clone())).into();
        let secret = from(json!({
            "metadata": { "name": name }, "type": "kubernetes.io/dockerconfigjson",
            "stringData": { ".dockerconfigjson": json!({ "auths": auths }).to_string() },
        }));
        let _ = secrets.create(&PostParams::default(), &secret).await;
    }

    /// Lets simulated time pass until `at`, or until an invariant is broken, and watches over processes and invariants.
    pub(super) async fn advance(&mut self, at: Duration) {
        let end = self.trace.origin() + at;
        loop {
            let now = Instant::now();
            if now >= end || self.ledger.is_broken() {
                return;
            }
            sleep_until(end.min(now + STEP)).await;
            self.look();
        }
    }

    /// Starts processes that are due, and checks what no request shows.
    fn look(&mut self) {
        let now = Instant::now();
        let due = self.disks.iter().filter(|(at, _)| *at <= now);
        for (_, node) in due {
            if let Some(machine) = self.machines.get(node) {
                machine.set_disk(None);
            }
        }
        self.disks.retain(|(at, _)| *at > now);
        for process in &mut self.controllers {
            if process.look(&self.trace, &self.ledger) {
                process.start_controller(&self.setup, &self.trace);
            }
        }
        for (number, process) in &mut self.agents {
            if !process.look(&self.trace, &self.ledger) {
                continue;
            }
            let machine = &self.machines[number];
            match (&self.setup.jobs, &mut self.jobs) {
                (Some(setup), Some(jobs)) => {
                    let faults = jobs.faults(*number);
                    let config = KubeletConfig::new(*number, setup);
                    process.start_kubelet(machine, faults, config, &self.ledger, &self.trace);
                }
                _ => process.start_agent(machine, &self.setup, &self.trace),
            }
        }
        if now >= self.read_at {
            self.read_at = now + READ_ALL;
            self.ledger.read_all();
        }
        let running = self.agents.iter().filter(|(_, agent)| agent.is_running());
        let well = running.map(|(number, agent)| {
            let since = agent.since.max(agent.connection.last_fault());
            (node_name(*number), since)
        });
        self.ledger.set_well(well.collect());
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.users.clone())
    }

    async fn join(&mut self, number: usize) {
        let (name, zone) = (node_name(number), ["a", "b"][number % 2]);
        let node = from(json!({ "metadata": { "name": name, "labels": {
            "kubernetes.io/os": "linux", "kubernetes.io/hostname": name, "zone": zone,
        } } }));
        if self
            .nodes()
            .create(&PostParams::default(), &node)
            .await
            .is_err()
        {
            return;
        }
        self.set_ready(number, true).await;
        if !self.machines.contains_key(&number) {
            self.renew_machine(number);
        }
        let process = match self.agents.remove(&number) {
            Some(mut process) => {
                process.hurry();
                process
            }
            None if self.jobs.is_some() => self.process(&name, Role::World),
            None => self.process(&name, Role::Agent),
        };
        self.agents.insert(number, process);
    }

    fn renew_machine(&mut self, number: usize) {
        let whole = self
            .setup
            .whole_removals
            .get(number)
            .copied()
            .unwrap_or(true);
        let scope = match whole {
            true => RemovalScope::Image,
            false => RemovalScope::Reference,
        };
        let (registries, ledger) = (self.registries.clone(), self.ledger.clone());
        let trace = self.trace.clone();
        let machine = Machine::new(&node_name(number), scope, registries, ledger, trace);
        for (image, _) in STRANGE {
            machine.pull_by_others(&parse(image));
        }
        machine.start_container(&parse(STRANGE[0].0));
        self.machines.insert(number, machine);
    }

    async fn leave(&mut self, number: usize) {
        let _ = self
            .nodes()
            .delete(&node_name(number), &DeleteParams::default())
            .await;
        if let Some(agent) = self.agents.get_mut(&number) {
            agent.kill(None);
        }
    }

    async fn set_ready(&self, number: usize, ready: bool) {
        let (status, now) = (
            if ready { "True" } else { "False" },
            wall_time(self.trace.origin()),
        );
        let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let status = json!({ "status": {
            "conditions": [{ "type": "Ready", "status": status, "reason": "Simulated",
                "message": "", "lastTransitionTime": now }],
            "nodeInfo": { "operatingSystem": "linux", "architecture": "amd64", "bootID": "",
                "containerRuntimeVersion": "", "kernelVersion": "", "kubeletVersion": "",
                "kubeProxyVersion": "", "machineID": "", "osImage": "", "systemUUID": "" },
        } });
        let patch = Patch::Strategic(status);
        let params = PatchParams::default();
        let _ = self
            .nodes()
            .patch_status(&node_name(number), &params, &patch)
            .await;
    }

    async fn patch_node(&self, number: usize, patch: Value) {
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let _ = self
            .nodes()
            .patch(&node_name(number), &params, &patch)
            .await;
    }

    fn caches(&self, cache: CacheName) -> Api<ReadCache> {
        Api::namespaced(self.users.clone(), cache.0)
    }

    async fn annotate(&self, cache: CacheName, annotation: &str) {
        annotate(&self.caches(cache), cache, annotation).await;
    }

    /// Does one move.
    pub(super) async fn act(&mut self, act: &Move) {
        self.trace.step(format_args!("move {act:?}"));
        self.trace.moved(kind(act));
        match act {
            Move::Apply(cache, spec) | Move::ApplyNonsense(cache, spec) => {
                apply(&self.caches(*cache), *cache, spec).await;
            }
            Move::Refresh(cache) => self.annotate(*cache, REFRESH_ANNOTATION).await,
            Move::Purge(cache) => self.annotate(*cache, PURGE_ANNOTATION).await,
            Move::Delete(cache) => {
                let _ = self
                    .caches(*cache)
                    .delete(cache.1, &DeleteParams::default())
                    .await;
            }
            Move::EditStorm(cache, specs) => {
                let (api, cache, specs) = (self.caches(*cache), *cache, specs.clone());
                tokio::spawn(async move {
                    for spec in specs {
                        apply(&api, cache, &spec).await;
                        sleep(Duration::from_millis(100)).await;
                    }
                });
            }
            Move::Oversize(cache, oversized) => {
                let is_accepted = apply(&self.caches(*cache), *cache, &oversized.spec()).await;
                if is_accepted == oversized.is_refused() {
                    let found = format!("{oversized:?}, accepted: {is_accepted}");
                    let invariant = "the API server refuses an ImageCache that is too large";
                    self.ledger.violate(invariant, found);
                }
            }
            Move::RefreshStorm(cache, times) => {
                let (api, cache, times) = (self.caches(*cache), *cache, *times);
                tokio::spawn(async move {
                    for _ in 0..times {
                        annotate(&api, cache, REFRESH_ANNOTATION).await;
                        sleep(Duration::from_secs(1)).await;
                    }
                });
            }
            Move::Secret(namespace, present) => self.set_secret(namespace, *present).await,
            Move::Join(node) => self.join(*node).await,
            Move::Leave(node) => self.leave(*node).await,
            Move::Replace(node) => {
                self.leave(*node).await;
                self.renew_machine(*node);
                self.join(*node).await;
            }
            Move::Ready(node, ready) => self.set_ready(*node, *ready).await,
            Move::Label(node, zone) => {
                let labels = json!({ "metadata": { "labels": { "zone": zone } } });
                self.patch_node(*node, labels).await;
            }
            Move::Taint(node, present) => {
                let taint = json!({ "key": "dedicated", "value": "", "effect": "NoSchedule" });
                let taints: Vec<Value> = present.then_some(taint).into_iter().collect();
                self.patch_node(*node, json!({ "spec": { "taints": taints } }))
                    .await;
            }
            Move::Republish(image) => self.registries.republish(&parse(image)),
            Move::LoseImage(image, lasting) => {
                self.registries
                    .lose(&parse(image), Instant::now() + *lasting);
            }
            Move::FailRegistry(host, reason, lasting) => {
                self.registries
                    .fail(host, Instant::now() + *lasting, *reason);
            }
            Move::Throttle(host, namespace, lasting) => {
                let user = namespace.map(login_of);
                self.registries
                    .throttle(host, user, Instant::now() + *lasting);
            }
            Move::Compact => self.service.compact(),
            Move::Suffer(target, weather, lasting) => {
                for process in self.targets(*target) {
                    process.connection.suffer(weather.clone(), *lasting);
                }
            }
            Move::CutWatches(target, end) => {
                for process in self.targets(*target) {
                    process.connection.cut_watches(*end);
                }
            }
            Move::Kill(target, away) => {
                for process in self.targets(*target) {
                    process.kill(Some(*away));
                }
            }
            Move::KillAtAwait(target, polls, away) => {
                for process in self.targets(*target) {
                    process.kill_at_await(*polls, *away);
                }
            }
            Move::KillAtWrite(target, others, point) => {
                for process in self.targets(*target) {
                    process.connection.kill_at_write(*others, *point);
                }
            }
            Move::Stop(target, away) => {
                for process in self.targets(*target) {
                    process.stop(*away);
                }
            }
            Move::Jump(target, seconds) => {
                if *seconds > 0 {
                    self.ledger.jump();
                }
                for process in self.targets(*target) {
                    process.clock.jump(SignedDuration::from_secs(*seconds));
                }
                let ahead = u64::try_from(*seconds).unwrap_or_default();
                self.ledger.set_forward(Duration::from_secs(ahead));
            }
            Move::Jobs(act) => {
                if let Some(jobs) = &mut self.jobs {
                    jobs.act(act).await;
                }
            }
            Move::DeleteRecord(node) => {
                let (name, params) = (node_name(*node), DeleteParams::default());
                let _ = self.records().delete(&name, &params).await;
            }
            Move::EmptyRecord(node) => {
                let patch = Patch::Merge(json!({ "spec": { "images": [] } }));
                let (name, params) = (node_name(*node), PatchParams::default());
                self.ledger.emptied(&name);
                let _ = self.records().patch_metadata(&name, &params, &patch).await;
            }
            Move::OverwriteStatus(cache) => {
                let status = json!({ "status": "Failed", "message": "overwritten",
                    "conditions": [], "failures": {} });
                let patch = Patch::Merge(json!({ "status": status }));
                let (api, params) = (self.caches(*cache), PatchParams::default());
                let _ = api.patch_status(cache.1, &params, &patch).await;
            }
            Move::ReportLies(node, phase) => self.report_lies(&node_name(*node), phase).await,
            _ => self.act_on_machine(act),
        }
    }

    async fn report_lies(&self, node: &str, phase: &str) {
        let Ok(record) = self.records().get(node).await else {
            return;
        };
        let (assignment, _) = record.assignment();
        let assigned = assignment.images.iter().map(|image| &image.image);
        let others = (0..3).map(|number| parse(&format!("r0.test/never-assigned-{number}:1")));
        let others: Vec<ImageRef> = others.collect();
        let images = assigned.chain(&others).map(|image| {
            json!({ "image": image, "phase": phase, "reason": "Unknown", "attempts": 4_000_000_000_u32,
                "message": "\u{1b}[31m\n".repeat(100), "bytes": u64::MAX >> 1 })
        });
        let images: Vec<Value> = images.collect();
        let generation = record.metadata.generation;
        let status = json!({ "observedGeneration": generation, "cached": 4_000_000_000_u32, "images": images });
        let patch = Patch::Merge(json!({ "status": status }));
        let params = PatchParams::default();
        let _ = self.records().patch_status(node, &params, &patch).await;
    }

    fn records(&self) -> Api<ReadNodeCache> {
        Api::all(self.users.clone())
    }

    fn act_on_machine(&mut self, act: &Move) {
        let node = match act {
            Move::RestartRuntime(node, _)
            | Move::FailPulls(node, ..)
            | Move::SlowNode(node, ..)
            | Move::FillDisk(node, ..)
            | Move::Evict(node, _)
            | Move::CollectGarbage(node)
            | Move::StartContainer(node, _)
            | Move::StopContainers(node, _)
            | Move::PullByOthers(node, _)
            | Move::Lie(node, _) => *node,
            _ => return,
        };
        let Some(machine) = self.machines.get(&node) else {
            return;
        };
        match act {
            Move::RestartRuntime(_, away) => machine.restart(*away),
            Move::FailPulls(_, reason, lasting) => machine.fail(*reason, *lasting),
            Move::SlowNode(_, factor, lasting) => machine.slow_down(*factor, *lasting),
            Move::FillDisk(_, bytes, lasting) => {
                machine.set_disk(Some(*bytes));
                self.disks.push((Instant::now() + *lasting, node));
            }
            Move::Lie(_, lasting) => machine.lie(*lasting),
            Move::Evict(_, image) => machine.evict(&parse(image)),
            Move::CollectGarbage(_) => machine.collect_garbage(),
            Move::StartContainer(_, image) => machine.start_container(&parse(image)),
            Move::StopContainers(_, image) => machine.stop_containers(&parse(image)),
            Move::PullByOthers(_, image) => machine.pull_by_others(&parse(image)),
            _ => {}
        }
    }

    /// The processes of a target. The agent of a node that left gets none of its moves.
    fn targets(&mut self, target: Target) -> Vec<&mut Process> {
        let (agents, controllers) = (self.agents.iter_mut(), self.controllers.iter_mut());
        let running = agents.filter(|(_, agent)| agent.is_running());
        match target {
            Target::Agent(node) => running
                .filter(|(number, _)| **number == node)
                .map(|(_, agent)| agent)
                .collect(),
            Target::Controller(number) => controllers.skip(number).take(1).collect(),
            Target::Everybody => running.map(|(_, agent)| agent).chain(controllers).collect(),
        }
    }

    /// Ends every fault. What users asked for stays.
    pub(super) async fn heal(&mut self) {
        self.trace.step(format_args!("all faults end"));
        self.registries.heal();
        self.disks.clear();
        self.machines.values().for_each(|machine| machine.heal());
        self.jobs.iter().for_each(JobWorld::heal);
        for process in &mut self.controllers {
            process.connection.heal();
            process.hurry();
        }
        for namespace in TENANTS {
            self.set_secret(namespace, true).await;
        }
        let numbers: Vec<usize> = self.agents.keys().copied().collect();
        for number in numbers {
            let exists = self
                .service
                .object("", "nodes", "", &node_name(number))
                .is_some();
            if let Some(agent) = self.agents.get_mut(&number) {
                agent.connection.heal();
                if exists {
                    agent.hurry();
                }
            }
        }
        if self.setup.refresh_after {
            // Pulls that began before do not satisfy the refresh. One that is already asked for may.
            self.refreshed = !self.is_refresh_asked_for();
            if self.refreshed {
                for (image, _) in MUTABLE {
                    self.registries.republish(&parse(image));
                }
            }
            for cache in self.cache_names() {
                self.annotate(cache, REFRESH_ANNOTATION).await;
            }
        }
    }

    /// Whether a refresh of any cache is asked for and not done.
    fn is_refresh_asked_for(&self) -> bool {
        let annotation = format!(
            "/metadata/annotations/{}",
            REFRESH_ANNOTATION.replace('/', "~1")
        );
        self.cache_names().into_iter().any(|(of, name)| {
            let object = self.service.object(GROUP, "imagecaches", of, name);
            object.is_some_and(|object| object.pointer(&annotation).is_some())
        })
    }

    fn cache_names(&self) -> Vec<CacheName> {
        let namespaces = TENANTS.into_iter().chain([HOSTILE]);
        let all = namespaces.flat_map(|of| ["front", "back"].map(|name| (of, name)));
        let exists = |(of, name): &CacheName| {
            self.service
                .object(GROUP, "imagecaches", of, name)
                .is_some()
        };
        all.filter(exists).collect()
    }

    /// A user replaces the images of a cache on all nodes.
    pub(super) async fn roll_out(&mut self) {
        self.trace.step(format_args!("a rollout"));
        let cache = (TENANTS[0], "front");
        let spec = json!({ "cacheSpec": [{ "images": rollout_images() }] });
        apply(&self.caches(cache), cache, &spec).await;
    }

    /// The number of Ready nodes.
    pub(super) fn nodes_ready(&self) -> usize {
        let names = self.machines.keys().map(|number| node_name(*number));
        names.filter(|name| self.ledger.is_ready(name)).count()
    }

    /// The most writes that refreshes at the interval take in this time. One of a cache takes an order for each node,
    /// and at most three reports of it, each of which changes the status of all caches that list the image; and two
    /// events. One that began before is counted, too.
    pub(super) fn writes_of_refreshes(&self, lasting: Duration) -> u64 {
        if self.setup.refresh.is_zero() {
            return 0;
        }
        let times = lasting.as_secs().div_ceil(self.setup.refresh.as_secs()) + 1;
        let caches = self.cache_names().len() as u64;
        let nodes = self.machines.len() as u64;
        times * caches * (4 * nodes + 2 + caches * (3 * nodes + 2))
    }

    /// Whether Jobs look again and again whether an image is still in use.
    pub(super) fn retries_removals(&self) -> bool {
        self.jobs.is_some() && self.ledger.reports_in_use()
    }

    /// Whether a pull is retried for which convergence does not wait.
    pub(super) fn retries_pulls(&self) -> bool {
        self.ledger.retries_kept()
    }

    /// What has not converged.
    pub(super) fn unsettled(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (namespace, name) in self.cache_names() {
            let Some(object) = self.service.object(GROUP, "imagecaches", namespace, name) else {
                continue;
            };
            let cache: ReadCache = from(object);
            if let Some(why) = unsettled_cache(cache, namespace == HOSTILE) {
                all.push(format!("{namespace}/{name}: {why}"));
            }
        }
        for (node, image, since) in self.ledger.wanted_by(&TENANTS) {
            if !self.ledger.is_held(&node, &image).0 {
                all.push(format!("{node} lacks {image}, wanted since {since:?}"));
            }
        }
        let jobs = self.ledger.jobs().into_iter();
        all.extend(jobs.map(|job| format!("Job {job} is left over")));
        for (number, machine) in &self.machines {
            let node = node_name(*number);
            all.extend(self.unsettled_record(&node));
            if self.ledger.is_ready(&node) {
                let unwanted = self.ledger.unwanted_on(&node).into_iter();
                all.extend(unwanted.map(|image| format!("{node} keeps {image}")));
            }
            if self.refreshed && self.setup.jobs.is_none() {
                let wanted = self.ledger.wanted_by(&TENANTS).into_iter();
                let wanted = wanted.filter(|(of, image, _)| *of == node && image.is_mutable());
                let old = wanted.filter(|(_, image, _)| !machine.is_current(image));
                all.extend(old.map(|(_, image, _)| format!("{node} has an old {image}")));
            }
        }
        all
    }

    /// Removals that a Ready node has not done.
    fn unsettled_record(&self, node: &str) -> Vec<String> {
        if !self.ledger.is_ready(node) {
            return Vec::new();
        }
        let Some(object) = self.service.object(GROUP, "nodeimagecaches", "", node) else {
            return Vec::new();
        };
        let record: ReadNodeCache = from(object);
        let report = record.report().unwrap_or_default();
        let (assignment, _) = record.assignment();
        let absent = assignment
            .images
            .iter()
            .filter(|e| e.state == DesiredState::Absent);
        let mut all = Vec::new();
        for entry in absent {
            let seen = report.images.iter().find(|seen| seen.image == entry.image);
            let phase = seen.map(|seen| seen.phase);
            let kept = matches!(phase, Some(ImagePhase::Removed | ImagePhase::InUse));
            if !kept {
                all.push(format!("{node} is to remove {}: {phase:?}", entry.image));
            }
        }
        all
    }
}

fn unsettled_cache(cache: ReadCache, hostile: bool) -> Option<String> {
    if cache.metadata.deletion_timestamp.is_some() {
        return Some("is being deleted".to_owned());
    }
    if hostile {
        return None;
    }
    let facts = cache.into_facts();
    let Some(status) = &facts.status else {
        return Some("has no status".to_owned());
    };
    if facts.refresh_requested || facts.purge_requested {
        return Some("has an annotation that is not done".to_owned());
    }
    if status.observed_generation != facts.generation {
        return Some(format!(
            "observed generation {} of {}",
            status.observed_generation, facts.generation
        ));
    }
    let word = status.status;
    if word == ActionStatus::Processing {
        return Some(format!("is Processing: {}", status.message));
    }
    if facts.spec.is_err() {
        let failed = word == ActionStatus::Failed;
        return (!failed).then(|| format!("is invalid and {word}"));
    }
    let mut conditions = status.conditions.iter();
    let ready = conditions.any(|c| c.kind == ConditionKind::Ready && c.status);
    let counts = status.counts;
    let settled = status.purged || ready || counts.desired == counts.unreachable;
    (!settled).then(|| format!("is not Ready: {word} {counts:?} {}", status.message))
}

async fn annotate(api: &Api<ReadCache>, cache: CacheName, annotation: &str) {
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { annotation: "" } } }));
    let params = PatchParams::default();
    let _ = api.patch_metadata(cache.1, &params, &patch).await;
}

/// Returns whether the API server stored it.
async fn apply(api: &Api<ReadCache>, cache: CacheName, spec: &Value) -> bool {
    let body = json!({
        "apiVersion": "kubefledged.io/v1alpha2", "kind": "ImageCache",
        "metadata": { "name": cache.1 }, "spec": spec,
    });
    let params = PatchParams::apply("users").force();
    api.patch(cache.1, &params, &Patch::Apply(body))
        .await
        .is_ok()
}

/// The kind of a move, as it is counted: its name.
fn kind(act: &Move) -> &'static str {
    match act {
        Move::Apply(..) => "edits",
        Move::ApplyNonsense(..) => "invalid edits",
        Move::Refresh(_) => "refreshes",
        Move::Purge(_) => "purges",
        Move::Delete(_) => "deletions",
        Move::EditStorm(..) => "storms of edits",
        Move::Oversize(..) => "large ImageCaches",
        Move::RefreshStorm(..) => "storms of refreshes",
        Move::Secret(..) => "changes of Secrets",
        Move::Join(_) => "nodes that join",
        Move::Leave(_) => "nodes that leave",
        Move::Replace(_) => "replaced nodes",
        Move::Ready(..) => "changes of readiness",
        Move::Label(..) => "changes of labels",
        Move::Taint(..) => "changes of taints",
        Move::RestartRuntime(..) => "restarts of runtimes",
        Move::FailPulls(..) => "nodes that cannot pull",
        Move::SlowNode(..) => "slow nodes",
        Move::FillDisk(..) => "full disks",
        Move::Evict(..) => "evictions",
        Move::CollectGarbage(_) => "garbage collections",
        Move::StartContainer(..) => "started containers",
        Move::StopContainers(..) => "ended containers",
        Move::PullByOthers(..) => "pulls by others",
        Move::Republish(_) => "republished tags",
        Move::LoseImage(..) => "images missing in a registry",
        Move::FailRegistry(..) => "registries that fail",
        Move::Throttle(..) => "registries that throttle",
        Move::Suffer(_, weather, _) => weather.kind(),
        Move::CutWatches(..) => "cuts of watches",
        Move::Compact => "compactions",
        Move::Kill(..) => "kills",
        Move::KillAtAwait(..) => "kills at an await",
        Move::KillAtWrite(..) => "kills at a write",
        Move::Stop(..) => "stops",
        Move::Jump(..) => "clock jumps",
        Move::Jobs(act) => act.kind(),
        Move::DeleteRecord(_) => "deleted NodeImageCaches",
        Move::EmptyRecord(_) => "emptied NodeImageCaches",
        Move::OverwriteStatus(_) => "overwritten statuses",
        Move::Lie(..) => "runtimes that lie",
        Move::ReportLies(..) => "reports with a stolen token",
    }
}

fn publish() -> Registries {
    let registries = Registries::default();
    for (image, bytes) in FIXED.into_iter().chain(MUTABLE).chain(STRANGE) {
        let content = match image.contains("/twin-") {
            true => "twins",
            false => image,
        };
        registries.publish(parse(image), Published::new(content, bytes));
    }
    for (image, bytes) in PRIVATE {
        let mut published = Published::new(image, bytes);
        published.private = true;
        registries.publish(parse(image), published);
    }
    for image in rollout_images() {
        let published = Published::new(image.as_str(), ROLLOUT_BYTES);
        registries.publish(parse(&image), published);
    }
    registries.publish(parse(PROGRAM.0), Published::new(PROGRAM.0, PROGRAM.1));
    for number in 0..TARPITS {
        let image = tarpit(number);
        let mut published = Published::new(image.as_str(), 1_000_000);
        published.stalled = true;
        registries.publish(parse(&image), published);
    }
    registries
}

fn parse(image: &str) -> ImageRef {
    image.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}
