//! The `NodeDriver`: passes assignments to the nodes' tasks, and their events to the controller.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use fledged_core::model::{AssignedImage, Assignment, NodeName};
use fledged_core::planner::ClusterEvent;
use fledged_core::port::WriteFailure;
use fledged_operator::agent::KubeCredentials;
use fledged_operator::controller::{NodeDriver, NodeTarget};
use futures_util::stream::{self, BoxStream, StreamExt};
use kube::Client;
use tokio::sync::mpsc;

use crate::node::{EventSender, Node};

#[derive(Default)]
struct State {
    nodes: BTreeMap<NodeName, Node>,
    /// One count for all nodes, so that it also grows when a node is released and assigned again.
    generation: u64,
    /// The sender of events to the controller, once it listens.
    sender: Option<EventSender>,
}

/// Fills a folder for each node. Each node has a task, which ends when the node is dropped, and all nodes are dropped
/// with the driver when the controller ends. There is no other background work.
pub(crate) struct GatewayDriver {
    client: Client,
    folder: PathBuf,
    state: Mutex<State>,
}

impl GatewayDriver {
    pub(crate) fn new(client: Client, folder: PathBuf) -> Self {
        let state = Mutex::default();
        Self {
            client,
            folder,
            state,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl NodeDriver for GatewayDriver {
    fn events(&self) -> BoxStream<'static, ClusterEvent> {
        // No record is kept, because the folders show their images. So each new controller assigns all images again
        // and finds most of them present.
        let (sender, mut events) = mpsc::unbounded_channel();
        let mut state = self.state();
        state.nodes.clear();
        state.sender = Some(sender);
        let events = stream::poll_fn(move |context| events.poll_recv(context));
        stream::iter([ClusterEvent::Synced]).chain(events).boxed()
    }

    async fn assign(
        &self,
        target: &NodeTarget,
        images: &[AssignedImage],
    ) -> Result<u64, WriteFailure> {
        let state = &mut *self.state();
        if !state.nodes.contains_key(&target.name)
            && let Some(sender) = &state.sender
        {
            let folder = self.folder.join(target.name.as_str());
            // Secrets are read when a pull needs them, as an agent does.
            let credentials = Arc::new(KubeCredentials::new(self.client.clone()));
            let node = Node::start(target.name.clone(), &folder, credentials, sender.clone());
            let node = node.map_err(|error| WriteFailure::Unavailable {
                message: error.to_string(),
                retry_after: None,
            })?;
            state.nodes.insert(target.name.clone(), node);
        }
        state.generation += 1;
        if let Some(node) = state.nodes.get(&target.name) {
            node.assign(Assignment::new(state.generation, images.to_vec()));
        }
        Ok(state.generation)
    }

    async fn release(&self, node: &NodeName) -> Result<(), WriteFailure> {
        // The node's folder is kept.
        self.state().nodes.remove(node);
        Ok(())
    }
}
