//! The task that watches the NodeImageCache of its node, and the inputs of the loop.
//!
//! kube's watcher restarts a watch at once when its connection closes and does not report it. A thousand agents
//! would reconnect at the moment when a load balancer drops them. Here, every end of a watch is reported.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::model::{Assignment, NodeName};
use fledged_core::port::Clock;
use fledged_core::reporter::ReporterEvent;
use fledged_core::warmer::NodeEvent;
use fledged_kube::crd::ReadNodeCache;
use fledged_kube::request_error::{problem, retry_after};
use futures_util::FutureExt;
use futures_util::stream::{self, Stream, StreamExt};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::agent::FIELD_MANAGER;
use crate::agent::watch_backoff::{HEALTHY_AFTER, WatchBackoff, WatchEnd};
use crate::health::{AgentHealth, BEAT};

/// Shortest and longest duration of one watch, in seconds. It is below the five minutes after which API servers
/// and load balancers close a watch, and differs between agents, so that agents that start together do not
/// reconnect together.
const WATCH_SECONDS: (u32, u32) = (200, 290);
/// Tolerance for the server's timer that ends a watch.
const TOLERANCE: Duration = Duration::from_secs(1);
/// How long after its deadline a watch that the server did not end counts as dead.
const MARGIN: Duration = Duration::from_secs(5);
/// Largest number of invalid entries of one object that are logged.
const INVALID_MAX: usize = 10;

/// The assignment that was last sent to the loop.
#[derive(Debug, PartialEq, Eq)]
enum LastAssigned {
    Unknown,
    Deleted,
    Object { uid: String, generation: u64 },
}

/// How a list or a watch ended.
#[derive(Debug)]
pub(super) struct Interruption {
    pub(super) end: WatchEnd,
    /// How long the watch lasted; zero if it did not start.
    pub(super) lasted: Duration,
    /// The problem, unless the watch ended at its deadline.
    pub(super) problem: Option<String>,
}

impl Interruption {
    fn new(end: WatchEnd, problem: String) -> Self {
        Self {
            end,
            lasted: Duration::ZERO,
            problem: Some(problem),
        }
    }
}

impl From<kube::Error> for Interruption {
    fn from(error: kube::Error) -> Self {
        let end = match &error {
            kube::Error::Api(status) => match status.code {
                // kube takes an event that it cannot parse for a Status without a code. The list names the cause.
                0 if status.message.is_empty() => {
                    return Self::new(WatchEnd::Unreadable, "cannot parse an event".to_owned());
                }
                410 => WatchEnd::Expired,
                _ => WatchEnd::Failed(retry_after(&error)),
            },
            kube::Error::SerdeError(_) => WatchEnd::Unreadable,
            _ => WatchEnd::Lost,
        };
        Self::new(end, problem(&error))
    }
}

/// Watches the NodeImageCache of this node.
pub(super) struct Watch {
    objects: Api<ReadNodeCache>,
    node: NodeName,
    /// Duration of one watch in seconds.
    pub(super) seconds: u32,
    inputs: mpsc::Sender<NodeEvent>,
    reports: mpsc::UnboundedSender<ReporterEvent>,
    health: AgentHealth,
    clock: Arc<dyn Clock>,
    backoff: WatchBackoff,
    /// The resourceVersion to watch from; without one, the next step is a list.
    pub(super) version: Option<String>,
    last: LastAssigned,
    resumed: bool,
}

/// Whether another field manager has written to the status.
fn has_foreign_status_manager(object: &ReadNodeCache) -> bool {
    let fields = object.metadata.managed_fields.iter().flatten();
    let mut status = fields.filter(|entry| entry.subresource.as_deref() == Some("status"));
    status.any(|entry| entry.manager.as_deref() != Some(FIELD_MANAGER))
}

impl Watch {
    /// The client must be [bounded](fledged_kube::bounded_client).
    pub(super) fn new(
        client: Client,
        node: NodeName,
        inputs: mpsc::Sender<NodeEvent>,
        reports: mpsc::UnboundedSender<ReporterEvent>,
        health: AgentHealth,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Self {
        let (least, most) = WATCH_SECONDS;
        let mut rng = fastrand::Rng::with_seed(seed);
        Self {
            objects: Api::all(client),
            node,
            seconds: rng.u32(least..=most),
            inputs,
            reports,
            health,
            clock,
            backoff: WatchBackoff::new(rng.u64(..)),
            version: None,
            last: LastAssigned::Unknown,
            resumed: false,
        }
    }

    /// Watches until `stop` is cancelled.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let forever = async {
            loop {
                let Err(interruption) = self.follow().await;
                self.pause(interruption).await;
            }
        };
        stop.run_until_cancelled(forever).await;
    }

    /// Lists the object if necessary and forwards its changes until the watch ends.
    pub(super) async fn follow(&mut self) -> Result<Infallible, Interruption> {
        let selector = format!("metadata.name={}", self.node);
        let version = match self.version.take() {
            Some(version) => version,
            None => self.list(&selector).await?,
        };
        let parameters = WatchParams::default().fields(&selector);
        let parameters = parameters.timeout(self.seconds);
        let length = Duration::from_secs(self.seconds.into());
        let (clock, began) = (Arc::clone(&self.clock), self.clock.now());
        let version = self.version.insert(version);
        let events = self.objects.watch(&parameters, version).await?;
        let mut events = pin!(events.take_until(clock.sleep(length + MARGIN)));
        let mut interruption = loop {
            match events.next().await {
                Some(Ok(WatchEvent::Error(status))) => break kube::Error::Api(status).into(),
                Some(Ok(event)) => self.apply(event).await,
                Some(Err(error)) => break error.into(),
                None => {
                    let problem = "the connection closed early".to_owned();
                    break Interruption::new(WatchEnd::Lost, problem);
                }
            }
        };
        let lasted = clock.now().duration_since(began);
        interruption.lasted = Duration::try_from(lasted).unwrap_or_default();
        if interruption.end == WatchEnd::Lost && interruption.lasted + TOLERANCE >= length {
            interruption.end = WatchEnd::Due;
            interruption.problem = None;
        }
        Err(interruption)
    }

    /// Reads the object, if it exists; returns the resourceVersion of the list.
    ///
    /// This is a quorum read. The watch cache (`resourceVersion=0`) may hold an older assignment, by which images
    /// would be removed that are desired again. With this selector the server reads a single key, so a thousand
    /// agents are no load.
    async fn list(&mut self, selector: &str) -> Result<String, Interruption> {
        let parameters = ListParams::default().fields(selector);
        let list = self.objects.list(&parameters).await?;
        let version = list.metadata.resource_version;
        let version = version
            .filter(|version| !version.is_empty())
            .ok_or_else(|| {
                let problem = "the list has no resourceVersion".to_owned();
                Interruption::new(WatchEnd::Failed(None), problem)
            })?;
        match list.items.iter().find(|object| self.is_ours(object)) {
            Some(_)
                if self.last != LastAssigned::Unknown
                    && fledged_core::planted::is("second-list-ignored") => {}
            Some(object) => self.read(object, true).await,
            None => self.unassign().await,
        }
        self.health.synced();
        Ok(version)
    }

    /// Waits for the back-off before the next watch.
    async fn pause(&mut self, interruption: Interruption) {
        if matches!(interruption.end, WatchEnd::Expired | WatchEnd::Unreadable)
            && !fledged_core::planted::is("expired-watch-not-listed")
        {
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

    async fn apply(&mut self, event: WatchEvent<ReadNodeCache>) {
        let version = match &event {
            WatchEvent::Added(object)
            | WatchEvent::Modified(object)
            | WatchEvent::Deleted(object) => object.metadata.resource_version.clone(),
            WatchEvent::Bookmark(bookmark) => Some(bookmark.metadata.resource_version.clone()),
            WatchEvent::Error(_) => None,
        };
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) if self.is_ours(&object) => {
                self.read(&object, false).await;
            }
            WatchEvent::Deleted(object) if self.is_ours(&object) => self.unassign().await,
            _ => {}
        }
        if let Some(version) = version.filter(|version| {
            !version.is_empty() && !fledged_core::planted::is("watch-starts-from-old-version")
        }) {
            self.version = Some(version);
        }
    }

    /// A server without field selectors on names sends the objects of every node.
    fn is_ours(&self, object: &ReadNodeCache) -> bool {
        object.metadata.name.as_deref() == Some(self.node.as_str())
    }

    async fn read(&mut self, object: &ReadNodeCache, listed: bool) {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let generation = object.generation();
        let found = object.report();
        let same_object =
            matches!(&self.last, LastAssigned::Object { uid: last, .. } if *last == uid);
        let current = LastAssigned::Object {
            uid: uid.clone(),
            generation,
        };
        let same = |last: &LastAssigned| matches!(last, LastAssigned::Object { generation: of, .. } if *of == generation);
        let known = self.last == current
            || (same(&self.last) && fledged_core::planted::is("new-record-taken-for-old"));
        // An object that is known may be an echo of a write by the agent, older than its current state.
        if !same_object || (known && (listed || has_foreign_status_manager(object))) {
            let _ = self.reports.send(ReporterEvent::RecordRead {
                record: uid.clone(),
                found: found.clone(),
            });
        }
        if known {
            return;
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
            self.send(NodeEvent::Resumed(found.images)).await;
        }
        self.last = current;
        self.send(NodeEvent::Assigned(assignment.with_record(uid)))
            .await;
    }

    /// The assignment was deleted. Images stay on the node.
    async fn unassign(&mut self) {
        if self.last == LastAssigned::Deleted {
            return;
        }
        info!(node = %self.node, "assignment deleted");
        self.last = LastAssigned::Deleted;
        self.send(NodeEvent::Assigned(Assignment::default())).await;
    }

    /// The agent stops when the loop has ended, so a failure is ignored.
    async fn send(&self, input: NodeEvent) {
        let _ = self.inputs.send(input).await;
    }
}

/// The inputs of the loop. Each poll counts as a heartbeat, so a timer wakes the loop regularly.
pub(super) fn inputs(
    mut receiver: mpsc::Receiver<NodeEvent>,
    health: AgentHealth,
    clock: Arc<dyn Clock>,
) -> impl Stream<Item = NodeEvent> + Send + Unpin {
    let next_beat = move || {
        let clock = Arc::clone(&clock);
        async move { clock.sleep(BEAT).await }.boxed()
    };
    let mut beat = next_beat();
    stream::poll_fn(move |context| {
        health.beat();
        while beat.poll_unpin(context).is_ready() {
            beat = next_beat();
        }
        receiver.poll_recv(context)
    })
}
