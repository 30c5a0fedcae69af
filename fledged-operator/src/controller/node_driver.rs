//! How an assignment reaches a node, and how the controller learns what the node reports.
//!
//! [`AgentDriver`](super::AgentDriver) is the default: one NodeImageCache per node, which the agent on the node watches
//! and reports in. [`NodeDriver`] is the interface for other ways: Jobs, a gateway in front of the nodes, a machine
//! image that is built. An implementation goes into [`ControllerConfig::driver`](super::ControllerConfig::driver).

use std::error::Error;

use async_trait::async_trait;
use fledged_core::model::{AssignedImage, NodeName};
use fledged_core::planner::ClusterEvent;
use fledged_core::port::WriteFailure;
use fledged_kube::request_error::with_causes;
use futures_util::stream::BoxStream;
use tokio_util::sync::CancellationToken;

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
    /// The node with this name and UID.
    #[must_use]
    pub fn new(name: NodeName, uid: impl Into<String>) -> Self {
        Self {
            name,
            uid: uid.into(),
        }
    }
}

/// How an assignment reaches a node, and how the controller learns what the node reports.
///
/// The controller decides what every node should hold, spends the rollout's budget and sums up the reports. A
/// driver only transports both. Only the leading controller uses it.
///
/// # The protocol of one node
///
/// 1. [`assign`](Self::assign) names every image that the node should hold or remove, each once. It replaces the
///    previous assignment. Images that are no longer named are not managed any more and stay as they are.
/// 2. The driver returns a generation, and soon after sends a first [`ClusterEvent::Reported`] with this
///    `observed_generation`, even if all images are `Pending`: it acknowledges the assignment.
/// 3. The node pulls and removes images. The driver reports changes; more reports mean more status writes (at most
///    one a second for each cache).
/// 4. An image is done when a report for the generation that requested it, or a later one, has `Cached` with a
///    `revision` of at least the assigned one, `Removed`, `InUse` for an image that should be absent but cannot be
///    removed, or `Failed`. A greater revision requests a new pull if the policy is `Always`, and otherwise a check
///    that the image is present. The node releases its rollout slot once nothing is left to pull.
/// 5. [`release`](Self::release) is called when no cache desires anything of the node and nothing is left to
///    remove, or when the Node is gone.
///
/// The driver neither retries nor remembers anything: the node retries failed pulls within the deadline of each
/// image, and the controller retries failed calls.
///
/// `fledged_core::runner::NodeLoop` implements steps 2 to 4 for any
/// [`ImageRuntime`](fledged_core::port::ImageRuntime); only the generation has to be added to its reports.
///
/// # The generation
///
/// The generation matches reports to assignments. It starts at 1 or higher and grows with each change of a node's
/// assignment; without a change it may stay the same. After a restart it must continue from a higher number as long
/// as old reports can arrive: either it is stored together with the assignment, or it starts from a number that no
/// earlier process has reached, such as the Unix time in seconds. After [`ClusterEvent::AssignmentGone`] it may
/// start again.
///
/// # Unresponsive nodes
///
/// A node is unresponsive if it has not reported the generation of its assignment within
/// [`PlannerConfig::answer_grace`](fledged_core::planner::PlannerConfig::answer_grace) (30 s), or has images to pull
/// and has not reported for the longest of their deadlines plus
/// [`report_grace`](fledged_core::planner::PlannerConfig::report_grace) (60 s). Its images count as unreachable and
/// another node gets its slot. Its assignment stays. The next report ends this state. A node that is NotReady is
/// treated the same way, whatever it reports.
///
/// # Restarts
///
/// A driver that stores assignments sends them as [`ClusterEvent::AssignmentRecorded`] before the first
/// [`ClusterEvent::Synced`], with every field of every image, and the last reports as [`ClusterEvent::Reported`]. A
/// controller that starts or takes over then writes only what differs. A driver that stores nothing sends `Synced`
/// at once. The controller then writes every assignment again, one rollout wave at a time, which is harmless for
/// images that are present. One thing is lost: images that a cache gave up while no controller ran are not removed.
///
/// # Concurrency and cancellation
///
/// Calls may come from several tasks at once, but never two at once for the same node. A call that takes a minute is
/// dropped and repeated later. All calls are dropped when the controller ends or loses the lease, and it is then
/// unknown whether they took effect. Every call must be idempotent. At most 32 are in progress.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use async_trait::async_trait;
/// use fledged_core::model::{AssignedImage, NodeName};
/// use fledged_core::planner::ClusterEvent;
/// use fledged_core::port::WriteFailure;
/// use fledged_operator::controller::{NodeDriver, NodeTarget};
/// use futures_util::StreamExt;
/// use futures_util::stream::{self, BoxStream};
///
/// /// Prints what it would do. No node ever reports, so all of them are unresponsive after 30 s.
/// #[derive(Default)]
/// struct DryRun(AtomicU64);
///
/// #[async_trait]
/// impl NodeDriver for DryRun {
///     fn events(&self) -> BoxStream<'static, ClusterEvent> {
///         // Nothing is stored. A stream that ends would end the controller.
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
///         println!("{node}: released");
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait NodeDriver: Send + Sync {
    /// The events: first the stored assignments and last reports, then [`ClusterEvent::Synced`], then each change,
    /// in order for each node. It never ends: a driver that loses its source reconnects, sends what has changed
    /// meanwhile, and sends `Synced` again.
    ///
    /// It is called each time that a controller starts to lead; every stream starts with the complete state. The
    /// controller's loop polls it, so it must not block. The driver has to buffer events that are not polled yet; a
    /// newer report of a node may replace an older one.
    ///
    /// A driver sends only [`ClusterEvent::AssignmentRecorded`], [`ClusterEvent::AssignmentGone`],
    /// [`ClusterEvent::Reported`] (all images of the node, not only those that changed),
    /// [`ClusterEvent::AgentUnresponsive`] and [`ClusterEvent::Synced`]. Others are ignored.
    fn events(&self) -> BoxStream<'static, ClusterEvent>;

    /// Assigns images to a node. Returns the generation of the assignment once it is stored or handed over, not once
    /// the node has acted on it.
    ///
    /// # Errors
    ///
    /// [`WriteFailure::Unavailable`] is retried later, not before `retry_after`. [`WriteFailure::Conflict`] is planned
    /// again first. [`WriteFailure::Gone`] means that the node does not exist any more; nothing is retried until its
    /// assignment changes. [`write_failure`](fledged_kube::request_error::write_failure) classifies the errors of a Kubernetes
    /// client.
    async fn assign(
        &self,
        node: &NodeTarget,
        images: &[AssignedImage],
    ) -> Result<u64, WriteFailure>;

    /// Deletes the assignment of a node. Its images stay on it. It is also called for nodes that do not exist any
    /// more.
    ///
    /// # Errors
    ///
    /// As [`assign`](Self::assign); [`WriteFailure::Gone`] counts as success.
    async fn release(&self, node: &NodeName) -> Result<(), WriteFailure>;

    /// Background work of the driver while the controller leads. The default waits for `shutdown`.
    ///
    /// It starts before the first event is polled. `shutdown` is cancelled once the loop has ended and its last calls
    /// have returned; the driver then has 10 s to end. It is dropped at once when the controller loses the lease.
    /// Another controller may then be active, so tasks that it has spawned must end with it (use
    /// `tokio::task::JoinSet`). It is polled in the controller's task and must not block.
    ///
    /// # Errors
    ///
    /// [`DriverError`] if it cannot continue. This ends the controller, and so does a return before `shutdown`.
    async fn run(&self, shutdown: CancellationToken) -> Result<(), DriverError> {
        shutdown.cancelled().await;
        Ok(())
    }
}

/// Why a driver cannot continue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct DriverError {
    problem: String,
}

impl DriverError {
    /// An error with this message. Name the operation, the object and the cause.
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
