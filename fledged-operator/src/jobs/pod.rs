//! Pods of Jobs: their containers and their progress.

use std::collections::BTreeMap;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{Digest, ImageRef};
use fledged_cri::classify::failure_of_text;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::{Deserialize, Serialize};

use super::job_object::{COPY, REMOVE};
use super::observe::{JobWork, ObservedJob, PullSlot, pulled_image, removed_images};

/// Reasons of containers that have not started yet.
const NOT_STARTED: [&str; 3] = ["", "ContainerCreating", "PodInitializing"];
/// Reasons of containers that have started: their images were present.
const STARTED: [&str; 5] = [
    "Completed",
    "Error",
    "StartError",
    "ContainerCannotRun",
    "OOMKilled",
];

/// The parts of a pod that concern images.
///
/// The Kubernetes API of the version that this is built for does not have the status of image volumes
/// (KEP-5365), so the status has its own types here.
#[derive(Resource, Debug, Clone, Default, Serialize, Deserialize)]
#[resource(inherit = Pod)]
#[serde(default)]
pub(super) struct ObservedPod {
    pub(super) metadata: ObjectMeta,
    spec: PodSpec,
    status: PodStatus,
    #[serde(skip)]
    content: PodContent,
}

/// The containers of a pod, and its node.
#[derive(Debug, Clone, Default)]
struct PodContent {
    node: Option<String>,
    /// The image that each container pulls.
    pulls: BTreeMap<String, ImageRef>,
    removes: Vec<ImageRef>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodStatus {
    phase: String,
    reason: String,
    message: String,
    start_time: Option<Time>,
    conditions: Vec<PodCondition>,
    init_container_statuses: Vec<ContainerStatus>,
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct PodCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    state: ContainerState,
    #[serde(rename = "imageID")]
    image_id: String,
    volume_mounts: Vec<MountStatus>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct ContainerState {
    waiting: Option<Waiting>,
    running: Option<Running>,
    terminated: Option<Terminated>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Waiting {
    reason: String,
    message: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Running {
    started_at: Option<Time>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Terminated {
    reason: String,
    message: String,
    exit_code: i32,
    started_at: Option<Time>,
    finished_at: Option<Time>,
}

/// The status of an image volume (KEP-5365, from Kubernetes 1.35).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct MountStatus {
    volume_status: VolumeStatus,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct VolumeStatus {
    image: ImageVolumeStatus,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ImageVolumeStatus {
    image_ref: String,
}

/// State of a container that pulls an image, or of the one that removes images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// The container has not started.
    Waiting,
    /// The container has started: the kubelet has pulled its image.
    Pulled {
        /// The image's digest, where the kubelet reports it.
        digest: Option<Digest>,
        /// When the container started, by the kubelet's clock.
        at: Option<Timestamp>,
    },
    /// The container has removed images and written this termination message.
    Ended {
        message: String,
        /// When it ended, by the kubelet's clock.
        at: Option<Timestamp>,
    },
    /// The container fails; the kubelet may retry.
    Failing(Failure),
}

impl ObservedPod {
    /// Parses the spec and drops the fields that are not needed.
    pub(super) fn pruned(mut self) -> Self {
        self.metadata.managed_fields = None;
        self.metadata.labels = None;
        let spec = std::mem::take(&mut self.spec);
        let containers = spec.containers.iter();
        let pulls = containers.filter_map(|container| {
            let image = pulled_image(container, &spec)?;
            Some((container.name.clone(), image))
        });
        let remove = spec.containers.iter().find(|c| c.name == REMOVE);
        let args = remove.and_then(|container| container.args.as_deref());
        self.content = PodContent {
            pulls: pulls.collect(),
            removes: args.map(removed_images).unwrap_or_default(),
            node: spec.node_name,
        };
        self
    }

    /// Replaces the status.
    #[cfg(test)]
    pub(super) fn set_status(&mut self, status: serde_json::Value) {
        self.status = serde_json::from_value(status).unwrap_or_default();
    }

    /// Whether a Job with this UID and namespace owns the pod.
    pub(super) fn is_owned_by(&self, namespace: &str, uid: &str) -> bool {
        let mut owners = self.metadata.owner_references.iter().flatten();
        self.metadata.namespace.as_deref() == Some(namespace)
            && owners.any(|owner| owner.kind == "Job" && owner.uid == uid)
    }

    /// Whether the pod runs the containers of the Job, on the Job's node or not scheduled yet.
    pub(super) fn runs(&self, job: &ObservedJob) -> bool {
        let PodContent {
            node,
            pulls,
            removes,
        } = &self.content;
        let placed = node.as_ref().is_none_or(|node| node == job.node.as_str());
        let content = match &job.work {
            JobWork::Pull(slots) => {
                let mut slots = slots.iter();
                slots.all(|slot| pulls.get(&slot.container) == Some(&slot.image))
            }
            JobWork::Remove(images) => removes[..] == images[..],
        };
        placed && content
    }

    /// Whether a kubelet has accepted the pod.
    pub(super) fn is_accepted(&self) -> bool {
        self.status.start_time.is_some()
    }

    /// Whether any container of the pod has started or was tried.
    pub(super) fn has_begun(&self) -> bool {
        let inits = self.status.init_container_statuses.iter();
        let mut all = inits.chain(&self.status.container_statuses);
        self.has_ended()
            || all.any(|status| {
                let waiting = status.state.waiting.as_ref();
                let state = &status.state;
                state.running.is_some()
                    || state.terminated.is_some()
                    || waiting.is_some_and(Waiting::is_failing)
            })
    }

    /// Why the scheduler has no node for the pod.
    pub(super) fn unscheduled(&self) -> Option<String> {
        let mut conditions = self.status.conditions.iter();
        let refusal = conditions.find(|condition| {
            condition.kind == "PodScheduled"
                && condition.status == "False"
                && condition.reason == "Unschedulable"
        })?;
        let name = self.name();
        Some(format!(
            "pod {name} cannot be scheduled: {}",
            refusal.message
        ))
    }

    /// Whether all containers of the pod have ended.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// State of the container that pulls an image. `own` is the operator's image.
    pub(super) fn pull_progress(&self, slot: &PullSlot, own: &ImageRef) -> Progress {
        let image = &slot.image;
        let status = self.status_of(&slot.container);
        let state = status.map(|status| &status.state);
        let pulled = |at: Option<&Time>| Progress::Pulled {
            digest: status.and_then(|status| status.digest(image)),
            at: at.map(|at| at.0),
        };
        if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
            if ended.has_started() && ended.reason != "ContainerStatusUnknown" {
                return pulled(ended.started_at.as_ref().or(ended.finished_at.as_ref()));
            }
            return Progress::Failing(self.failure());
        }
        if let Some(running) = state.and_then(|state| state.running.as_ref()) {
            return pulled(running.started_at.as_ref());
        }
        let waiting = state.and_then(|state| state.waiting.as_ref());
        let failure = self.copy_failure(own).or_else(|| {
            let waiting = waiting.filter(|waiting| waiting.is_failing())?;
            Some(waiting.failure(image, own))
        });
        self.or_failed(failure)
    }

    /// State of the container that removes images.
    pub(super) fn removal_progress(&self, own: &ImageRef) -> Progress {
        let state = self.status_of(REMOVE).map(|status| &status.state);
        if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
            if ended.exit_code == 0 {
                return Progress::Ended {
                    message: ended.message.clone(),
                    at: ended.finished_at.as_ref().map(|at| at.0),
                };
            }
            return Progress::Failing(match ended.has_started() {
                true => unknown(format!(
                    "the Job's container ended with exit code {} ({}): {}",
                    ended.exit_code,
                    ended.reason,
                    ended.message.trim()
                )),
                false => self.failure(),
            });
        }
        let waiting = state.and_then(|state| state.waiting.as_ref());
        let waiting = waiting.filter(|waiting| waiting.is_failing());
        self.or_failed(waiting.map(|waiting| waiting.failure_of_own(own)))
    }

    fn status_of(&self, container: &str) -> Option<&ContainerStatus> {
        let mut statuses = self.status.container_statuses.iter();
        statuses.find(|status| status.name == container)
    }

    fn or_failed(&self, failure: Option<Failure>) -> Progress {
        let failure = failure.or_else(|| (self.status.phase == "Failed").then(|| self.failure()));
        failure.map_or(Progress::Waiting, Progress::Failing)
    }

    /// The failure of the init container, without which no container starts.
    fn copy_failure(&self, own: &ImageRef) -> Option<Failure> {
        let mut inits = self.status.init_container_statuses.iter();
        let state = &inits.find(|status| status.name == COPY)?.state;
        if let Some(ended) = state.terminated.as_ref().filter(|end| end.exit_code != 0) {
            return Some(unknown(format!(
                "cannot copy the Jobs' program: {} {}",
                ended.reason,
                ended.message.trim()
            )));
        }
        let waiting = state.waiting.as_ref();
        let waiting = waiting.filter(|waiting| waiting.is_failing())?;
        Some(waiting.failure_of_own(own))
    }

    /// The failure of the pod.
    fn failure(&self) -> Failure {
        let (reason, message) = (&self.status.reason, &self.status.message);
        let text = format!("pod {} failed: {reason} {message}", self.name());
        // Words of the kubelet's message if it evicts the pod for lack of disk space.
        let disk = ["ephemeral-storage", "DiskPressure", "imagefs", "nodefs"];
        let full = reason == "Evicted" && disk.iter().any(|word| message.contains(word));
        let reason = if full {
            Reason::DiskFull
        } else {
            Reason::Unknown
        };
        Failure::new(reason, text.trim_end())
    }

    pub(super) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Its phase and what it waits for, for messages.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("pod {} is {}", self.name(), self.status.phase);
        let conditions = self.status.conditions.iter();
        // The scheduler's message first, because the others do not matter without a node.
        let hindrance = conditions.filter(|c| c.status == "False" && !c.message.is_empty());
        let hindrance = hindrance.max_by_key(|c| c.kind == "PodScheduled");
        if let Some(condition) = hindrance {
            text.push_str(&format!(": {}: {}", condition.reason, condition.message));
        } else if let Some(reason) = self.waiting_reason() {
            text.push_str(&format!(": {reason}"));
        }
        text
    }

    fn waiting_reason(&self) -> Option<&str> {
        let inits = self.status.init_container_statuses.iter();
        let mut all = inits.chain(&self.status.container_statuses);
        all.find_map(|status| Some(status.state.waiting.as_ref()?.reason.as_str()))
    }
}

impl ContainerStatus {
    /// The digest of an image, from the status of its volume or of the container. With an image volume the
    /// container's image is the operator's.
    fn digest(&self, image: &ImageRef) -> Option<Digest> {
        let volumes = self.volume_mounts.iter();
        let ids = volumes.map(|mount| mount.volume_status.image.image_ref.as_str());
        let mut ids = ids.chain([self.image_id.as_str()]).filter_map(|id| {
            let id = id.rsplit("://").next()?;
            ImageRef::parse(id).ok()
        });
        let found = ids.find(|id| id.name() == image.name())?;
        found.digest().cloned()
    }
}

impl Terminated {
    /// Whether the container has run. A container that never ran is also reported as terminated when its pod ends.
    fn has_started(&self) -> bool {
        self.started_at.is_some() || STARTED.contains(&self.reason.as_str())
    }
}

impl Waiting {
    fn is_failing(&self) -> bool {
        !NOT_STARTED.contains(&self.reason.as_str())
    }

    fn text(&self) -> String {
        match self.message.as_str() {
            "" => self.reason.clone(),
            message => format!("{}: {message}", self.reason),
        }
    }

    /// The failure to pull an image.
    fn failure(&self, image: &ImageRef, own: &ImageRef) -> Failure {
        let names = |image: &ImageRef| {
            self.message.contains(image.as_str()) || self.message.contains(image.original())
        };
        if names(own) && !names(image) {
            return self.failure_of_own(own);
        }
        let text = self.text();
        let reason = match self.reason.as_str() {
            "InvalidImageName" => Some(Reason::InvalidReference),
            "ErrImageNeverPull" => Some(Reason::ImageNotFound),
            "RegistryUnavailable" => match failure_of_text(&self.message).reason {
                Reason::RegistryMisconfigured => Some(Reason::RegistryMisconfigured),
                _ => Some(Reason::ConnectionFailed),
            },
            "SignatureValidationFailed" => Some(Reason::InvalidImage),
            _ => None,
        };
        match reason {
            Some(reason) => Failure::new(reason, text),
            None => failure_of_text(&text),
        }
    }

    /// The failure of the operator's image, which is not a failure of the image to be pulled.
    fn failure_of_own(&self, own: &ImageRef) -> Failure {
        let text = self.text();
        unknown(format!(
            "{own}, the image of the Jobs themselves, does not run: {text}"
        ))
    }
}

fn unknown(text: String) -> Failure {
    Failure::new(Reason::Unknown, text)
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
