//! The seam: assignments go to the folders, and their events go to the controller.

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
    /// One count for all nodes: it grows also where one is released and assigned something again.
    generation: u64,
    /// Whoever listens to what nodes say.
    sender: Option<EventSender>,
}

/// Fills a folder for each node. Has no work of its own beside the calls: each node has a task, which
/// ends with it, and all end with the driver, which the controller drops when it ends.
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
        // No record is kept: a folder says itself what is in it. So everything begins anew with each
        // controller, which assigns everything again and finds most of it present.
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
        // Its folder stays as it is.
        self.state().nodes.remove(node);
        Ok(())
    }
}
