//! How an assignment reaches a node, and how the controller learns what the node reports.
//!
//! [`AgentDriver`](super::AgentDriver) is the default: one NodeImageCache per node, which the agent on the node watches
//! and answers. [`NodeDriver`] is the seam for every other way: Jobs, a gateway in front of the nodes, a machine image
//! that is built. Pass an implementation to [`ControllerBuilder::driver`](super::ControllerBuilder::driver).

use std::error::Error;

use async_trait::async_trait;
use fledged_core::model::{AssignedImage, NodeName};
use fledged_core::planner::ClusterEvent;
use fledged_core::port::WriteFailure;
use futures_util::stream::BoxStream;
use tokio_util::sync::CancellationToken;

use crate::api::error::with_causes;

/// A node that an assignment is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct NodeTarget {
    /// Name of the Node object.
    pub name: NodeName,
    /// UID of the Node object, for owner references. A Node with the same name and another UID is another
    /// machine.
    pub uid: String,
}

impl NodeTarget {
    /// The node of that name and UID.
    #[must_use]
    pub fn new(name: NodeName, uid: impl Into<String>) -> Self {
        Self {
            name,
            uid: uid.into(),
        }
    }
}

/// How an assignment reaches a node, and how it is learnt what the node made of it.
///
/// The controller decides what every node is to hold, spends the rollout's budget and sums up what the
/// nodes say; a driver only carries both ways. It is used by the one controller that leads, and by
/// nothing else while it does.
///
/// # One node's way
///
/// 1. [`assign`](Self::assign) names everything that the node is to hold and to be rid of, each image
///    once. It replaces whatever was assigned before; an image that is not named any more is none of the
///    node's business, and stays as it is.
/// 2. The driver answers with a generation, and soon after with a first
///    [`ClusterEvent::Reported`] whose `observed_generation` is that one, though all images be
///    `Pending`: it says that the assignment has arrived.
/// 3. The node pulls and removes. The driver reports when something has changed; the more often, the
///    more often statuses are written (at most once a second for each cache).
/// 4. An image is done when a report says so that answers the generation in which it was asked for, or a
///    later one: `Cached` with a `revision` of at least the assigned one, `Removed`, `InUse` for one that
///    is to be absent but can't be taken away, or `Failed`. A greater revision asks to pull it again by
///    the policy `Always`, and else to make sure that it is there. The node gives its slot of the rollout's
///    budget back once nothing is left to pull.
/// 5. [`release`](Self::release) comes when there is nothing to say any more: no cache wants anything of
///    the node and nothing is left to remove, or the Node is gone.
///
/// Nothing of that is retried or remembered here: pulls that fail are the node's to try again, within the
/// deadline of each image; calls that fail are the controller's.
///
/// `fledged_core::runner::NodeLoop` does steps 2 to 4 for whoever has an
/// [`ImageRuntime`](fledged_core::port::ImageRuntime) for each node; what it reports needs only the
/// generation.
///
/// # The generation
///
/// It tells answers to what is asked now from answers to what was asked before. For one node it grows
/// with each change of the assignment and starts at 1 or higher; where nothing was changed it may stay as
/// it is. It counts on over a restart as long as reports can come from before it: either it is recorded
/// together with the assignment, or it starts from a number that no earlier process has reached, such as
/// the seconds since 1970. After [`ClusterEvent::AssignmentGone`] it may begin anew.
///
/// # Silence
///
/// A node that has not reported the generation of its assignment within
/// [`PlannerConfig::answer_grace`](fledged_core::planner::PlannerConfig::answer_grace) (30 s), or has
/// images to pull and says nothing for the longest deadline of these and
/// [`report_grace`](fledged_core::planner::PlannerConfig::report_grace) (60 s), counts as silent: its
/// images are unreachable and its slot goes to another. Nothing is taken back from it. Its next report
/// ends that. A node that is not Ready is treated alike, whatever it reports.
///
/// # Restarts
///
/// A driver that keeps a record of assignments tells it by [`ClusterEvent::AssignmentRecorded`] before the
/// first [`ClusterEvent::Synced`], with every field of every image, and what the nodes last said by
/// [`ClusterEvent::Reported`]: a controller that starts, or takes over, then writes nothing that
/// stands already. A driver that keeps no record sends `Synced` at once. Every assignment is then written
/// anew, a wave of the rollout's budget at a time, which is harmless where nodes find present what they
/// hold. What is lost is who wanted what: images that a cache gave up while no controller ran are not
/// removed.
///
/// # Concurrency and cancellation
///
/// Everything may be called from several tasks at once, but `assign` and `release` never twice at once for
/// the same node. A call that takes a minute is dropped and repeated later, and all are dropped when the
/// controller ends, or no longer leads: whether it took effect is then unknown, which must do no harm.
/// Each may be repeated, and then changes nothing. At most 32 are under way.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use async_trait::async_trait;
/// use fledged_core::model::{AssignedImage, NodeName};
/// use fledged_core::planner::ClusterEvent;
/// use fledged_core::port::WriteFailure;
/// use fledged_operator::driver::{NodeDriver, NodeTarget};
/// use futures_util::StreamExt;
/// use futures_util::stream::{self, BoxStream};
///
/// /// Prints what it would do. No node ever answers, so all of them count as silent after 30 s.
/// #[derive(Default)]
/// struct DryRun(AtomicU64);
///
/// #[async_trait]
/// impl NodeDriver for DryRun {
///     fn events(&self) -> BoxStream<'static, ClusterEvent> {
///         // Nothing is recorded; and a stream that ended would end the controller.
///         let listed = stream::iter([ClusterEvent::Synced]);
///         listed.chain(stream::pending()).boxed()
///     }
///
///     async fn assign(&self, node: &NodeTarget, images: &[AssignedImage]) -> Result<u64, WriteFailure> {
///         println!("{}: {images:?}", node.name);
///         Ok(self.0.fetch_add(1, Ordering::Relaxed) + 1)
///     }
///
///     async fn release(&self, node: &NodeName) -> Result<(), WriteFailure> {
///         println!("{node}: nothing any more");
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait NodeDriver: Send + Sync {
    /// What happens, from now on: first what is recorded and what was reported, then
    /// [`ClusterEvent::Synced`], then each change, in the order of each node. Never ends: a driver that
    /// loses its source finds it again, and tells what has changed meanwhile and `Synced` once more.
    ///
    /// Called once for each time that a controller comes to lead; every stream begins with everything.
    /// It is polled by the controller's own loop and must not block. What nobody takes yet has to wait
    /// somewhere: a newer report of a node may replace an older one that was not taken.
    ///
    /// A driver sends only [`ClusterEvent::AssignmentRecorded`], [`ClusterEvent::AssignmentGone`],
    /// [`ClusterEvent::Reported`] (all images of the node, not only those that changed),
    /// [`ClusterEvent::AgentUnresponsive`] and [`ClusterEvent::Synced`]. Others are ignored.
    fn events(&self) -> BoxStream<'static, ClusterEvent>;

    /// Asks a node to hold this. Returns once it is recorded or handed over, not once it is done; the
    /// generation is that of this assignment.
    ///
    /// # Errors
    ///
    /// [`WriteFailure::Unavailable`] is tried again after a while, and not before `retry_after`;
    /// [`WriteFailure::Conflict`] has it thought over first; [`WriteFailure::Gone`] says that there is no
    /// such node any more, and nothing is tried until something else is wanted of it.
    /// [`write_failure`](crate::api::error::write_failure) sorts the errors of a Kubernetes client so.
    async fn assign(
        &self,
        node: &NodeTarget,
        images: &[AssignedImage],
    ) -> Result<u64, WriteFailure>;

    /// Forgets a node: what was assigned to it does not count any more. Nothing is removed from it.
    /// Comes also for nodes that are gone.
    ///
    /// # Errors
    ///
    /// As [`assign`](Self::assign); [`WriteFailure::Gone`] is taken for success.
    async fn release(&self, node: &NodeName) -> Result<(), WriteFailure>;

    /// Work of its own while the controller leads, beside its loop: whatever is not done within the
    /// calls. By default there is none, and this waits for `shutdown`.
    ///
    /// It is begun before the first event is asked for. `shutdown` is cancelled once the loop has ended
    /// and its last calls are answered; there are 10 s to come to an end then. It is dropped at once
    /// when the controller no longer leads: somebody else may then be at work, so tasks that it spawned
    /// have to end with it (`tokio::task::JoinSet` sees to that). It is polled in the controller's own
    /// task and must not block.
    ///
    /// # Errors
    ///
    /// [`DriverError`] when it can't go on. That ends the controller, and so does an end without error
    /// before `shutdown`.
    async fn run(&self, shutdown: CancellationToken) -> Result<(), DriverError> {
        shutdown.cancelled().await;
        Ok(())
    }
}

/// Why the work of a driver can't go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct DriverError {
    problem: String,
}

impl DriverError {
    /// An error that says this: what was done to which object, and what became of it.
    #[must_use]
    pub fn new(problem: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
        }
    }

    /// An error with all its causes.
    #[must_use]
    pub fn caused_by(error: &(dyn Error + 'static)) -> Self {
        Self::new(with_causes(error))
    }
}
