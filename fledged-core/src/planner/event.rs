//! What a planner is told, and what it asks for.

use super::status::{ActionReason, CacheStatus};
use crate::model::{
    AssignedImage, Assignment, CacheId, ImageCache, ImageCacheSpec, InvalidSpec, NodeFacts,
    NodeName, NodeReport,
};

/// Everything that is known of one cache from the object that declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheFacts {
    /// Which cache; another UID is another cache.
    pub id: CacheId,
    /// Grows with every edit of the spec (`metadata.generation`).
    pub generation: u64,
    /// The spec, or what is wrong with it.
    pub spec: Result<ImageCache, InvalidSpec>,
    /// Whether the object asks for a refresh (annotation `kubefledged.io/refresh-imagecache`).
    pub refresh_requested: bool,
    /// Whether the object asks for a purge (annotation `kubefledged.io/purge-imagecache`).
    pub purge_requested: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether our finalizer holds it.
    pub finalizer: bool,
    /// What was last recorded as its status; everything that must survive a restart is in it. `None`
    /// for a cache that no planner has told of yet.
    pub status: Option<CacheStatus>,
}

impl CacheFacts {
    /// A cache that nobody asked anything of yet, and of which nothing is recorded.
    pub fn new(id: CacheId, generation: u64, spec: Result<ImageCache, InvalidSpec>) -> Self {
        Self {
            id,
            generation,
            spec,
            refresh_requested: false,
            purge_requested: false,
            deleting: false,
            finalizer: false,
            status: None,
        }
    }

    /// A cache of that spec, which is checked.
    #[must_use]
    pub fn of_spec(id: CacheId, generation: u64, spec: &ImageCacheSpec) -> Self {
        let spec = spec.validate(id.clone());
        Self::new(id, generation, spec)
    }
}

/// Something that happened in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClusterEvent {
    /// Everything there is has been told once. Before it, nothing is written: of a partial list,
    /// what is missing would look unwanted.
    Synced,
    /// A cache is there, in this shape.
    CacheApplied(Box<CacheFacts>),
    /// A cache is there no more.
    CacheGone(CacheId),
    /// A node is there, in this shape.
    NodeApplied(NodeFacts),
    /// A node is there no more.
    NodeGone(NodeName),
    /// This is what stands recorded as a node's assignment: from before a restart, or an echo of a
    /// write.
    AssignmentRecorded {
        /// Which node.
        node: NodeName,
        /// What it is to hold, and the generation of that record.
        assignment: Assignment,
    },
    /// A node has no recorded assignment any more.
    AssignmentGone(NodeName),
    /// A node says where its images stand.
    Reported {
        /// Which node.
        node: NodeName,
        /// What it says.
        report: NodeReport,
    },
    /// A node's agent is known to be gone. It counts as silent until it reports again, turns Ready
    /// anew, or has nothing assigned, of which it could speak.
    AgentUnresponsive(NodeName),
    /// An assignment was written.
    AssignmentWritten {
        /// Which node.
        node: NodeName,
        /// The ticket of the command.
        ticket: u64,
        /// The generation that the record has now; reports name it.
        generation: u64,
    },
    /// The record of a node was removed.
    AssignmentDeleted {
        /// Which node.
        node: NodeName,
        /// The ticket of the command.
        ticket: u64,
    },
    /// An annotation was taken away; until then its sight is no new request.
    AnnotationRemoved {
        /// Which cache.
        cache: CacheId,
        /// Which annotation.
        annotation: Annotation,
    },
    /// A write was refused because the object had changed meanwhile, or is not what it seemed.
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

/// What a write goes to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum WriteTarget {
    /// The assignment of a node.
    Assignment(NodeName),
    /// A cache: its status, annotations, finalizer.
    Cache(CacheId),
}

/// A request that a user makes by an annotation, which is removed once it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Annotation {
    /// `kubefledged.io/refresh-imagecache`.
    Refresh,
    /// `kubefledged.io/purge-imagecache`.
    Purge,
}

/// Something worth telling whoever looks at a cache (a Kubernetes Event).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheEvent {
    /// Whether something went wrong (type `Warning`).
    pub warning: bool,
    /// The action it is about.
    pub reason: ActionReason,
    /// A sentence.
    pub message: String,
}

impl CacheEvent {
    /// Something that went as it should.
    pub fn normal(reason: ActionReason, message: impl Into<String>) -> Self {
        Self {
            warning: false,
            reason,
            message: message.into(),
        }
    }

    /// Something that went wrong.
    pub fn warning(reason: ActionReason, message: impl Into<String>) -> Self {
        Self {
            warning: true,
            reason,
            message: message.into(),
        }
    }
}

/// Something to do. A command replaces an earlier one for the same target that is not done yet.
///
/// Exhaustive on purpose: a loop that passed over a command it does not know would never come to rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterCommand {
    /// Record what a node is to hold and answer with [`ClusterEvent::AssignmentWritten`].
    WriteAssignment {
        /// Which node.
        node: NodeName,
        /// Number to answer with; greater ones are newer.
        ticket: u64,
        /// What it is to hold.
        images: Vec<AssignedImage>,
    },
    /// Remove a node's recorded assignment: nothing is left to say.
    DeleteAssignment {
        /// Which node.
        node: NodeName,
        /// Greater ones are newer.
        ticket: u64,
    },
    /// Record a cache's status.
    WriteStatus {
        /// Which cache.
        cache: CacheId,
        /// The whole status.
        status: Box<CacheStatus>,
    },
    /// Take an annotation away: what it asked for is recorded.
    RemoveAnnotation {
        /// Which cache.
        cache: CacheId,
        /// Which annotation.
        annotation: Annotation,
    },
    /// Add or remove our finalizer.
    SetFinalizer {
        /// Which cache.
        cache: CacheId,
        /// Whether it is to be there.
        present: bool,
    },
    /// Tell whoever looks at the cache.
    RecordEvent {
        /// Which cache.
        cache: CacheId,
        /// What to tell.
        event: CacheEvent,
    },
}
