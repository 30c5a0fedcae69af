//! What is told of a cache. The words are kube-fledged's, so that its readers go on reading.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Reason;
use crate::model::NodeName;

/// How the last action on a cache stands (`status.status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum ActionStatus {
    /// Under way.
    Processing,
    /// Every image is where it can be.
    Succeeded,
    /// At least one image is not, or the spec is invalid.
    Failed,
    /// Nothing can be said: no node that is meant can be reached.
    Unknown,
    /// Written by kube-fledged when its controller restarted. Read, never written: a restart
    /// interrupts nothing here.
    Aborted,
    /// No node matches, there was nothing to do.
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

/// Which action that is (`status.reason`, and the reason of its events).
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
    /// Its spec is invalid; what the last valid one asked for is left as it is.
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

/// Numbers of (image, node) pairs of one cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PairCounts {
    /// All that are wanted. The sum of the other four.
    pub desired: u64,
    /// Present.
    pub cached: u64,
    /// Being pulled, or waiting for it.
    pub pulling: u64,
    /// Failed for this round.
    pub failed: u64,
    /// On nodes that are not Ready, not Linux, or say nothing.
    pub unreachable: u64,
}

impl PairCounts {
    /// These pairs, and their sum.
    #[must_use]
    pub fn new(cached: u64, pulling: u64, failed: u64, unreachable: u64) -> Self {
        Self {
            desired: cached + pulling + failed + unreachable,
            cached,
            pulling,
            failed,
            unreachable,
        }
    }
}

/// One image that failed on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NodeFailure {
    /// The node.
    pub node: NodeName,
    /// Why, in one word.
    pub reason: Reason,
    /// The runtime's own text.
    pub message: String,
}

impl NodeFailure {
    /// An image that failed on that node.
    pub fn new(node: NodeName, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            node,
            reason,
            message: message.into(),
        }
    }
}

/// Which aspect of a cache a condition is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ConditionKind {
    /// Every wanted image is on every node that can be reached.
    Ready,
    /// Something is being pulled or removed.
    Progressing,
    /// Something failed, can't be reached, or is invalid.
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

/// One condition (`metav1.Condition`, whose generation is the status's own).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Condition {
    /// Which.
    pub kind: ConditionKind,
    /// Whether it holds.
    pub status: bool,
    /// Why, in one CamelCase word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Since when `status` is what it is.
    pub since: Timestamp,
}

impl Condition {
    /// A condition that holds, or does not, since then.
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

/// Everything that is recorded of a cache, for people and for the next planner.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStatus {
    /// The generation of the spec that this is about.
    pub observed_generation: u64,
    /// How the action stands.
    pub status: ActionStatus,
    /// Which action.
    pub reason: ActionReason,
    /// A sentence with the counts.
    pub message: String,
    /// A sample of failures, by image as it was written.
    pub failures: BTreeMap<String, Vec<NodeFailure>>,
    /// How many failures there are altogether: of rounds that are over, and of attempts within one.
    pub failures_total: u64,
    /// The counts.
    pub counts: PairCounts,
    /// `Ready`, `Progressing`, `Degraded`, in this order.
    pub conditions: Vec<Condition>,
    /// When the action began.
    pub start_time: Timestamp,
    /// When it ended.
    pub completion_time: Option<Timestamp>,
    /// Milliseconds since the epoch of the last refresh, zero before the first: the revision asked
    /// of nodes for images that move.
    pub refresh_revision: u64,
    /// The same of the last refresh on demand: the revision asked of nodes for images that do not move,
    /// of which they make sure for it.
    pub verify_revision: u64,
    /// Whether it is purged: it wants nothing until a refresh or an edit.
    pub purged: bool,
}

impl CacheStatus {
    /// The status of an action that began then: nothing counted, nothing told. What else there is to
    /// record is set field by field.
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

    /// Whether it says the same, as far as it can be recorded: in whole seconds.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
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
