//! The task that watches what the node is to hold.

use std::pin::pin;
use std::sync::Arc;

use fledged_core::driver::NodeInput;
use fledged_core::model::{Assignment, NodeName};
use fledged_core::ports::Clock;
use futures_util::StreamExt;
use jiff::Timestamp;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::delays::Delays;
use super::health::AgentHealth;
use super::inputs::Input;
use super::pace::after;
use super::reporter::{Heard, Source};
use super::request::retry_after;
use super::status::FIELD_MANAGER;
use crate::crd::ReadNodeCache;
use crate::problem::with_causes;

/// Seconds that one watch lasts, at least and at most. Below the five minutes after which API servers
/// and load balancers end it themselves, and spread: agents that were started together do not come
/// back together for ever.
const WATCH_SECONDS: (u32, u32) = (200, 290);
/// How long it has to go well before a new failure counts as the first.
const CALM: std::time::Duration = std::time::Duration::from_secs(120);
/// Invalid entries of one object that are logged one by one.
const INVALID_MAX: usize = 10;

/// What the loop was last told to hold.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Gone,
    Object { uid: String, generation: u64 },
}

/// Watches the one object of this node.
pub(super) struct Watch {
    node: NodeName,
    inputs: mpsc::Sender<Input>,
    heard: mpsc::UnboundedSender<Heard>,
    health: AgentHealth,
    clock: Arc<dyn Clock>,
    delays: Delays,
    failed_at: Option<Timestamp>,
    told: Told,
    resumed: bool,
    /// Whether the listing under way has shown the object.
    listed: bool,
}

/// Whether somebody else has written to the status.
fn is_tampered_with(object: &ReadNodeCache) -> bool {
    let fields = object.metadata.managed_fields.iter().flatten();
    let mut status = fields.filter(|entry| entry.subresource.as_deref() == Some("status"));
    status.any(|entry| entry.manager.as_deref() != Some(FIELD_MANAGER))
}

/// The loop takes nothing any more.
#[derive(Debug)]
struct LoopEnded;

impl Watch {
    pub(super) fn new(
        node: NodeName,
        inputs: mpsc::Sender<Input>,
        heard: mpsc::UnboundedSender<Heard>,
        health: AgentHealth,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Self {
        Self {
            node,
            inputs,
            heard,
            health,
            clock,
            delays: Delays::new(seed),
            failed_at: None,
            told: Told::Nothing,
            resumed: false,
            listed: false,
        }
    }

    /// Watches until it is told to stop, or the loop has ended.
    pub(super) async fn run(mut self, client: Client, seed: u64, stop: CancellationToken) {
        let (least, most) = WATCH_SECONDS;
        let seconds = fastrand::Rng::with_seed(seed).u32(least..=most);
        let config = Config::default()
            .fields(&format!("metadata.name={}", self.node))
            .timeout(seconds);
        let mut events = pin!(watcher(Api::<ReadNodeCache>::all(client), config));
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => break,
                event = events.next() => event,
            };
            let handled = match event {
                Some(Ok(event)) => self.handle(event).await,
                Some(Err(error)) => {
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = self.back_off(&error) => {}
                    }
                    Ok(())
                }
                None => break,
            };
            if let Err(LoopEnded) = handled {
                break;
            }
        }
    }

    async fn back_off(&mut self, error: &watcher::Error) {
        let now = self.clock.now();
        // A server that remembers too little is there: it only has to be listed again.
        let expired = matches!(error, watcher::Error::WatchError(status) if status.code == 410);
        if expired || self.failed_at.is_some_and(|at| now > after(at, CALM)) {
            self.delays.reset();
        }
        let asked = match error {
            watcher::Error::InitialListFailed(kube::Error::Api(status))
            | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            | watcher::Error::WatchFailed(kube::Error::Api(status))
            | watcher::Error::WatchError(status) => retry_after(status),
            _ => None,
        };
        let delay = self.delays.next(asked);
        warn!(
            node = %self.node,
            error = with_causes(error),
            delay_seconds = delay.as_secs_f64(),
            "watch failed"
        );
        self.clock.sleep(delay).await;
        self.failed_at = Some(self.clock.now());
    }

    async fn handle(&mut self, event: Event<ReadNodeCache>) -> Result<(), LoopEnded> {
        match event {
            Event::Init => self.listed = false,
            Event::InitApply(object) if self.is_ours(&object) => {
                self.listed = true;
                self.read(&object, true).await?;
            }
            Event::Apply(object) if self.is_ours(&object) => self.read(&object, false).await?,
            Event::Delete(object) if self.is_ours(&object) => self.gone().await?,
            Event::InitDone => {
                if !self.listed {
                    self.gone().await?;
                }
                self.health.synced();
            }
            Event::InitApply(_) | Event::Apply(_) | Event::Delete(_) => {}
        }
        Ok(())
    }

    /// A server that does not know field selectors on names sends every node's.
    fn is_ours(&self, object: &ReadNodeCache) -> bool {
        object.metadata.name.as_deref() == Some(self.node.as_str())
    }

    async fn read(&mut self, object: &ReadNodeCache, listed: bool) -> Result<(), LoopEnded> {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let source = Source {
            uid: uid.clone(),
            found: object.report(),
        };
        let generation = object.generation();
        let told = Told::Object { uid, generation };
        if self.told == told {
            // What the agent itself wrote comes by here too, and may be older than what it knows.
            if listed || is_tampered_with(object) {
                let _ = self.heard.send(Heard::Read(source));
            }
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
                "entry left out"
            );
        }
        info!(
            node = %self.node,
            generation,
            images = assignment.images.len(),
            invalid = invalid.len(),
            "assignment"
        );
        if !std::mem::replace(&mut self.resumed, true)
            && let Some(found) = &source.found
        {
            self.tell(None, NodeInput::Resume(found.images.clone()))
                .await?;
        }
        self.told = told;
        self.tell(Some(source), NodeInput::Assign(assignment)).await
    }

    /// Nothing is assigned any more; images stay where they are.
    async fn gone(&mut self) -> Result<(), LoopEnded> {
        if self.told == Told::Gone {
            return Ok(());
        }
        info!(node = %self.node, "no assignment");
        self.told = Told::Gone;
        self.tell(None, NodeInput::Assign(Assignment::default()))
            .await
    }

    async fn tell(&self, source: Option<Source>, input: NodeInput) -> Result<(), LoopEnded> {
        let input = Input { source, input };
        self.inputs.send(input).await.map_err(|_| LoopEnded)
    }
}
