//! The loop around a [`Warmer`].

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable, BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, Stream, StreamExt};
use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::anonymous::AnonymousDelays;
use super::operation::{PullPorts, answered, pull, read_inventory};
use super::select::first_of;
use crate::error::{Failure, Reason};
use crate::model::{Assignment, ByteSize, ImagePhase, ImageRef, ImageReport, NodeReport};
use crate::port::{
    Anonymous, Clock, Credentials, CredentialsRequest, ImageRuntime, ProgressSink, PullProgress,
    RemovalScope, RuntimeImage, SharedPullLimit,
};
use crate::time::between;
use crate::warmer::{NodeCommand, NodeEvent, PullId, Warmer};

/// Observes a node's images. Called from the loop: must not block.
pub trait NodeObserver: Send + Sync {
    /// The state of one image changed. Followed by [`report`](Self::report).
    fn image_changed(&self, report: &ImageReport) {
        let _ = report;
    }

    /// The state of at least one image changed, or the node has a new assignment: the state of all
    /// images. Called for every assignment before anything is done about it, also when no image
    /// changed.
    fn report(&self, report: NodeReport) {
        let _ = report;
    }

    /// A pull was started. [`pull_ended`](Self::pull_ended) follows, exactly once.
    fn pull_started(&self, image: &ImageRef) {
        let _ = image;
    }

    /// A running pull has progressed. May still be called once the pull has ended.
    fn progress(&self, image: &ImageRef, progress: PullProgress) {
        let _ = (image, progress);
    }

    /// A pull has ended, with all its attempts with different credentials, `took` after it was started.
    fn pull_ended(&self, image: &ImageRef, outcome: PullOutcome<'_>, took: Duration) {
        let _ = (image, outcome, took);
    }

    /// An operation of the runtime failed that concerns no single image; it is retried. The operation
    /// is `inventory`: reading what the runtime holds.
    fn runtime_failed(&self, operation: &str, failure: &Failure) {
        let _ = (operation, failure);
    }
}

/// How a pull ended.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum PullOutcome<'a> {
    /// The runtime holds the image.
    Succeeded(&'a RuntimeImage),
    /// It failed, for the reason that the state of the image has.
    Failed(Reason),
    /// It is not needed any more, or the loop ended.
    Cancelled,
}

/// The observer of a loop that has none.
#[derive(Debug, Clone, Copy, Default)]
struct NoObserver;

impl NodeObserver for NoObserver {}

/// A pull that was started and has not ended.
struct RunningPull {
    handle: AbortHandle,
    image: ImageRef,
    began: Timestamp,
    /// Bytes received since its start.
    received: Arc<AtomicU64>,
    /// Those that the warmer knows of.
    applied: u64,
    limit: SharedPullLimit,
}

/// An operation that ended.
enum Done {
    Event(NodeEvent, Option<PullId>, Option<RemovalScope>),
    /// What pulls of a removed image had left is deleted.
    Discarded,
    Cancelled,
}

/// Drives one node: polls its [`Warmer`], carries out the commands through the ports, and applies the
/// results.
///
/// Everything runs in the task that polls [`settle`](Self::settle) or [`run`](Self::run). Running
/// operations pause when that future is dropped. They are abandoned when the loop is dropped, or when one
/// of the two methods is called again, which starts with a new inventory.
pub struct NodeLoop {
    warmer: Warmer,
    runtime: Arc<dyn ImageRuntime>,
    credentials: Arc<dyn Credentials>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn NodeObserver>,
    operations: FuturesUnordered<BoxFuture<'static, Done>>,
    pulls: BTreeMap<PullId, RunningPull>,
    removal: Option<RemovalScope>,
    anonymous: Arc<AnonymousDelays>,
    /// Removed images whose remains are being deleted.
    discarding: usize,
    /// Whether it was started before.
    started: bool,
}

impl fmt::Debug for NodeLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeLoop")
            .field("warmer", &self.warmer)
            .field("operations", &self.operations.len())
            .finish_non_exhaustive()
    }
}

impl NodeLoop {
    /// A loop over these ports that pulls anonymously and has no observer.
    #[must_use]
    pub fn new(warmer: Warmer, runtime: Arc<dyn ImageRuntime>, clock: Arc<dyn Clock>) -> Self {
        Self {
            warmer,
            runtime,
            credentials: Arc::new(Anonymous),
            clock,
            observer: Arc::new(NoObserver),
            operations: FuturesUnordered::new(),
            pulls: BTreeMap::new(),
            removal: None,
            anonymous: Arc::default(),
            discarding: 0,
            started: false,
        }
    }

    /// With a source of credentials.
    #[must_use]
    pub fn with_credentials(mut self, credentials: Arc<dyn Credentials>) -> Self {
        self.credentials = credentials;
        self
    }

    /// With an observer.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn NodeObserver>) -> Self {
        self.observer = observer;
        self
    }

    /// The current state of every image.
    #[must_use]
    pub fn report(&self) -> NodeReport {
        self.warmer.report()
    }

    /// Runs one round of the assignment and returns the state of every image at its end. Always ends,
    /// because each image has a deadline. May be called repeatedly; each call starts with a new inventory.
    pub async fn settle(&mut self, assignment: Assignment) -> NodeReport {
        self.begin();
        self.apply(NodeEvent::Assigned(assignment));
        loop {
            let pause = self.advance();
            if self.warmer.is_settled() && self.discarding == 0 {
                break;
            }
            match pause {
                None if self.operations.is_empty() => break,
                pause => self.step(pause).await,
            }
        }
        self.abandon();
        self.report()
    }

    /// Reconciles the node with the last assignment from `inputs` until `shutdown` resolves, even after
    /// `inputs` has ended. Running operations are abandoned at shutdown.
    ///
    /// Inputs are [`Assigned`](NodeEvent::Assigned), [`RefreshRequested`](NodeEvent::RefreshRequested),
    /// [`ResyncRequested`](NodeEvent::ResyncRequested) and [`Resumed`](NodeEvent::Resumed); the loop
    /// itself applies the other events, and ignores them among the inputs.
    pub async fn run<S, F>(&mut self, inputs: S, shutdown: F) -> NodeReport
    where
        S: Stream<Item = NodeEvent>,
        F: Future<Output = ()>,
    {
        self.begin();
        let inputs = inputs.fuse();
        let shutdown = shutdown.fuse();
        futures_util::pin_mut!(inputs, shutdown);
        let mut open = true;
        loop {
            let pause = self.advance();
            // Dropping the future loses only a timer.
            let input = async {
                match open {
                    true => inputs.next().await,
                    false => std::future::pending().await,
                }
            };
            futures_util::select_biased! {
                () = shutdown => break,
                // Before the inputs, so that many inputs do not delay running operations.
                () = self.step(pause).fuse() => {}
                input = input.fuse() => match input {
                    Some(input) => self.take_input(input),
                    None => open = false,
                },
            }
        }
        self.abandon();
        self.report()
    }

    fn take_input(&mut self, input: NodeEvent) {
        match input {
            NodeEvent::Assigned(_) => {
                self.apply(input);
                self.observer.report(self.warmer.report());
            }
            NodeEvent::RefreshRequested | NodeEvent::ResyncRequested | NodeEvent::Resumed(_) => {
                self.apply(input);
            }
            NodeEvent::Interrupted
            | NodeEvent::InventoryRead { .. }
            | NodeEvent::PullProgressed { .. }
            | NodeEvent::PullEnded { .. }
            | NodeEvent::RemovalEnded { .. } => debug!("input ignored: only the loop applies it"),
        }
    }

    fn apply(&mut self, event: NodeEvent) {
        if let NodeEvent::InventoryRead {
            result: Err(failure),
            ..
        } = &event
        {
            warn!(reason = %failure.reason, error = %failure, "cannot read the runtime's inventory");
            self.observer.runtime_failed("inventory", failure);
        }
        if let NodeEvent::RemovalEnded { image, result } = &event {
            match result {
                Ok(outcome) => info!(%image, ?outcome, "removal ended"),
                Err(failure) => {
                    warn!(%image, reason = %failure.reason, error = %failure, "removal failed");
                }
            }
        }
        self.warmer.apply(event, self.clock.now());
    }

    /// Applies what running pulls have received since the last call.
    fn apply_progress(&mut self) {
        let mut progressed = Vec::new();
        for (id, pull) in &mut self.pulls {
            let received = pull.received.load(Ordering::Relaxed);
            if received > pull.applied {
                pull.applied = received;
                progressed.push((*id, ByteSize::new(received)));
            }
        }
        for (id, done) in progressed {
            self.apply(NodeEvent::PullProgressed { id, done });
        }
    }

    /// Starts all operations that are due. Returns the time until the next ones are due.
    fn advance(&mut self) -> Option<Duration> {
        let now = self.clock.now();
        self.apply_progress();
        let mut changed = false;
        for command in self.warmer.poll(now) {
            changed |= matches!(command, NodeCommand::Report(_));
            self.start(command);
        }
        if changed {
            self.observer.report(self.warmer.report());
        }
        let wakeup = self.warmer.next_wakeup()?;
        debug_assert!(
            wakeup > now,
            "the warmer left something undone, the loop would spin: {:?}",
            self.warmer
        );
        Some(Duration::try_from(wakeup.duration_since(now)).unwrap_or_default())
    }

    /// Waits for the end of one operation or of the pause.
    async fn step(&mut self, pause: Option<Duration>) {
        let done = first_of(&mut self.operations, self.clock.as_ref(), pause).await;
        if let Some(Done::Discarded) = done {
            self.discarding = self.discarding.saturating_sub(1);
        }
        if let Some(Done::Event(event, pull, removal)) = done {
            if let Some(pull) = pull.and_then(|id| self.pulls.remove(&id)) {
                let outcome = match &event {
                    NodeEvent::PullEnded {
                        result: Ok(image), ..
                    } => PullOutcome::Succeeded(image),
                    NodeEvent::PullEnded {
                        result: Err(failure),
                        ..
                    } => PullOutcome::Failed(failure.reason),
                    _ => PullOutcome::Cancelled,
                };
                self.observe_end(&pull, outcome);
            }
            self.removal = removal.or(self.removal);
            self.apply(event);
        }
    }

    fn start(&mut self, command: NodeCommand) {
        match command {
            NodeCommand::Report(report) => {
                info!(
                    image = %report.image,
                    phase = %report.phase,
                    attempts = report.attempts,
                    reason = report.reason.map(|r| r.as_str()),
                    message = report.message.as_deref(),
                    "image phase changed"
                );
                self.observer.image_changed(&report);
                if report.phase == ImagePhase::Removed {
                    self.discard_unfinished(report.image);
                }
            }
            NodeCommand::ReadInventory {
                id,
                with_usage,
                with_disk,
            } => {
                let runtime = Arc::clone(&self.runtime);
                let clock = Arc::clone(&self.clock);
                let removal = self.removal;
                self.operations.push(Box::pin(async move {
                    let reading = read_inventory(runtime.as_ref(), with_usage, with_disk, removal);
                    let result = answered(clock.as_ref(), reading).await;
                    let removal = result.as_ref().ok().map(|inventory| inventory.removal());
                    Done::Event(NodeEvent::InventoryRead { id, result }, None, removal)
                }));
            }
            NodeCommand::Pull {
                id,
                credentials,
                limit,
                deadline,
            } => {
                let left = between(self.clock.now(), deadline);
                self.start_pull(id, credentials.within(left), SharedPullLimit::new(limit));
            }
            NodeCommand::LimitPull { id, limit } => {
                if let Some(pull) = self.pulls.get(&id) {
                    let rate = limit.as_ref().map(|limit| limit.rate.to_string());
                    info!(image = %pull.image, rate, "limit of a running pull changed");
                    pull.limit.set(limit);
                }
            }
            NodeCommand::CancelPull { id } => {
                if let Some(pull) = self.pulls.remove(&id) {
                    pull.handle.abort();
                    self.observe_end(&pull, self.cancelled(&pull.image));
                }
            }
            NodeCommand::Remove { image } => {
                let runtime = Arc::clone(&self.runtime);
                let clock = Arc::clone(&self.clock);
                self.operations.push(Box::pin(async move {
                    let result = answered(clock.as_ref(), runtime.remove(&image)).await;
                    Done::Event(NodeEvent::RemovalEnded { image, result }, None, None)
                }));
            }
        }
    }

    /// Deletes what pulls of a removed image have left.
    fn discard_unfinished(&mut self, image: ImageRef) {
        let runtime = Arc::clone(&self.runtime);
        let clock = Arc::clone(&self.clock);
        self.discarding += 1;
        self.operations.push(Box::pin(async move {
            let discard = runtime.discard_unfinished(&image);
            if let Err(failure) = answered(clock.as_ref(), discard).await {
                debug!(%image, %failure, "remains of pulls not deleted");
            }
            Done::Discarded
        }));
    }

    /// The outcome of a pull that was cancelled: a failure if its deadline has passed.
    fn cancelled(&self, image: &ImageRef) -> PullOutcome<'static> {
        let mut images = self.warmer.report().images.into_iter();
        let failed = images.find(|report| report.image == *image);
        let failed = failed.filter(|report| report.phase == ImagePhase::Failed);
        failed
            .and_then(|report| report.reason)
            .map_or(PullOutcome::Cancelled, PullOutcome::Failed)
    }

    fn observe_end(&self, pull: &RunningPull, outcome: PullOutcome<'_>) {
        let took = between(pull.began, self.clock.now());
        self.observer.pull_ended(&pull.image, outcome, took);
    }

    fn start_pull(&mut self, id: PullId, request: CredentialsRequest, limit: SharedPullLimit) {
        let ports = PullPorts {
            runtime: Arc::clone(&self.runtime),
            credentials: Arc::clone(&self.credentials),
            clock: Arc::clone(&self.clock),
            anonymous: Arc::clone(&self.anonymous),
        };
        let observer = Arc::clone(&self.observer);
        observer.pull_started(&request.image);
        let image = request.image.clone();
        let received = Arc::new(AtomicU64::new(0));
        let progress = {
            let received = Arc::clone(&received);
            ProgressSink::new(move |progress| {
                received.fetch_max(progress.done.bytes(), Ordering::Relaxed);
                observer.progress(&image, progress);
            })
        };
        let (handle, registration) = AbortHandle::new_pair();
        let running = RunningPull {
            handle,
            image: request.image.clone(),
            began: self.clock.now(),
            received,
            applied: 0,
            limit: limit.clone(),
        };
        self.pulls.insert(id, running);
        let work = async move {
            let (result, unused_credentials) = pull(&ports, request, progress, limit).await;
            let ended = NodeEvent::PullEnded {
                id,
                result,
                unused_credentials,
            };
            Done::Event(ended, Some(id), None)
        };
        let work = Abortable::new(work, registration);
        self.operations
            .push(Box::pin(work.map(|done| done.unwrap_or(Done::Cancelled))));
    }

    /// Abandons the operations of an earlier call.
    fn begin(&mut self) {
        if std::mem::replace(&mut self.started, true) {
            self.abandon();
            self.apply(NodeEvent::Interrupted);
        }
    }

    /// Drops all running operations.
    fn abandon(&mut self) {
        debug!(
            operations = self.operations.len(),
            "running operations abandoned"
        );
        for pull in std::mem::take(&mut self.pulls).into_values() {
            self.observe_end(&pull, PullOutcome::Cancelled);
        }
        self.operations = FuturesUnordered::new();
        self.discarding = 0;
    }
}
