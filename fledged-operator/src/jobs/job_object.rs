//! Manifests of Jobs: names, labels, pull Jobs and removal Jobs.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

use fledged_core::model::{CacheId, ImageRef, NodeName, ObjectName};
use fledged_kube::crd::{GROUP, VERSION};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::options::JobOptions;

/// Maximum length of a label's value and of a container's name.
const LABEL_MAX: usize = 63;
/// Hexadecimal digits of the hash that replaces the end of a long name: 64 bits.
const HASH: usize = 16;

/// Labels and annotations, with kube-fledged's names if it has them.
pub(super) const APP: (&str, &str) = ("app", "kubefledged");
pub(super) const COMPONENT: (&str, &str) = ("kubefledged", "kubefledged-image-manager");
const CACHE: &str = "imagecache";
/// Label: the node's name, shortened with a hash if it is too long. Annotation: the full name.
pub(super) const NODE: &str = "kubefledged.io/node";
/// Label: `pull` or `remove`.
pub(super) const KIND: &str = "kubefledged.io/job";
/// Annotation: every ImageCache that the Job serves.
const CACHES: &str = "kubefledged.io/imagecaches";
/// Annotation: the revision that each container's pull satisfies, in the order of the containers.
pub(super) const REVISIONS: &str = "kubefledged.io/revisions";

/// Folder of the copied program, which no image has.
const PROGRAM_FOLDER: &str = "/.fledged";
pub(super) const PROGRAM: &str = "/.fledged/fledged-operator";
/// Path of the runtime's socket inside the container.
const SOCKET: &str = "/run/fledged/runtime.sock";
/// Name of the volume with the socket.
pub(super) const RUNTIME: &str = "runtime";
/// Name of the container that removes images.
pub(super) const REMOVE: &str = "remove";
/// Name of the init container that copies the program.
pub(super) const COPY: &str = "copy";
/// Grace period of the pods. A pod without one disappears from the API server before its kubelet has
/// stopped pulling; a longer one is not needed.
const GRACE_SECONDS: u32 = 1;

/// What a Job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum JobKind {
    Pull,
    Remove,
}

impl JobKind {
    /// The value of the label, of the metrics and in the Job's name.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Remove => "remove",
        }
    }
}

/// Namespace and name of a Job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct JobKey {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// How one Job pulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    ImageVolume,
    Container,
}

/// The socket of a node's runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Socket {
    /// Path on the node.
    pub(super) path: String,
    pub(super) docker: bool,
}

impl Socket {
    /// The URI of the runtime if its socket is mounted at `path`.
    fn uri(&self, path: &str) -> String {
        let scheme = if self.docker { "docker" } else { "unix" };
        format!("{scheme}://{path}")
    }
}

/// One image of a pull Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PullImage {
    pub(super) image: ImageRef,
    /// Whether to pull it although it is present.
    pub(super) always: bool,
    /// The revision that the pull satisfies.
    pub(super) revision: u64,
}

/// Input of a pull Job's manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PullPlan {
    pub(super) key: JobKey,
    pub(super) node: NodeName,
    pub(super) method: Method,
    /// The images, in the order in which the kubelet pulls them.
    pub(super) images: Vec<PullImage>,
    /// Names of pull secrets in the Job's namespace.
    pub(super) secrets: Vec<String>,
    /// ServiceAccounts whose pull secrets are added to `secrets` before the Job is created.
    pub(super) accounts: Vec<ObjectName>,
    /// ImageCaches of the namespace that list any of the images.
    pub(super) caches: Vec<CacheId>,
    /// The cache in the label: the one that lists most of the images.
    pub(super) cache: Option<String>,
    /// `activeDeadlineSeconds`.
    pub(super) deadline: Duration,
}

/// Input of a removal Job's manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemovalPlan {
    pub(super) key: JobKey,
    pub(super) node: NodeName,
    pub(super) images: Vec<ImageRef>,
    /// Names that must not be removed together with an image.
    pub(super) keep: Vec<ImageRef>,
    pub(super) socket: Socket,
    /// `activeDeadlineSeconds`.
    pub(super) deadline: Duration,
}

/// Input of a Job's manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum JobPlan {
    Pull(PullPlan),
    Remove(RemovalPlan),
}

impl JobPlan {
    pub(super) fn key(&self) -> &JobKey {
        match self {
            Self::Pull(plan) => &plan.key,
            Self::Remove(plan) => &plan.key,
        }
    }

    pub(super) fn kind(&self) -> JobKind {
        match self {
            Self::Pull(_) => JobKind::Pull,
            Self::Remove(_) => JobKind::Remove,
        }
    }

    pub(super) fn manifest(&self, options: &JobOptions) -> Value {
        match self {
            Self::Pull(plan) => pull_job(plan, options),
            Self::Remove(plan) => removal_job(plan, options),
        }
    }
}

/// Label selector of the Jobs and pods of this driver.
pub(super) fn selector() -> String {
    format!("{}={},{}={},{KIND}", APP.0, APP.1, COMPONENT.0, COMPONENT.1)
}

/// The first digits of a text's SHA-256.
fn hash(text: &str, digits: usize) -> String {
    let mut hex = String::new();
    for byte in Sha256::digest(text.as_bytes())
        .iter()
        .take(digits.div_ceil(2))
    {
        // Writing to a string can't fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex.truncate(digits);
    hex
}

/// The text as a label's value: unchanged, or shortened with a hash if it is too long.
fn label_value(text: &str) -> String {
    if text.len() <= LABEL_MAX {
        return text.to_owned();
    }
    let start: String = text.chars().take(LABEL_MAX - HASH - 1).collect();
    let start = start.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    format!("{start}-{}", hash(text, HASH))
}

/// Name of the container that pulls an image: readable, and unique to the image.
pub(super) fn container_name(image: &ImageRef) -> String {
    let text = image.as_str();
    let last = text.rsplit('/').next().unwrap_or(text);
    let last = last.split('@').next().unwrap_or(last);
    let plain: String = last
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .take(LABEL_MAX - HASH - 1)
        .collect();
    match plain.trim_matches('-') {
        "" => format!("image-{}", hash(text, HASH)),
        plain => format!("{plain}-{}", hash(text, HASH)),
    }
}

/// The prefix of the names of all Jobs of a kind on a node.
pub(super) fn name_prefix(kind: JobKind, node: &NodeName) -> String {
    format!("fledged-{}-{}-", kind.as_str(), hash(node.as_str(), HASH))
}

/// Name of a new Job; `random` distinguishes it from other Jobs of the node.
pub(super) fn job_name(kind: JobKind, node: &NodeName, random: u32) -> String {
    format!("{}{random:08x}", name_prefix(kind, node))
}

/// The manifest of a pull Job.
fn pull_job(plan: &PullPlan, options: &JobOptions) -> Value {
    let mut containers = Vec::new();
    let mut volumes = Vec::new();
    for PullImage { image, always, .. } in &plan.images {
        let name = container_name(image);
        let policy = if *always { "Always" } else { "IfNotPresent" };
        match plan.method {
            Method::ImageVolume => {
                let mounts = json!([{ "name": name, "mountPath": "/image", "readOnly": true }]);
                let container = own_container(options, &name, &["job", "noop"]);
                containers.push(with(container, json!({ "volumeMounts": mounts })));
                volumes.push(json!({
                    "name": name,
                    "image": { "reference": image.as_str(), "pullPolicy": policy },
                }));
            }
            Method::Container => containers.push(json!({
                "name": name,
                "image": image.as_str(),
                "imagePullPolicy": policy,
                "command": [PROGRAM, "job", "noop"],
                "resources": resources(options, "1m", "4Mi", "32Mi"),
                "securityContext": restricted(),
                "volumeMounts": [{ "name": "program", "mountPath": PROGRAM_FOLDER, "readOnly": true }],
            })),
        }
    }
    let mut inits = Vec::new();
    if plan.method == Method::Container {
        let mounts = json!([{ "name": "program", "mountPath": PROGRAM_FOLDER }]);
        let copy = own_container(options, COPY, &["job", "copy", PROGRAM]);
        inits.push(with(copy, json!({ "volumeMounts": mounts })));
        volumes.push(json!({ "name": "program", "emptyDir": {} }));
    }
    let mut context = json!({
        "runAsNonRoot": true,
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    if let Some(user) = options.user {
        context = with(context, json!({ "runAsUser": user, "runAsGroup": user }));
    }
    let more = json!({
        "initContainers": inits,
        "containers": containers,
        "volumes": volumes,
        "imagePullSecrets": secrets(&plan.secrets, options),
        "securityContext": context,
    });
    let mut labels = labels(JobKind::Pull, &plan.node);
    let mut annotations = BTreeMap::from([(NODE, plan.node.to_string())]);
    if plan.images.iter().any(|image| image.revision > 0) {
        let revisions = plan.images.iter().map(|image| image.revision.to_string());
        let revisions: Vec<String> = revisions.collect();
        annotations.insert(REVISIONS, revisions.join(","));
    }
    if let Some(cache) = &plan.cache {
        labels.insert(CACHE, label_value(cache));
        let names: Vec<&str> = plan.caches.iter().map(|id| id.name.as_str()).collect();
        annotations.insert(CACHES, names.join(","));
    }
    let owners = plan.caches.iter().map(|id| {
        json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "ImageCache",
            "name": id.name,
            "uid": id.uid,
        })
    });
    let names = json!({
        "name": plan.key.name,
        "namespace": plan.key.namespace,
        "ownerReferences": owners.collect::<Value>(),
    });
    let marks = json!({ "labels": labels, "annotations": annotations });
    job(
        names,
        &marks,
        &with(pod(&plan.node, options), more),
        plan.deadline,
        options,
    )
}

/// The manifest of a removal Job.
fn removal_job(plan: &RemovalPlan, options: &JobOptions) -> Value {
    let runtime = plan.socket.uri(SOCKET);
    let mut args = vec!["job", "remove", "--runtime", &runtime];
    for image in &plan.keep {
        args.extend(["--keep", image.as_str()]);
    }
    for pattern in options.protected.patterns() {
        args.extend(["--protect", pattern]);
    }
    // The arguments after this are not parsed as flags.
    args.push("--");
    args.extend(plan.images.iter().map(ImageRef::as_str));
    // The socket belongs to root. Every other privilege is dropped.
    let root = json!({ "runAsNonRoot": false, "runAsUser": 0, "runAsGroup": 0 });
    let more = json!({
        "resources": resources(options, "10m", "16Mi", "128Mi"),
        "volumeMounts": [{ "name": RUNTIME, "mountPath": SOCKET }],
        "securityContext": with(restricted(), root),
    });
    let remove = with(own_container(options, REMOVE, &args), more);
    let mut context = Map::new();
    context.insert(
        "seccompProfile".to_owned(),
        json!({ "type": "RuntimeDefault" }),
    );
    if let Some(name) = &options.removal_selinux_type {
        context.insert("seLinuxOptions".to_owned(), json!({ "type": name }));
    }
    let more = json!({
        "containers": [remove],
        "volumes": [{
            "name": RUNTIME,
            "hostPath": { "path": plan.socket.path, "type": "Socket" },
        }],
        "imagePullSecrets": secrets(&[], options),
        "hostNetwork": options.removal_host_network,
        "securityContext": context,
    });
    let names = json!({ "name": plan.key.name, "namespace": plan.key.namespace });
    let marks = json!({
        "labels": labels(JobKind::Remove, &plan.node),
        "annotations": { NODE: plan.node },
    });
    job(
        names,
        &marks,
        &with(pod(&plan.node, options), more),
        plan.deadline,
        options,
    )
}

/// A Job whose pods have the same labels and annotations, and those of the options.
fn job(
    names: Value,
    marks: &Value,
    pod: &Value,
    deadline: Duration,
    options: &JobOptions,
) -> Value {
    let of_pods = |field: &str, more: &BTreeMap<String, String>| {
        let own = marks.get(field).cloned().unwrap_or_default();
        with(json!(more), own)
    };
    let of_pods = json!({
        "labels": of_pods("labels", &options.pod_labels),
        "annotations": of_pods("annotations", &options.pod_annotations),
    });
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": with(names, marks.clone()),
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": deadline.as_secs().max(1),
            "ttlSecondsAfterFinished": options.ttl.as_secs(),
            "template": { "metadata": of_pods, "spec": pod },
        },
    })
}

/// `imagePullSecrets` of a pod: its own, then those of the options, each once.
fn secrets(own: &[String], options: &JobOptions) -> Value {
    let more = options.image_pull_secrets.iter();
    let more = more.filter(|name| !own.contains(name));
    let all = own.iter().chain(more);
    all.map(|name| json!({ "name": name })).collect()
}

/// Adds fields to an object. Existing fields are replaced, empty lists are dropped.
fn with(mut object: Value, more: Value) -> Value {
    if let (Value::Object(fields), Value::Object(more)) = (&mut object, more) {
        fields.extend(more);
        fields.retain(|_, value| value.as_array().is_none_or(|items| !items.is_empty()));
    }
    object
}

fn labels(kind: JobKind, node: &NodeName) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        (APP.0, APP.1.to_owned()),
        (COMPONENT.0, COMPONENT.1.to_owned()),
        (KIND, kind.as_str().to_owned()),
        (NODE, label_value(node.as_str())),
    ])
}

/// The common fields of all pods.
fn pod(node: &NodeName, options: &JobOptions) -> Value {
    let base = json!({
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        // By name: the label `kubernetes.io/hostname` may be missing or differ. By the scheduler, which
        // reports a node without room.
        "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{ "matchFields": [
                { "key": "metadata.name", "operator": "In", "values": [node] },
            ] }],
        } } },
        "tolerations": [{ "operator": "Exists" }],
    });
    let mut named = Map::new();
    for (field, name) in [
        ("priorityClassName", &options.priority_class),
        ("serviceAccountName", &options.service_account),
    ] {
        if let Some(name) = name {
            named.insert(field.to_owned(), name.as_str().into());
        }
    }
    with(base, named.into())
}

/// A container of the operator's image, whose entry point is the program.
fn own_container(options: &JobOptions, name: &str, args: &[&str]) -> Value {
    json!({
        "name": name,
        "image": options.image.as_str(),
        "imagePullPolicy": "IfNotPresent",
        "args": args,
        "resources": resources(options, "1m", "4Mi", "32Mi"),
        "securityContext": restricted(),
    })
}

/// The resources of the options, or these.
fn resources(options: &JobOptions, cpu: &str, memory: &str, limit: &str) -> Value {
    if let Some(resources) = &options.resources {
        return json!(resources);
    }
    json!({ "requests": { "cpu": cpu, "memory": memory }, "limits": { "memory": limit } })
}

/// Security context that the Pod Security Standard `restricted` requires of a container.
fn restricted() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
    })
}

#[cfg(test)]
#[path = "job_object_tests.rs"]
mod tests;
