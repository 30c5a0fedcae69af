//! A node of the demo: a Node object, an OCI layout as its image store, and an agent.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fledged_apiserver::HollowNode;
use fledged_core::model::{ByteSize, ImageRef, NodeFacts, NodeName};
use fledged_core::port::{ImageRuntime, Removal};
use fledged_kube::request_error::problem;
use fledged_operator::agent::{Agent, AgentConfig, AgentHealth};
use kube::Client;

use super::DemoError;
use super::background::{BackgroundTask, TaskFailures};
use crate::command_result::CommandError;
use crate::local::RuntimeSession;

/// Inventory interval of the demo's agents; the shortest that an agent accepts.
pub(super) const INVENTORY_INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which a kubelet reports an unchanged status (`nodeStatusReportFrequency`).
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(300);

/// A node with its agent. It starts as NotReady.
pub(super) struct DemoNode {
    pub(super) facts: NodeFacts,
    folder: PathBuf,
    registry: String,
    object: HollowNode,
    runtime: Arc<dyn ImageRuntime>,
    health: AgentHealth,
    tasks: [BackgroundTask; 2],
}

impl DemoNode {
    /// Registers the node, creates its image store below `folder`, and starts its agent.
    pub(super) async fn start(
        client: Client,
        facts: NodeFacts,
        folder: &Path,
        registry: String,
        failures: &TaskFailures,
    ) -> Result<Self, DemoError> {
        let name = facts.name.clone();
        let labels = facts.labels.clone();
        let object = HollowNode::register(client.clone(), name.as_str(), labels)
            .await
            .map_err(DemoError::refused(format!("register {name}")))?;
        let folder = folder.join(name.as_str());
        let runtime = RuntimeSession::layout(&folder, vec![registry.clone()])?.runtime;
        let mut config = AgentConfig::default();
        config.warmer.inventory_interval = INVENTORY_INTERVAL;
        let agent = Agent::new(client, name.clone(), Arc::clone(&runtime), config);
        let health = agent.health();
        let agent = BackgroundTask::start(
            format!("the agent of {name}"),
            failures,
            |stop| async move {
                agent
                    .run(stop.cancelled())
                    .await
                    .map_err(|error| error.to_string())
            },
        );
        let heartbeat = object.clone();
        let heartbeat = BackgroundTask::start(name.clone(), failures, |stop| async move {
            stop.run_until_cancelled(beat(heartbeat, name)).await;
            Ok(())
        });
        Ok(Self {
            facts,
            folder,
            registry,
            object,
            runtime,
            health,
            tasks: [agent, heartbeat],
        })
    }

    pub(super) fn name(&self) -> &NodeName {
        &self.facts.name
    }

    /// Whether the agent is ready, or what it waits for.
    pub(super) fn agent_ready(&self) -> Result<(), String> {
        self.health.ready()
    }

    /// Sets the Ready condition.
    pub(super) async fn set_ready(&self) -> Result<(), DemoError> {
        let what = format!("set {} Ready", self.name());
        self.object
            .set_ready(true)
            .await
            .map_err(DemoError::refused(what))
    }

    /// The directory of the image store.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the image store contains the image.
    pub(super) async fn contains(&self, image: &ImageRef) -> Result<bool, DemoError> {
        let found = self.runtime.lookup(image).await;
        let found = found.map_err(DemoError::runtime("look up an image"))?;
        Ok(found.is_some())
    }

    /// Number of images in the image store.
    pub(super) async fn image_count(&self) -> Result<usize, DemoError> {
        let images = self.runtime.list().await;
        Ok(images.map_err(DemoError::runtime("list images"))?.len())
    }

    /// Size of all files of the image store.
    pub(super) async fn disk_usage(&self) -> Result<ByteSize, DemoError> {
        let folder = self.folder.clone();
        let size = tokio::task::spawn_blocking(move || disk_usage(&folder))
            .await
            .map_err(CommandError::from)?
            .map_err(|source| DemoError::File {
                path: self.folder.clone(),
                source,
            })?;
        Ok(ByteSize::new(size))
    }

    /// Removes an image without the agent: through another handle of the image store.
    pub(super) async fn remove_behind_agent(&self, image: &ImageRef) -> Result<Removal, DemoError> {
        let store = RuntimeSession::layout(&self.folder, vec![self.registry.clone()])?;
        let removed = store.runtime.remove(image).await;
        removed.map_err(DemoError::runtime("remove an image"))
    }

    /// Size of an image in the image store; zero if it is not there.
    pub(super) async fn image_size(&self, image: &ImageRef) -> Result<ByteSize, DemoError> {
        let store = RuntimeSession::layout(&self.folder, vec![self.registry.clone()])?;
        let found = store.runtime.lookup(image).await;
        let found = found.map_err(DemoError::runtime("look up an image"))?;
        Ok(found.map_or(ByteSize::ZERO, |image| image.size))
    }

    /// Asks the agent to stop.
    pub(super) fn cancel(&self) {
        self.tasks.iter().for_each(BackgroundTask::cancel);
    }

    /// Stops the agent.
    pub(super) async fn stop(self) {
        for task in self.tasks {
            task.stop().await;
        }
    }
}

/// Sends a heartbeat every five minutes, as a kubelet does. Warns about the first of several failures only: the
/// user may have deleted the Node.
async fn beat(object: HollowNode, name: NodeName) {
    let mut is_failing = false;
    loop {
        tokio::time::sleep(HEARTBEAT_INTERVAL).await;
        let sent = object.heartbeat().await;
        if let Err(error) = &sent
            && !is_failing
        {
            let problem = problem(error);
            tracing::warn!("{name} cannot send its heartbeat: {problem}");
        }
        is_failing = sent.is_err();
    }
}

/// Size of all files below the folder. A folder that does not exist has none: a node creates its image store
/// with the first pull.
fn disk_usage(path: &Path) -> std::io::Result<u64> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() {
            disk_usage(&entry.path())?
        } else {
            entry.metadata()?.len()
        };
    }
    Ok(bytes)
}
