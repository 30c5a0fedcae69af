//! How an agent is put together.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::model::NodeName;
use fledged_core::port::{Clock, Credentials, ImageRuntime};
use fledged_core::tokio::TokioClock;
use fledged_core::warmer::{Backoff, WarmerConfig};
use kube::Client;
use prometheus_client::registry::Registry;

use super::credentials::KubeCredentials;
use super::health::AgentHealth;
use super::metrics::AgentMetrics;
use super::run::Agent;
use crate::serve::register_build_info;

/// The parts of an [`Agent`]; what is not set has the default that its setter names.
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
    pub(super) fn new(client: Client, node: NodeName, runtime: Arc<dyn ImageRuntime>) -> Self {
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

    /// Pulls under way at once. Default 3.
    #[must_use]
    pub fn max_parallel_pulls(mut self, pulls: NonZeroUsize) -> Self {
        self.config = self.config.with_max_parallel_pulls(pulls);
        self
    }

    /// How often the runtime is asked what it holds without any other cause, at most once a second.
    /// Default 60 s.
    #[must_use]
    pub fn inventory_interval(mut self, interval: Duration) -> Self {
        self.config = self.config.with_inventory_interval(interval);
        self
    }

    /// Delays after failures. Default [`Backoff::default`].
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.config = self.config.with_backoff(backoff);
        self
    }

    /// Where registry credentials come from. Default [`KubeCredentials`] over the agent's client.
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

    /// The seed of the jitter in every delay. Default the node's name and the process, so that no two
    /// agents keep the same time.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Adds the agent's metrics (`fledged_agent_*`) and `fledged_build_info` to a registry. Without,
    /// nothing shows them.
    #[must_use]
    pub fn metrics(self, registry: &mut Registry) -> Self {
        self.metrics.register(registry);
        register_build_info(registry);
        self
    }

    /// The agent.
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

/// Every agent's process has the same number in its container; their nodes differ.
fn seed(node: &NodeName, process: u32) -> u64 {
    let mut hasher = DefaultHasher::new();
    (node.as_str(), process).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn seeds_differ_between_nodes_whose_agents_have_the_same_process_id() {
        let seeds: BTreeSet<u64> = (0..1_000)
            .map(|number| seed(&NodeName::new(format!("node-{number}")).unwrap(), 1))
            .collect();
        assert_eq!(seeds.len(), 1_000);
        let node = NodeName::new("node-1").unwrap();
        assert_ne!(seed(&node, 1), seed(&node, 2));
    }
}
