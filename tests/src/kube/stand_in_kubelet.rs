//! A stand-in for a kubelet that runs the pods of Jobs on a runtime in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ImageRef, ObjectName, ProtectedImages};
use fledged_core::port::{Credentials, CredentialsRequest, ImageRuntime, PullRequest};
use fledged_core::tokio::TokioClock;
use fledged_operator::agent::KubeCredentials;
use fledged_operator::jobs::remove_images;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::memory::MemoryRuntime;
use super::nodes::FakeNode;
use super::watch_soon::watch_soon;

/// First and longest delay between attempts to pull; a real kubelet has 10 s and 5 min.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Runs the pods of one node until it is stopped; writes the node's heartbeat and images at an interval.
pub(super) async fn run(
    client: Client,
    node: FakeNode,
    runtime: MemoryRuntime,
    report_interval: Duration,
    stop: CancellationToken,
) -> Result<(), String> {
    let of_node = format!("spec.nodeName={}", node.name());
    let config = watcher::Config::default().fields(&of_node);
    let pods = watch_soon(Api::<Pod>::all(client.clone()), config);
    futures_util::pin_mut!(pods);
    let mut running: BTreeMap<String, AbortHandle> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let mut ticks = tokio::time::interval(report_interval);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => report_images(&node, &runtime).await,
            event = pods.next() => match event {
                Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) => {
                    let uid = pod.uid().unwrap();
                    if pod.metadata.deletion_timestamp.is_some() {
                        if let Some(task) = running.remove(&uid) {
                            task.abort();
                        }
                        tasks.spawn(let_go(client.clone(), pod));
                        continue;
                    }
                    let over = pod.status.as_ref().and_then(|s| s.phase.as_deref());
                    if matches!(over, Some("Succeeded" | "Failed")) || running.contains_key(&uid) {
                        continue;
                    }
                    let run = RunningPod::new(client.clone(), pod, runtime.clone());
                    running.insert(uid, tasks.spawn(run.run()));
                }
                Some(Ok(Event::Delete(pod))) => {
                    if let Some(task) = running.remove(&pod.uid().unwrap()) {
                        task.abort();
                    }
                }
                _ => {}
            },
        }
    }
}

/// Reports that a deleted pod has no running container, so that the API server removes the pod.
async fn let_go(client: Client, pod: Pod) {
    let pods: Api<Pod> = Api::namespaced(client, &pod.namespace().unwrap());
    let now = DeleteParams::default().grace_period(0);
    let params = now.preconditions(Preconditions {
        uid: pod.uid(),
        resource_version: None,
    });
    for _ in 0..100 {
        match pods.delete(&pod.name_any(), &params).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
            Err(_) => tokio::time::sleep(AGAIN.0).await,
        }
    }
}

/// Reports the images as a kubelet does: the 50 largest, with all their names.
async fn report_images(node: &FakeNode, runtime: &MemoryRuntime) {
    // Take the time first: the heartbeat must not be newer than the list.
    let at = now();
    let images = runtime.first(50);
    let images = images.iter().map(|image| {
        let mut names: Vec<String> = Vec::new();
        if let (Some(digest), Some(first)) = (&image.digest, image.references.first()) {
            names.push(format!("{}@{digest}", first.name()));
        }
        names.extend(image.references.iter().map(|r| r.as_str().to_owned()));
        json!({ "names": names, "sizeBytes": image.size.bytes() })
    });
    node.write_images(images.collect(), &at).await;
}

/// The state of one container.
enum State {
    Waiting(&'static str, String),
    Ended(String),
}

struct RunningPod {
    client: Client,
    pod: Pod,
    spec: PodSpec,
    runtime: MemoryRuntime,
    started: String,
}

impl RunningPod {
    fn new(client: Client, pod: Pod, runtime: MemoryRuntime) -> Self {
        let spec = pod.spec.clone().unwrap();
        let (started, runtime) = (now(), runtime);
        Self {
            client,
            pod,
            spec,
            runtime,
            started,
        }
    }

    /// Runs the pod to its end: pulls the images one after another, then runs the containers. A failed pull is retried,
    /// and the pod does not end before it succeeds.
    async fn run(self) {
        let copies = self
            .spec
            .init_containers
            .as_ref()
            .is_some_and(|all| !all.is_empty());
        let waits = if copies {
            "PodInitializing"
        } else {
            "ContainerCreating"
        };
        let containers = self.spec.containers.clone();
        let waiting = containers.iter();
        let mut states: BTreeMap<String, State> = waiting
            .map(|container| (container.name.clone(), State::Waiting(waits, String::new())))
            .collect();
        self.report(&states, !copies, "Pending").await;
        let mut pause = AGAIN.0;
        loop {
            for container in &containers {
                if matches!(states[&container.name], State::Ended(_)) {
                    continue;
                }
                let state = self.run_container(container).await;
                states.insert(container.name.clone(), state);
            }
            let over = states
                .values()
                .all(|state| matches!(state, State::Ended(_)));
            let phase = if over { "Succeeded" } else { "Pending" };
            self.report(&states, true, phase).await;
            if over {
                return;
            }
            for (name, state) in &mut states {
                if let State::Waiting("ErrImagePull", message) = state {
                    let image = self.image_of(name);
                    let text = format!("Back-off pulling image {image:?}: ErrImagePull: {message}");
                    *state = State::Waiting("ImagePullBackOff", text);
                }
            }
            tokio::time::sleep(pause / 2).await;
            self.report(&states, true, phase).await;
            tokio::time::sleep(pause / 2).await;
            pause = (pause * 2).min(AGAIN.1);
        }
    }

    fn image_of(&self, name: &str) -> String {
        let (image, _) = self.target(self.container(name));
        image
    }

    fn container(&self, name: &str) -> &Container {
        let mut containers = self.spec.containers.iter();
        containers.find(|container| container.name == name).unwrap()
    }

    /// Returns the image to pull for a container and its pull policy: those of its image volume, or its own.
    fn target(&self, container: &Container) -> (String, String) {
        let mounts = container.volume_mounts.iter().flatten();
        let volumes = self.spec.volumes.as_ref();
        let of = |name: &str| volumes?.iter().find(|volume| volume.name == name);
        let volume = mounts
            .filter_map(|mount| of(&mount.name)?.image.clone())
            .next();
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

    async fn run_container(&self, container: &Container) -> State {
        let args: Vec<&str> = container
            .args
            .iter()
            .flatten()
            .map(String::as_str)
            .collect();
        if args.first() == Some(&"job") && args.get(1) == Some(&"remove") {
            return State::Ended(self.remove(&args).await);
        }
        let (image, policy) = self.target(container);
        if policy != "Always" && self.runtime.holds(&image) {
            return State::Ended(String::new());
        }
        match self.pull(&image).await {
            Ok(()) => State::Ended(String::new()),
            Err(failure) => State::Waiting("ErrImagePull", words(&image, &failure)),
        }
    }

    /// Removes images as `fledged-operator job remove` does.
    async fn remove(&self, args: &[&str]) -> String {
        let split = args.iter().position(|arg| *arg == "--").unwrap();
        let (flags, images) = args.split_at(split);
        let parse = |image: &&str| image.parse::<ImageRef>().unwrap();
        let values = |wanted: &'static str| {
            let pairs = flags.iter().zip(&flags[1..]);
            pairs
                .filter(move |(flag, _)| **flag == wanted)
                .map(|(_, value)| value)
        };
        let keep: Vec<ImageRef> = values("--keep").map(parse).collect();
        let protected = ProtectedImages::new(values("--protect").copied());
        let images: Vec<ImageRef> = images[1..].iter().map(parse).collect();
        let runtime = Arc::new(self.runtime.clone());
        let clock = Arc::new(TokioClock::new());
        let outcomes = remove_images(runtime, clock, &images, &keep, protected);
        outcomes.await.to_message()
    }

    /// Pulls with each of the pod's secrets in turn, and ignores missing secrets.
    async fn pull(&self, image: &str) -> Result<(), Failure> {
        let image: ImageRef = image.parse().unwrap();
        let namespace = self.pod.namespace().unwrap();
        let secrets = self.spec.image_pull_secrets.iter().flatten();
        let secrets = secrets.map(|secret| ObjectName::new(namespace.clone(), secret.name.clone()));
        let request = CredentialsRequest::new(image.clone()).with_pull_secrets(secrets);
        let credentials = KubeCredentials::new(self.client.clone());
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

    /// Writes the status.
    async fn report(&self, states: &BTreeMap<String, State>, initialized: bool, phase: &str) {
        let statuses = self.spec.containers.iter().map(|container| {
            let state = match &states[&container.name] {
                State::Waiting(reason, message) => {
                    json!({ "waiting": { "reason": reason, "message": message } })
                }
                State::Ended(message) => json!({ "terminated": {
                    "exitCode": 0, "reason": "Completed", "message": message,
                    "startedAt": now(), "finishedAt": now(),
                } }),
            };
            self.status_of(container, &state)
        });
        let inits = self.spec.init_containers.iter().flatten().map(|container| {
            let state = match initialized {
                true => json!({ "terminated": {
                    "exitCode": 0, "reason": "Completed", "startedAt": now(), "finishedAt": now(),
                } }),
                false => json!({ "waiting": { "reason": "PodInitializing" } }),
            };
            self.status_of(container, &state)
        });
        let status = json!({
            "phase": phase,
            "startTime": self.started,
            "containerStatuses": statuses.collect::<Vec<_>>(),
            "initContainerStatuses": inits.collect::<Vec<_>>(),
            "conditions": [{ "type": "PodScheduled", "status": "True" }],
        });
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.pod.namespace().unwrap());
        let patch = Patch::Merge(json!({ "status": status }));
        let name = self.pod.name_any();
        // A kubelet retries a failed write, unless the pod is gone.
        for _ in 0..100 {
            match pods
                .patch_status(&name, &PatchParams::default(), &patch)
                .await
            {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if status.code == 404 => return,
                Err(_) => tokio::time::sleep(AGAIN.0).await,
            }
        }
    }

    fn status_of(&self, container: &Container, state: &Value) -> Value {
        let image = container.image.clone().unwrap();
        let content: Option<ImageRef> = image.parse().ok();
        let held = content.filter(|image| self.runtime.holds(image.as_str()));
        let digest = held.and_then(|image| {
            let digest = self.runtime.digest(image.as_str())?;
            Some(format!("{}@{digest}", image.name()))
        });
        json!({
            "name": container.name,
            "image": image,
            "imageID": digest.unwrap_or_default(),
            "ready": false,
            "restartCount": 0,
            "state": state,
        })
    }
}

/// Returns containerd's message for a failure.
pub(crate) fn words(image: &str, failure: &Failure) -> String {
    let text = match failure.reason {
        Reason::Unauthorized => {
            "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed"
        }
        Reason::ImageNotFound => "not found",
        Reason::ConnectionFailed => "dial tcp 10.0.0.1:443: connect: connection refused",
        Reason::TooManyRequests => "429 Too Many Requests",
        Reason::DiskFull => "write /var/lib/containerd: no space left on device",
        _ => "the pull fails",
    };
    format!(
        "failed to pull and unpack image {image:?}: failed to resolve reference {image:?}: {text}: {}",
        failure.message
    )
}

/// Returns the current time as the Kubernetes API writes it, in whole seconds.
fn now() -> String {
    let now = jiff::Timestamp::now().as_second();
    jiff::Timestamp::from_second(now).unwrap().to_string()
}
