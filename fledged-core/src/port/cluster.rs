//! The port to a cluster.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use crate::model::{AssignedImage, CacheId, NodeName};
use crate::planner::{Annotation, CacheEvent, CacheStatus, ClusterEvent};

/// The place where caches are declared, nodes register and assignments are recorded, for example
/// Kubernetes or a simulation.
///
/// Methods may be called concurrently, but never twice at once for the same object and operation.
/// Dropping the future of a call abandons it; whether the write took effect is then unknown. Every
/// write is idempotent: repeating it changes nothing.
///
/// # Errors
///
/// Every write returns a [`WriteFailure`], which decides what the loop does next. The caller knows the
/// operation and the object, so the failure names neither.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Cluster: Send + Sync {
    /// A stream of events: first every existing object, then [`ClusterEvent::Synced`], then every
    /// change, in order for each object. Echoes of writes are included.
    /// [`ClusterEvent::AssignmentWritten`], [`ClusterEvent::AssignmentDeleted`],
    /// [`ClusterEvent::AnnotationRemoved`] and [`ClusterEvent::Conflicted`] are not: the loop creates
    /// them from the results of writes.
    fn events(&self) -> BoxStream<'static, ClusterEvent>;

    /// Records the assignment of a node and returns the generation of the record, which grows with
    /// every change.
    async fn write_assignment(
        &self,
        node: &NodeName,
        images: &[AssignedImage],
    ) -> Result<u64, WriteFailure>;

    /// Deletes the record of a node. Succeeds if there is none.
    async fn delete_assignment(&self, node: &NodeName) -> Result<(), WriteFailure>;

    /// Records the status of a cache.
    async fn write_status(&self, cache: &CacheId, status: &CacheStatus)
    -> Result<(), WriteFailure>;

    /// Removes an annotation from a cache. Succeeds if it is not set.
    async fn remove_annotation(
        &self,
        cache: &CacheId,
        annotation: Annotation,
    ) -> Result<(), WriteFailure>;

    /// Adds the finalizer to a cache, or removes it.
    async fn set_finalizer(&self, cache: &CacheId, present: bool) -> Result<(), WriteFailure>;

    /// Records an event about a cache for its users.
    async fn record_event(&self, cache: &CacheId, event: &CacheEvent) -> Result<(), WriteFailure>;
}

/// Why a write failed. The variant decides what happens next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteFailure {
    /// The object changed since it was read. The write is planned again, not repeated.
    #[error("the object was changed meanwhile: {0}")]
    Conflict(String),
    /// The object does not exist. The write is dropped.
    #[error("the object does not exist: {0}")]
    Gone(String),
    /// The object would be larger than what the server stores. An assignment is planned again with less room;
    /// another write is retried after minutes.
    #[error("the object is too large: {0}")]
    TooLarge(String),
    /// Any other failure. The write is retried.
    #[error("{message}")]
    Unavailable {
        /// The server's own text.
        message: String,
        /// The delay that the server asked for, if any.
        retry_after: Option<Duration>,
    },
}

impl WriteFailure {
    /// A failure other than a conflict or a missing object, with the server's own text.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable {
            message: message.into(),
            retry_after: None,
        }
    }
}
