//! A stand-in for a kubelet that runs the pods of Jobs on the machine of its node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use fledged_core::error::Failure;
use fledged_core::model::{ImageRef, ObjectName, ProtectedImages};
use fledged_core::port::{Clock, Credentials, CredentialsRequest, ImageRuntime, PullRequest};
use fledged_kube::watch::watch;
use fledged_operator::agent::KubeCredentials;
use fledged_operator::jobs::remove_images;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::{Mutex as AsyncMutex, oneshot, watch as signal};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::clock::ProcessClock;
use super::faults::Connection;
use super::jobs::JobSetup;
use super::ledger::Ledger;
use super::machine::{AgentRuntime, Machine};
use super::moves::node_name;
use crate::kube::words;

/// First and longest delay between attempts to pull.
const AGAIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// Time between two attempts at the same request.
const RETRY: Duration = Duration::from_secs(1);
/// How often a kubelet compares its status with the one that it wrote last.
const STATUS: Duration = Duration::from_secs(10);
/// How old the list of images may be that a kubelet reports.
const LIST_AGE: Duration = Duration::from_secs(30);

/// How the pods of a node fail. It outlives restarts of the kubelet.
pub(super) struct PodFaults {
    /// Counts the moments at which the kubelet evicts its pods.
    evictions: signal::Sender<u64>,
    state: Mutex<State>,
}

struct State {
    /// Until when no pod is accepted.
    stalled_until: Instant,
    /// Until when containers end with this message.
    message: Option<(Instant, &'static str)>,
}

impl PodFaults {
    pub(super) fn new() -> Arc<Self> {
        let (stalled_until, message) = (Instant::now(), None);
        Arc::new(Self {
            evictions: signal::channel(0).0,
            state: Mutex::new(State {
                stalled_until,
                message,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Evicts every pod that runs.
    pub(super) fn evict(&self) {
        self.evictions.send_modify(|count| *count += 1);
    }

    /// Accepts no pod for this time.
    pub(super) fn stall(&self, lasting: Duration) {
        self.state().stalled_until = Instant::now() + lasting;
    }

    /// Ends containers with this message for this time.
    pub(super) fn say(&self, message: &'static str, lasting: Duration) {
        self.state().message = Some((Instant::now() + lasting, message));
    }

    /// Ends all faults.
    pub(super) fn heal(&self) {
        let mut state = self.state();
        (state.stalled_until, state.message) = (Instant::now(), None);
    }

    fn message(&self) -> Option<&'static str> {
        let message = self.state().message;
        message.and_then(|(until, text)| (Instant::now() < until).then_some(text))
    }

    async fn until_accepted(&self) {
        loop {
            let until = self.state().stalled_until;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until.min(Instant::now() + STATUS)).await;
        }
    }
}

/// What a kubelet is started with.
pub(super) struct KubeletConfig {
    pub(super) node: String,
    /// Whether kubelet and runtime support image volumes.
    pub(super) image_volumes: bool,
    /// Whether it pulls one image at a time.
    pub(super) serial: bool,
    /// How often it writes a status that has not changed.
    pub(super) report_every: Duration,
}

impl KubeletConfig {
    /// The configuration of the kubelet of a node.
    pub(super) fn new(node: usize, setup: &JobSetup) -> Self {
        Self {
            node: node_name(node),
            image_volumes: setup.image_volumes.get(node).copied().unwrap_or(true),
            serial: setup.serial_pulls,
            report_every: setup.report_every,
        }
    }
}

/// One incarnation of a kubelet.
pub(super) struct Kubelet {
    pub(super) config: KubeletConfig,
    pub(super) client: Client,
    pub(super) connection: Connection,
    pub(super) incarnation: u32,
    pub(super) seed: u64,
    pub(super) machine: Arc<Machine>,
    pub(super) clock: Arc<ProcessClock>,
    pub(super) faults: Arc<PodFaults>,
    pub(super) ledger: Ledger,
}

/// The pods that a kubelet runs.
#[derive(Default)]
struct Pods {
    running: BTreeMap<String, (Pod, AbortHandle)>,
    leaving: BTreeSet<String>,
    /// UIDs of the list in progress.
    listed: BTreeSet<String>,
    tasks: JoinSet<()>,
}

impl Kubelet {
    /// Runs pods and reports images until it is stopped.
    pub(super) async fn run(self, stop: oneshot::Receiver<()>) {
        let of_node = format!("spec.nodeName={}", self.config.node);
        let config = Config::default().fields(&of_node);
        let events = watch(Api::<Pod>::all(self.client.clone()), config);
        let mut evictions = self.faults.evictions.subscribe();
        let mut dice = Rng::with_seed(self.seed);
        let puller = Arc::new(AsyncMutex::new(()));
        let this = Arc::new(self);
        let mut pods = Pods::default();
        pods.tasks.spawn(Arc::clone(&this).report_images());
        tokio::pin!(events, stop);
        loop {
            tokio::select! {
                biased;
                _ = &mut stop => return,
                Ok(()) = evictions.changed() => {
                    for (pod, task) in std::mem::take(&mut pods.running).into_values() {
                        task.abort();
                        pods.tasks.spawn(this.run_pod(pod, &puller, dice.u64(..)).fail("Evicted"));
                    }
                }
                Some(event) = events.next() => match event {
                    Event::Init => pods.listed.clear(),
                    Event::InitApply(pod) => {
                        pods.listed.insert(pod.uid().unwrap());
                        this.apply(&mut pods, pod, &puller, &mut dice);
                    }
                    Event::Apply(pod) => this.apply(&mut pods, pod, &puller, &mut dice),
                    Event::Delete(pod) => pods.drop(&pod.uid().unwrap()),
                    Event::InitDone => {
                        let gone = pods.running.keys().filter(|uid| !pods.listed.contains(*uid));
                        let gone: Vec<String> = gone.cloned().collect();
                        gone.iter().for_each(|uid| pods.drop(uid));
                    }
                },
                Some(_) = pods.tasks.join_next() => {}
            }
        }
    }

    fn apply(
        self: &Arc<Self>,
        pods: &mut Pods,
        pod: Pod,
        puller: &Arc<AsyncMutex<()>>,
        dice: &mut Rng,
    ) {
        let uid = pod.uid().unwrap();
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let over = matches!(phase, Some("Succeeded" | "Failed"));
        if pod.metadata.deletion_timestamp.is_some() {
            pods.drop(&uid);
            if pods.leaving.insert(uid) {
                let grace = Duration::from_millis(dice.u64(100..2_000));
                pods.tasks.spawn(Arc::clone(self).let_go(pod, grace));
            }
        } else if over {
            pods.running.remove(&uid);
        } else if let Some((known, _)) = pods.running.get_mut(&uid) {
            *known = pod;
        } else {
            let run = self.run_pod(pod.clone(), puller, dice.u64(..)).run();
            let task = pods.tasks.spawn(run);
            pods.running.insert(uid, (pod, task));
        }
    }

    fn run_pod(self: &Arc<Self>, pod: Pod, puller: &Arc<AsyncMutex<()>>, seed: u64) -> RunningPod {
        let owner = pod.owner_references().first().map(|owner| &owner.uid);
        let ours = owner.is_some_and(|uid| self.ledger.is_our_job(uid));
        let (connection, machine) = (self.connection.clone(), Arc::clone(&self.machine));
        let runtime = AgentRuntime::new(machine, connection, self.incarnation).owned(ours);
        RunningPod {
            kubelet: Arc::clone(self),
            puller: self.config.serial.then(|| Arc::clone(puller)),
            spec: pod.spec.clone().unwrap(),
            pod,
            runtime: Arc::new(runtime),
            ours,
            states: BTreeMap::new(),
            copied: false,
            copy_failure: None,
            started: self.now(),
            dice: Rng::with_seed(seed),
        }
    }

    /// The time of the kubelet's clock, as the API writes it.
    fn now(&self) -> String {
        self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// Reports that a deleted pod runs no container, so that the API server removes it.
    async fn let_go(self: Arc<Self>, pod: Pod, grace: Duration) {
        sleep(grace).await;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap());
        let now = DeleteParams::default().grace_period(0);
        let params = now.preconditions(Preconditions {
            uid: pod.uid(),
            resource_version: None,
        });
        loop {
            match pods.delete(&pod.name_any(), &params).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                    if status.reason != "Conflict" || !status.message.starts_with("injected") {
                        return;
                    }
                    sleep(RETRY).await;
                }
                Err(_) => sleep(RETRY).await,
            }
        }
    }

    /// Writes the node's status when the images have changed, and at intervals.
    async fn report_images(self: Arc<Self>) {
        let mut ticks = interval(STATUS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let nodes: Api<Node> = Api::all(self.client.clone());
        let mut read: Option<(Instant, Value)> = None;
        let mut written: Option<(Instant, Value)> = None;
        loop {
            ticks.tick().await;
            let now = Instant::now();
            if read.as_ref().is_none_or(|(at, _)| now >= *at + LIST_AGE)
                && let Some(list) = self.machine.listed()
            {
                read = Some((now, list));
            }
            let Some((_, list)) = &read else {
                continue;
            };
            if written
                .as_ref()
                .is_some_and(|(at, before)| now < *at + self.config.report_every && before == list)
            {
                continue;
            }
            let (kubelet, runtime) = match self.config.image_volumes {
                true => ("v1.36.0", "containerd://2.1.4"),
                false => ("v1.33.0", "containerd://1.7.27"),
            };
            let patch = Patch::Strategic(json!({ "status": {
                "images": list,
                "conditions": [{ "type": "Ready", "lastHeartbeatTime": self.now() }],
                "nodeInfo": { "kubeletVersion": kubelet, "containerRuntimeVersion": runtime },
            } }));
            let params = PatchParams::default();
            let name = &self.config.node;
            if nodes.patch_status(name, &params, &patch).await.is_ok() {
                written = Some((now, list.clone()));
            }
        }
    }
}

impl Pods {
    fn drop(&mut self, uid: &str) {
        if let Some((_, task)) = self.running.remove(uid) {
            task.abort();
        }
    }
}

/// A pod that runs.
struct RunningPod {
    kubelet: Arc<Kubelet>,
    pod: Pod,
    spec: PodSpec,
    runtime: Arc<AgentRuntime>,
    puller: Option<Arc<AsyncMutex<()>>>,
    /// Whether a Job of the driver owns it.
    ours: bool,
    /// The state of each container, as the API has it.
    states: BTreeMap<String, Value>,
    /// Whether the init containers have ended.
    copied: bool,
    copy_failure: Option<Value>,
    started: String,
    dice: Rng,
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({ "waiting": { "reason": reason, "message": message } })
}

fn has_ended(state: &Value) -> bool {
    state.get("terminated").is_some()
}

impl RunningPod {
    /// Runs the pod to its end: pulls the images one after another, and reports when all were tried. Failed pulls are
    /// retried.
    async fn run(mut self) {
        sleep(Duration::from_millis(self.dice.u64(50..3_000))).await;
        self.kubelet.faults.until_accepted().await;
        if !self.resume() {
            return self.fail("Terminated").await;
        }
        self.report("Pending", json!({})).await;
        let mut pause = AGAIN.0;
        loop {
            self.copied = self.copied || self.copy().await;
            if self.copied {
                self.run_containers().await;
            }
            let over = self.states.values().all(has_ended);
            let phase = if over { "Succeeded" } else { "Pending" };
            self.report(phase, json!({})).await;
            if over {
                return;
            }
            for state in self.states.values_mut().chain(&mut self.copy_failure) {
                let failed = state["waiting"]["reason"] == "ErrImagePull";
                if let Some(message) = state["waiting"]["message"].as_str().filter(|_| failed) {
                    let text = format!("Back-off pulling image: ErrImagePull: {message}");
                    *state = waiting("ImagePullBackOff", &text);
                }
            }
            sleep(pause / 2).await;
            self.report(phase, json!({})).await;
            sleep(pause / 2).await;
            pause = (pause * 2).min(AGAIN.1);
        }
    }

    /// Takes over what an earlier incarnation of the kubelet reported. Returns whether the pod still runs: the machine
    /// may have been restarted with the kubelet.
    fn resume(&mut self) -> bool {
        let inits = self.spec.init_containers.as_ref();
        self.copied = inits.is_none_or(Vec::is_empty);
        let first = match self.copied {
            true => "ContainerCreating",
            false => "PodInitializing",
        };
        for container in &self.spec.containers {
            let state = waiting(first, "");
            self.states.insert(container.name.clone(), state);
        }
        let status = serde_json::to_value(&self.pod.status).unwrap();
        let Some(started) = status["startTime"].as_str() else {
            return true;
        };
        self.started = started.to_owned();
        for of in status["containerStatuses"].as_array().into_iter().flatten() {
            let name = of["name"].as_str().unwrap().to_owned();
            if has_ended(&of["state"]) {
                self.copied = true;
                self.states.insert(name, of["state"].clone());
            }
        }
        self.dice.bool()
    }

    /// Ends the pod: its containers are gone.
    async fn fail(mut self, reason: &str) {
        self.resume();
        for state in self.states.values_mut().filter(|state| !has_ended(state)) {
            *state = json!({ "terminated": {
                "exitCode": 137, "reason": "ContainerStatusUnknown",
                "message": "The container could not be located when the pod was terminated",
            } });
        }
        let message = "The node was low on resource: memory.";
        let more = json!({ "reason": reason, "message": message });
        self.report("Failed", more).await;
    }

    /// Runs the init containers: they copy the program of the Jobs.
    async fn copy(&mut self) -> bool {
        let inits = self.spec.init_containers.clone();
        for container in inits.iter().flatten() {
            let image = container.image.clone().unwrap();
            if let Err(failure) = self.ensure(&image, "IfNotPresent").await {
                let message = words(&image, &failure);
                self.copy_failure = Some(waiting("ErrImagePull", &message));
                return false;
            }
            sleep(Duration::from_millis(self.dice.u64(50..800))).await;
        }
        self.copy_failure = None;
        true
    }

    async fn run_containers(&mut self) {
        for container in self.spec.containers.clone() {
            if has_ended(&self.states[&container.name]) {
                continue;
            }
            let state = self.run_container(&container).await;
            self.states.insert(container.name.clone(), state);
        }
    }

    async fn run_container(&mut self, container: &Container) -> Value {
        let (target, policy) = self.target(container);
        let own = container.image.clone().unwrap();
        let mut needed = vec![(&target, policy.as_str())];
        if target != own {
            needed.push((&own, "IfNotPresent"));
        }
        for (image, policy) in needed {
            if let Err(failure) = self.ensure(image, policy).await {
                return waiting("ErrImagePull", &words(image, &failure));
            }
        }
        let present: ImageRef = target.parse().unwrap();
        if self.kubelet.machine.digest(&present).is_none() {
            return waiting("ErrImagePull", "the image was removed");
        }
        let began = self.kubelet.now();
        sleep(Duration::from_millis(self.dice.u64(20..1_500))).await;
        let args = container.args.iter().flatten().map(String::as_str);
        let args: Vec<&str> = args.collect();
        let removes = args.first() == Some(&"job") && args.get(1) == Some(&"remove");
        let message = match (removes, self.ours) {
            (true, true) => self.remove(&args).await,
            // What another program says it did.
            (true, false) => json!({ "removed": [0, 1, 2] }).to_string(),
            (false, _) => String::new(),
        };
        let message = self.kubelet.faults.message().map_or(message, str::to_owned);
        json!({ "terminated": {
            "exitCode": 0, "reason": "Completed", "message": message,
            "startedAt": began, "finishedAt": self.kubelet.now(),
        } })
    }

    /// The image that a container needs and its pull policy: those of its image volume, or its own.
    fn target(&self, container: &Container) -> (String, String) {
        let volumes = self.spec.volumes.iter().flatten();
        let mut mounted = volumes.filter(|volume| {
            let mut mounts = container.volume_mounts.iter().flatten();
            mounts.any(|mount| mount.name == volume.name) && volume.image.is_some()
        });
        let volume = mounted.next().and_then(|volume| volume.image.clone());
        match volume {
            Some(volume) => (
                volume.reference.unwrap(),
                volume.pull_policy.unwrap_or_default(),
            ),
            None => (
                container.image.clone().unwrap(),
                container.image_pull_policy.clone().unwrap_or_default(),
            ),
        }
    }

    /// Pulls an image if its policy asks for it.
    async fn ensure(&self, image: &str, policy: &str) -> Result<(), Failure> {
        let image: ImageRef = image.parse().unwrap();
        let turn = match &self.puller {
            Some(puller) => Some(puller.lock().await),
            None => None,
        };
        if policy != "Always" && self.kubelet.machine.digest(&image).is_some() {
            return Ok(());
        }
        let pulled = self.pull(&image).await;
        drop(turn);
        pulled
    }

    /// Pulls with each of the pod's secrets in turn; those that do not exist are ignored.
    async fn pull(&self, image: &ImageRef) -> Result<(), Failure> {
        let namespace = self.pod.namespace().unwrap();
        let secrets = self.spec.image_pull_secrets.iter().flatten();
        let secrets = secrets.map(|secret| ObjectName::new(namespace.clone(), secret.name.clone()));
        let request = CredentialsRequest::new(image.clone()).with_pull_secrets(secrets);
        let credentials = KubeCredentials::new(self.kubelet.client.clone());
        let found = credentials.resolve(&request).await.auths;
        let mut auths: Vec<_> = found.into_iter().map(Some).collect();
        if auths.is_empty() {
            auths.push(None);
        }
        let mut refused = None;
        for auth in auths {
            let pull = PullRequest::new(image.clone()).with_auth(auth);
            match self.runtime.pull(pull).await {
                Ok(_) => return Ok(()),
                Err(failure) => refused = Some(failure),
            }
        }
        Err(refused.unwrap())
    }

    /// Removes images as `fledged-operator job remove` does.
    async fn remove(&self, args: &[&str]) -> String {
        let split = args.iter().position(|arg| *arg == "--").unwrap();
        let (flags, images) = args.split_at(split);
        let values = |wanted: &'static str| {
            let pairs = flags.iter().zip(&flags[1..]);
            let pairs = pairs.filter(move |(flag, _)| **flag == wanted);
            pairs.map(|(_, value)| *value)
        };
        let parse = |image: &str| image.parse::<ImageRef>().unwrap();
        let keep: Vec<ImageRef> = values("--keep").map(parse).collect();
        let protected = ProtectedImages::new(values("--protect"));
        let images: Vec<ImageRef> = images[1..].iter().map(|image| parse(image)).collect();
        let clock = self.kubelet.clock.clone();
        let outcomes = remove_images(self.runtime.clone(), clock, &images, &keep, protected);
        outcomes.await.to_message()
    }

    /// Writes the status, with retries until it is written or the pod is gone.
    async fn report(&self, phase: &str, more: Value) {
        let statuses = self.spec.containers.iter().map(|container| {
            let state = &self.states[&container.name];
            self.status_of(container, state)
        });
        let inits = self.spec.init_containers.iter().flatten().map(|container| {
            let state = match (&self.copy_failure, self.copied) {
                (Some(failure), false) => failure.clone(),
                (None, false) => waiting("PodInitializing", ""),
                (_, true) => json!({ "terminated": {
                    "exitCode": 0, "reason": "Completed",
                    "startedAt": self.started, "finishedAt": self.started,
                } }),
            };
            self.status_of(container, &state)
        });
        let mut status = json!({
            "phase": phase,
            "startTime": self.started,
            "containerStatuses": statuses.collect::<Vec<_>>(),
            "initContainerStatuses": inits.collect::<Vec<_>>(),
            "conditions": [{ "type": "PodScheduled", "status": "True" }],
        });
        let fields = status.as_object_mut().unwrap();
        fields.extend(more.as_object().cloned().unwrap_or_default());
        let client = self.kubelet.client.clone();
        let pods: Api<Pod> = Api::namespaced(client, &self.pod.namespace().unwrap());
        let patch =
            Patch::Merge(json!({ "metadata": { "uid": self.pod.uid() }, "status": status }));
        let (name, params) = (self.pod.name_any(), PatchParams::default());
        loop {
            match pods.patch_status(&name, &params, &patch).await {
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 422) => return,
                Err(_) => sleep(RETRY).await,
                Ok(_) => return,
            }
        }
    }

    fn status_of(&self, container: &Container, state: &Value) -> Value {
        let name = container.image.clone().unwrap();
        let image: ImageRef = name.parse().unwrap();
        let digest = self.kubelet.machine.digest(&image);
        let id = digest.map(|digest| format!("{}@{digest}", image.name()));
        json!({
            "name": container.name, "image": name, "imageID": id.unwrap_or_default(),
            "ready": false, "restartCount": 0, "state": state,
        })
    }
}
