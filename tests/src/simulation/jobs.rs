//! Simulations with Jobs in place of agents: the world, its moves, and what they do.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use fledged_apiserver::Service;
use fledged_core::port::Clock;
use fledged_operator::controller::NodeDriver;
use fledged_operator::jobs::{FIELD_MANAGER, JobDriver, JobOptions};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::controller_manager::{ControllerManager, Delay};
use super::kubelets::PodFaults;
use super::ledger::JobLimits;
use super::moves::{FIXED, TENANTS, node_name};
use super::processes::OPERATOR;
use super::trace::Trace;

/// The image of the Jobs' own program, and its size.
pub(super) const PROGRAM: (&str, u64) = ("ours.test/fledged-operator:1", 12_000_000);
/// Label selector of the Jobs that look like those of the driver.
const OURS: &str = "kubefledged=kubefledged-image-manager";
/// What containers write in place of a result.
const NONSENSE: [&str; 6] = [
    "",
    "{}",
    "thread 'main' panicked at src/main.rs:7",
    "{\"removed\":[99],\"failed\":{\"0\":[\"NoSuchReason\",\"\u{1b}[31mred\\u0007\"]}}",
    "{\"removed\":\"all\"}",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
];

/// The world of a simulation with Jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSetup {
    /// Most images in one Job.
    pub images_per_job: usize,
    /// Most Jobs that are created a second.
    pub creations_per_second: u32,
    /// Whether kubelets pull one image at a time.
    pub serial_pulls: bool,
    /// Which nodes support image volumes, by number.
    pub image_volumes: Vec<bool>,
    /// How often a kubelet reports images that have not changed.
    pub report_every: Duration,
}

/// A thing that happens to Jobs and their pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobMove {
    /// The kubelet of a node evicts its pods.
    EvictPods(usize),
    /// Another program deletes the pods of Jobs on a node.
    DeletePods(usize),
    /// Another program deletes the Jobs of a node.
    DeleteJobs(usize),
    /// Another program replaces a Job of a node by another one of the same name.
    ReplaceJob(usize),
    /// Another program creates a Job that looks like one of the driver.
    Lookalike(usize, &'static str, Lookalike),
    /// The kubelet of a node accepts no pod for a while.
    StallPods(usize, Duration),
    /// The containers on a node end with this message for a while.
    Nonsense(usize, &'static str, Duration),
    /// The Job controller does nothing for a while.
    LateController(Duration),
}

/// How a Job that is not the driver's looks like one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookalike {
    /// A copy of a Job of the driver under another name, by another field manager.
    Copy,
    /// With the driver's field manager, under a name that the driver gives to no Job.
    Name,
    /// With the driver's field manager and name, and other containers.
    Containers,
    /// With the driver's field manager and name, for another node.
    Node,
    /// A removal Job in the namespace of a tenant.
    Removal,
}

impl JobSetup {
    /// Draws the world.
    pub(super) fn draw(dice: &mut Rng, nodes: usize) -> Self {
        Self {
            images_per_job: [1, 2, 50][dice.usize(..3)],
            creations_per_second: [2, 20][dice.usize(..2)],
            serial_pulls: dice.bool(),
            image_volumes: (0..nodes + 2).map(|_| dice.bool()).collect(),
            report_every: Duration::from_secs([60, 300][dice.usize(..2)]),
        }
    }

    /// Draws moves, as many as there are in one simulation.
    pub(super) fn moves(dice: &mut Rng, nodes: usize, span: Duration) -> Vec<(Duration, JobMove)> {
        let count = dice.usize(5..30);
        let moves = (0..count).map(|_| {
            let at = span.mul_f64(dice.f64());
            let at = Duration::from_millis(at.as_millis().try_into().unwrap());
            (at, JobMove::draw(dice, nodes))
        });
        moves.collect()
    }

    /// The limits that the invariants check.
    pub(super) fn limits(&self) -> JobLimits {
        JobLimits {
            images: self.images_per_job,
            creations_per_second: self.creations_per_second as usize,
            operator: OPERATOR,
        }
    }

    /// The driver of a controller.
    pub(super) fn driver(
        &self,
        client: Client,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Arc<dyn NodeDriver> {
        let mut options = JobOptions::new(PROGRAM.0.parse().unwrap(), OPERATOR);
        options.images_per_job = NonZeroUsize::new(self.images_per_job).unwrap();
        options.creations_per_second = NonZeroU32::new(self.creations_per_second).unwrap();
        let driver = JobDriver::new(client, options);
        Arc::new(driver.with_clock(clock).with_seed(seed))
    }
}

impl JobMove {
    fn draw(dice: &mut Rng, nodes: usize) -> Self {
        let node = dice.usize(..nodes);
        let seconds = |dice: &mut Rng, most: u64| Duration::from_secs(dice.u64(10..most));
        match dice.usize(..12) {
            0 | 1 => Self::EvictPods(node),
            2 => Self::DeletePods(node),
            3 | 4 => Self::DeleteJobs(node),
            5 => Self::ReplaceJob(node),
            6 | 7 => {
                let looks = [
                    Lookalike::Copy,
                    Lookalike::Name,
                    Lookalike::Containers,
                    Lookalike::Node,
                    Lookalike::Removal,
                ];
                let namespace = TENANTS[dice.usize(..TENANTS.len())];
                Self::Lookalike(node, namespace, looks[dice.usize(..looks.len())])
            }
            8 | 9 => Self::StallPods(node, seconds(dice, 900)),
            10 => {
                let text = NONSENSE[dice.usize(..NONSENSE.len())];
                Self::Nonsense(node, text, seconds(dice, 600))
            }
            _ => Self::LateController(seconds(dice, 600)),
        }
    }

    /// The kind, as it is counted.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::EvictPods(_) => "evictions of pods",
            Self::DeletePods(_) => "deletions of pods",
            Self::DeleteJobs(_) => "deletions of Jobs",
            Self::ReplaceJob(_) => "replaced Jobs",
            Self::Lookalike(..) => "Jobs that look like ours",
            Self::StallPods(..) => "kubelets that accept no pods",
            Self::Nonsense(..) => "senseless messages of Jobs",
            Self::LateController(_) => "late Job controllers",
        }
    }
}

/// The parts of a world that only Jobs need.
pub(super) struct JobWorld {
    client: Client,
    delay: Delay,
    faults: BTreeMap<usize, Arc<PodFaults>>,
    dice: Rng,
}

impl JobWorld {
    /// Starts the stand-in for the Job controller.
    pub(super) fn start(
        seed: u64,
        (manager, users): (Client, Client),
        service: Service,
        trace: &Trace,
    ) -> Self {
        let delay = Delay::none();
        let controller =
            ControllerManager::new(manager, service, trace.origin(), delay.clone(), seed);
        tokio::spawn(controller.run());
        Self {
            client: users,
            delay,
            faults: BTreeMap::new(),
            dice: Rng::with_seed(seed),
        }
    }

    /// How the pods of a node fail.
    pub(super) fn faults(&mut self, node: usize) -> &Arc<PodFaults> {
        self.faults.entry(node).or_insert_with(PodFaults::new)
    }

    /// Ends all faults.
    pub(super) fn heal(&self) {
        self.delay.set(Instant::now());
        self.faults.values().for_each(|faults| faults.heal());
    }

    /// Does one move.
    pub(super) async fn act(&mut self, act: &JobMove) {
        match act {
            JobMove::EvictPods(node) => self.faults(*node).evict(),
            JobMove::StallPods(node, lasting) => self.faults(*node).stall(*lasting),
            JobMove::Nonsense(node, text, lasting) => self.faults(*node).say(text, *lasting),
            JobMove::LateController(lasting) => self.delay.set(Instant::now() + *lasting),
            JobMove::DeletePods(node) => {
                let pods: Api<Pod> = Api::all(self.client.clone());
                let listed = pods.list(&ListParams::default().labels(OURS)).await;
                let on_node = |pod: &Pod| {
                    let spec = pod.spec.as_ref();
                    spec.is_some_and(|spec| spec.node_name == Some(node_name(*node)))
                };
                for pod in listed.unwrap().items.into_iter().filter(on_node) {
                    let pods: Api<Pod> =
                        Api::namespaced(self.client.clone(), &pod.namespace().unwrap());
                    let _ = pods.delete(&pod.name_any(), &DeleteParams::default()).await;
                }
            }
            JobMove::DeleteJobs(node) => {
                for job in self.jobs_of(*node).await {
                    let params = DeleteParams::background();
                    let _ = self.jobs(&job).delete(&job.name_any(), &params).await;
                }
            }
            JobMove::ReplaceJob(node) => {
                if let Some(job) = self.jobs_of(*node).await.into_iter().next() {
                    let params = DeleteParams::background();
                    let _ = self.jobs(&job).delete(&job.name_any(), &params).await;
                    let mut other = self.handmade(*node, &job.namespace().unwrap());
                    other["metadata"]["name"] = job.name_any().into();
                    self.create(other, FIELD_MANAGER).await;
                }
            }
            JobMove::Lookalike(node, namespace, look) => {
                self.create_lookalike(*node, namespace, *look).await;
            }
        }
    }

    fn jobs(&self, of: &Job) -> Api<Job> {
        Api::namespaced(self.client.clone(), &of.namespace().unwrap())
    }

    /// The Jobs that name this node.
    async fn jobs_of(&self, node: usize) -> Vec<Job> {
        let jobs: Api<Job> = Api::all(self.client.clone());
        let listed = jobs.list(&ListParams::default().labels(OURS)).await;
        let named = |job: &Job| {
            let node_of = job.annotations().get("kubefledged.io/node");
            node_of == Some(&node_name(node))
        };
        let jobs = listed.unwrap().items.into_iter().filter(named);
        jobs.collect()
    }

    async fn create(&self, job: Value, manager: &str) {
        let jobs: Api<Job> = Api::namespaced(
            self.client.clone(),
            job.pointer("/metadata/namespace")
                .unwrap()
                .as_str()
                .unwrap(),
        );
        let params = PostParams {
            field_manager: Some(manager.to_owned()),
            ..PostParams::default()
        };
        let job = serde_json::from_value(job).unwrap();
        let _ = jobs.create(&params, &job).await;
    }

    async fn create_lookalike(&mut self, node: usize, namespace: &str, look: Lookalike) {
        let mut job = self.handmade(node, namespace);
        let manager = match look {
            Lookalike::Copy => {
                let Some(of) = self.jobs_of(node).await.into_iter().next() else {
                    return;
                };
                let metadata = job["metadata"].clone();
                job = serde_json::to_value(&of).unwrap();
                let (labels, marks) = (of.labels().clone(), of.annotations().clone());
                job["metadata"] = json!({
                    "name": metadata["name"], "namespace": of.namespace(),
                    "labels": labels, "annotations": marks,
                });
                let fields = job.as_object_mut().unwrap();
                fields.remove("status");
                let spec = job["spec"].as_object_mut().unwrap();
                spec.remove("selector");
                let labels = &mut spec["template"]["metadata"]["labels"];
                let labels = labels.as_object_mut().unwrap();
                labels.retain(|label, _| {
                    !label.contains("controller-uid") && !label.contains("job-name")
                });
                "users"
            }
            Lookalike::Name => {
                let name = format!("my-job-{:08x}", self.dice.u32(..));
                job["metadata"]["name"] = name.into();
                job["spec"]["template"]["spec"]["containers"][0]["name"] =
                    container_name(FIXED[0].0).into();
                FIELD_MANAGER
            }
            Lookalike::Containers => FIELD_MANAGER,
            Lookalike::Node => {
                let spec = &mut job["spec"]["template"]["spec"];
                spec["containers"][0]["name"] = container_name(FIXED[0].0).into();
                spec["affinity"] = affinity(&node_name(node + 1));
                FIELD_MANAGER
            }
            Lookalike::Removal => {
                let name = job["metadata"]["name"].as_str().unwrap();
                job["metadata"]["name"] = name.replace("-pull-", "-remove-").into();
                job["metadata"]["labels"]["kubefledged.io/job"] = "remove".into();
                let container = &mut job["spec"]["template"]["spec"]["containers"][0];
                container["name"] = "remove".into();
                container["image"] = PROGRAM.0.into();
                container["args"] = json!(["job", "remove", "--", FIXED[0].0, FIXED[1].0]);
                FIELD_MANAGER
            }
        };
        self.create(job, manager).await;
    }

    /// A Job with the labels and a name of the driver, whose container pulls an image for another program.
    fn handmade(&mut self, node: usize, namespace: &str) -> Value {
        let (node, random) = (node_name(node), self.dice.u32(..));
        let labels = json!({
            "app": "kubefledged", "kubefledged": "kubefledged-image-manager",
            "kubefledged.io/job": "pull", "kubefledged.io/node": node,
        });
        let marks = json!({ "kubefledged.io/node": node });
        json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {
                "name": format!("fledged-pull-{}-{random:08x}", hash(&node)),
                "namespace": namespace, "labels": labels, "annotations": marks,
            },
            "spec": {
                "backoffLimit": 0, "activeDeadlineSeconds": 600,
                "template": {
                    "metadata": { "labels": labels, "annotations": marks },
                    "spec": {
                        "restartPolicy": "Never",
                        "affinity": affinity(&node),
                        "containers": [{
                            "name": "somebody", "image": FIXED[0].0,
                            "command": ["/.fledged/fledged-operator", "job", "noop"],
                        }],
                    },
                },
            },
        })
    }
}

fn affinity(node: &str) -> Value {
    json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{ "matchFields": [
            { "key": "metadata.name", "operator": "In", "values": [node] },
        ] }],
    } } })
}

/// The first digits of a hash, as in names of the driver.
fn hash(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    digits[..16].to_owned()
}

/// The name that the driver gives to the container of an image.
fn container_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap();
    format!("{}-{}", last.replace(':', "-"), hash(image))
}
