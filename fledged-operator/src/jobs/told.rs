//! What is told to whoever sees to the Jobs of a node.

use std::sync::Arc;

use fledged_core::error::Failure;
use fledged_core::model::{Assignment, Digest, ImageRef};
use fledged_core::port::Removal;
use tokio::sync::oneshot;

use super::job::ReadJob;
use super::node::NodeView;
use super::pod::ReadPod;

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Failure>>;

/// One thing that happened, or is wanted.
#[derive(Debug)]
pub(super) enum Told {
    /// An image is to be pulled, by a Job in that namespace.
    Pull {
        id: u64,
        image: ImageRef,
        namespace: String,
        reply: Reply<Option<Digest>>,
    },
    /// An image is to be removed.
    Remove {
        id: u64,
        image: ImageRef,
        reply: Reply<Removal>,
    },
    /// Nobody waits for that call any more.
    Dropped(u64),
    /// The node is to hold this from now on.
    Assigned(Assignment),
    /// What is known of the node.
    Node(Arc<NodeView>),
    /// A pod of one of its Jobs.
    Pod(Arc<ReadPod>),
    PodGone(Arc<ReadPod>),
    /// One of its Jobs.
    Job(Arc<ReadJob>),
    JobGone(String),
    /// What keeps a Job, or its pod, from being created.
    Troubled(String, Failure),
    /// Nothing is assigned to the node any more: its Jobs are to be deleted.
    Released,
}
