//! What a pod says of the images that it makes the kubelet pull.

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{Digest, ImageRef};
use fledged_cri::classify::failure_of_text;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::{Deserialize, Serialize};

use super::spec::COPY;

/// Reasons of containers that merely have not begun.
const PATIENT: [&str; 3] = ["", "ContainerCreating", "PodInitializing"];
/// Reasons of containers that are known to have begun: their images were there.
const BEGAN: [&str; 5] = [
    "Completed",
    "Error",
    "StartError",
    "ContainerCannotRun",
    "OOMKilled",
];
/// What the kubelet says between two attempts; the others are said by an attempt that failed.
const BETWEEN_ATTEMPTS: &str = "ImagePullBackOff";

/// A pod, as far as it tells of images.
#[derive(Resource, Debug, Clone, Default, Serialize, Deserialize)]
#[resource(inherit = Pod)]
pub(super) struct ReadPod {
    #[serde(default)]
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: String,
    reason: String,
    message: String,
    start_time: Option<Time>,
    conditions: Vec<Condition>,
    init_container_statuses: Vec<Container>,
    container_statuses: Vec<Container>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    name: String,
    state: State,
    #[serde(rename = "imageID")]
    image_id: String,
    volume_mounts: Vec<Mount>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct State {
    waiting: Option<Waiting>,
    running: Option<serde_json::Value>,
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
struct Terminated {
    reason: String,
    message: String,
    exit_code: i32,
    started_at: Option<Time>,
}

/// Where the kubelet says what an image volume holds (KEP-5365, from 1.35).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Mount {
    volume_status: VolumeStatus,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct VolumeStatus {
    image: ImageStatus,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ImageStatus {
    image_ref: String,
}

/// What a container has to come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Goal {
    /// It exists: the kubelet has pulled that image.
    Begin(ImageRef),
    /// It has ended, with a message.
    End,
}

impl Goal {
    /// The image that is pulled.
    pub(super) fn image(&self) -> Option<&ImageRef> {
        match self {
            Self::Begin(image) => Some(image),
            Self::End => None,
        }
    }
}

/// How far a container has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing can be said yet.
    Open,
    /// It has begun. The digest of the image, where it is told.
    Begun(Option<Digest>),
    /// It has ended by itself, with that message.
    Ended(String),
    /// It fails; the kubelet may go on trying.
    Failing {
        /// Why.
        failure: Failure,
        /// Whether an attempt has just failed, and it does not merely wait for the next.
        attempt: bool,
    },
}

impl ReadPod {
    /// The name of its Job.
    pub(super) fn job(&self) -> Option<&str> {
        let labels = self.metadata.labels.as_ref()?;
        let name = labels.get("batch.kubernetes.io/job-name");
        name.or_else(|| labels.get("job-name")).map(String::as_str)
    }

    /// Whether it was made for a Job of that namespace and that UID, where this is known.
    pub(super) fn is_of(&self, namespace: &str, uid: Option<&str>) -> bool {
        let mut owners = self.metadata.owner_references.iter().flatten();
        let owned = uid.is_none_or(|uid| owners.any(|owner| owner.uid == uid));
        self.metadata.namespace.as_deref() == Some(namespace) && owned
    }

    /// Whether a kubelet has taken it.
    pub(super) fn is_taken(&self) -> bool {
        self.status.start_time.is_some()
    }

    /// Whether all of its containers have ended for good.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// How far one container has got. `ours` is the image of Jobs themselves.
    pub(super) fn verdict(&self, container: &str, goal: &Goal, ours: &ImageRef) -> Verdict {
        let statuses = &self.status.container_statuses;
        let found = statuses.iter().find(|status| status.name == container);
        let state = found.map(|status| &status.state);
        if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
            return self.ended(ended, goal, found);
        }
        if state.is_some_and(|state| state.running.is_some()) {
            return match goal {
                Goal::Begin(image) => Verdict::Begun(found.and_then(|c| c.digest(image))),
                Goal::End => Verdict::Open,
            };
        }
        if let Some(failure) = self.copy_failure(ours) {
            return failure;
        }
        if let Some(waiting) = state.and_then(|state| state.waiting.as_ref())
            && !PATIENT.contains(&waiting.reason.as_str())
        {
            let failure = match goal {
                Goal::Begin(image) => waiting.failure(image, ours),
                Goal::End => waiting.failure_of_ours(ours),
            };
            let attempt = waiting.reason != BETWEEN_ATTEMPTS;
            return Verdict::Failing { failure, attempt };
        }
        match self.status.phase.as_str() {
            "Failed" => self.failing(),
            _ => Verdict::Open,
        }
    }

    fn ended(&self, ended: &Terminated, goal: &Goal, status: Option<&Container>) -> Verdict {
        // A container that never was is told as terminated too when its pod ends.
        let began = ended.started_at.is_some() || BEGAN.contains(&ended.reason.as_str());
        match goal {
            Goal::Begin(image) if began && ended.reason != "ContainerStatusUnknown" => {
                Verdict::Begun(status.and_then(|c| c.digest(image)))
            }
            Goal::End if ended.exit_code == 0 => Verdict::Ended(ended.message.clone()),
            Goal::End if began => Verdict::Failing {
                failure: failure(format!(
                    "it ended with {} ({}): {}",
                    ended.exit_code,
                    ended.reason,
                    ended.message.trim()
                )),
                attempt: true,
            },
            _ => self.failing(),
        }
    }

    /// Why no container of the pod begins: our program can't be copied in.
    fn copy_failure(&self, ours: &ImageRef) -> Option<Verdict> {
        let mut inits = self.status.init_container_statuses.iter();
        let state = &inits.find(|status| status.name == COPY)?.state;
        if let Some(ended) = state.terminated.as_ref().filter(|end| end.exit_code != 0) {
            let text = format!(
                "the program of Jobs could not be copied: {} {}",
                ended.reason,
                ended.message.trim()
            );
            return Some(Verdict::Failing {
                failure: failure(text),
                attempt: true,
            });
        }
        let waiting = state.waiting.as_ref()?;
        if PATIENT.contains(&waiting.reason.as_str()) {
            return None;
        }
        Some(Verdict::Failing {
            failure: waiting.failure_of_ours(ours),
            attempt: waiting.reason != BETWEEN_ATTEMPTS,
        })
    }

    /// The pod as a whole has failed.
    fn failing(&self) -> Verdict {
        let (reason, message) = (&self.status.reason, &self.status.message);
        let text = format!("its pod {} failed: {reason} {message}", self.name());
        // The kubelet's words when it evicts for want of room.
        let disk = ["ephemeral-storage", "DiskPressure", "imagefs", "nodefs"];
        let full = reason == "Evicted" && disk.iter().any(|word| message.contains(word));
        let failure = match full {
            true => Failure::new(Reason::DiskFull, text.trim_end()),
            false => failure(text.trim_end().to_owned()),
        };
        Verdict::Failing {
            failure,
            attempt: true,
        }
    }

    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Where it stands, in words, for whoever waits for it in vain.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("pod {} is {}", self.name(), self.status.phase);
        let conditions = self.status.conditions.iter();
        // The scheduler's word comes first: without a node nothing else is of interest.
        let hindrance = conditions.filter(|c| c.status == "False" && !c.message.is_empty());
        let hindrance = hindrance.max_by_key(|c| c.kind == "PodScheduled");
        if let Some(condition) = hindrance {
            text.push_str(&format!(": {}: {}", condition.reason, condition.message));
        } else if let Some(reason) = self.waits_for() {
            text.push_str(&format!(": {reason}"));
        }
        text
    }

    fn waits_for(&self) -> Option<&str> {
        let inits = self.status.init_container_statuses.iter();
        let mut all = inits.chain(&self.status.container_statuses);
        all.find_map(|status| Some(status.state.waiting.as_ref()?.reason.as_str()))
    }
}

impl Container {
    /// The digest of that image, where one of the container's is told to be it: where it mounts the
    /// image, its own is our program's.
    fn digest(&self, image: &ImageRef) -> Option<Digest> {
        let volumes = self.volume_mounts.iter();
        let told = volumes.map(|mount| mount.volume_status.image.image_ref.as_str());
        let mut told = told.chain([self.image_id.as_str()]).filter_map(|told| {
            let told = told.rsplit("://").next()?;
            ImageRef::parse(told).ok()
        });
        let found = told.find(|told| told.name() == image.name())?;
        found.digest().cloned()
    }
}

impl Waiting {
    fn text(&self) -> String {
        match self.message.is_empty() {
            true => self.reason.clone(),
            // Where it waits between attempts, the kubelet repeats what the last one said.
            false => format!("{}: {}", self.reason, self.message),
        }
    }

    /// Why that image can't be pulled.
    fn failure(&self, image: &ImageRef, ours: &ImageRef) -> Failure {
        let names = |image: &ImageRef| {
            self.message.contains(image.as_str()) || self.message.contains(image.original())
        };
        if names(ours) && !names(image) {
            return self.failure_of_ours(ours);
        }
        let text = self.text();
        let reason = match self.reason.as_str() {
            "InvalidImageName" => Some(Reason::InvalidReference),
            "ErrImageNeverPull" => Some(Reason::ImageNotFound),
            "RegistryUnavailable" => Some(Reason::ConnectionFailed),
            "SignatureValidationFailed" => Some(Reason::InvalidImage),
            _ => None,
        };
        match reason {
            Some(reason) => Failure::new(reason, text),
            None => failure_of_text(&text),
        }
    }

    /// Why the image of Jobs themselves can't be pulled: nothing that waits for its node's images can
    /// help, and nothing of it is the fault of the image that is wanted.
    fn failure_of_ours(&self, ours: &ImageRef) -> Failure {
        failure(format!(
            "{ours}, the image of Jobs themselves, does not run: {}",
            self.text()
        ))
    }
}

fn failure(text: String) -> Failure {
    Failure::new(Reason::Unknown, text)
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
