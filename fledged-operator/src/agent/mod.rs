//! The agent of one node: reconciles the node's images with its
//! [`NodeImageCache`](fledged_kube::crd::NodeImageCache) and reports progress in its status.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use fledged_core::model::NodeName;
//! use fledged_operator::agent::{Agent, AgentConfig};
//!
//! let client = kube::Client::try_default().await?;
//! let runtime = fledged_cri::open(&"unix:///run/containerd/containerd.sock".parse()?, Default::default())?;
//! let agent = Agent::new(client, NodeName::new("node-1")?, runtime, AgentConfig::default());
//! let mut signals = fledged_core::tokio::ShutdownSignal::listen()?;
//! agent.run(async move { drop(signals.recv().await) }).await?;
//! # Ok(())
//! # }
//! ```

mod assignment_watch;
#[cfg(test)]
mod assignment_watch_tests;
mod pull_observer;
pub(crate) mod pull_secrets;
mod running_pulls;
mod service_account_tokens;
mod watch_backoff;

pub use crate::health::AgentHealth;
pub use pull_secrets::KubeCredentials;
pub use running_pulls::{NodePulls, RunningPull, RunningPulls, image_hash};
pub use service_account_tokens::KubeServiceAccounts;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use fledged_core::backoff::{RetryDelays, Schedule};
use fledged_core::model::NodeName;
use fledged_core::port::{Clock, Credentials, ImageRuntime};
use fledged_core::runner::NodeLoop;
use fledged_core::tokio::TokioClock;
use fledged_core::warmer::{Warmer, WarmerConfig};
use fledged_cri::{CredentialProviders, PullSlowdowns, UnionCredentials};
use fledged_kube::bounded_client::{REQUEST_LIMIT, bounded};
use fledged_kube::serve::register_build_info;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::metrics::{AgentMetrics, SlowdownMetrics};
use crate::node_report::node_status::StatusApi;
use crate::node_report::status_writer::Writer;
use assignment_watch::{Watch, inputs};
use pull_observer::{Observer, ProbedRuntime};

/// Field manager of the agents.
pub const FIELD_MANAGER: &str = "fledged-agent";

/// The credentials of an agent on a node with credential-provider plugins: those of [`KubeCredentials`], then
/// those of the plugins, as with the kubelet.
#[must_use]
pub fn credentials_with_providers(
    client: &Client,
    providers: CredentialProviders,
) -> UnionCredentials {
    let accounts = Arc::new(KubeServiceAccounts::new(client.clone()));
    let sources: [Arc<dyn Credentials>; 2] = [
        Arc::new(KubeCredentials::new(client.clone())),
        Arc::new(providers.with_service_accounts(accounts)),
    ];
    UnionCredentials::new(sources)
}

/// Settings of an [`Agent`].
#[derive(Clone)]
#[non_exhaustive]
pub struct AgentConfig {
    /// Limits, intervals and delays of pulls and of inventory reads.
    pub warmer: WarmerConfig,
    /// The source of registry credentials. Default [`KubeCredentials`] over the agent's client.
    pub credentials: Option<Arc<dyn Credentials>>,
    /// The clock. Default [`TokioClock`].
    pub clock: Arc<dyn Clock>,
    /// The seed of the jitter of all delays. Default a hash of the node name and the process id, so that the delays
    /// of agents differ.
    pub seed: Option<u64>,
    /// What slows pulls down, for the metrics: those of the options with which the runtime was opened.
    pub slowdowns: PullSlowdowns,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            warmer: WarmerConfig::default(),
            credentials: None,
            clock: Arc::new(TokioClock::new()),
            seed: None,
            slowdowns: PullSlowdowns::default(),
        }
    }
}

impl fmt::Debug for AgentConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentConfig")
            .field("warmer", &self.warmer)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

/// All agents have the same process id in their containers, so the node name is part of the seed.
fn default_seed(node: &NodeName, process: u32) -> u64 {
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
/// It watches only the [`NodeImageCache`](fledged_kube::crd::NodeImageCache) of its node, pulls and removes images
/// accordingly, and writes the status: at once when an assignment is acknowledged, completed or failing, seldom
/// during progress, and never without a change. While the API server is unreachable it continues with the last
/// assignment, and reports when the server is back.
pub struct Agent {
    client: Client,
    node: NodeName,
    runtime: Arc<dyn ImageRuntime>,
    config: AgentConfig,
    metrics: AgentMetrics,
    health: AgentHealth,
    running: RunningPulls,
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
    pub fn new(
        client: Client,
        node: NodeName,
        runtime: Arc<dyn ImageRuntime>,
        config: AgentConfig,
    ) -> Self {
        Self {
            client,
            runtime,
            metrics: AgentMetrics::default(),
            health: AgentHealth::new(Arc::clone(&config.clock)),
            running: RunningPulls::new(node.clone(), Arc::clone(&config.clock)),
            node,
            config,
        }
    }

    /// Registers the agent's metrics (`fledged_agent_*`) and `fledged_build_info`.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
        let slowdowns = SlowdownMetrics(self.config.slowdowns.clone());
        registry.register_collector(Box::new(slowdowns));
        register_build_info(registry);
    }

    /// Liveness and readiness, also while the agent runs.
    #[must_use]
    pub fn health(&self) -> AgentHealth {
        self.health.clone()
    }

    /// The pulls that run now, with their bytes; also while the agent runs.
    #[must_use]
    pub fn running_pulls(&self) -> RunningPulls {
        self.running.clone()
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
        let clock = Arc::clone(&self.config.clock);
        let stop = CancellationToken::new();
        let mut tasks = self.start(&stop);
        let result = tokio::select! {
            biased;
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
            biased;
            () = drained => info!(%node, "agent stopped"),
            () = clock.sleep(DRAIN_LIMIT) => warn!(%node, "agent stopped before all tasks ended"),
        }
        result
    }

    /// Starts the three tasks. The loop ends on `stop` and closes the channel of the status writer, which then
    /// writes the final state and ends.
    fn start(self, stop: &CancellationToken) -> Tasks {
        let (reports, reporter_events) = mpsc::unbounded_channel();
        let (sender, receiver) = mpsc::channel(INPUTS);
        let (config, health, metrics) = (self.config, self.health, self.metrics);
        let clock = config.clock;
        let credentials = config
            .credentials
            .unwrap_or_else(|| Arc::new(KubeCredentials::new(self.client.clone())));
        let seed = config.seed;
        let seed = seed.unwrap_or_else(|| default_seed(&self.node, std::process::id()));
        let mut seeds = fastrand::Rng::with_seed(seed);
        let observer = Observer {
            reports: reports.clone(),
            metrics: metrics.clone(),
            health: health.clone(),
            running: self.running,
        };
        let runtime = ProbedRuntime {
            runtime: self.runtime,
            health: health.clone(),
            // Without a threshold it does not matter.
            unmeasured: config.warmer.image_fs_high_threshold.is_none().into(),
        };
        let warmer = Warmer::new(config.warmer, seeds.u64(..));
        let mut node_loop = NodeLoop::new(warmer, Arc::new(runtime), Arc::clone(&clock))
            .with_credentials(credentials)
            .with_observer(Arc::new(observer));
        let inputs = inputs(receiver, health.clone(), Arc::clone(&clock));
        let client = bounded(&self.client, REQUEST_LIMIT);
        let status = StatusApi {
            client: client.clone(),
            node: self.node.clone(),
            manager: FIELD_MANAGER,
        };
        let writer = Writer::new(
            status,
            seeds.u64(..),
            RetryDelays::new(WRITE_AGAIN, seeds.u64(..)),
            Arc::clone(&clock),
            move |result| metrics.status_written(result),
        );
        let watch = Watch::new(
            client,
            self.node,
            sender,
            reports,
            health,
            clock,
            seeds.u64(..),
        );
        let mut tasks = Tasks::default();
        let stopped = stop.clone();
        tasks.spawn("image loop", async move {
            node_loop.run(inputs, stopped.cancelled()).await;
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
            .map(|number| default_seed(&NodeName::new(format!("node-{number}")).unwrap(), 1))
            .collect();
        assert_eq!(seeds.len(), 1_000);
        let node = NodeName::new("node-1").unwrap();
        assert_ne!(default_seed(&node, 1), default_seed(&node, 2));
    }
}
