//! A stand-in for kube-controller-manager and the scheduler, as far as Jobs need them: it creates pods on the nodes that
//! Jobs name, ends Jobs with their pods and at their deadlines, deletes ended Jobs after their time to live, and deletes
//! the pods of nodes that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use fledged_apiserver::Service;
use fledged_kube::watch::watch;
use futures_util::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::clock::wall_time;

/// How often pods of nodes that are gone are looked for, and nodes that Jobs need.
const SWEEP: Duration = Duration::from_secs(20);
/// The deadline of a Job that has none, in seconds.
const FOREVER: i64 = 365 * 24 * 3600;

/// Until when the controllers do nothing. Clones share it.
#[derive(Clone)]
pub(super) struct Delay(Arc<Mutex<Instant>>);

impl Delay {
    pub(super) fn none() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(super) fn set(&self, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn get(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Namespace and name.
type Key = (String, String);

fn key_of<K: Resource<DynamicType = ()>>(object: &K) -> Key {
    (object.namespace().unwrap(), object.name_any())
}

/// The controllers.
pub(super) struct ControllerManager {
    client: Client,
    service: Service,
    origin: Instant,
    delay: Delay,
    dice: Rng,
    jobs: BTreeMap<Key, Job>,
    pods: BTreeMap<Key, Pod>,
    /// When to look at a Job.
    due: BTreeMap<Key, Instant>,
    /// UIDs of Jobs that have had a pod.
    begun: BTreeSet<String>,
}

impl ControllerManager {
    pub(super) fn new(
        client: Client,
        service: Service,
        origin: Instant,
        delay: Delay,
        seed: u64,
    ) -> Self {
        Self {
            client,
            service,
            origin,
            delay,
            dice: Rng::with_seed(seed),
            jobs: BTreeMap::new(),
            pods: BTreeMap::new(),
            due: BTreeMap::new(),
            begun: BTreeSet::new(),
        }
    }

    /// Runs for ever.
    pub(super) async fn run(mut self) {
        let jobs = watch(Api::<Job>::all(self.client.clone()), Config::default());
        let pods = watch(Api::<Pod>::all(self.client.clone()), Config::default());
        let mut sweeps = interval(SWEEP);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(jobs, pods);
        loop {
            let next = self.due.values().min().copied();
            let next = next.map(|at| at.max(self.delay.get()));
            let idle = Instant::now() + SWEEP;
            tokio::select! {
                biased;
                Some(event) = jobs.next() => match event {
                    Event::Apply(job) | Event::InitApply(job) => {
                        self.plan(key_of(&job));
                        self.jobs.insert(key_of(&job), job);
                    }
                    Event::Delete(job) => drop(self.jobs.remove(&key_of(&job))),
                    Event::Init | Event::InitDone => {}
                },
                Some(event) = pods.next() => match event {
                    Event::Apply(pod) | Event::InitApply(pod) => {
                        self.plan_owner(&pod);
                        self.pods.insert(key_of(&pod), pod);
                    }
                    Event::Delete(pod) => {
                        self.plan_owner(&pod);
                        self.pods.remove(&key_of(&pod));
                    }
                    Event::Init | Event::InitDone => {}
                },
                () = sleep_until(next.unwrap_or(idle)), if next.is_some() => self.act().await,
                _ = sweeps.tick() => self.sweep().await,
            }
        }
    }

    /// Plans to look at a Job after the delay of a queue.
    fn plan(&mut self, key: Key) {
        let at = Instant::now() + Duration::from_millis(self.dice.u64(5..1_500));
        let due = self.due.entry(key).or_insert(at);
        *due = at.min(*due);
    }

    fn plan_owner(&mut self, pod: &Pod) {
        let namespace = pod.namespace().unwrap();
        if let Some(owner) = pod.owner_references().iter().find(|o| o.kind == "Job") {
            self.plan((namespace, owner.name.clone()));
        }
    }

    async fn act(&mut self) {
        let now = Instant::now();
        let due = self.due.iter().filter(|(_, at)| **at <= now);
        let due: Vec<Key> = due.map(|(key, _)| key.clone()).collect();
        for key in due {
            self.due.remove(&key);
            if let Some(at) = self.sync(&key).await {
                self.due.entry(key).or_insert(at);
            }
        }
    }

    fn now(&self) -> Timestamp {
        wall_time(self.origin)
    }

    /// The instant of a time.
    fn instant(&self, at: Timestamp) -> Instant {
        let left = at.duration_since(self.now());
        Instant::now() + Duration::try_from(left).unwrap_or_default()
    }

    /// Looks at a Job. Returns when to look again.
    async fn sync(&mut self, key: &Key) -> Option<Instant> {
        let job = self.jobs.get(key)?.clone();
        let (spec, uid) = (job.spec.clone()?, job.uid()?);
        if job.metadata.deletion_timestamp.is_some() {
            return None;
        }
        if let Some(at) = time_of(&job, &["Complete", "Failed"]) {
            let ttl = Duration::from_secs(spec.ttl_seconds_after_finished?.try_into().unwrap());
            let at = at + ttl;
            if at > self.now() {
                return Some(self.instant(at));
            }
            let jobs: Api<Job> = Api::namespaced(self.client.clone(), &key.0);
            let _ = jobs.delete(&key.1, &uid_of(&uid)).await;
            return None;
        }
        if spec.suspend == Some(true) {
            return None;
        }
        let start = job.status.as_ref().and_then(|s| s.start_time.as_ref());
        let Some(start) = start.map(|at| at.0) else {
            self.patch(&job, json!({ "startTime": text(self.now()) }))
                .await;
            return None;
        };
        let pods = self.pods.values();
        let pods: Vec<Pod> = pods.filter(|pod| owns(&uid, pod)).cloned().collect();
        let phase = |pod: &Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
            phase.unwrap_or_default()
        };
        let live = pods
            .iter()
            .filter(|pod| !matches!(phase(pod).as_str(), "Succeeded" | "Failed"));
        let live: Vec<&Pod> = live.collect();
        let deadline = spec.active_deadline_seconds.unwrap_or(FOREVER);
        let deadline = start + Duration::from_secs(deadline.try_into().unwrap());
        let deleted = live
            .iter()
            .any(|pod| pod.metadata.deletion_timestamp.is_some());
        let failed = pods.iter().any(|pod| phase(pod) == "Failed");
        if pods.iter().any(|pod| phase(pod) == "Succeeded") {
            self.end(
                &job,
                "SuccessCriteriaMet",
                "Complete",
                "CompletionsReached",
                true,
            )
            .await;
        } else if failed || deleted || (pods.is_empty() && self.begun.contains(&uid)) {
            let reason = match time_of(&job, &["FailureTarget"]) {
                Some(_) => reason_of(&job),
                None => "BackoffLimitExceeded".to_owned(),
            };
            self.end(&job, "FailureTarget", "Failed", &reason, live.is_empty())
                .await;
        } else if self.now() >= deadline {
            self.end(
                &job,
                "FailureTarget",
                "Failed",
                "DeadlineExceeded",
                live.is_empty(),
            )
            .await;
            for pod in live {
                let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.0);
                let _ = pods.delete(&pod.name_any(), &DeleteParams::default()).await;
            }
        } else {
            if pods.is_empty() {
                self.create_pod(&job).await;
            }
            return Some(self.instant(deadline));
        }
        None
    }

    /// Ends a Job. `whole`: none of its pods runs any more.
    async fn end(&self, job: &Job, first: &str, last: &str, reason: &str, whole: bool) {
        let now = text(self.now());
        let condition = |kind: &str| {
            json!({ "type": kind, "status": "True", "reason": reason, "message": "simulated",
                "lastProbeTime": now, "lastTransitionTime": now })
        };
        let mut conditions = vec![condition(first)];
        if whole {
            conditions.push(condition(last));
        } else if time_of(job, &[first]).is_some() {
            return;
        }
        let status = match last {
            "Complete" => {
                json!({ "completionTime": now, "succeeded": 1, "conditions": conditions })
            }
            _ => json!({ "failed": 1, "conditions": conditions }),
        };
        self.patch(job, status).await;
    }

    async fn patch(&self, job: &Job, status: Value) {
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &job.namespace().unwrap());
        let patch = json!({ "metadata": { "uid": job.uid() }, "status": status });
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let _ = jobs.patch_status(&job.name_any(), &params, &patch).await;
    }

    /// Creates the pod of a Job on the node that its affinity names, if the node exists.
    async fn create_pod(&mut self, job: &Job) {
        let (namespace, name) = key_of(job);
        let uid = job.uid().unwrap();
        let found = self.service.object("batch", "jobs", &namespace, &name);
        if found.is_none_or(|found| found["metadata"]["uid"] != uid.as_str()) {
            return;
        }
        let mut pod = serde_json::to_value(&job.spec.as_ref().unwrap().template).unwrap();
        let node = pod
            .pointer("/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution")
            .and_then(|required| required.pointer("/nodeSelectorTerms/0/matchFields/0/values/0"));
        let node = node.and_then(Value::as_str).unwrap_or_default().to_owned();
        if self.service.object("", "nodes", "", &node).is_none() {
            return;
        }
        let metadata = &mut pod["metadata"];
        metadata["name"] = format!("{name}-{:05x}", self.dice.u32(..0x10_0000)).into();
        metadata["labels"]["batch.kubernetes.io/job-name"] = name.as_str().into();
        metadata["labels"]["batch.kubernetes.io/controller-uid"] = uid.as_str().into();
        metadata["ownerReferences"] = json!([{
            "apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid,
            "controller": true, "blockOwnerDeletion": true,
        }]);
        pod["spec"]["nodeName"] = node.into();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let body: Pod = serde_json::from_value(pod).unwrap();
        if pods.create(&PostParams::default(), &body).await.is_ok() {
            self.begun.insert(uid);
        }
    }

    /// Deletes the pods of nodes that are gone, and looks again at Jobs that wait for their node.
    async fn sweep(&mut self) {
        for pod in self.pods.values() {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let node = node.unwrap_or_default();
            if self.service.object("", "nodes", "", node).is_none() {
                let pods: Api<Pod> =
                    Api::namespaced(self.client.clone(), &pod.namespace().unwrap());
                let now = DeleteParams::default().grace_period(0);
                let _ = pods.delete(&pod.name_any(), &now).await;
            }
        }
        let waiting = self.jobs.iter().filter(|(_, job)| {
            let begun = job.uid().is_some_and(|uid| self.begun.contains(&uid));
            !begun && time_of(job, &["Complete", "Failed"]).is_none()
        });
        let waiting: Vec<Key> = waiting.map(|(key, _)| key.clone()).collect();
        waiting.into_iter().for_each(|key| self.plan(key));
    }
}

fn owns(uid: &str, pod: &Pod) -> bool {
    let mut owners = pod.owner_references().iter();
    owners.any(|owner| owner.kind == "Job" && owner.uid == uid)
}

fn uid_of(uid: &str) -> DeleteParams {
    DeleteParams::background().preconditions(Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: None,
    })
}

/// When a Job got one of these conditions.
fn time_of(job: &Job, kinds: &[&str]) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.iter().flatten();
    let mut found = conditions.filter(|c| c.status == "True" && kinds.contains(&c.type_.as_str()));
    Some(found.next()?.last_transition_time.as_ref()?.0)
}

fn reason_of(job: &Job) -> String {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut reasons = conditions
        .into_iter()
        .flatten()
        .filter_map(|c| c.reason.clone());
    reasons.next().unwrap_or_default()
}

/// A time as the API writes it, in whole seconds.
fn text(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
