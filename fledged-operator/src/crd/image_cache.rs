//! `ImageCache`: which images belong on which nodes.

use std::collections::BTreeMap;

use fledged_core::model::{self, CacheSpecImages, DeletionPolicy, LocalObjectReference, Rollout};
use fledged_core::planner::PairCounts;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a user wants: images, the nodes they belong on, and how they get there.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubefledged.io",
    version = "v1alpha2",
    kind = "ImageCache",
    plural = "imagecaches",
    singular = "imagecache",
    shortname = "ic",
    namespaced,
    status = "ImageCacheStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Container images that are to be on nodes before the pods that need them.",
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.status","description":"How the last action stands"}"#,
    printcolumn = r#"{"name":"Cached","type":"string","jsonPath":".status.cached","description":"Images that are on their nodes, of all that are to be"}"#,
    printcolumn = r#"{"name":"Failed","type":"integer","jsonPath":".status.failuresTotal","description":"Images that failed on a node"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ImageCacheSpec {
    /// Which images on which nodes.
    pub cache_spec: Vec<CacheSpecImages>,
    /// Secrets with registry credentials, in the ImageCache's own namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// ServiceAccount in the same namespace whose `imagePullSecrets` are used as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// What happens to the images when the ImageCache is deleted: `Retain` (the default) leaves them
    /// on the nodes, `Purge` removes them first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// How fast the images go out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

impl From<ImageCacheSpec> for model::ImageCacheSpec {
    fn from(wire: ImageCacheSpec) -> Self {
        let mut spec = Self::new(wire.cache_spec);
        spec.image_pull_secrets = wire.image_pull_secrets;
        spec.service_account_name = wire.service_account_name;
        spec.deletion_policy = wire.deletion_policy;
        spec.rollout = wire.rollout;
        spec
    }
}

impl From<model::ImageCacheSpec> for ImageCacheSpec {
    fn from(spec: model::ImageCacheSpec) -> Self {
        Self {
            cache_spec: spec.cache_spec,
            image_pull_secrets: spec.image_pull_secrets,
            service_account_name: spec.service_account_name,
            deletion_policy: spec.deletion_policy,
            rollout: spec.rollout,
        }
    }
}

/// How far an ImageCache has got. The first six fields are kube-fledged's, with its words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageCacheStatus {
    /// How the last action stands: `Processing`, `Succeeded`, `Failed`, `Unknown`,
    /// `NoImagesPulledOrDeleted`; `Aborted` only where kube-fledged wrote it.
    pub status: String,
    /// The last action: `ImageCacheCreate`, `ImageCacheUpdate`, `ImageCacheRefresh`,
    /// `ImageCachePurge`, `ImageCacheDelete`, `CacheSpecValidationFailed`.
    pub reason: String,
    /// A sentence with the counts.
    pub message: String,
    /// A sample of what failed, or fails so far: by image, on which node and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<String, Vec<NodeReasonMessage>>,
    /// When the last action began.
    pub start_time: Time,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Progressing`, `Degraded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Images on their nodes, of all that are to be, `95/100`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<String>,
    /// The numbers behind it, in (image, node) pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<PairCounts>,
    /// How many failures there are, of which `failures` is a sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures_total: Option<u64>,
    /// Milliseconds since the epoch of the last refresh: the revision asked of the nodes for images
    /// that move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_revision: Option<u64>,
    /// Milliseconds since the epoch of the last refresh on demand: the revision asked of the nodes for
    /// images that do not move, of which they make sure for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_revision: Option<u64>,
    /// Whether it is purged: it wants nothing until a refresh or an edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged: Option<bool>,
}

/// Why an image failed on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeReasonMessage {
    /// The node's name.
    pub node: String,
    /// Why, in one word.
    pub reason: String,
    /// The runtime's or registry's own text.
    pub message: String,
}
