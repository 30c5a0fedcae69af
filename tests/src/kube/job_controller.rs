//! A stand-in for Kubernetes' Job controller and scheduler.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::watch_soon::watch_soon;

/// Pause before a failed request is retried.
const AGAIN: Duration = Duration::from_millis(200);
/// Label selector of the Job driver's Jobs.
const OURS: &str = "kubefledged=kubefledged-image-manager";

/// Creates a pod for each Job on the node in the pod's affinity, and writes the Job's status when the pod ends. Deletes
/// the pods of deleted Jobs.
pub(super) async fn run(client: Client, stop: CancellationToken) -> Result<(), String> {
    let config = || watcher::Config::default().labels(OURS);
    let jobs = watch_soon(Api::<Job>::all(client.clone()), config());
    let pods = watch_soon(Api::<Pod>::all(client.clone()), config());
    futures_util::pin_mut!(jobs, pods);
    let mut controller = JobController {
        client,
        jobs: BTreeMap::new(),
        pods: BTreeMap::new(),
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            event = jobs.next() => match event {
                Some(Ok(Event::Apply(job) | Event::InitApply(job))) => controller.job(job).await,
                Some(Ok(Event::Delete(job))) => controller.job_gone(&job).await,
                _ => {}
            },
            event = pods.next() => match event {
                Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) => controller.pod(pod).await,
                Some(Ok(Event::Delete(pod))) => controller.pod_gone(&pod).await,
                _ => {}
            },
        }
    }
}

struct JobController {
    client: Client,
    jobs: BTreeMap<Key, Job>,
    /// By their Job.
    pods: BTreeMap<Key, Pod>,
}

/// Namespace and name of a Job.
type Key = (String, String);

fn key_of(job: &Job) -> Key {
    (job.namespace().unwrap(), job.name_any())
}

/// The Job of a pod.
fn owner_of(pod: &Pod) -> Key {
    let job = pod.labels()["batch.kubernetes.io/job-name"].clone();
    (pod.namespace().unwrap(), job)
}

impl JobController {
    async fn job(&mut self, job: Job) {
        let key = key_of(&job);
        let ended = is_ended(&job);
        let suspended = job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true);
        let new = self.jobs.insert(key.clone(), job.clone()).is_none();
        if new && !ended && !suspended && !self.pods.contains_key(&key) {
            let client = self.client.clone();
            let job = job.clone();
            tokio::spawn(async move { create_pod(&client, &job).await });
        }
        if ended && let Some(ttl) = job.spec.and_then(|spec| spec.ttl_seconds_after_finished) {
            self.delete_after(key, ttl);
        }
    }

    /// Deletes a finished Job after its TTL, as the TTL controller does.
    fn delete_after(&self, (namespace, name): Key, ttl: i32) {
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &namespace);
        let ttl = Duration::from_secs(u64::try_from(ttl).unwrap());
        tokio::spawn(async move {
            tokio::time::sleep(ttl).await;
            let _ = jobs.delete(&name, &DeleteParams::background()).await;
        });
    }

    async fn job_gone(&mut self, job: &Job) {
        let key = key_of(job);
        self.jobs.remove(&key);
        if let Some(pod) = self.pods.remove(&key) {
            self.delete_pod(&pod).await;
        }
    }

    async fn delete_pod(&self, pod: &Pod) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap());
        let _ = pods.delete(&pod.name_any(), &DeleteParams::default()).await;
    }

    async fn pod(&mut self, pod: Pod) {
        let job = owner_of(&pod);
        let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
        self.pods.insert(job.clone(), pod);
        match phase.as_deref() {
            Some("Succeeded") => self.end(&job, true, "CompletionsReached").await,
            Some("Failed") => self.end(&job, false, "BackoffLimitExceeded").await,
            _ => {}
        }
    }

    /// Fails the Job of a deleted pod, because `backoffLimit` is 0.
    async fn pod_gone(&mut self, pod: &Pod) {
        let job = owner_of(pod);
        if self.pods.remove(&job).is_some() {
            self.end(&job, false, "BackoffLimitExceeded").await;
        }
    }

    async fn end(&mut self, key: &Key, well: bool, reason: &str) {
        let (namespace, name) = key;
        let Some(job) = self.jobs.get(key).filter(|job| !is_ended(job)) else {
            return;
        };
        let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap();
        let condition = |kind: &str| {
            json!({ "type": kind, "status": "True", "reason": reason, "message": "by a test",
                "lastProbeTime": now.to_string(), "lastTransitionTime": now.to_string() })
        };
        let start = job.metadata.creation_timestamp.clone();
        let status = match well {
            true => json!({
                "startTime": start, "completionTime": now.to_string(), "succeeded": 1,
                "conditions": [condition("SuccessCriteriaMet"), condition("Complete")],
            }),
            false => json!({
                "startTime": start, "failed": 1,
                "conditions": [condition("FailureTarget"), condition("Failed")],
            }),
        };
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), namespace);
        let patch = Patch::Merge(json!({ "status": status }));
        for _ in 0..100 {
            match jobs
                .patch_status(name, &PatchParams::default(), &patch)
                .await
            {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if status.code == 404 => return,
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}

fn is_ended(job: &Job) -> bool {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|c| c.status == "True" && matches!(c.type_.as_str(), "Complete" | "Failed"))
}

/// Creates the pod of a Job, with retries until it succeeds or the namespace is gone.
async fn create_pod(client: &Client, job: &Job) {
    let spec = job.spec.as_ref().unwrap();
    let name = job.name_any();
    let namespace = job.namespace().unwrap();
    let mut pod = serde_json::to_value(&spec.template).unwrap();
    let uid = job.uid().unwrap();
    let metadata = &mut pod["metadata"];
    metadata["name"] = format!("{name}-{:05x}", fastrand::u32(..0x10_0000)).into();
    metadata["labels"]["batch.kubernetes.io/job-name"] = name.as_str().into();
    metadata["labels"]["batch.kubernetes.io/controller-uid"] = uid.as_str().into();
    metadata["ownerReferences"] = json!([{
        "apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid,
        "controller": true, "blockOwnerDeletion": true,
    }]);
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    if let Some(node) = schedule(client, &pod).await {
        pod["spec"]["nodeName"] = node.into();
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let body: Pod = serde_json::from_value(pod).unwrap();
    for _ in 0..100 {
        match pods.create(&PostParams::default(), &body).await {
            Ok(_) => return,
            // The namespace was deleted.
            Err(kube::Error::Api(status)) if status.code == 404 => return,
            Err(kube::Error::Api(status)) if (400..429).contains(&status.code) => {
                failed_create(client, job, &status.message).await;
                tokio::time::sleep(AGAIN).await;
            }
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

async fn failed_create(client: &Client, job: &Job, message: &str) {
    let namespace = job.namespace().unwrap();
    let events: Api<k8s_openapi::api::core::v1::Event> =
        Api::namespaced(client.clone(), &namespace);
    let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap();
    let event = json!({
        "metadata": { "name": format!("{}.{:x}", job.name_any(), fastrand::u64(..)) },
        "type": "Warning", "reason": "FailedCreate",
        "message": format!("Error creating: {message}"),
        "involvedObject": {
            "apiVersion": "batch/v1", "kind": "Job", "namespace": namespace,
            "name": job.name_any(), "uid": job.uid(),
        },
        "firstTimestamp": now.to_string(), "lastTimestamp": now.to_string(), "count": 1,
        "source": { "component": "job-controller" },
    });
    let event = serde_json::from_value(event).unwrap();
    let _ = events.create(&PostParams::default(), &event).await;
}

/// The node that the pod's affinity names, if there is one.
async fn schedule(client: &Client, pod: &Value) -> Option<String> {
    let affinity = &pod["spec"]["affinity"]["nodeAffinity"];
    let required = &affinity["requiredDuringSchedulingIgnoredDuringExecution"];
    let field = &required["nodeSelectorTerms"][0]["matchFields"][0];
    assert_eq!(field["key"], "metadata.name");
    let name = field["values"][0].as_str().unwrap();
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.get_opt(name).await.ok()??;
    Some(name.to_owned())
}
