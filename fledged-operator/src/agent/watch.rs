//! The task that watches the NodeImageCache of its node, and the inputs of the loop.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use fledged_core::model::{Assignment, NodeName};
use fledged_core::port::Clock;
use fledged_core::runner::NodeInput;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream};
use kube::Client;
use kube::api::WatchEvent;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::agent::FIELD_MANAGER;
use crate::agent::health::{AgentHealth, BEAT};
use crate::agent::list_watch::{End, ListWatch};
use crate::agent::rejoin::{CALM, Over, Rejoin};
use crate::crd::ReadNodeCache;
use crate::report::{Heard, Source, Taken};

/// Seconds that one watch lasts, at least and at most. Below the five minutes after which API servers
/// and load balancers end it themselves, and spread: agents that were started together do not come
/// back together for ever.
const WATCH_SECONDS: (u32, u32) = (200, 290);
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
    rejoin: Rejoin,
    /// From which version on to watch; without, there has to be a list first.
    version: Option<String>,
    told: Told,
    resumed: bool,
}

/// Whether somebody else has written to the status.
fn is_tampered_with(object: &ReadNodeCache) -> bool {
    let fields = object.metadata.managed_fields.iter().flatten();
    let mut status = fields.filter(|entry| entry.subresource.as_deref() == Some("status"));
    status.any(|entry| entry.manager.as_deref() != Some(FIELD_MANAGER))
}

/// Why there is nothing more to hear for now.
enum Pause {
    /// The loop takes nothing any more.
    LoopEnded,
    /// The list or the watch has ended.
    End(End),
}

impl From<End> for Pause {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

/// The loop takes nothing any more.
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
            rejoin: Rejoin::new(seed),
            version: None,
            told: Told::Nothing,
            resumed: false,
        }
    }

    /// Watches until it is told to stop, or the loop has ended.
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
                    Pause::End(end) => self.rest(end).await,
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = forever => {}
        }
    }

    /// Tells what is there and what happens to it, until the watch ends.
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
                self.happened(events.next().await?).await?;
            }
        }
        .await;
        match ended {
            Ok(never) => match never {},
            Err(pause) => pause,
        }
    }

    /// Waits until it is this agent's turn to watch again.
    async fn rest(&mut self, end: End) {
        if matches!(end.over, Over::Expired | Over::Unreadable) {
            self.version = None;
        }
        let delay = self.rejoin.delay(end.over, end.lasted);
        let delay_seconds = delay.as_secs_f64();
        if let Some(problem) = end.problem {
            // Some proxies end every watch after a minute.
            let usual = end.over == Over::Lost && end.lasted >= CALM;
            if usual {
                debug!(node = %self.node, error = problem, delay_seconds, "watch ended");
            } else {
                warn!(node = %self.node, error = problem, delay_seconds, "watch failed");
            }
        }
        if !delay.is_zero() {
            self.clock.sleep(delay).await;
        }
    }

    async fn listed(&mut self, objects: Vec<ReadNodeCache>) -> Result<(), LoopEnded> {
        match objects.iter().find(|object| self.is_ours(object)) {
            Some(object) => self.read(object, true).await?,
            None => self.gone().await?,
        }
        self.health.synced();
        Ok(())
    }

    async fn happened(&mut self, event: WatchEvent<ReadNodeCache>) -> Result<(), LoopEnded> {
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
            WatchEvent::Deleted(object) if self.is_ours(&object) => self.gone().await?,
            _ => {}
        }
        if let Some(version) = version.filter(|version| !version.is_empty()) {
            self.version = Some(version);
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

/// One input, and for an assignment the object that it came from.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) source: Option<Source>,
    pub(super) input: NodeInput,
}

/// The inputs of a loop. Being asked for more is the loop's sign of life, so it is woken for that
/// now and then.
pub(super) struct Inputs {
    receiver: mpsc::Receiver<Input>,
    taken: Taken,
    health: AgentHealth,
    clock: Arc<dyn Clock>,
    beat: BoxFuture<'static, ()>,
}

impl Inputs {
    pub(super) fn new(
        receiver: mpsc::Receiver<Input>,
        taken: Taken,
        health: AgentHealth,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            receiver,
            taken,
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
    type Item = NodeInput;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<NodeInput>> {
        self.health.beat();
        while self.beat.poll_unpin(context).is_ready() {
            self.beat = beat(&self.clock);
        }
        self.receiver.poll_recv(context).map(|input| {
            let Input { source, input } = input?;
            if matches!(input, NodeInput::Assign(_)) {
                self.taken.put(source);
            }
            Some(input)
        })
    }
}
