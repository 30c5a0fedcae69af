//! The events that a planner applies, and the commands it returns.

use std::fmt;

use jiff::Timestamp;

use super::status::{ActionReason, CacheStatus};
use crate::model::{
    AssignedImage, Assignment, CacheId, ImageCache, ImageCacheSpec, InvalidSpec, NodeFacts,
    NodeName, NodeReport,
};

/// The state of one cache, read from the object that declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheFacts {
    /// Identity of the cache. An object with the same name and another UID is another cache.
    pub id: CacheId,
    /// When the object was created (`metadata.creationTimestamp`), if known.
    pub created_at: Option<Timestamp>,
    /// Generation of the spec (`metadata.generation`).
    pub generation: u64,
    /// The spec, or the fields that are invalid.
    pub spec: Result<ImageCache, InvalidSpec>,
    /// Whether the object asks for a refresh (annotation `kubefledged.io/refresh-imagecache`).
    pub refresh_requested: bool,
    /// Whether the object asks for a purge (annotation `kubefledged.io/purge-imagecache`).
    pub purge_requested: bool,
    /// The value of the refresh annotation if it is part of an applied manifest: it is done once. `None` if it
    /// was set by hand, which is done every time.
    pub declared_refresh: Option<String>,
    /// The value of the purge annotation, likewise.
    pub declared_purge: Option<String>,
    /// Whether it is being deleted (`metadata.deletionTimestamp` is set).
    pub deleting: bool,
    /// Whether it has the finalizer of this project.
    pub finalizer: bool,
    /// The recorded status. It contains everything of a cache that must survive a restart. `None` if no
    /// planner has processed the cache yet.
    pub status: Option<CacheStatus>,
}

impl CacheFacts {
    /// A new cache: no requests, no finalizer, no status.
    pub fn new(id: CacheId, generation: u64, spec: Result<ImageCache, InvalidSpec>) -> Self {
        Self {
            id,
            created_at: None,
            generation,
            spec,
            refresh_requested: false,
            purge_requested: false,
            declared_refresh: None,
            declared_purge: None,
            deleting: false,
            finalizer: false,
            status: None,
        }
    }

    /// A new cache with that spec, which is validated.
    #[must_use]
    pub fn of_spec(id: CacheId, generation: u64, spec: &ImageCacheSpec) -> Self {
        let spec = spec.validate(id.clone());
        Self::new(id, generation, spec)
    }
}

/// The record of one node, as a reader finds it: see [`Planner::from_records`](super::Planner).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeRecord {
    /// Which node.
    pub node: NodeName,
    /// The recorded images and the generation of the record.
    pub assignment: Assignment,
    /// When the assignment was last written, if known.
    pub written_at: Option<Timestamp>,
    /// The node's last report, if any.
    pub report: Option<NodeReport>,
    /// When the node last reported, if known.
    pub reported_at: Option<Timestamp>,
}

impl NodeRecord {
    /// A record without a report.
    #[must_use]
    pub fn new(node: NodeName, assignment: Assignment) -> Self {
        Self {
            node,
            assignment,
            written_at: None,
            report: None,
            reported_at: None,
        }
    }
}

/// A change in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClusterEvent {
    /// All existing objects were sent. Nothing is planned before: an incomplete list would look like
    /// deleted caches and nodes.
    Synced,
    /// A cache was created or changed.
    CacheApplied(Box<CacheFacts>),
    /// A cache was deleted.
    CacheGone(CacheId),
    /// A node was created or changed.
    NodeApplied(NodeFacts),
    /// A node was deleted.
    NodeGone(NodeName),
    /// The recorded assignment of a node: from before a restart, or the echo of a write.
    AssignmentRecorded {
        /// Which node.
        node: NodeName,
        /// The recorded images and the generation of the record.
        assignment: Assignment,
    },
    /// The recorded assignment of a node was deleted.
    AssignmentGone(NodeName),
    /// A node reports the state of its images.
    Reported {
        /// Which node.
        node: NodeName,
        /// The report.
        report: NodeReport,
    },
    /// The agent of a node is known not to respond. The node counts as unresponsive until it reports,
    /// becomes Ready again, or has nothing assigned.
    AgentUnresponsive(NodeName),
    /// An assignment was written.
    AssignmentWritten {
        /// Which node.
        node: NodeName,
        /// The ticket of the command.
        ticket: u64,
        /// The generation of the record. Reports refer to it.
        generation: u64,
    },
    /// An assignment was refused because it is too large. It is planned again with half the room.
    AssignmentTooLarge(NodeName),
    /// The record of a node was deleted by a command.
    AssignmentDeleted {
        /// Which node.
        node: NodeName,
        /// The ticket of the command.
        ticket: u64,
    },
    /// An annotation was removed by a command. Until then, seeing it is not a new request.
    AnnotationRemoved {
        /// Which cache.
        cache: CacheId,
        /// Which annotation.
        annotation: Annotation,
    },
    /// A write was refused because the object had changed meanwhile.
    Conflicted(WriteTarget),
}

impl From<CacheFacts> for ClusterEvent {
    fn from(facts: CacheFacts) -> Self {
        Self::CacheApplied(Box::new(facts))
    }
}

impl From<NodeFacts> for ClusterEvent {
    fn from(facts: NodeFacts) -> Self {
        Self::NodeApplied(facts)
    }
}

/// The target of a write.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum WriteTarget {
    /// The assignment of a node.
    Assignment(NodeName),
    /// A cache: its status, annotations, finalizer.
    Cache(CacheId),
}

/// A request that a user makes by an annotation. It is removed once the result is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Annotation {
    /// `kubefledged.io/refresh-imagecache`.
    Refresh,
    /// `kubefledged.io/purge-imagecache`.
    Purge,
}

/// The reason of an event about a cache, as a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EventReason {
    /// The start or the end of an action.
    Action(ActionReason),
    /// Pulls of an image fail.
    ImagePullFailed,
    /// An image was cached and is gone. It is pulled again.
    ImageEvicted,
    /// The record of a node has no room for the images of the cache.
    NodeRecordFull,
    /// The agent of a node does not respond.
    AgentUnresponsive,
    /// An image was pulled although Secrets or ServiceAccounts of the cache could not be used.
    CredentialsUnavailable,
    /// Every image is cached again on every reachable node, after the action had ended.
    ImagesCached,
    /// No node of the cache can be reached any more, after the action had ended.
    NodesUnreachable,
}

impl EventReason {
    /// The word itself.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Action(action) => action.as_str(),
            Self::ImagePullFailed => "ImagePullFailed",
            Self::ImageEvicted => "ImageEvicted",
            Self::NodeRecordFull => "NodeRecordFull",
            Self::AgentUnresponsive => "AgentUnresponsive",
            Self::CredentialsUnavailable => "CredentialsUnavailable",
            Self::ImagesCached => "ImagesCached",
            Self::NodesUnreachable => "NodesUnreachable",
        }
    }
}

impl fmt::Display for EventReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<ActionReason> for EventReason {
    fn from(action: ActionReason) -> Self {
        Self::Action(action)
    }
}

/// An event about a cache for its users (a Kubernetes Event).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheEvent {
    /// Whether its type is `Warning`.
    pub warning: bool,
    /// The action or the condition that the event is about.
    pub reason: EventReason,
    /// A sentence.
    pub message: String,
}

impl CacheEvent {
    /// An event of type `Normal`.
    pub fn normal(reason: impl Into<EventReason>, message: impl Into<String>) -> Self {
        Self {
            warning: false,
            reason: reason.into(),
            message: message.into(),
        }
    }

    /// An event of type `Warning`.
    pub fn warning(reason: impl Into<EventReason>, message: impl Into<String>) -> Self {
        Self {
            warning: true,
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// A write to execute. A command replaces an earlier one for the same target that is not done yet.
///
/// Exhaustive on purpose: a loop that ignores a command it does not know would never settle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterCommand {
    /// Record the assignment of a node. The result is [`ClusterEvent::AssignmentWritten`].
    WriteAssignment {
        /// Which node.
        node: NodeName,
        /// Identifies the write in its result. Later writes have greater tickets.
        ticket: u64,
        /// The images.
        images: Vec<AssignedImage>,
    },
    /// Delete the record of a node. The result is [`ClusterEvent::AssignmentDeleted`].
    DeleteAssignment {
        /// Which node.
        node: NodeName,
        /// Identifies the write in its result.
        ticket: u64,
    },
    /// Record the status of a cache.
    WriteStatus {
        /// Which cache.
        cache: CacheId,
        /// The whole status.
        status: Box<CacheStatus>,
    },
    /// Remove an annotation. The result is [`ClusterEvent::AnnotationRemoved`].
    RemoveAnnotation {
        /// Which cache.
        cache: CacheId,
        /// Which annotation.
        annotation: Annotation,
    },
    /// Add or remove the finalizer of this project.
    SetFinalizer {
        /// Which cache.
        cache: CacheId,
        /// Whether it should be set.
        present: bool,
    },
    /// Record an event about a cache.
    RecordEvent {
        /// Which cache.
        cache: CacheId,
        /// The event.
        event: CacheEvent,
    },
}
