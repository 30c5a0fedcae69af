//! Plays rounds: faults and requests, then the end of all faults, then convergence.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;
use fledged_kube::crd::{PURGE_ANNOTATION, REFRESH_ANNOTATION};
use jiff::Timestamp;
use tokio::runtime::Runtime;

use super::api_server::Control;
use super::figures::Outcome;
use super::ledger::{Ledger, Observer};
use super::parts::{Parts, node_name};
use super::plan::{Act, CACHES, IMAGES, NODES, Part, Request, Round, pace};
use super::users::{Caches, NODE_LABEL, Users, is_asked};
use crate::kube::FakeNode;
use crate::{Compression, ImageBuilder, Layer, Pushed, pull_like_the_kubelet};

/// A cache that has not converged after this time is wedged.
pub const CONVERGENCE: Duration = Duration::from_secs(120);

/// Users ask for a refresh when the faults have ended, and again after each such time.
const ASK_AGAIN: Duration = Duration::from_secs(20);

/// An image that is still there after this time, and whose pull no process may know of, is left behind.
const LEAVE_BEHIND: Duration = Duration::from_secs(35);

/// Pause between two looks at everything.
const LOOK: Duration = Duration::from_millis(200);

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The seed of the faults and of what users ask for.
    pub seed: u64,
    /// Ends after the round that injects this many faults.
    pub faults: u64,
    /// Starts no further round after this time.
    pub budget: Option<Duration>,
    /// The folder of history and logs.
    pub folder: PathBuf,
    /// Whether to print each round.
    pub verbose: bool,
    /// Ends soon, in the middle of a round, when this is set.
    pub stop: Arc<AtomicBool>,
}

/// What a campaign needs, for [`require`](crate::require).
pub const NEEDED: [&str; 8] = [
    "containerd",
    "runc",
    "docker-registry",
    "mkfs.ext4",
    "losetup",
    "mount",
    "kubectl",
    "libfaketime",
];

/// Runs a campaign.
///
/// # Panics
///
/// When a real part cannot be started.
#[must_use]
pub fn run(options: &Options) -> Outcome {
    let mut campaign = Campaign::start(options);
    let began = Instant::now();
    let mut rng = Rng::with_seed(options.seed);
    campaign.begin(&mut rng);
    while campaign.outcome.failures.is_empty() && campaign.outcome.injected() < options.faults {
        let is_over = |budget| began.elapsed() > budget;
        if campaign.is_stopped() || options.budget.is_some_and(is_over) {
            break;
        }
        let round = Round::draw(&mut rng, 64);
        campaign.play(&round);
    }
    campaign.outcome.took = began.elapsed();
    campaign.finish(options)
}

struct Campaign {
    parts: Parts,
    ledger: Arc<Mutex<Ledger>>,
    observers: Vec<Arc<Mutex<Observer>>>,
    _watching: Watching,
    caches: Caches,
    users: Users,
    runtime: Runtime,
    /// By number; the last one is the mutable tag.
    images: Vec<Pushed>,
    /// Number of times that the mutable tag was moved.
    moved: u64,
    history: History,
    outcome: Outcome,
    began: Instant,
    verbose: bool,
    stop: Arc<AtomicBool>,
}

/// The threads of the observers.
struct Watching {
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What happened, in a file.
struct History {
    began: Instant,
    file: File,
}

impl History {
    fn note(&mut self, what: &str) {
        let _ = writeln!(
            self.file,
            "{:>9.3} {what}",
            self.began.elapsed().as_secs_f64()
        );
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Campaign {
    fn start(options: &Options) -> Self {
        std::fs::create_dir_all(&options.folder).expect("a folder for logs");
        let history = options.folder.join("history.txt");
        let began = Instant::now();
        let history = History {
            began,
            file: File::create(history).expect("a history"),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime for clients");
        let parts = Parts::start(&options.folder);
        let client = runtime.block_on(crate::kube::client_of(&parts.api.kubeconfig));
        let namespaces = [
            parts.api.namespace.clone(),
            format!("{}-tenant", parts.api.namespace),
        ];
        runtime.block_on(prepare(&client, &parts.api.tag, &namespaces[1]));
        let caches = Caches::new(client, namespaces, &parts.api.tag);
        let users = {
            let _inside = runtime.enter();
            Users::start(caches.clone())
        };
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let observers: Vec<_> = (0..NODES)
            .map(|node| {
                let socket = parts.containerds[node].socket();
                Arc::new(Mutex::new(Observer::new(
                    node,
                    socket,
                    parts.containerd_log(node),
                )))
            })
            .collect();
        let images = push_images(&parts);
        Self {
            _watching: watch(&observers, &ledger),
            parts,
            ledger,
            observers,
            caches,
            users,
            runtime,
            images,
            moved: 0,
            history,
            outcome: Outcome::new(options.seed),
            began,
            verbose: options.verbose,
            stop: Arc::clone(&options.stop),
        }
    }

    /// Images of other programs, the first specs, and the first convergence.
    fn begin(&mut self, rng: &mut Rng) {
        self.pull_others();
        for cache in 0..CACHES.len() {
            self.ask(cache, Request::draw_spec(rng));
        }
        self.converge("the first specs");
    }

    /// Pulls images of other programs: two of their own, and on the first node one of an image that caches list too.
    fn pull_others(&mut self) {
        let addr = self.parts.registry.addr().to_owned();
        let own = ["other-0:1", "other-1:1"].map(|name| format!("{addr}/{name}"));
        let shared = format!("{addr}/app-0:1");
        for node in 0..NODES {
            let mut images = own.to_vec();
            images.extend((node == 0).then(|| shared.clone()));
            let socket = self.parts.containerds[node].socket();
            let pulled = pull_like_the_kubelet(&socket, &images, std::num::NonZeroUsize::MIN);
            pulled.expect("images of other programs");
            let mut ledger = lock(&self.ledger);
            images
                .into_iter()
                .for_each(|image| ledger.add_other(node, image));
        }
    }

    /// The reference that caches list.
    fn reference(&self, image: usize) -> String {
        self.images[image].reference_at(self.parts.proxy.addr())
    }

    fn ask(&mut self, cache: usize, request: Request) {
        let mut images = Vec::new();
        if let Request::Apply {
            images: numbers,
            moving,
        } = &request
        {
            let moving = moving.then_some(IMAGES);
            images.extend(
                numbers
                    .iter()
                    .copied()
                    .chain(moving)
                    .map(|image| self.reference(image)),
            );
        }
        self.history
            .note(&format!("user: {} {}", CACHES[cache].0, request.kind()));
        let set: BTreeSet<String> = images.iter().cloned().collect();
        // A cache that does not exist can only be created.
        let mut ledger = lock(&self.ledger);
        if !ledger.exists(cache) && !matches!(request, Request::Apply { .. }) {
            return;
        }
        ledger.request(cache, &request, set);
        drop(ledger);
        *self.outcome.requests.entry(request.kind()).or_default() += 1;
        self.users.ask(cache, request, images);
    }

    fn play(&mut self, round: &Round) {
        let number = self.outcome.rounds + 1;
        self.history.note(&format!("round {number}"));
        if round.moves_tag {
            self.move_tag();
        }
        let mut events: Vec<(Duration, Event)> = Vec::new();
        for (index, fault) in round.faults.iter().enumerate() {
            events.push((fault.at, Event::Begin(index)));
            events.push((fault.until, Event::End(index)));
        }
        for (index, (at, ..)) in round.requests.iter().enumerate() {
            events.push((*at, Event::Ask(index)));
        }
        events.sort_by_key(|(at, _)| *at);
        self.parts.proxy.add(pace());
        let start = Instant::now();
        // The faults that go on, and how often they were met before.
        let mut active: BTreeMap<usize, Option<usize>> = BTreeMap::new();
        for (at, event) in events {
            while start.elapsed() < at {
                if self.is_stopped() {
                    return;
                }
                self.supervise();
                std::thread::sleep(LOOK.min(at.saturating_sub(start.elapsed())));
            }
            match event {
                Event::Begin(index) => {
                    let act = round.faults[index].act;
                    let met = self.met(act);
                    if self.inject(act) {
                        active.insert(index, met);
                    }
                }
                Event::End(index) => {
                    let act = round.faults[index].act;
                    if let Some(met) = active.remove(&index) {
                        self.end(act);
                        self.count(act, met);
                    }
                }
                Event::Ask(index) => {
                    let (_, cache, request) = &round.requests[index];
                    self.ask(*cache, request.clone());
                }
            }
        }
        self.parts.mend_all();
        self.outcome.rounds = number;
        self.outcome.spend("faults", start);
        self.converge(&format!("round {number}"));
    }

    /// Whether the caller has asked for the end.
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Gives the mutable tag other content.
    fn move_tag(&mut self) {
        self.moved += 1;
        self.images[IMAGES] = push_moving(&self.parts, self.moved);
        self.history.note("user: the mutable tag is moved");
    }

    /// Begins a fault; `false` if there is nothing that it could act on.
    fn inject(&mut self, act: Act) -> bool {
        let downloads = self.parts.proxy.downloads();
        match act {
            Act::Kill(part) => {
                self.parts.kill(part);
                if let Part::Agent(node) = part {
                    lock(&self.ledger).agent_killed(node, Timestamp::now());
                }
            }
            Act::Stop(part) => self.parts.pause(part),
            Act::Compact => self.parts.api.control(Control::Compact),
            Act::FillDisk => self.parts.fill_disk(true),
            Act::Registry(fault) => {
                for rule in fault.rules().into_iter().rev() {
                    self.parts.proxy.add_first(rule);
                }
            }
            Act::Tls(node) => self.parts.set_tls(node, true),
            Act::Skew(part, seconds) => self.parts.set_clock(part, seconds),
            Act::Lose(node, choice) => return self.lose(node, choice),
        }
        if matches!(act, Act::Kill(_) | Act::Stop(_)) && downloads > 0 {
            self.outcome.during_pulls += 1;
        }
        self.history.note(&format!("fault: {act:?}"));
        true
    }

    fn end(&mut self, act: Act) {
        match act {
            Act::Kill(part) | Act::Stop(part) => self.parts.mend(part),
            Act::FillDisk => self.parts.fill_disk(false),
            Act::Registry(_) => self.parts.end_registry_fault(),
            Act::Tls(node) => self.parts.set_tls(node, false),
            Act::Skew(part, _) => self.parts.set_clock(part, 0),
            Act::Compact | Act::Lose(..) => return,
        }
        self.history.note(&format!("end:   {act:?}"));
    }

    /// Removes one of the wanted images that a node holds, with all its names of this registry.
    fn lose(&mut self, node: usize, choice: usize) -> bool {
        if !self.parts.runs(Part::Containerd(node)) {
            return false;
        }
        let mut ledger = lock(&self.ledger);
        let (held, others) = (ledger.held(node), ledger.others(node));
        let ids = others.iter().filter_map(|other| Some(&held.get(other)?.id));
        let ids: BTreeSet<&String> = ids.collect();
        let wanted = ledger.wanted(node);
        let mut lost = Vec::new();
        let candidates: Vec<_> = held
            .iter()
            .filter(|(image, held)| wanted.contains(*image) && !ids.contains(&held.id))
            .collect();
        if let Some((image, held)) = candidates.get(choice % candidates.len().max(1)) {
            lost.push((*image).clone());
            lost.extend(held.digests.iter().cloned());
            lost.push(held.id.clone());
        }
        let Some(image) = lost.first().cloned() else {
            return false;
        };
        ledger.take(node, &image);
        drop(ledger);
        let names: Vec<&str> = lost.iter().map(String::as_str).collect();
        let args = ["images", "remove", "--sync"];
        let args: Vec<&str> = args.iter().chain(&names).copied().collect();
        let command = self.parts.containerds[node].ctr_command(&args);
        let done = succeeds_soon(command);
        self.history
            .note(&format!("fault: Lose {image} on node {node}: {done}"));
        done
    }

    /// How often a fault of this kind was met so far; nothing for one that acts by itself.
    fn met(&self, act: Act) -> Option<usize> {
        match act {
            Act::Registry(fault) => Some(self.parts.proxy.struck(|one| fault.is_met_by(one))),
            Act::Tls(_) => Some(self.parts.trap.aborted()),
            Act::FillDisk => Some(self.parts.disk_full_errors()),
            _ => None,
        }
    }

    /// Counts a fault that has ended, unless it had to be met and was not.
    fn count(&mut self, act: Act, met_before: Option<usize>) {
        if self.met(act) > met_before || met_before.is_none() {
            *self.outcome.faults.entry(act.kind()).or_default() += 1;
        } else {
            self.outcome.not_met += 1;
        }
    }

    /// Starts again what ended by itself.
    fn supervise(&mut self) {
        for (part, status) in self.parts.supervise() {
            self.history
                .note(&format!("{part:?} ended by itself: {status}"));
            *self.outcome.ended.entry(part.name()).or_default() += 1;
        }
    }

    /// Waits until everything is as users want it.
    fn converge(&mut self, after: &str) {
        let start = Instant::now();
        // The first and the last refresh that users asked for.
        let mut first: Option<Instant> = None;
        let mut refreshed: Option<Instant> = None;
        let mut refreshes = 0;
        loop {
            if self.is_stopped() {
                return;
            }
            self.supervise();
            let problem = self.problem(refreshed.is_some());
            if refreshed.is_some() && problem.is_none() {
                break;
            }
            let problem = problem.unwrap_or_default();
            if !lock(&self.ledger).violations.is_empty() {
                break;
            }
            if start.elapsed() > CONVERGENCE {
                self.outcome.wedged += 1;
                let text = format!("no convergence {CONVERGENCE:?} after {after}: {problem}");
                self.history.note(&text);
                self.outcome.failures.push(text);
                return;
            }
            if start.elapsed() > LEAVE_BEHIND {
                self.leave_behind();
            }
            // Requests of the round come first.
            let ready = self.users.pending() == 0 && !self.is_purge_asked();
            if ready && refreshed.is_none_or(|at| at.elapsed() > ASK_AGAIN) {
                if refreshed.is_some() {
                    self.history.note(&format!("not yet: {problem}"));
                } else {
                    self.outcome.spend("requests of users", start);
                }
                let existing: Vec<usize> = lock(&self.ledger).existing().collect();
                existing
                    .into_iter()
                    .for_each(|cache| self.ask(cache, Request::Refresh));
                refreshed = Some(Instant::now());
                first = first.or(refreshed);
                refreshes += 1;
            }
            std::thread::sleep(LOOK);
        }
        let took = start.elapsed();
        self.outcome
            .spend("after the refresh", first.unwrap_or(start));
        self.outcome.second_refreshes += u64::from(refreshes > 1);
        self.outcome.recoveries.push((took, self.outcome.rounds));
        let mut ledger = lock(&self.ledger);
        self.outcome.failures.append(&mut ledger.violations);
        self.outcome.counts = ledger.counts;
        ledger.settle();
        drop(ledger);
        self.history
            .note(&format!("converged after {:.1} s", took.as_secs_f64()));
        if self.verbose {
            let (faults, rounds) = (self.outcome.injected(), self.outcome.rounds);
            let (took, all) = (took.as_secs_f64(), self.began.elapsed().as_secs());
            println!(
                "{all:>5} s  round {rounds:>4}, {faults:>5} faults, converged after {took:.1} s"
            );
        }
    }

    /// Whether a purge was asked for and not begun: a refresh would come before it.
    fn is_purge_asked(&self) -> bool {
        self.runtime.block_on(async {
            for cache in 0..CACHES.len() {
                match self.caches.get(cache).await {
                    Ok(Some(cache)) if is_asked(&cache, PURGE_ANNOTATION) => return true,
                    Ok(_) => {}
                    Err(_) => return true,
                }
            }
            false
        })
    }

    /// What is not as users want it.
    fn problem(&self, refreshed: bool) -> Option<String> {
        if !refreshed || self.users.pending() > 0 {
            return Some(format!(
                "{} requests of users are not done",
                self.users.pending()
            ));
        }
        let of_caches = self.runtime.block_on(self.problem_of_caches());
        of_caches.or_else(|| (0..NODES).find_map(|node| self.problem_of_node(node)))
    }

    async fn problem_of_caches(&self) -> Option<String> {
        for (number, (name, _)) in CACHES.iter().enumerate() {
            let exists = lock(&self.ledger).exists(number);
            let cache = match (self.caches.get(number).await, exists) {
                (Err(error), _) => return Some(error),
                (Ok(None), false) => continue,
                (Ok(None), true) => return Some(format!("{name} does not exist")),
                (Ok(Some(_)), false) => return Some(format!("{name} is not deleted yet")),
                (Ok(Some(cache)), true) => cache,
            };
            let asked = [PURGE_ANNOTATION, REFRESH_ANNOTATION];
            let asked = asked.iter().any(|annotation| is_asked(&cache, annotation));
            let generation = cache.metadata.generation;
            let status = serde_json::to_value(&cache.status);
            let status = status.unwrap_or_default();
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            let holds = |kind: &str| {
                conditions
                    .iter()
                    .any(|c| c["type"] == kind && c["status"] == "True")
            };
            let observed = status["observedGeneration"].as_i64() == generation;
            if asked || !observed || !holds("Ready") || holds("Progressing") {
                return Some(format!("{name} is not Ready: {status}"));
            }
        }
        None
    }

    fn problem_of_node(&self, node: usize) -> Option<String> {
        if !lock(&self.observers[node]).look(&self.ledger) {
            return Some(format!("the runtime of node {node} does not answer"));
        }
        let ledger = lock(&self.ledger);
        let (held, others) = (ledger.held(node), ledger.others(node));
        let digests: BTreeMap<String, &Pushed> = (0..self.images.len())
            .map(|n| (self.reference(n), &self.images[n]))
            .collect();
        for image in ledger.wanted(node) {
            let Some(found) = held.get(&image) else {
                return Some(format!("node {node} does not hold {image}"));
            };
            let digest = digests[&image].digest.to_string();
            if !found.digests.iter().any(|name| name.ends_with(&digest)) {
                return Some(format!(
                    "node {node} holds {image} with {found:?}, not {digest}"
                ));
            }
        }
        if let Some(other) = others.iter().find(|other| !held.contains_key(*other)) {
            return Some(format!(
                "node {node} does not hold {other} of another program"
            ));
        }
        let left = left(&ledger, node).into_iter().next();
        left.map(|image| format!("node {node} still holds {image}"))
    }

    /// Lets images stay that an agent pulled which was killed before it had reported the pull.
    fn leave_behind(&mut self) {
        let mut ledger = lock(&self.ledger);
        for node in 0..NODES {
            for image in left(&ledger, node) {
                if ledger.leave_behind(node, &image) {
                    self.history
                        .note(&format!("left behind: {image} on node {node}"));
                }
            }
        }
    }

    /// Looks for panics, and keeps the logs if something failed.
    fn finish(mut self, options: &Options) -> Outcome {
        self.outcome.stopped = self.is_stopped();
        for log in ["agent-0", "agent-1", "controller"] {
            let path = options.folder.join(log).join("fledged-operator.err");
            let text = std::fs::read(path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            if let Some(line) = text.lines().find(|line| line.contains("panicked at")) {
                self.outcome.failures.push(format!("{log}: {line}"));
            }
        }
        if !self.outcome.failures.is_empty() {
            for (name, path) in self.parts.logs() {
                let _ = std::fs::copy(path, options.folder.join(name));
            }
            self.note_state(&options.folder);
        }
        self.outcome
    }

    /// Writes all ImageCaches and records as they are at the end.
    fn note_state(&self, folder: &Path) {
        let program = crate::require::find("kubectl").expect("kubectl");
        let mut text = String::new();
        for what in ["imagecaches", "nodeimagecaches"] {
            let mut command = std::process::Command::new(&program);
            command.arg("--kubeconfig").arg(&self.parts.api.kubeconfig);
            command
                .env("HOME", folder)
                .args(["get", what, "-A", "-o", "yaml"]);
            if let Ok(output) = command.output() {
                let _ = writeln!(text, "{}", String::from_utf8_lossy(&output.stdout));
            }
        }
        for node in 0..NODES {
            let names = self.parts.containerds[node]
                .ctr_command(&["images", "check"])
                .output();
            if let Ok(names) = names {
                let _ = writeln!(text, "{}", String::from_utf8_lossy(&names.stdout));
            }
        }
        let _ = std::fs::write(folder.join("state.txt"), text);
    }
}

/// The images that left the specs and are still on a node.
fn left(ledger: &Ledger, node: usize) -> Vec<String> {
    let (held, others) = (ledger.held(node), ledger.others(node));
    let shared = others.iter().filter_map(|other| Some(&held.get(other)?.id));
    let shared: BTreeSet<_> = shared.collect();
    // The runtime removes an image with all its names: it stays while another program has one.
    let left = |image: &String| {
        held.get(image)
            .is_some_and(|held| !shared.contains(&held.id))
    };
    ledger.to_remove(node).into_iter().filter(left).collect()
}

/// Whether a command succeeds within two seconds: a runtime that is down or stopped does not answer.
fn succeeds_soon(mut command: std::process::Command) -> bool {
    let quiet = std::process::Stdio::null;
    let Ok(mut child) = command.stdout(quiet()).stderr(quiet()).spawn() else {
        return false;
    };
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        if let Ok(Some(status)) = child.try_wait() {
            return status.success();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Begin(usize),
    End(usize),
    Ask(usize),
}

/// Registers the nodes, and makes the other tenant's namespace.
async fn prepare(client: &kube::Client, tag: &str, tenant: &str) {
    for node in 0..NODES {
        let number = node.to_string();
        let labels = [(NODE_LABEL, number.as_str())];
        let node = FakeNode::register(client.clone(), &node_name(tag, node), tag, &labels).await;
        node.set_ready(true).await;
    }
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> =
        kube::Api::all(client.clone());
    let namespace = serde_json::json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": tenant },
    });
    let namespace = serde_json::from_value(namespace).expect("a namespace");
    let created = namespaces
        .create(&kube::api::PostParams::default(), &namespace)
        .await;
    created.expect("a namespace");
}

/// Looks at the runtimes all the time.
fn watch(observers: &[Arc<Mutex<Observer>>], ledger: &Arc<Mutex<Ledger>>) -> Watching {
    let ends = Arc::new(AtomicBool::new(false));
    let threads = observers.iter().map(|observer| {
        let (observer, ledger, ends) = (observer.clone(), ledger.clone(), ends.clone());
        std::thread::spawn(move || {
            while !ends.load(Ordering::SeqCst) {
                lock(&observer).look(&ledger);
                std::thread::sleep(LOOK);
            }
        })
    });
    let threads = threads.collect();
    Watching { ends, threads }
}

/// Pushes the images of the caches and those of other programs, which share a layer.
fn push_images(parts: &Parts) -> Vec<Pushed> {
    let base = [Layer::random("base", 1, 200_000, Compression::Stored)];
    let push = |name: &str, seed: u64, bytes: usize| {
        ImageBuilder::new()
            .base(&base)
            .random_layer(name, seed, bytes)
            .push(&parts.registry, name, "1")
    };
    push("other-0", 100, 20_000);
    push("other-1", 101, 20_000);
    let mut images: Vec<Pushed> = (0..IMAGES)
        .map(|image| {
            push(
                &format!("app-{image}"),
                10 + image as u64,
                60_000 * (1 + image % 8 * 3),
            )
        })
        .collect();
    images.push(push_moving(parts, 0));
    images
}

/// Pushes the content of this number to the mutable tag.
fn push_moving(parts: &Parts, number: u64) -> Pushed {
    ImageBuilder::new()
        .random_layer("moving", 1_000 + number, 80_000)
        .push(&parts.registry, "moving", "latest")
}
