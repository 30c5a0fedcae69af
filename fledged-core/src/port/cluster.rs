//! The port to a cluster.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use crate::model::{AssignedImage, CacheId, NodeName};
use crate::planner::{Annotation, CacheEvent, CacheStatus, ClusterEvent};

/// Wherever caches are declared, nodes live, and assignments are recorded: Kubernetes, a simulation.
///
/// Every method may be called concurrently, but never twice at once for the same object and
/// operation. Dropping the future of a call abandons it; whether it took effect is then unknown.
/// Every write may be repeated and must then change nothing.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Cluster: Send + Sync {
    /// What happens, from now on: first everything there is, then
    /// [`ClusterEvent::Synced`], then every change, in the order of each object. Echoes of writes
    /// are among them. [`ClusterEvent::AssignmentWritten`], [`ClusterEvent::AssignmentDeleted`],
    /// [`ClusterEvent::AnnotationRemoved`] and [`ClusterEvent::Conflicted`] are not: the loop tells
    /// these.
    fn events(&self) -> BoxStream<'static, ClusterEvent>;

    /// Records what a node is to hold; returns the generation of the record, which grows with every
    /// change of it.
    ///
    /// # Errors
    ///
    /// [`ClusterError::WriteAssignment`].
    async fn write_assignment(
        &self,
        node: &NodeName,
        images: &[AssignedImage],
    ) -> Result<u64, ClusterError>;

    /// Removes the record of a node; nothing happens when there is none.
    ///
    /// # Errors
    ///
    /// [`ClusterError::DeleteAssignment`].
    async fn delete_assignment(&self, node: &NodeName) -> Result<(), ClusterError>;

    /// Records the status of a cache.
    ///
    /// # Errors
    ///
    /// [`ClusterError::WriteStatus`].
    async fn write_status(&self, cache: &CacheId, status: &CacheStatus)
    -> Result<(), ClusterError>;

    /// Takes an annotation away; nothing happens when there is none.
    ///
    /// # Errors
    ///
    /// [`ClusterError::RemoveAnnotation`].
    async fn remove_annotation(
        &self,
        cache: &CacheId,
        annotation: Annotation,
    ) -> Result<(), ClusterError>;

    /// Adds or removes our finalizer.
    ///
    /// # Errors
    ///
    /// [`ClusterError::SetFinalizer`].
    async fn set_finalizer(&self, cache: &CacheId, present: bool) -> Result<(), ClusterError>;

    /// Tells whoever looks at a cache.
    ///
    /// # Errors
    ///
    /// [`ClusterError::RecordEvent`].
    async fn record_event(&self, cache: &CacheId, event: &CacheEvent) -> Result<(), ClusterError>;
}

/// An operation on a [`Cluster`] that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// Recording an assignment.
    #[error("cannot write the assignment of node {node}: {source}")]
    WriteAssignment {
        /// Which node.
        node: NodeName,
        /// Why.
        source: WriteFailure,
    },
    /// Removing an assignment.
    #[error("cannot delete the assignment of node {node}: {source}")]
    DeleteAssignment {
        /// Which node.
        node: NodeName,
        /// Why.
        source: WriteFailure,
    },
    /// Recording a status.
    #[error("cannot write the status of image cache {cache}: {source}")]
    WriteStatus {
        /// Which cache.
        cache: CacheId,
        /// Why.
        source: WriteFailure,
    },
    /// Taking an annotation away.
    #[error("cannot remove an annotation of image cache {cache}: {source}")]
    RemoveAnnotation {
        /// Which cache.
        cache: CacheId,
        /// Why.
        source: WriteFailure,
    },
    /// Adding or removing the finalizer.
    #[error("cannot set the finalizer of image cache {cache}: {source}")]
    SetFinalizer {
        /// Which cache.
        cache: CacheId,
        /// Why.
        source: WriteFailure,
    },
    /// Telling whoever looks.
    #[error("cannot record an event of image cache {cache}: {source}")]
    RecordEvent {
        /// Which cache.
        cache: CacheId,
        /// Why.
        source: WriteFailure,
    },
}

impl ClusterError {
    /// Why it failed.
    #[must_use]
    pub fn failure(&self) -> &WriteFailure {
        match self {
            Self::WriteAssignment { source, .. }
            | Self::DeleteAssignment { source, .. }
            | Self::WriteStatus { source, .. }
            | Self::RemoveAnnotation { source, .. }
            | Self::SetFinalizer { source, .. }
            | Self::RecordEvent { source, .. } => source,
        }
    }
}

impl WriteFailure {
    /// Anything but a conflict or a missing object, with the other side's own text.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable {
            message: message.into(),
            retry_after: None,
        }
    }
}

/// Why a write failed; decides what is done about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteFailure {
    /// The object was changed meanwhile: what to write has to be thought over.
    #[error("the object was changed meanwhile: {0}")]
    Conflict(String),
    /// The object is not there any more: nothing is to be written.
    #[error("the object does not exist: {0}")]
    Gone(String),
    /// Anything else: it is tried again.
    #[error("{message}")]
    Unavailable {
        /// The other side's own text.
        message: String,
        /// How long it asked to be left alone, if it said.
        retry_after: Option<Duration>,
    },
}
