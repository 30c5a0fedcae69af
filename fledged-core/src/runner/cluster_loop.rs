//! The loop around a [`Planner`].

use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use tracing::{debug, warn};

use super::wait::first_of;
use super::writes::{Target, Writes};
use crate::planner::{ClusterCommand, ClusterEvent, Planner};
use crate::port::{Clock, Cluster, WriteFailure};
use crate::warmer::time::between;

/// Longest that one write may take before it is given up and repeated; an API server's own limit
/// on a request is a minute.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long writes under way are waited for at shutdown; well within the 30 s that a pod is given.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// Most events that are taken before the planner is asked again, so that a long row of them neither
/// costs a plan each nor holds writes up.
const EVENTS_AT_ONCE: usize = 1_000;

/// Why [`ClusterLoop::run`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Shutdown,
    /// The cluster tells nothing any more.
    EventsEnded,
}

/// Watches how a [`ClusterLoop`] fares. Called from the loop: must not block.
pub trait ClusterObserver: Send + Sync {
    /// The planner was asked what to do: `took` from the first event that it had not answered yet,
    /// zero where only time had passed.
    fn planned(&self, took: Duration, queue: QueueDepth);
}

/// Writes that are not done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueDepth {
    /// Not begun, or waiting to be tried again.
    pub waiting: usize,
    /// Under way.
    pub under_way: usize,
}

/// A write that ended.
struct Written {
    target: Target,
    command: ClusterCommand,
    /// The generation, where an assignment was written.
    result: Result<Option<u64>, WriteFailure>,
}

/// Drives a cluster: tells its [`Planner`] what happens, and writes what it says.
///
/// Everything runs in the one task that polls [`run`](Self::run). A write that fails is repeated
/// with a growing delay until it succeeds, the object is gone, or a newer one for the same object
/// takes its place; only events for people are given up after a few attempts.
pub struct ClusterLoop {
    planner: Planner,
    cluster: Arc<dyn Cluster>,
    clock: Arc<dyn Clock>,
    writes: Writes,
    at_once: NonZeroUsize,
    under_way: FuturesUnordered<BoxFuture<'static, Written>>,
    observer: Option<Arc<dyn ClusterObserver>>,
    /// When the first event came that the planner has not answered yet.
    heard_at: Option<Timestamp>,
}

impl fmt::Debug for ClusterLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterLoop")
            .field("writes", &self.writes)
            .field("under_way", &self.under_way.len())
            .finish_non_exhaustive()
    }
}

impl ClusterLoop {
    /// A loop over these ports. The seed is that of the delays between attempts.
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
            writes: Writes::new(seed),
            // Enough to hide latencies; an API server's own fairness does the rest.
            at_once: NonZeroUsize::MIN.saturating_add(31),
            under_way: FuturesUnordered::new(),
            observer: None,
            heard_at: None,
        }
    }

    /// With somebody who watches.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn ClusterObserver>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// With another number of writes at once. Default 32.
    #[must_use]
    pub fn with_writes_at_once(mut self, writes: NonZeroUsize) -> Self {
        self.at_once = writes;
        self
    }

    /// Runs until `shutdown` resolves or the cluster tells nothing any more. Writes under way are
    /// then waited for a while; what was not begun is not written. To be called once: a planner that
    /// has seen a cluster goes on from what it saw.
    pub async fn run<F: Future<Output = ()>>(&mut self, shutdown: F) -> Ended {
        let mut events = self.cluster.events().fuse();
        let shutdown = shutdown.fuse();
        futures_util::pin_mut!(shutdown);
        let ended = loop {
            let pause = self.advance();
            futures_util::select_biased! {
                () = shutdown => break Ended::Shutdown,
                // Before events: a long row of these must not hold up what was written.
                () = self.step(pause).fuse() => {}
                event = events.next() => match event {
                    None => break Ended::EventsEnded,
                    Some(event) => {
                        self.heard_at.get_or_insert(self.clock.now());
                        self.planner.apply(event, self.clock.now());
                        for _ in 1..EVENTS_AT_ONCE {
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

    /// Begins every write that is due; returns how long until something else is.
    fn advance(&mut self) -> Option<Duration> {
        let now = self.clock.now();
        for target in self.writes.wake(now) {
            self.planner.apply(ClusterEvent::Conflicted(target), now);
        }
        for command in self.planner.poll(now) {
            self.writes.push(command);
        }
        while self.under_way.len() < self.at_once.get() {
            let Some((target, command)) = self.writes.begin(now) else {
                break;
            };
            let (cluster, clock) = (Arc::clone(&self.cluster), Arc::clone(&self.clock));
            self.under_way.push(Box::pin(async move {
                let result = write(cluster.as_ref(), clock.as_ref(), &command).await;
                Written {
                    target,
                    command,
                    result,
                }
            }));
        }
        if let Some(observer) = &self.observer {
            let heard_at = self.heard_at.take();
            let took = heard_at.map_or(Duration::ZERO, |at| between(at, self.clock.now()));
            let under_way = self.under_way.len();
            let waiting = self.writes.len().saturating_sub(under_way);
            observer.planned(took, QueueDepth { waiting, under_way });
        }
        let wakeups = [self.planner.next_wakeup(), self.writes.next_retry()];
        let wakeup = wakeups.into_iter().flatten().min()?;
        Some(Duration::try_from(wakeup.duration_since(now)).unwrap_or_default())
    }

    /// Waits for a write to end, or for the pause to be over.
    async fn step(&mut self, pause: Option<Duration>) {
        let written = first_of(&mut self.under_way, self.clock.as_ref(), pause).await;
        if let Some(written) = written {
            self.finish(written);
        }
    }

    fn finish(&mut self, written: Written) {
        let Written {
            target,
            command,
            result,
        } = written;
        let now = self.clock.now();
        match result {
            Ok(generation) => {
                self.writes.done(&target);
                if let Some(event) = answer(command, generation) {
                    self.planner.apply(event, now);
                }
            }
            Err(failure) => {
                log_failure(&command, &failure);
                self.writes.failed(target, command, &failure, now);
            }
        }
    }

    /// Waits for what is under way, but not for ever.
    async fn drain(&mut self) {
        debug!(
            writes = self.under_way.len(),
            "waiting for writes under way"
        );
        let clock = Arc::clone(&self.clock);
        let timer = clock.sleep(DRAIN_LIMIT).fuse();
        futures_util::pin_mut!(timer);
        while !self.under_way.is_empty() {
            let written = futures_util::select_biased! {
                written = self.under_way.next() => written,
                () = timer => break,
            };
            if let Some(written) = written {
                self.finish(written);
            }
        }
        self.under_way = FuturesUnordered::new();
    }
}

/// What the planner is told of a write that succeeded.
fn answer(command: ClusterCommand, generation: Option<u64>) -> Option<ClusterEvent> {
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
        WriteFailure::Unavailable { .. } => {
            warn!(operation, %object, error = %failure, "write failed");
        }
    }
}
