//! The loop around a [`Planner`].

use std::fmt;
use std::future::{Future, poll_fn};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use tracing::{debug, warn};

use super::select::first_of;
use super::write_queue::{Target, WriteQueue};
use crate::planner::{ClusterCommand, ClusterEvent, Planner};
use crate::port::{Clock, Cluster, WriteFailure};
use crate::time::between;

/// Longest time for one write, after which it is dropped and retried. API servers limit requests to one
/// minute, too.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a shutdown waits for writes in progress, well within the 30 s that a pod is given.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Most events that are applied before the planner is polled, so that a burst of events neither costs one
/// plan each nor delays writes.
const EVENTS_PER_POLL: usize = 1_000;

/// How long the planner may compute before other futures of the same task run, among them the one that renews the
/// leader's Lease. While events and answers arrive faster than they are handled, the loop never waits.
const COMPUTED_MAX: Duration = Duration::from_millis(50);

/// Why [`ClusterLoop::run`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Shutdown was requested.
    Shutdown,
    /// The stream of events ended.
    EventsEnded,
}

/// Observes a [`ClusterLoop`]. It is called from the loop and must not block.
pub trait ClusterObserver: Send + Sync {
    /// The planner was polled. `took` is the time since the first event that was applied after the last
    /// poll, and zero if there was none.
    fn planned(&self, took: Duration, queue: QueueDepth);
}

/// Numbers of writes that are not done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueDepth {
    /// Not started, or waiting for a retry.
    pub waiting: usize,
    /// In progress.
    pub in_progress: usize,
}

/// A write that ended.
struct FinishedWrite {
    target: Target,
    command: ClusterCommand,
    /// The generation, where an assignment was written.
    result: Result<Option<u64>, WriteFailure>,
}

/// Runs a [`Planner`] against a [`Cluster`]: applies the cluster's events, and executes the planner's
/// commands.
///
/// Everything runs in the task that polls [`run`](Self::run). A failed write is retried with growing delays
/// until it succeeds, the object is gone, or a newer write for the same object replaces it. Only events for
/// users are dropped after a few attempts.
pub struct ClusterLoop {
    planner: Planner,
    cluster: Arc<dyn Cluster>,
    clock: Arc<dyn Clock>,
    writes: WriteQueue,
    max_writes: NonZeroUsize,
    in_progress: FuturesUnordered<BoxFuture<'static, FinishedWrite>>,
    observer: Option<Arc<dyn ClusterObserver>>,
    /// Time of the first event since the last poll of the planner.
    first_event_at: Option<Timestamp>,
}

impl fmt::Debug for ClusterLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterLoop")
            .field("writes", &self.writes)
            .field("in_progress", &self.in_progress.len())
            .finish_non_exhaustive()
    }
}

impl ClusterLoop {
    /// A loop over these ports. The seed is for the delays between attempts.
    #[must_use]
    pub fn new(
        planner: Planner,
        cluster: Arc<dyn Cluster>,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Self {
        Self {
            planner,
            cluster,
            clock,
            writes: WriteQueue::new(seed),
            // Enough to hide latency. The API server's priority and fairness does the rest.
            max_writes: NonZeroUsize::MIN.saturating_add(31),
            in_progress: FuturesUnordered::new(),
            observer: None,
            first_event_at: None,
        }
    }

    /// Adds an observer.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn ClusterObserver>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Sets the number of concurrent writes. Default 32.
    #[must_use]
    pub fn with_max_writes(mut self, writes: NonZeroUsize) -> Self {
        self.max_writes = writes;
        self
    }

    /// Runs until `shutdown` resolves or the stream of events ends. It then waits a limited time for writes
    /// in progress; others are dropped. Call it once: the planner keeps the state of the cluster.
    pub async fn run<F: Future<Output = ()>>(&mut self, shutdown: F) -> Ended {
        let mut events = self.cluster.events().fuse();
        let shutdown = shutdown.fuse();
        futures_util::pin_mut!(shutdown);
        let mut computed = Duration::ZERO;
        let ended = loop {
            let began = self.clock.now();
            let pause = self.advance();
            computed += between(began, self.clock.now());
            if computed >= COMPUTED_MAX {
                computed = Duration::ZERO;
                yield_now().await;
            }
            futures_util::select_biased! {
                () = shutdown => break Ended::Shutdown,
                // Before events, so that a burst of these does not delay the results of writes.
                () = self.step(pause).fuse() => {}
                event = events.next() => match event {
                    None => break Ended::EventsEnded,
                    Some(event) => {
                        self.first_event_at.get_or_insert(self.clock.now());
                        self.planner.apply(event, self.clock.now());
                        for _ in 1..EVENTS_PER_POLL {
                            let Some(Some(event)) = events.next().now_or_never() else {
                                break;
                            };
                            self.planner.apply(event, self.clock.now());
                        }
                    }
                },
            }
        };
        self.drain().await;
        ended
    }

    /// Starts all writes that are due. Returns the time until the next step.
    fn advance(&mut self) -> Option<Duration> {
        let now = self.clock.now();
        for target in self.writes.wake(now) {
            self.planner.apply(ClusterEvent::Conflicted(target), now);
        }
        loop {
            // Enough to keep all writes busy until the next poll. The others are planned later, from newer events.
            let room = (2 * self.max_writes.get()).saturating_sub(self.writes.ready_records());
            for command in self.planner.poll_with_room(now, room) {
                self.writes.push(command);
            }
            // A record that waits after a failure takes no room of the others.
            if room == 0 || self.planner.due_nodes() == 0 {
                break;
            }
        }
        while self.in_progress.len() < self.max_writes.get() {
            let Some((target, command)) = self.writes.start_next(now) else {
                break;
            };
            let (cluster, clock) = (Arc::clone(&self.cluster), Arc::clone(&self.clock));
            self.in_progress.push(Box::pin(async move {
                let result = write(cluster.as_ref(), clock.as_ref(), &command).await;
                FinishedWrite {
                    target,
                    command,
                    result,
                }
            }));
        }
        if let Some(observer) = &self.observer {
            let first_event_at = self.first_event_at.take();
            let took = first_event_at.map_or(Duration::ZERO, |at| between(at, self.clock.now()));
            let in_progress = self.in_progress.len();
            let queued = self.writes.len().saturating_sub(in_progress);
            let waiting = queued + self.planner.due_nodes();
            observer.planned(
                took,
                QueueDepth {
                    waiting,
                    in_progress,
                },
            );
        }
        let wakeups = [self.planner.next_wakeup(), self.writes.next_retry()];
        let wakeup = wakeups.into_iter().flatten().min()?;
        Some(Duration::try_from(wakeup.duration_since(now)).unwrap_or_default())
    }

    /// Waits for a write to end, or for the pause to end.
    async fn step(&mut self, pause: Option<Duration>) {
        let finished = first_of(&mut self.in_progress, self.clock.as_ref(), pause).await;
        if let Some(finished) = finished {
            self.finish(finished);
        }
    }

    fn finish(&mut self, finished: FinishedWrite) {
        let FinishedWrite {
            target,
            command,
            result,
        } = finished;
        let now = self.clock.now();
        match result {
            Ok(generation) => {
                self.writes.done(&target);
                if let Some(event) = success_event(command, generation) {
                    self.planner.apply(event, now);
                }
            }
            Err(failure) => {
                log_failure(&command, &failure);
                if let (WriteFailure::TooLarge(_), ClusterCommand::WriteAssignment { node, .. }) =
                    (&failure, &command)
                {
                    let event = ClusterEvent::AssignmentTooLarge(node.clone());
                    self.writes.done(&target);
                    self.planner.apply(event, now);
                    return;
                }
                self.writes.failed(target, command, &failure, now);
            }
        }
    }

    /// Waits a limited time for writes in progress.
    async fn drain(&mut self) {
        debug!(
            writes = self.in_progress.len(),
            "waiting for writes in progress"
        );
        let clock = Arc::clone(&self.clock);
        let timer = clock.sleep(DRAIN_TIMEOUT).fuse();
        futures_util::pin_mut!(timer);
        while !self.in_progress.is_empty() {
            let finished = futures_util::select_biased! {
                finished = self.in_progress.next() => finished,
                () = timer => break,
            };
            if let Some(finished) = finished {
                self.finish(finished);
            }
        }
        self.in_progress = FuturesUnordered::new();
    }
}

/// Returns at the second poll, so that other futures are polled before.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| match std::mem::replace(&mut yielded, true) {
        true => Poll::Ready(()),
        false => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// The event for the planner after a successful write.
fn success_event(command: ClusterCommand, generation: Option<u64>) -> Option<ClusterEvent> {
    match command {
        ClusterCommand::WriteAssignment { node, ticket, .. } => {
            Some(ClusterEvent::AssignmentWritten {
                node,
                ticket,
                generation: generation?,
            })
        }
        ClusterCommand::DeleteAssignment { node, ticket } => {
            Some(ClusterEvent::AssignmentDeleted { node, ticket })
        }
        ClusterCommand::RemoveAnnotation { cache, annotation } => {
            Some(ClusterEvent::AnnotationRemoved { cache, annotation })
        }
        _ => None,
    }
}

/// Executes one command. Returns the generation if it wrote an assignment.
async fn write(
    cluster: &dyn Cluster,
    clock: &dyn Clock,
    command: &ClusterCommand,
) -> Result<Option<u64>, WriteFailure> {
    let none = |()| None;
    let call = async {
        match command {
            ClusterCommand::WriteAssignment { node, images, .. } => {
                cluster.write_assignment(node, images).await.map(Some)
            }
            ClusterCommand::DeleteAssignment { node, .. } => {
                cluster.delete_assignment(node).await.map(none)
            }
            ClusterCommand::WriteStatus { cache, status } => {
                cluster.write_status(cache, status).await.map(none)
            }
            ClusterCommand::RemoveAnnotation { cache, annotation } => cluster
                .remove_annotation(cache, *annotation)
                .await
                .map(none),
            ClusterCommand::SetFinalizer { cache, present } => {
                cluster.set_finalizer(cache, *present).await.map(none)
            }
            ClusterCommand::RecordEvent { cache, event } => {
                cluster.record_event(cache, event).await.map(none)
            }
        }
    };
    let call = call.fuse();
    let timer = clock.sleep(WRITE_TIMEOUT).fuse();
    futures_util::pin_mut!(call, timer);
    futures_util::select_biased! {
        result = call => result,
        () = timer => Err(WriteFailure::unavailable(format!(
            "no response within {} s",
            WRITE_TIMEOUT.as_secs()
        ))),
    }
}

/// Logs a failed write with its operation and object. Conflicts and missing objects are routine.
fn log_failure(command: &ClusterCommand, failure: &WriteFailure) {
    let (operation, object) = match command {
        ClusterCommand::WriteAssignment { node, .. } => {
            ("write assignment", node as &dyn fmt::Display)
        }
        ClusterCommand::DeleteAssignment { node, .. } => ("delete assignment", node as _),
        ClusterCommand::WriteStatus { cache, .. } => ("write status", cache as _),
        ClusterCommand::RemoveAnnotation { cache, .. } => ("remove annotation", cache as _),
        ClusterCommand::SetFinalizer { cache, .. } => ("set finalizer", cache as _),
        ClusterCommand::RecordEvent { cache, .. } => ("record event", cache as _),
    };
    match failure {
        WriteFailure::Conflict(_) | WriteFailure::Gone(_) => {
            debug!(operation, %object, error = %failure, "write refused");
        }
        WriteFailure::TooLarge(_) | WriteFailure::Unavailable { .. } => {
            warn!(operation, %object, error = %failure, "write failed");
        }
    }
}
