//! The agent of one node: reconciles the node's images with its
//! [`NodeImageCache`](crate::crd::NodeImageCache) and reports progress in its status.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use fledged_core::model::NodeName;
//! use fledged_operator::agent::Agent;
//!
//! let client = kube::Client::try_default().await?;
//! let runtime = fledged_cri::open(&"unix:///run/containerd/containerd.sock".parse()?, Default::default())?;
//! let agent = Agent::builder(client, NodeName::new("node-1")?, runtime).build();
//! let mut signals = fledged_core::tokio::ShutdownSignal::listen()?;
//! agent.run(async move { drop(signals.recv().await) }).await?;
//! # Ok(())
//! # }
//! ```

pub(crate) mod credentials;
mod health;
mod metrics;
mod watch;
mod watch_backoff;
#[cfg(test)]
mod watch_tests;

pub use credentials::KubeCredentials;
pub use health::AgentHealth;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::backoff::{Backoff, RetryDelays, Schedule};
use fledged_core::model::NodeName;
use fledged_core::port::{Clock, Credentials, ImageRuntime};
use fledged_core::runner::NodeLoop;
use fledged_core::tokio::TokioClock;
use fledged_core::warmer::{Warmer, WarmerConfig};
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::api::bounded_client::{REQUEST_LIMIT, bounded};
use crate::api::node_status::StatusApi;
use crate::api::status_writer::Writer;
use crate::serve::register_build_info;
use metrics::{AgentMetrics, MeasuredRuntime, Observer};
use watch::{Inputs, Watch};

/// Field manager of the agents.
pub const FIELD_MANAGER: &str = "fledged-agent";

/// Builds an [`Agent`]. Each method names the default of its setting.
pub struct AgentBuilder {
    client: Client,
    node: NodeName,
    runtime: Arc<dyn ImageRuntime>,
    config: WarmerConfig,
    credentials: Option<Arc<dyn Credentials>>,
    clock: Option<Arc<dyn Clock>>,
    seed: Option<u64>,
    metrics: AgentMetrics,
}

impl fmt::Debug for AgentBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentBuilder")
            .field("node", &self.node)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl AgentBuilder {
    fn new(client: Client, node: NodeName, runtime: Arc<dyn ImageRuntime>) -> Self {
        Self {
            client,
            node,
            runtime,
            config: WarmerConfig::default(),
            credentials: None,
            clock: None,
            seed: None,
            metrics: AgentMetrics::new(),
        }
    }

    /// Largest number of parallel pulls. Default 3.
    #[must_use]
    pub fn max_parallel_pulls(mut self, pulls: NonZeroUsize) -> Self {
        self.config.max_parallel_pulls = pulls;
        self
    }

    /// Interval at which the inventory of the runtime is read, at least one second. Default 60 s.
    #[must_use]
    pub fn inventory_interval(mut self, interval: Duration) -> Self {
        self.config.inventory_interval = interval;
        self
    }

    /// Delays after failures. Default [`Backoff::default`].
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.config.backoff = backoff;
        self
    }

    /// The source of registry credentials. Default [`KubeCredentials`] over the agent's client.
    #[must_use]
    pub fn credentials(mut self, credentials: Arc<dyn Credentials>) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// The clock. Default [`TokioClock`].
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// The seed of the jitter of all delays. Default a hash of the node name and the process id, so that the delays of
    /// agents differ.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Registers the agent's metrics (`fledged_agent_*`) and `fledged_build_info`.
    #[must_use]
    pub fn metrics(self, registry: &mut Registry) -> Self {
        self.metrics.register(registry);
        register_build_info(registry);
        self
    }

    /// Builds the agent.
    #[must_use]
    pub fn build(self) -> Agent {
        let clock = self.clock.unwrap_or_else(|| Arc::new(TokioClock::new()));
        let credentials = self
            .credentials
            .unwrap_or_else(|| Arc::new(KubeCredentials::new(self.client.clone())));
        let seed = self
            .seed
            .unwrap_or_else(|| seed(&self.node, std::process::id()));
        Agent {
            health: AgentHealth::new(Arc::clone(&clock)),
            client: self.client,
            node: self.node,
            runtime: self.runtime,
            config: self.config,
            credentials,
            clock,
            seed,
            metrics: self.metrics,
        }
    }
}

/// All agents have the same process id in their containers, so the node name is part of the seed.
fn seed(node: &NodeName, process: u32) -> u64 {
    let mut hasher = DefaultHasher::new();
    (node.as_str(), process).hash(&mut hasher);
    hasher.finish()
}

/// Limit for the tasks to end at shutdown; the final status write has 5 s of it.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);
/// Capacity of the input queue of the loop.
const INPUTS: usize = 4;
/// Delays between attempts to write a status: 1 s at first, 30 s at most.
const WRITE_AGAIN: Schedule = Schedule::seconds(1, 30);

/// Why an agent stopped without a shutdown request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// A required task ended.
    #[error("the agent of node {node} stopped: its {task} ended unexpectedly")]
    Ended {
        /// The node.
        node: NodeName,
        /// The task.
        task: &'static str,
    },
    /// A required task panicked or was aborted.
    #[error("the agent of node {node} stopped: its {task} panicked or was aborted: {source}")]
    Broken {
        /// The node.
        node: NodeName,
        /// The task.
        task: &'static str,
        /// The cause.
        source: JoinError,
    },
}

/// The agent of one node.
///
/// It watches only the [`NodeImageCache`](crate::crd::NodeImageCache) of its node, pulls and removes images
/// accordingly, and writes the status: at once when an assignment is acknowledged, completed or failing, seldom
/// during progress, and never without a change. While the API server is unreachable it continues with the last
/// assignment, and reports when the server is back.
pub struct Agent {
    client: Client,
    node: NodeName,
    runtime: Arc<dyn ImageRuntime>,
    config: WarmerConfig,
    credentials: Arc<dyn Credentials>,
    clock: Arc<dyn Clock>,
    seed: u64,
    metrics: AgentMetrics,
    health: AgentHealth,
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

    /// Liveness and readiness, also while the agent runs.
    #[must_use]
    pub fn health(&self) -> AgentHealth {
        self.health.clone()
    }

    /// Runs until `shutdown` resolves. Then it starts nothing new, cancels pulls in progress, and writes the
    /// final state if that takes no more than a few seconds. Dropping the future stops everything at once.
    ///
    /// # Errors
    ///
    /// [`AgentError`] if one of its tasks ends unexpectedly. Failures of the API server or the runtime do not stop
    /// the agent.
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
                    Ok(()) => debug!(task, "agent task ended"),
                    Err(error) => warn!(task, %error, "agent task failed"),
                }
            }
        };
        tokio::select! {
            () = drained => info!(%node, "agent stopped"),
            () = clock.sleep(DRAIN_LIMIT) => warn!(%node, "agent stopped before all tasks ended"),
        }
        result
    }

    /// Starts the three tasks. The loop ends on `stop` and closes the channel of the status writer, which then
    /// writes the final state and ends.
    fn start(self, stop: &CancellationToken) -> Tasks {
        let (reports, reporter_events) = mpsc::unbounded_channel();
        let (inputs, receiver) = mpsc::channel(INPUTS);
        let observer = Observer {
            reports: reports.clone(),
            metrics: self.metrics.clone(),
            health: self.health.clone(),
        };
        let runtime = MeasuredRuntime {
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
        let inputs_of_loop = Inputs::new(receiver, self.health.clone(), Arc::clone(&self.clock));
        let client = bounded(&self.client, REQUEST_LIMIT);
        let metrics = self.metrics;
        let writer = Writer::new(
            StatusApi {
                client: client.clone(),
                node: self.node.clone(),
                manager: FIELD_MANAGER,
            },
            seeds.u64(..),
            RetryDelays::new(WRITE_AGAIN, seeds.u64(..)),
            Arc::clone(&self.clock),
            move |result| metrics.status_written(result),
        );
        let watch = Watch::new(
            client,
            self.node,
            inputs,
            reports,
            self.health,
            self.clock,
            seeds.u64(..),
        );
        let mut tasks = Tasks::default();
        let stopped = stop.clone();
        tasks.spawn("image loop", async move {
            node_loop.run(inputs_of_loop, stopped.cancelled()).await;
        });
        tasks.spawn("status writer", writer.run(reporter_events));
        tasks.spawn("watch", watch.run(stop.clone()));
        tasks
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn seeds_differ_between_nodes_and_processes() {
        let seeds: BTreeSet<u64> = (0..1_000)
            .map(|number| seed(&NodeName::new(format!("node-{number}")).unwrap(), 1))
            .collect();
        assert_eq!(seeds.len(), 1_000);
        let node = NodeName::new("node-1").unwrap();
        assert_ne!(seed(&node, 1), seed(&node, 2));
    }
}
