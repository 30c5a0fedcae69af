//! Options of the Job driver.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use fledged_core::model::{ImageRef, ProtectedImages};
use k8s_openapi::api::core::v1::ResourceRequirements;

/// User of pods that pull: `nonroot` of distroless images.
const NONROOT: u32 = 65_532;
/// Label and annotation against the injection of a sidecar.
const ISTIO: (&str, &str) = ("sidecar.istio.io/inject", "false");

fn strings<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// How the pod of a Job makes the kubelet pull an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PullMethod {
    /// `ImageVolume` where the node's kubelet and runtime support it, else `Container`.
    #[default]
    Auto,
    /// Mounts images as `image` volumes (KEP-4639). Nothing of an image is run.
    ImageVolume,
    /// Runs a container of each image with a static program of the operator as its command. An init container
    /// copies the program.
    Container,
}

/// What happens to Jobs that are no longer needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retention {
    /// They are deleted.
    #[default]
    Delete,
    /// Jobs that have ended stay until their time to live expires, for inspection.
    Retain,
}

/// Options of a [`JobDriver`](super::JobDriver).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JobOptions {
    /// Image with the program `fledged-operator` as its entry point, statically linked.
    pub image: ImageRef,
    /// Namespace of the operator and of the Jobs that remove images: they mount the runtime's socket and
    /// run as root, which other namespaces may forbid. Jobs that pull run in the namespaces of the
    /// ImageCaches that want the images.
    pub namespace: String,
    /// The only namespace whose ImageCaches are served, if there is only one: Jobs are then watched there
    /// and in the operator's own namespace. Default: all namespaces.
    pub caches_namespace: Option<String>,
    /// How images are pulled. Default [`PullMethod::Auto`].
    pub pull_method: PullMethod,
    /// What happens to Jobs that are no longer needed. Default [`Retention::Delete`].
    pub retention: Retention,
    /// `ttlSecondsAfterFinished` of every Job. It also cleans up Jobs whose controller is gone. Default
    /// 1 h.
    pub ttl: Duration,
    /// `priorityClassName` of the pods.
    pub priority_class: Option<String>,
    /// `serviceAccountName` of the pods. Default: the namespace's own default. Its token is not mounted.
    pub service_account: Option<String>,
    /// Names of Secrets to pull `image` with, in the namespace of each Job, after those of the caches. A
    /// Secret that does not exist is ignored. The Secrets of the pods' ServiceAccount are named beside
    /// them, because a pod that names any gets none from its account. Default none.
    pub image_pull_secrets: Vec<String>,
    /// Path of the runtime's socket on every node. Default: the usual path of the node's runtime.
    pub socket: Option<String>,
    /// Whether pods that remove images use the host's network. Default no.
    pub removal_host_network: bool,
    /// SELinux type of pods that remove images, for example `spc_t`: a confined container may not use the
    /// runtime's socket. Default: the runtime's choice.
    pub removal_selinux_type: Option<String>,
    /// `resources` of every container. Default: small requests and a memory limit.
    pub resources: Option<ResourceRequirements>,
    /// UID and GID of pods that pull; `None`: none, so that an admission plug-in assigns them. Default 65532.
    pub user: Option<u32>,
    /// Additional labels of the pods. Those of the driver have precedence. Default: no sidecar of Istio, with which
    /// a Job would not complete.
    pub pod_labels: BTreeMap<String, String>,
    /// Additional annotations of the pods. Default: no sidecar of Istio and Linkerd.
    pub pod_annotations: BTreeMap<String, String>,
    /// Maximum number of images in one Job; each takes a container. Default 50. All names of one image are removed by the
    /// same Job, even if there are more.
    pub images_per_job: NonZeroUsize,
    /// Maximum number of Jobs created per second. Default 20.
    pub creations_per_second: NonZeroU32,
    /// How long the creation of a Job waits for more images. Default 100 ms.
    pub debounce: Duration,
    /// How much newer than a pull or a removal a node's list of images must be to override it. The
    /// kubelet's list is up to 30 s old when it is reported. Default 60 s.
    pub list_margin: Duration,
    /// Images that are never removed. Default [`ProtectedImages::default`] and `image`.
    pub protected: ProtectedImages,
    /// Maximum number of images that a kubelet lists (its `nodeStatusMaxImages`): absence from a list of
    /// that length proves nothing. Default 50.
    pub list_max: usize,
}

impl JobOptions {
    /// The defaults, with that image for every Job, in that namespace of the operator.
    #[must_use]
    pub fn new(image: ImageRef, namespace: impl Into<String>) -> Self {
        Self {
            protected: ProtectedImages::default().and_image(&image),
            image,
            namespace: namespace.into(),
            caches_namespace: None,
            pull_method: PullMethod::default(),
            retention: Retention::default(),
            ttl: Duration::from_secs(3600),
            priority_class: None,
            service_account: None,
            image_pull_secrets: Vec::new(),
            socket: None,
            removal_host_network: false,
            removal_selinux_type: None,
            resources: None,
            user: Some(NONROOT),
            pod_labels: strings([ISTIO]),
            pod_annotations: strings([ISTIO, ("linkerd.io/inject", "disabled")]),
            images_per_job: NonZeroUsize::MIN.saturating_add(49),
            creations_per_second: NonZeroU32::MIN.saturating_add(19),
            debounce: Duration::from_millis(100),
            list_margin: Duration::from_secs(60),
            list_max: 50,
        }
    }

    /// Namespaces whose Jobs and pods are watched; `None` means all namespaces.
    pub(super) fn watched_namespaces(&self) -> Vec<Option<String>> {
        match &self.caches_namespace {
            None => vec![None],
            Some(caches) if *caches == self.namespace => vec![Some(caches.clone())],
            Some(caches) => vec![Some(caches.clone()), Some(self.namespace.clone())],
        }
    }
}
