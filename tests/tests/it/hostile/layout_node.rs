//! A node whose agent uses a real image runtime.

use std::sync::Arc;

use fledged_core::model::NodeName;
use fledged_core::port::ImageRuntime;
use fledged_cri::oci::{OciLayoutOptions, OciLayoutRuntime};
use fledged_operator::agent::{Agent, AgentConfig};
use fledged_tests::kube::World;
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// A Ready node and its agent, which is aborted when dropped.
pub(super) struct RealNode {
    agent: JoinHandle<()>,
}

impl RealNode {
    /// Registers a node with an agent on this runtime.
    pub(super) async fn start(world: &World, name: &str, runtime: Arc<dyn ImageRuntime>) -> Self {
        let node = world.unresponsive_node(name, &[]).await;
        let client = world.cluster().client();
        let agent_name = NodeName::new(node.name()).unwrap();
        let agent = Agent::new(client, agent_name, runtime, AgentConfig::default());
        let agent = tokio::spawn(async move {
            agent.run(std::future::pending()).await.unwrap();
        });
        node.object.set_ready(true).await;
        Self { agent }
    }
}

impl Drop for RealNode {
    fn drop(&mut self) {
        self.agent.abort();
    }
}

/// Registers a node whose images are in an OCI layout, in a folder that is deleted when dropped.
pub(super) async fn layout_node(world: &World, name: &str) -> (RealNode, TempDir) {
    let folder = TempDir::new().unwrap();
    let runtime = OciLayoutRuntime::open(folder.path(), OciLayoutOptions::default()).unwrap();
    (
        RealNode::start(world, name, Arc::new(runtime)).await,
        folder,
    )
}
