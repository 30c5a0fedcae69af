//! The task that watches the NodeImageCache of its node, and the inputs of the loop.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use fledged_core::model::{Assignment, NodeName};
use fledged_core::port::Clock;
use fledged_core::reporter::ReporterEvent;
use fledged_core::warmer::NodeEvent;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream};
use kube::Client;
use kube::api::WatchEvent;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::agent::FIELD_MANAGER;
use crate::agent::health::{AgentHealth, BEAT};
use crate::agent::list_watch::{Interruption, ListWatch};
use crate::agent::watch_backoff::{HEALTHY_AFTER, WatchBackoff, WatchEnd};
use crate::crd::ReadNodeCache;

/// Shortest and longest duration of one watch, in seconds. It is below the five minutes after which API servers
/// and load balancers close a watch, and differs between agents, so that agents that start together do not
/// reconnect together.
const WATCH_SECONDS: (u32, u32) = (200, 290);
/// Largest number of invalid entries of one object that are logged.
const INVALID_MAX: usize = 10;

/// The assignment that was last sent to the loop.
#[derive(Debug, PartialEq, Eq)]
enum LastAssigned {
    Unknown,
    Deleted,
    Object { uid: String, generation: u64 },
}

/// Watches the NodeImageCache of this node.
pub(super) struct Watch {
    node: NodeName,
    inputs: mpsc::Sender<NodeEvent>,
    reports: mpsc::UnboundedSender<ReporterEvent>,
    health: AgentHealth,
    clock: Arc<dyn Clock>,
    backoff: WatchBackoff,
    /// The resourceVersion to watch from; without one, the next step is a list.
    version: Option<String>,
    last: LastAssigned,
    resumed: bool,
}

/// Whether another field manager has written to the status.
fn has_foreign_status_manager(object: &ReadNodeCache) -> bool {
    let fields = object.metadata.managed_fields.iter().flatten();
    let mut status = fields.filter(|entry| entry.subresource.as_deref() == Some("status"));
    status.any(|entry| entry.manager.as_deref() != Some(FIELD_MANAGER))
}

/// Why the list or watch stopped.
enum Pause {
    /// The loop has ended.
    LoopEnded,
    /// The list or the watch has ended.
    Interrupted(Interruption),
}

impl From<Interruption> for Pause {
    fn from(interruption: Interruption) -> Self {
        Self::Interrupted(interruption)
    }
}

/// The loop has ended.
#[derive(Debug)]
struct LoopEnded;

impl From<LoopEnded> for Pause {
    fn from(_: LoopEnded) -> Self {
        Self::LoopEnded
    }
}

impl Watch {
    pub(super) fn new(
        node: NodeName,
        inputs: mpsc::Sender<NodeEvent>,
        reports: mpsc::UnboundedSender<ReporterEvent>,
        health: AgentHealth,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Self {
        Self {
            node,
            inputs,
            reports,
            health,
            clock,
            backoff: WatchBackoff::new(seed),
            version: None,
            last: LastAssigned::Unknown,
            resumed: false,
        }
    }

    /// Watches until `stop` is cancelled or the loop has ended.
    pub(super) async fn run(mut self, client: Client, seed: u64, stop: CancellationToken) {
        let (least, most) = WATCH_SECONDS;
        let requests = ListWatch {
            client,
            node: self.node.clone(),
            seconds: fastrand::Rng::with_seed(seed).u32(least..=most),
            clock: Arc::clone(&self.clock),
        };
        let forever = async {
            loop {
                match self.follow(&requests).await {
                    Pause::LoopEnded => break,
                    Pause::Interrupted(interruption) => self.pause(interruption).await,
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = forever => {}
        }
    }

    /// Lists the object if necessary and forwards its changes until the watch ends.
    async fn follow(&mut self, requests: &ListWatch) -> Pause {
        let ended: Result<Infallible, Pause> = async {
            let version = match self.version.take() {
                Some(version) => version,
                None => {
                    let (objects, version) = requests.list().await?;
                    self.listed(objects).await?;
                    version
                }
            };
            let version = self.version.insert(version).clone();
            let mut events = requests.watch(&version).await?;
            loop {
                self.apply(events.next().await?).await?;
            }
        }
        .await;
        match ended {
            Ok(never) => match never {},
            Err(pause) => pause,
        }
    }

    /// Waits for the back-off before the next watch.
    async fn pause(&mut self, interruption: Interruption) {
        if matches!(interruption.end, WatchEnd::Expired | WatchEnd::Unreadable) {
            self.version = None;
        }
        let delay = self.backoff.delay(interruption.end, interruption.lasted);
        let delay_seconds = delay.as_secs_f64();
        if let Some(problem) = interruption.problem {
            // Some proxies close every watch after a minute.
            let usual = interruption.end == WatchEnd::Lost && interruption.lasted >= HEALTHY_AFTER;
            if usual {
                debug!(node = %self.node, error = problem, delay_seconds, "assignment watch ended");
            } else {
                warn!(node = %self.node, error = problem, delay_seconds, "assignment watch failed");
            }
        }
        if !delay.is_zero() {
            self.clock.sleep(delay).await;
        }
    }

    async fn listed(&mut self, objects: Vec<ReadNodeCache>) -> Result<(), LoopEnded> {
        match objects.iter().find(|object| self.is_ours(object)) {
            Some(object) => self.read(object, true).await?,
            None => self.unassign().await?,
        }
        self.health.synced();
        Ok(())
    }

    async fn apply(&mut self, event: WatchEvent<ReadNodeCache>) -> Result<(), LoopEnded> {
        let version = match &event {
            WatchEvent::Added(object)
            | WatchEvent::Modified(object)
            | WatchEvent::Deleted(object) => object.metadata.resource_version.clone(),
            WatchEvent::Bookmark(bookmark) => Some(bookmark.metadata.resource_version.clone()),
            WatchEvent::Error(_) => None,
        };
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) if self.is_ours(&object) => {
                self.read(&object, false).await?;
            }
            WatchEvent::Deleted(object) if self.is_ours(&object) => self.unassign().await?,
            _ => {}
        }
        if let Some(version) = version.filter(|version| !version.is_empty()) {
            self.version = Some(version);
        }
        Ok(())
    }

    /// A server without field selectors on names sends the objects of every node.
    fn is_ours(&self, object: &ReadNodeCache) -> bool {
        object.metadata.name.as_deref() == Some(self.node.as_str())
    }

    async fn read(&mut self, object: &ReadNodeCache, listed: bool) -> Result<(), LoopEnded> {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let generation = object.generation();
        let found = object.report();
        let same_object =
            matches!(&self.last, LastAssigned::Object { uid: last, .. } if *last == uid);
        let current = LastAssigned::Object {
            uid: uid.clone(),
            generation,
        };
        let known = self.last == current;
        // An object that is known may be an echo of a write by the agent, older than its current state.
        if !same_object || (known && (listed || has_foreign_status_manager(object))) {
            let _ = self.reports.send(ReporterEvent::RecordRead {
                record: uid.clone(),
                found: found.clone(),
            });
        }
        if known {
            return Ok(());
        }
        let (assignment, invalid) = object.assignment();
        for entry in invalid.iter().take(INVALID_MAX) {
            warn!(
                node = %self.node,
                generation,
                field = entry.field,
                value = entry.value,
                problem = entry.problem,
                "invalid assignment entry ignored"
            );
        }
        info!(
            node = %self.node,
            generation,
            images = assignment.images.len(),
            invalid = invalid.len(),
            "assignment received"
        );
        if !std::mem::replace(&mut self.resumed, true)
            && let Some(found) = found
        {
            self.send(NodeEvent::Resumed(found.images)).await?;
        }
        self.last = current;
        self.send(NodeEvent::Assigned(assignment.with_record(uid)))
            .await
    }

    /// The assignment was deleted. Images stay on the node.
    async fn unassign(&mut self) -> Result<(), LoopEnded> {
        if self.last == LastAssigned::Deleted {
            return Ok(());
        }
        info!(node = %self.node, "assignment deleted");
        self.last = LastAssigned::Deleted;
        self.send(NodeEvent::Assigned(Assignment::default())).await
    }

    async fn send(&self, input: NodeEvent) -> Result<(), LoopEnded> {
        self.inputs.send(input).await.map_err(|_| LoopEnded)
    }
}

/// The inputs of the loop. Each poll counts as a heartbeat, so a timer wakes the loop regularly.
pub(super) struct Inputs {
    receiver: mpsc::Receiver<NodeEvent>,
    health: AgentHealth,
    clock: Arc<dyn Clock>,
    beat: BoxFuture<'static, ()>,
}

impl Inputs {
    pub(super) fn new(
        receiver: mpsc::Receiver<NodeEvent>,
        health: AgentHealth,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            receiver,
            health,
            beat: beat(&clock),
            clock,
        }
    }
}

fn beat(clock: &Arc<dyn Clock>) -> BoxFuture<'static, ()> {
    let clock = Arc::clone(clock);
    Box::pin(async move { clock.sleep(BEAT).await })
}

impl Stream for Inputs {
    type Item = NodeEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<NodeEvent>> {
        self.health.beat();
        while self.beat.poll_unpin(context).is_ready() {
            self.beat = beat(&self.clock);
        }
        self.receiver.poll_recv(context)
    }
}
