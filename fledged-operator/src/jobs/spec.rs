//! The bodies of Jobs.

use std::collections::BTreeMap;
use std::time::Duration;

use fledged_core::model::{CacheId, ImageRef, NodeName};
use serde_json::{Map, Value, json};

use super::names::{APP, CACHE, CACHES, COMPONENT, KIND, NODE, container_name, label_value};
use super::node::Socket;
use super::options::JobOptions;
use crate::crd::{GROUP, VERSION};

/// Whoever the container is that is none: the user of distroless images.
const NOBODY: u32 = 65_532;
/// Where the copied program is. No image has such a folder of its own.
const COPIED: &str = "/.fledged";
const PROGRAM: &str = "/.fledged/fledged-operator";
/// Where the runtime's socket is inside of a container.
pub(super) const SOCKET: &str = "/run/fledged/runtime.sock";
/// Name of the container that removes images.
pub(super) const REMOVE: &str = "remove";
/// Name of the init container that copies the program.
pub(super) const COPY: &str = "copy";
/// A pod that is given up has nothing to tidy up. Without any grace it would be gone in the API server's words
/// before its kubelet has let go of the image that it pulls.
const GRACE_SECONDS: u32 = 1;

/// How one Job pulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    ImageVolume,
    Container,
}

/// Everything that a Job that pulls is made from.
#[derive(Debug, Clone)]
pub(super) struct PullPlan {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) node: NodeName,
    pub(super) method: Method,
    /// In the order in which the kubelet is to pull, and whether to pull what is there.
    pub(super) images: Vec<(ImageRef, bool)>,
    /// Names of Secrets.
    pub(super) secrets: Vec<String>,
    /// ImageCaches of the namespace that want any of the images.
    pub(super) caches: Vec<CacheId>,
    /// The cache that the label names.
    pub(super) cache: Option<String>,
    /// After which the Job ends in any case.
    pub(super) limit: Duration,
}

/// Everything that a Job that removes is made from.
#[derive(Debug, Clone)]
pub(super) struct RemovalPlan {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) node: NodeName,
    pub(super) images: Vec<ImageRef>,
    /// Names that must not go along with an image.
    pub(super) keep: Vec<ImageRef>,
    pub(super) socket: Socket,
    pub(super) limit: Duration,
}

/// A Job that pulls.
pub(super) fn pull_job(plan: &PullPlan, options: &JobOptions) -> Value {
    let mut containers = Vec::new();
    let mut volumes = Vec::new();
    for (image, always) in &plan.images {
        let name = container_name(image);
        let policy = if *always { "Always" } else { "IfNotPresent" };
        match plan.method {
            Method::ImageVolume => {
                let mounts = json!([{ "name": name, "mountPath": "/image", "readOnly": true }]);
                let container = ours(options, &name, &["job", "noop"]);
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
                "resources": resources("1m", "4Mi", "32Mi"),
                "securityContext": restricted(),
                "volumeMounts": [{ "name": "program", "mountPath": COPIED, "readOnly": true }],
            })),
        }
    }
    let mut inits = Vec::new();
    if plan.method == Method::Container {
        let mounts = json!([{ "name": "program", "mountPath": COPIED }]);
        let copy = ours(options, COPY, &["job", "copy", PROGRAM]);
        inits.push(with(copy, json!({ "volumeMounts": mounts })));
        volumes.push(json!({ "name": "program", "emptyDir": {} }));
    }
    let more = json!({
        "initContainers": inits,
        "containers": containers,
        "volumes": volumes,
        "imagePullSecrets": secrets(&plan.secrets, options),
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": NOBODY,
            "runAsGroup": NOBODY,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
    });
    let mut labels = labels("pull", &plan.node);
    let mut annotations = BTreeMap::from([(NODE, plan.node.to_string())]);
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
        "name": plan.name,
        "namespace": plan.namespace,
        "ownerReferences": owners.collect::<Value>(),
    });
    let marks = json!({ "labels": labels, "annotations": annotations });
    job(
        names,
        &marks,
        &with(pod(&plan.node, options), more),
        plan.limit,
        options,
    )
}

/// A Job that removes.
pub(super) fn removal_job(plan: &RemovalPlan, options: &JobOptions) -> Value {
    let runtime = plan.socket.uri(SOCKET);
    let mut args = vec!["job", "remove", "--runtime", &runtime];
    for image in &plan.keep {
        args.extend(["--keep", image.as_str()]);
    }
    // What follows is no flag, whatever it looks like.
    args.push("--");
    args.extend(plan.images.iter().map(ImageRef::as_str));
    // The socket is root's. Nothing else of root is left.
    let root = json!({ "runAsNonRoot": false, "runAsUser": 0, "runAsGroup": 0 });
    let more = json!({
        "resources": resources("10m", "16Mi", "128Mi"),
        "volumeMounts": [{ "name": "runtime", "mountPath": SOCKET }],
        "securityContext": with(restricted(), root),
    });
    let remove = with(ours(options, REMOVE, &args), more);
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
            "name": "runtime",
            "hostPath": { "path": plan.socket.path, "type": "Socket" },
        }],
        "imagePullSecrets": secrets(&[], options),
        "hostNetwork": options.removal_host_network,
        "securityContext": context,
    });
    let names = json!({ "name": plan.name, "namespace": plan.namespace });
    let marks = json!({
        "labels": labels("remove", &plan.node),
        "annotations": { NODE: plan.node },
    });
    job(
        names,
        &marks,
        &with(pod(&plan.node, options), more),
        plan.limit,
        options,
    )
}

/// A Job of those names, whose pods have the same labels and annotations.
fn job(names: Value, marks: &Value, pod: &Value, limit: Duration, options: &JobOptions) -> Value {
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": with(names, marks.clone()),
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": limit.as_secs().max(1),
            "ttlSecondsAfterFinished": options.ttl.as_secs(),
            "template": { "metadata": marks, "spec": pod },
        },
    })
}

/// `imagePullSecrets` of a pod that has those of its own; a name that comes twice is named once.
fn secrets(own: &[String], options: &JobOptions) -> Value {
    let more = options.image_pull_secrets.iter();
    let more = more.filter(|name| !own.contains(name));
    let all = own.iter().chain(more);
    all.map(|name| json!({ "name": name })).collect()
}

/// An object with more fields, or others in their place; nothing stays that is empty.
fn with(mut object: Value, more: Value) -> Value {
    if let (Value::Object(fields), Value::Object(more)) = (&mut object, more) {
        fields.extend(more);
        fields.retain(|_, value| value.as_array().is_none_or(|items| !items.is_empty()));
    }
    object
}

fn labels(kind: &str, node: &NodeName) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        (APP.0, APP.1.to_owned()),
        (COMPONENT.0, COMPONENT.1.to_owned()),
        (KIND, kind.to_owned()),
        (NODE, label_value(node.as_str())),
    ])
}

/// What every pod has.
fn pod(node: &NodeName, options: &JobOptions) -> Value {
    let base = json!({
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        // By its name and not by its label `kubernetes.io/hostname`, which may be another's or none;
        // and by the scheduler, so that a node without room says so.
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

/// A container of our own image, which has the program as its entry point.
fn ours(options: &JobOptions, name: &str, args: &[&str]) -> Value {
    json!({
        "name": name,
        "image": options.image.as_str(),
        "imagePullPolicy": "IfNotPresent",
        "args": args,
        "resources": resources("1m", "4Mi", "32Mi"),
        "securityContext": restricted(),
    })
}

fn resources(cpu: &str, memory: &str, limit: &str) -> Value {
    json!({ "requests": { "cpu": cpu, "memory": memory }, "limits": { "memory": limit } })
}

/// What the Pod Security Standard `restricted` asks of a container.
fn restricted() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
    })
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
