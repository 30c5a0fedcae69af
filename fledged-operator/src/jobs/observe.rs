//! Typed observations of Jobs, Pods and Nodes.
//!
//! A Job counts as this driver's only if this driver created it (its UID is recorded, or the driver is the
//! manager of its fields) and if its content is what the driver creates: the name, the node that it runs on,
//! and the containers of images. A Pod counts only if such a Job owns it and if it runs what the
//! Job defines. Labels and names prove nothing: any user can set them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::error::{ErrorClass, Failure};
use fledged_core::model::{ByteSize, ImageRef, NodeName};
use fledged_core::port::RuntimeImage;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    Affinity, Container, ContainerImage, Node, NodeCondition, PodSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::FIELD_MANAGER;
use super::job_object::{
    JobKey, JobKind, KIND, Method, NODE, PROGRAM, REMOVE, REVISIONS, RUNTIME, Socket,
    container_name, name_prefix,
};
use super::options::{JobOptions, PullMethod};

/// Versions from which `image` volumes are enabled by default: the kubelet's (KEP-4639), containerd's and
/// CRI-O's.
const KUBELET: (u32, u32) = (1, 35);
const CONTAINERD: (u32, u32) = (2, 1);
const CRI_O: (u32, u32) = (1, 33);
/// Maximum number of names that a kubelet reports of one image (`MaxNamesPerImageInNodeStatus`): names
/// with a digest first, then tags.
const NAMES_MAX: usize = 5;

/// One image of a pull Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PullSlot {
    pub(super) image: ImageRef,
    /// Name of the image's container.
    pub(super) container: String,
    /// The revision that the pull satisfies.
    pub(super) revision: u64,
}

/// The images of a Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum JobWork {
    Pull(Arc<[PullSlot]>),
    /// In the order of the termination message.
    Remove(Arc<[ImageRef]>),
}

/// The end of a Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum JobEnd {
    Complete,
    Failed { reason: String, message: String },
}

/// A Job of this driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObservedJob {
    pub(super) key: JobKey,
    /// `None` while the Job is being created.
    pub(super) uid: Option<String>,
    pub(super) node: NodeName,
    /// `creationTimestamp`; the time of the request while the Job is being created.
    pub(super) since: Timestamp,
    /// `activeDeadlineSeconds`.
    pub(super) deadline: Duration,
    pub(super) work: JobWork,
    pub(super) end: Option<JobEnd>,
    /// When it ended.
    pub(super) ended_at: Option<Timestamp>,
    /// Whether it is deleted, or its deletion is requested.
    pub(super) deleting: bool,
    /// Path of the runtime's socket on the node, if it removes images.
    pub(super) socket: Option<String>,
    /// Names of its pull secrets, except those of the operator's image.
    pub(super) secrets: Vec<String>,
    /// ServiceAccounts whose pull secrets could not be read, and why.
    pub(super) missing: Vec<String>,
    /// The failure that prevents the creation of the Job or of its pod.
    pub(super) trouble: Option<Failure>,
    /// The failure that keeps its pod from starting.
    pub(super) pod_trouble: Option<Failure>,
    /// Whether the API server has refused the Job for good.
    pub(super) refused: bool,
}

impl PullSlot {
    pub(super) fn new(image: ImageRef, revision: u64) -> Self {
        Self {
            container: container_name(&image),
            image,
            revision,
        }
    }
}

impl ObservedJob {
    /// Reads a Job; `None` unless it is one of this driver's. `recorded` is the UID of the Job that this
    /// driver created under that name, if it did.
    pub(super) fn read(job: &Job, options: &JobOptions, recorded: Option<&str>) -> Option<Self> {
        let metadata = &job.metadata;
        let uid = metadata.uid.clone()?;
        if recorded != Some(uid.as_str()) && !is_managed(metadata) {
            return None;
        }
        let key = JobKey {
            namespace: metadata.namespace.clone()?,
            name: metadata.name.clone()?,
        };
        let kind = kind_of(metadata)?;
        let node = node_of(metadata)?;
        let spec = job.spec.as_ref()?;
        // This driver suspends none; one that another client suspended may never run.
        if spec.suspend == Some(true) {
            return None;
        }
        let pod = spec.template.spec.as_ref()?;
        let in_place = kind == JobKind::Pull || key.namespace == options.namespace;
        let named = key.name.starts_with(&name_prefix(kind, &node));
        if !in_place || !named || target_of(pod.affinity.as_ref()) != Some(node.as_str()) {
            return None;
        }
        let deadline = u64::try_from(spec.active_deadline_seconds?).ok()?;
        let secrets = pod.image_pull_secrets.iter().flatten();
        let secrets = secrets.filter(|secret| !options.image_pull_secrets.contains(&secret.name));
        let (end, ended_at) = end_of(job).unzip();
        Some(Self {
            work: work_of(kind, metadata, pod)?,
            key,
            uid: Some(uid),
            node,
            since: metadata.creation_timestamp.as_ref()?.0,
            deadline: Duration::from_secs(deadline),
            end,
            ended_at: ended_at.flatten(),
            deleting: metadata.deletion_timestamp.is_some(),
            socket: socket_of(pod),
            secrets: secrets.map(|secret| secret.name.clone()).collect(),
            missing: Vec::new(),
            trouble: None,
            pod_trouble: None,
            refused: false,
        })
    }

    pub(super) fn kind(&self) -> JobKind {
        match self.work {
            JobWork::Pull(_) => JobKind::Pull,
            JobWork::Remove(_) => JobKind::Remove,
        }
    }

    /// The images that it pulls.
    pub(super) fn pulls(&self) -> &[PullSlot] {
        match &self.work {
            JobWork::Pull(slots) => slots,
            JobWork::Remove(_) => &[],
        }
    }

    /// The images that it removes.
    pub(super) fn removes(&self) -> &[ImageRef] {
        match &self.work {
            JobWork::Pull(_) => &[],
            JobWork::Remove(images) => images,
        }
    }

    /// Adds the Job's credentials to the failure if the registry refuses them, because a kubelet ignores
    /// missing pull secrets.
    pub(super) fn explain(&self, mut failure: Failure) -> Failure {
        let namespace = &self.key.namespace;
        let secrets = self.secrets.iter();
        let mut with: Vec<String> = secrets
            .map(|name| format!("pull secret {namespace}/{name}"))
            .collect();
        with.extend(self.missing.iter().cloned());
        if failure.class() == ErrorClass::Unauthorized && !with.is_empty() {
            let with = with.join(", ");
            failure.message = format!("{} (with {with}, as far as it exists)", failure.message);
        }
        failure
    }
}

/// The node that an object of this driver names.
pub(super) fn node_of(metadata: &ObjectMeta) -> Option<NodeName> {
    let name = metadata.annotations.as_ref()?.get(NODE)?;
    NodeName::new(name.as_str()).ok()
}

fn kind_of(metadata: &ObjectMeta) -> Option<JobKind> {
    match metadata.labels.as_ref()?.get(KIND)?.as_str() {
        "pull" => Some(JobKind::Pull),
        "remove" => Some(JobKind::Remove),
        _ => None,
    }
}

/// Whether this driver is the manager that created the object.
fn is_managed(metadata: &ObjectMeta) -> bool {
    let mut fields = metadata.managed_fields.iter().flatten();
    fields
        .any(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.subresource.is_none())
}

/// The node that the pods of a Job require.
fn target_of(affinity: Option<&Affinity>) -> Option<&str> {
    let required = affinity?.node_affinity.as_ref()?;
    let required = required
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let [term] = required.node_selector_terms.as_slice() else {
        return None;
    };
    let [field] = term.match_fields.as_deref()? else {
        return None;
    };
    let [name] = field.values.as_deref()? else {
        return None;
    };
    (field.key == "metadata.name" && field.operator == "In").then_some(name.as_str())
}

fn work_of(kind: JobKind, metadata: &ObjectMeta, pod: &PodSpec) -> Option<JobWork> {
    match kind {
        JobKind::Pull => {
            let images = pod.containers.iter();
            let images = images.filter_map(|container| pulled_image(container, pod));
            let annotations = metadata.annotations.as_ref();
            let revisions = annotations.and_then(|all| all.get(REVISIONS));
            let revisions = revisions.map(String::as_str).unwrap_or_default();
            let revisions = revisions.split(',').map(|text| text.parse().unwrap_or(0));
            let slots = images.zip(revisions.chain(std::iter::repeat(0)));
            let slots = slots.map(|(image, revision)| PullSlot::new(image, revision));
            let slots: Arc<[PullSlot]> = slots.collect();
            (!slots.is_empty()).then_some(JobWork::Pull(slots))
        }
        JobKind::Remove => {
            let container = pod.containers.iter().find(|c| c.name == REMOVE)?;
            let images = removed_images(container.args.as_deref()?);
            (!images.is_empty()).then_some(JobWork::Remove(images.into()))
        }
    }
}

/// The image that a container of a pull Job pulls: that of its image volume, or its own.
pub(super) fn pulled_image(container: &Container, pod: &PodSpec) -> Option<ImageRef> {
    let mounts = container.volume_mounts.iter().flatten();
    let volumes = pod.volumes.as_deref().unwrap_or_default();
    let mut mounted = mounts.filter_map(|mount| {
        let volume = volumes.iter().find(|volume| volume.name == mount.name)?;
        volume.image.as_ref()?.reference.as_deref()
    });
    let program = container.command.iter().flatten().next();
    let own = container
        .image
        .as_deref()
        .filter(|_| program.is_some_and(|program| program == PROGRAM));
    let image = ImageRef::parse(mounted.next().or(own)?).ok()?;
    (container_name(&image) == container.name).then_some(image)
}

/// The path on the node of the socket that a pod mounts.
fn socket_of(pod: &PodSpec) -> Option<String> {
    let mut volumes = pod.volumes.iter().flatten();
    let runtime = volumes.find(|volume| volume.name == RUNTIME)?;
    Some(runtime.host_path.as_ref()?.path.clone())
}

pub(super) fn removed_images(args: &[String]) -> Vec<ImageRef> {
    let images = args.iter().skip_while(|arg| *arg != "--").skip(1);
    images
        .filter_map(|image| ImageRef::parse(image).ok())
        .collect()
}

fn end_of(job: &Job) -> Option<(JobEnd, Option<Timestamp>)> {
    let conditions = job.status.as_ref()?.conditions.iter().flatten();
    conditions
        .filter(|condition| condition.status == "True")
        .find_map(|condition| {
            let end = match condition.type_.as_str() {
                "Complete" | "SuccessCriteriaMet" => JobEnd::Complete,
                "Failed" | "FailureTarget" => JobEnd::Failed {
                    reason: condition.reason.clone().unwrap_or_default(),
                    message: condition.message.clone().unwrap_or_default(),
                },
                _ => return None,
            };
            let at = condition.last_transition_time.as_ref();
            Some((end, at.map(|at| at.0)))
        })
}

/// The observed state of a node.
#[derive(Debug, Clone, Default)]
pub(super) struct ObservedNode {
    /// Whether its kubelet runs pods.
    pub(super) ready: bool,
    /// Whether its kubelet reports disk pressure.
    pub(super) disk_pressure: bool,
    /// The images that its kubelet lists.
    pub(super) images: Vec<RuntimeImage>,
    /// Number of entries in the list, including images without a name.
    pub(super) listed: usize,
    /// Images that may have more names than the kubelet lists.
    cut: Vec<CutNames>,
    /// When the kubelet last reported; `None` before its first report.
    pub(super) listed_at: Option<Timestamp>,
    image_volumes: bool,
    runtime: String,
}

/// An image whose names may not all be listed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum CutNames {
    /// It may have more tags of these repositories.
    Of(BTreeSet<String>),
    Any,
}

impl ObservedNode {
    pub(super) fn read(node: Node) -> Self {
        let status = node.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let ready = conditions
            .iter()
            .find(|condition| condition.type_ == "Ready");
        let beat = ready.and_then(|ready| ready.last_heartbeat_time.as_ref());
        let images = status.images.unwrap_or_default();
        let info = status.node_info.unwrap_or_default();
        let pressure = |condition: &NodeCondition| {
            condition.type_ == "DiskPressure" && condition.status == "True"
        };
        Self {
            disk_pressure: conditions.iter().any(pressure),
            ready: ready.is_some_and(|condition| condition.status == "True"),
            listed_at: beat.map(|at| at.0),
            listed: images.len(),
            cut: images.iter().filter_map(cut_names).collect(),
            images: images.into_iter().filter_map(listed_image).collect(),
            image_volumes: has_image_volumes(
                &info.kubelet_version,
                &info.container_runtime_version,
            ),
            runtime: info.container_runtime_version,
        }
    }

    /// A node that lists these images.
    #[cfg(test)]
    pub(super) fn mk(listed_at: Timestamp, images: Vec<ContainerImage>) -> Self {
        Self {
            ready: true,
            listed_at: Some(listed_at),
            listed: images.len(),
            cut: images.iter().filter_map(cut_names).collect(),
            images: images.into_iter().filter_map(listed_image).collect(),
            ..Self::default()
        }
    }

    /// Whether one of the listed images may have this name although the name is not listed.
    pub(super) fn may_hide(&self, image: &ImageRef) -> bool {
        self.cut.iter().any(|cut| match cut {
            CutNames::Of(repositories) => repositories.contains(image.name()),
            CutNames::Any => true,
        })
    }

    /// The method of pulls on this node. `unsupported`: the API server does not serve image volumes.
    pub(super) fn method(&self, wanted: PullMethod, unsupported: bool) -> Method {
        match wanted {
            PullMethod::ImageVolume => Method::ImageVolume,
            PullMethod::Auto if self.image_volumes && !unsupported => Method::ImageVolume,
            PullMethod::Container | PullMethod::Auto => Method::Container,
        }
    }

    /// The socket of its runtime.
    pub(super) fn socket(&self, given: Option<&str>) -> Socket {
        let (runtime, version) = self.runtime.split_once("://").unwrap_or_default();
        let usual = match runtime {
            "cri-o" => "/var/run/crio/crio.sock",
            "docker" => "/var/run/docker.sock",
            // The containerd that k3s and RKE2 bring along: 1.7.23-k3s2.
            _ if version.contains("-k3s") => "/run/k3s/containerd/containerd.sock",
            _ => "/run/containerd/containerd.sock",
        };
        let path = given.unwrap_or(usual);
        Socket {
            docker: path.ends_with("/docker.sock"),
            path: path.to_owned(),
        }
    }
}

/// The image with every name that can be parsed.
fn listed_image(image: ContainerImage) -> Option<RuntimeImage> {
    let names = image.names.unwrap_or_default();
    let references = names.iter().filter_map(|name| ImageRef::parse(name).ok());
    let references: Vec<ImageRef> = references.collect();
    let id = names.into_iter().next()?;
    let digest = references.iter().find_map(|r| r.digest().cloned());
    let size = u64::try_from(image.size_bytes.unwrap_or_default()).unwrap_or_default();
    let found = RuntimeImage::new(id, references).with_digest(digest);
    Some(found.with_size(ByteSize::new(size)))
}

/// Names that may be missing from an entry. A pulled tag has a digest of its repository, and all
/// digests are listed before the first tag.
fn cut_names(image: &ContainerImage) -> Option<CutNames> {
    let names = image.names.as_deref().unwrap_or_default();
    if names.len() < NAMES_MAX {
        return None;
    }
    let (digests, tags): (Vec<_>, Vec<_>) = names.iter().partition(|name| name.contains('@'));
    if digests.is_empty() || tags.is_empty() {
        return Some(CutNames::Any);
    }
    let references = names.iter().filter_map(|name| ImageRef::parse(name).ok());
    Some(CutNames::Of(
        references.map(|r| r.name().to_owned()).collect(),
    ))
}

fn has_image_volumes(kubelet: &str, runtime: &str) -> bool {
    let Some((runtime, version)) = runtime.split_once("://") else {
        return false;
    };
    let least = match runtime {
        "containerd" => CONTAINERD,
        "cri-o" => CRI_O,
        _ => return false,
    };
    let at_least = |text: &str, least| version_of(text).is_some_and(|found| found >= least);
    at_least(kubelet, KUBELET) && at_least(version, least)
}

/// Major and minor of versions such as `v1.35.2+k3s1` and `2.1.4`.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut parts = text
        .trim_start_matches('v')
        .split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
#[path = "observe_tests.rs"]
mod tests;
