//! The agent's tasks.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::model::NodeName;
use fledged_core::port::{Clock, Credentials, ImageRuntime};
use fledged_core::runner::NodeLoop;
use fledged_core::warmer::{Schedule, Warmer, WarmerConfig};
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::FIELD_MANAGER;
use super::builder::AgentBuilder;
use super::health::AgentHealth;
use super::inputs::Inputs;
use super::measured::Measured;
use super::metrics::AgentMetrics;
use super::observer::Observer;
use super::watch::Watch;
use crate::report::{Delays, Reporter, StatusApi, Taken, Writer};

/// How long tasks are waited for at the end: the last state has 5 s of it.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);
/// Assignments that wait for the loop, which takes each at once.
const INPUTS: usize = 4;
/// Between attempts to write a status: after a second at first, and at least twice a minute however
/// long the API server stays away.
const WRITE_AGAIN: Schedule = Schedule::seconds(1, 30);

/// Why an agent ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// A task without which the agent is none has ended.
    #[error("the agent of node {node} cannot go on: its {task} has ended")]
    Ended {
        /// Whose agent.
        node: NodeName,
        /// Which task.
        task: &'static str,
    },
    /// A task without which the agent is none broke off.
    #[error("the agent of node {node} cannot go on: its {task} broke off: {source}")]
    Broken {
        /// Whose agent.
        node: NodeName,
        /// Which task.
        task: &'static str,
        /// What stopped it.
        source: JoinError,
    },
}

/// The agent of one node.
///
/// It watches the node's own [`NodeImageCache`](crate::crd::NodeImageCache) and nothing else, brings
/// the node to what its spec asks for, and writes its status: promptly when an assignment is answered,
/// done or failing, seldom while it merely gets on, and not at all when nothing changed. Without an API
/// server it goes on with what it knows, and reports when the server is back.
pub struct Agent {
    pub(super) client: Client,
    pub(super) node: NodeName,
    pub(super) runtime: Arc<dyn ImageRuntime>,
    pub(super) config: WarmerConfig,
    pub(super) credentials: Arc<dyn Credentials>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) seed: u64,
    pub(super) metrics: AgentMetrics,
    pub(super) health: AgentHealth,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("node", &self.node)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The tasks of a running agent, by name.
#[derive(Default)]
struct Tasks {
    set: JoinSet<()>,
    names: BTreeMap<Id, &'static str>,
}

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.set.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// The next task to end, and how.
    async fn ended(&mut self) -> Option<(&'static str, Result<(), JoinError>)> {
        let (id, result) = match self.set.join_next_with_id().await? {
            Ok((id, ())) => (id, Ok(())),
            Err(error) => (error.id(), Err(error)),
        };
        Some((self.names.remove(&id).unwrap_or("task"), result))
    }
}

impl Agent {
    /// An agent for this node, that reaches the API server by this client and the node's images by
    /// this runtime.
    ///
    /// The agent spreads and delays its requests itself. A client with `default_retry` switched off
    /// leaves that to it entirely.
    pub fn builder(client: Client, node: NodeName, runtime: Arc<dyn ImageRuntime>) -> AgentBuilder {
        AgentBuilder::new(client, node, runtime)
    }

    /// How it is doing, also while it runs.
    #[must_use]
    pub fn health(&self) -> AgentHealth {
        self.health.clone()
    }

    /// Runs until `shutdown` resolves: then nothing new is begun, pulls under way are abandoned, and
    /// the last state is written if that takes no more than a few seconds. Dropping the future stops
    /// everything at once.
    ///
    /// # Errors
    ///
    /// [`AgentError`] when one of its tasks ends by itself. Neither an API server nor a runtime that
    /// fails is a reason to.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
        info!(node = %self.node, "agent started");
        let node = self.node.clone();
        let clock = Arc::clone(&self.clock);
        let stop = CancellationToken::new();
        let mut tasks = self.start(&stop);
        let result = tokio::select! {
            () = shutdown => Ok(()),
            ended = tasks.ended() => Err(match ended {
                Some((task, Err(source))) => AgentError::Broken { node: node.clone(), task, source },
                Some((task, Ok(()))) => AgentError::Ended { node: node.clone(), task },
                None => AgentError::Ended { node: node.clone(), task: "last task" },
            }),
        };
        stop.cancel();
        let drained = async {
            while let Some((task, result)) = tasks.ended().await {
                match result {
                    Ok(()) => debug!(task, "ended"),
                    Err(error) => warn!(task, %error, "broke off"),
                }
            }
        };
        tokio::select! {
            () = drained => info!(%node, "agent ended"),
            () = clock.sleep(DRAIN_LIMIT) => warn!(%node, "agent ended with tasks under way"),
        }
        result
    }

    /// Starts the three tasks. The loop ends when it is told to, and with it whoever tells the writer
    /// anything: the writer then has its last word.
    fn start(self, stop: &CancellationToken) -> Tasks {
        let (heard, hears) = mpsc::unbounded_channel();
        let (inputs, receiver) = mpsc::channel(INPUTS);
        let taken = Taken::default();
        let observer = Observer {
            taken: taken.clone(),
            heard: heard.clone(),
            metrics: self.metrics.clone(),
            health: self.health.clone(),
        };
        let runtime = Measured {
            runtime: self.runtime,
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.clone(),
            health: self.health.clone(),
        };
        let mut seeds = fastrand::Rng::with_seed(self.seed);
        let mut node_loop = NodeLoop::new(
            Warmer::new(self.config, seeds.u64(..)),
            Arc::new(runtime),
            Arc::clone(&self.clock),
        )
        .with_credentials(self.credentials)
        .with_observer(Arc::new(observer));
        let inputs_of_loop = Inputs::new(
            receiver,
            taken,
            self.health.clone(),
            Arc::clone(&self.clock),
        );
        let metrics = self.metrics;
        let writer = Writer {
            api: StatusApi::new(self.client.clone(), self.node.clone(), FIELD_MANAGER),
            reporter: Reporter::new(seeds.u64(..)),
            delays: Delays::new(seeds.u64(..), WRITE_AGAIN),
            clock: Arc::clone(&self.clock),
            count: Box::new(move |result| metrics.status_written(result)),
        };
        let watch = Watch::new(
            self.node,
            inputs,
            heard,
            self.health,
            self.clock,
            seeds.u64(..),
        );
        let mut tasks = Tasks::default();
        let stopped = stop.clone();
        tasks.spawn("image loop", async move {
            node_loop.run(inputs_of_loop, stopped.cancelled()).await;
        });
        tasks.spawn("status writer", writer.run(hears));
        let client = self.client;
        tasks.spawn("watch", watch.run(client, seeds.u64(..), stop.clone()));
        tasks
    }
}
