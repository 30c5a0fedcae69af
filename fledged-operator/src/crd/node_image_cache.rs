//! `NodeImageCache`: what one node should hold, and what it says of it.

use fledged_core::model::{DesiredState, ImagePhase, ImagePullPolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Seconds of [`NodeImage::pull_deadline_seconds`] where none is written: kube-fledged's
/// `--image-pull-deadline-duration`.
pub(super) const DEADLINE_SECONDS: u32 = 300;

// Lists are atomic and defaults are left out, so that an object of 20 images that were all pulled has
// some 7 KB, its metadata included.
/// What the node is to hold. Written by the controller alone.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubefledged.io",
    version = "v1alpha2",
    kind = "NodeImageCache",
    plural = "nodeimagecaches",
    singular = "nodeimagecache",
    shortname = "nic",
    status = "NodeImageCacheStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "What one node is to hold, folded from all ImageCaches, and what its agent says of it. Named after its Node.",
    printcolumn = r#"{"name":"Desired","type":"integer","jsonPath":".status.desired","description":"Images that are to be on the node"}"#,
    printcolumn = r#"{"name":"Cached","type":"integer","jsonPath":".status.cached","description":"Images that are"}"#,
    printcolumn = r#"{"name":"Failed","type":"integer","jsonPath":".status.failed","description":"Images that failed"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct NodeImageCacheSpec {
    /// The ImageCaches that want any of the images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<CacheReference>,
    /// The images, each once.
    #[serde(default)]
    pub images: Vec<NodeImage>,
}

/// One ImageCache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CacheReference {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, which tells it from a later one of the same name.
    pub uid: String,
}

/// One image that is to be on the node, or is to leave it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeImage {
    /// The normalised reference.
    pub image: String,
    /// `Present` where nothing is written.
    #[serde(default, skip_serializing_if = "is_default")]
    pub state: DesiredState,
    /// When to pull although it is present; `IfNotPresent` where nothing is written.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pull_policy: ImagePullPolicy,
    /// A greater revision than the one last satisfied asks for a new pull where `pullPolicy` is
    /// `Always`, and else for a new look at what the runtime holds, and a pull if it is not there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub revision: u64,
    /// Longest a round of pulling may take, in seconds from the start of its first attempt; 300
    /// where nothing is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_deadline_seconds: Option<u32>,
    /// Higher comes first; 0 where nothing is written.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i32,
    /// Secrets with registry credentials, `namespace/name`, in the order to try them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pull_secrets: Vec<String>,
    /// ServiceAccounts whose `imagePullSecrets` are used as well, `namespace/name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<String>,
    /// UIDs of the caches that want it; all of `caches` where nothing is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_by: Option<Vec<String>>,
}

/// What the node's agent says. Written by the agent alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeImageCacheStatus {
    /// Generation of the spec that this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Images that are to be on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<u32>,
    /// Images that are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<u32>,
    /// Images that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<u32>,
    /// Where each image stands, in the order of the spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<NodeImageStatus>,
}

/// Where one image stands on the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeImageStatus {
    /// The normalised reference.
    pub image: String,
    /// `Pending`, `Pulling`, `BackingOff`, `Cached`, `Failed`, `Removing`, `Removed`, `InUse`.
    pub phase: ImagePhase,
    /// Digest of what is present, where the runtime tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Size of what is present, in bytes, as the runtime counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Attempts of the current or last round of pulling, where there was more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Start of that round's first attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Time>,
    /// When the round ended, well or badly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Time>,
    /// When the next attempt is due, while backing off, failed or held back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Time>,
    /// The revision that was last satisfied; 0 where nothing is written of a cached image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The runtime's or registry's own text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
