//! A node of a test, with its runtime and its agent or kubelet.

use std::sync::Arc;

use fledged_core::model::NodeName;
use fledged_cri::CredentialProviders;
use fledged_operator::agent::{Agent, AgentConfig, RunningPulls, credentials_with_providers};
use kube::Client;

use super::memory::MemoryRuntime;
use super::nodes::FakeNode;
use super::running::Running;
use super::stand_in_kubelet;
use super::wait::eventually;
use super::way::Way;
use super::world::WorldOptions;

/// A node with a runtime in memory and, if started, an agent or kubelet.
pub struct TestNode {
    /// The Node object.
    pub object: FakeNode,
    /// The runtime with the node's images.
    pub runtime: MemoryRuntime,
    pub(super) client: Client,
    pub(super) options: WorldOptions,
    pub(super) agent: Option<Running>,
    /// Those of the agent that was started last.
    pub(super) pulls: Option<RunningPulls>,
}

impl TestNode {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.object.name()
    }

    /// Starts an agent, or a kubelet with Jobs; replaces one that runs.
    pub fn start_agent(&mut self) {
        if self.options.way == Way::Jobs {
            let (client, runtime) = (self.client.clone(), self.runtime.clone());
            let (object, interval) = (self.object.clone(), self.options.image_report_interval);
            self.agent = Some(Running::start(move |stop| {
                stand_in_kubelet::run(client, object, runtime, interval, stop)
            }));
            return;
        }
        let name = NodeName::new(self.name()).unwrap();
        let mut config = AgentConfig::default();
        config.warmer.inventory_interval = self.options.inventory;
        config.warmer.max_parallel_pulls = self.options.parallel;
        if let Some((file, plugins)) = &self.options.credential_providers {
            let providers = CredentialProviders::open(file, plugins).unwrap();
            let credentials = credentials_with_providers(&self.client, providers);
            config.credentials = Some(Arc::new(credentials));
        }
        let runtime = Arc::new(self.runtime.clone());
        let agent = Agent::new(self.client.clone(), name, runtime, config);
        self.pulls = Some(agent.running_pulls());
        self.agent = Some(Running::start(|stop| async move {
            let stop = stop.cancelled_owned();
            agent.run(stop).await.map_err(|error| error.to_string())
        }));
    }

    /// The running pulls of the agent.
    ///
    /// # Panics
    ///
    /// If no agent was started.
    #[must_use]
    pub fn running_pulls(&self) -> RunningPulls {
        self.pulls.clone().unwrap()
    }

    /// Aborts the agent or kubelet, as SIGKILL would.
    pub async fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill().await;
        }
    }

    /// Waits until the runtime holds exactly these images.
    pub async fn holds_exactly(&self, references: &[&str]) {
        let wanted: Vec<String> = references.iter().map(|r| (*r).to_owned()).collect();
        eventually(
            &format!("{} to hold {references:?}", self.name()),
            || async {
                let held = self.runtime.held();
                (held == wanted).then_some(()).ok_or(format!("{held:?}"))
            },
        )
        .await;
    }
}
