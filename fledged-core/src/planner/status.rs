//! The status of a cache. Its words are those of kube-fledged, so that programs that read them keep
//! working.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Reason;
use crate::model::NodeName;

/// The state of the last action on a cache (`status.status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum ActionStatus {
    /// In progress.
    Processing,
    /// Every image is on every reachable node.
    Succeeded,
    /// At least one image failed, or the spec is invalid.
    Failed,
    /// The result is unknown, because no selected node is reachable.
    Unknown,
    /// Written by kube-fledged when its controller restarted. Read but never written, because a restart
    /// interrupts nothing.
    Aborted,
    /// No node matches, so there was nothing to do.
    NoImagesPulledOrDeleted,
}

impl ActionStatus {
    /// The word itself.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Processing => "Processing",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Unknown => "Unknown",
            Self::Aborted => "Aborted",
            Self::NoImagesPulledOrDeleted => "NoImagesPulledOrDeleted",
        }
    }
}

impl fmt::Display for ActionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The last action on a cache (`status.reason`, and the reason of its events).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum ActionReason {
    /// The cache was created.
    ImageCacheCreate,
    /// Its spec was edited.
    ImageCacheUpdate,
    /// It was refreshed, on demand or by the interval.
    ImageCacheRefresh,
    /// It was purged.
    ImageCachePurge,
    /// It is being deleted.
    ImageCacheDelete,
    /// Its spec is invalid. Images of the last valid spec stay.
    CacheSpecValidationFailed,
}

impl ActionReason {
    /// The word itself.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ImageCacheCreate => "ImageCacheCreate",
            Self::ImageCacheUpdate => "ImageCacheUpdate",
            Self::ImageCacheRefresh => "ImageCacheRefresh",
            Self::ImageCachePurge => "ImageCachePurge",
            Self::ImageCacheDelete => "ImageCacheDelete",
            Self::CacheSpecValidationFailed => "CacheSpecValidationFailed",
        }
    }
}

impl fmt::Display for ActionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Numbers of (image, node) pairs of a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PairCounts {
    /// All desired pairs: the sum of `cached`, `pulling`, `failed` and `unreachable`.
    pub desired: u64,
    /// Present.
    pub cached: u64,
    /// Being pulled or waiting to be pulled.
    pub pulling: u64,
    /// Failed in the last round of attempts.
    pub failed: u64,
    /// On nodes that are NotReady, non-Linux or unresponsive.
    pub unreachable: u64,
    /// Digests that tags named before and that are still on nodes, because they are in use or not removed yet.
    /// Not part of `desired`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub superseded: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde calls"
)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl PairCounts {
    /// Counts with these parts.
    #[must_use]
    pub fn new(cached: u64, pulling: u64, failed: u64, unreachable: u64) -> Self {
        Self {
            desired: cached + pulling + failed + unreachable,
            cached,
            pulling,
            failed,
            unreachable,
            superseded: 0,
        }
    }

    /// With the number of digests that tags named before and that are still on nodes.
    #[must_use]
    pub fn with_superseded(mut self, superseded: u64) -> Self {
        self.superseded = superseded;
        self
    }
}

/// What a purge or a deletion has removed: images, counted on each node, and nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RemovedCounts {
    /// Images that were removed, counted on each node.
    pub images: u64,
    /// Nodes that images were removed from.
    pub nodes: u64,
    /// Images that stay because a container uses them, or another image or cache needs them, counted on each node.
    #[serde(default)]
    pub kept: u64,
}

impl RemovedCounts {
    /// Counts of these images on these nodes.
    #[must_use]
    pub fn new(images: u64, nodes: u64) -> Self {
        let kept = 0;
        Self {
            images,
            nodes,
            kept,
        }
    }

    /// With the number of images that stay.
    #[must_use]
    pub fn with_kept(mut self, kept: u64) -> Self {
        self.kept = kept;
        self
    }

    /// Whether no image was removed or kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes + self.kept == 0
    }
}

/// The values of action annotations that are part of a manifest and done. Tools that keep objects as in their
/// manifests put the annotations back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct LastActions {
    /// The value of the refresh annotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<String>,
    /// The value of the purge annotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge: Option<String>,
}

/// One image that failed on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NodeFailure {
    /// The node.
    pub node: NodeName,
    /// Why, as a word.
    pub reason: Reason,
    /// The runtime's own text.
    pub message: String,
}

impl NodeFailure {
    /// A failure on that node.
    pub fn new(node: NodeName, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            node,
            reason,
            message: message.into(),
        }
    }
}

/// The type of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ConditionKind {
    /// Every desired image is on every reachable node.
    Ready,
    /// Something is being pulled or removed.
    Progressing,
    /// Something failed, is unreachable or invalid.
    Degraded,
}

impl ConditionKind {
    /// The word itself.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Progressing => "Progressing",
            Self::Degraded => "Degraded",
        }
    }
}

impl fmt::Display for ConditionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A condition (`metav1.Condition`). Its observed generation is that of the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Condition {
    /// Its type.
    pub kind: ConditionKind,
    /// Whether it holds.
    pub status: bool,
    /// Why, as a CamelCase word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Time since which `status` has its value.
    pub since: Timestamp,
}

impl Condition {
    /// A condition with that status since that time.
    pub fn new(
        kind: ConditionKind,
        status: bool,
        reason: impl Into<String>,
        message: impl Into<String>,
        since: Timestamp,
    ) -> Self {
        Self {
            kind,
            status,
            reason: reason.into(),
            message: message.into(),
            since,
        }
    }
}

/// The recorded status of a cache, for users and for the next planner.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStatus {
    /// The generation of the spec that the status refers to.
    pub observed_generation: u64,
    /// State of the action.
    pub status: ActionStatus,
    /// The action.
    pub reason: ActionReason,
    /// A sentence with the counts.
    pub message: String,
    /// The first failures, by image as spelled in the spec.
    pub failures: BTreeMap<String, Vec<NodeFailure>>,
    /// Number of all failures: of finished rounds, and of attempts in a round that continues.
    pub failures_total: u64,
    /// The counts.
    pub counts: PairCounts,
    /// `Ready`, `Progressing`, `Degraded`, in this order.
    pub conditions: Vec<Condition>,
    /// When the action started.
    pub start_time: Timestamp,
    /// When it ended.
    pub completion_time: Option<Timestamp>,
    /// Time of the last refresh in milliseconds since the epoch, zero before the first. This is the
    /// revision that nodes are asked for where an image is pulled again: mutable tags and `Always`.
    pub refresh_revision: u64,
    /// Time of the last refresh on demand, in the same unit. This is the revision of all other images,
    /// which nodes verify for it.
    pub verify_revision: u64,
    /// What the last action has removed, if it is a purge or a deletion.
    pub removed: RemovedCounts,
    /// The values of declared action annotations that are done.
    pub last_actions: LastActions,
    /// Whether it is purged: no images are desired until a refresh or an edit.
    pub purged: bool,
}

impl CacheStatus {
    /// The status of an action that started at that time, without message, counts and conditions.
    #[must_use]
    pub fn new(
        observed_generation: u64,
        reason: ActionReason,
        status: ActionStatus,
        start_time: Timestamp,
    ) -> Self {
        Self {
            observed_generation,
            status,
            reason,
            message: String::new(),
            failures: BTreeMap::new(),
            failures_total: 0,
            counts: PairCounts::default(),
            conditions: Vec::new(),
            start_time,
            completion_time: None,
            refresh_revision: 0,
            verify_revision: 0,
            removed: RemovedCounts::default(),
            last_actions: LastActions::default(),
            purged: false,
        }
    }

    /// The condition of that kind.
    #[must_use]
    pub fn condition(&self, kind: ConditionKind) -> Option<&Condition> {
        self.conditions
            .iter()
            .find(|condition| condition.kind == kind)
    }

    /// Whether both are equal as recorded, that is in whole seconds.
    pub(super) fn is_equivalent(&self, other: &Self) -> bool {
        self.in_seconds() == other.in_seconds()
    }

    fn in_seconds(&self) -> Self {
        let whole = |at: Timestamp| Timestamp::from_second(at.as_second()).unwrap_or(at);
        let mut rounded = self.clone();
        rounded.start_time = whole(self.start_time);
        rounded.completion_time = self.completion_time.map(whole);
        for condition in &mut rounded.conditions {
            condition.since = whole(condition.since);
        }
        rounded
    }
}
