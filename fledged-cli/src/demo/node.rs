//! A node of the demo: a Node object, an OCI layout, and the real agent between them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fledged_apiserver::HollowNode;
use fledged_core::model::{ByteSize, ImageRef, NodeFacts, NodeName};
use fledged_core::port::{ImageRuntime, Removal};
use fledged_operator::agent::{Agent, AgentHealth};
use kube::Client;

use super::DemoError;
use super::part::{Part, Troubles};
use crate::session::Session;

/// How often an agent of the demo reads what its node holds: as often as it can be asked to.
pub(super) const INVENTORY_INTERVAL: Duration = Duration::from_secs(1);

/// A node that is not Ready until it is told to be.
pub(super) struct DemoNode {
    pub(super) facts: NodeFacts,
    folder: PathBuf,
    registry: String,
    object: HollowNode,
    runtime: Arc<dyn ImageRuntime>,
    health: AgentHealth,
    parts: [Part; 2],
}

impl DemoNode {
    /// Registers it, with its images in a folder of its own below `folder`, and starts its agent.
    pub(super) async fn start(
        client: Client,
        facts: NodeFacts,
        folder: &Path,
        registry: String,
        troubles: &Troubles,
    ) -> Result<Self, DemoError> {
        let name = facts.name.clone();
        let labels = facts.labels.clone();
        let registered = HollowNode::register(client.clone(), name.as_str(), labels).await;
        let object = registered.map_err(DemoError::refused(format!("register {name}")))?;
        let folder = folder.join(name.as_str());
        let runtime = Session::layout(&folder, vec![registry.clone()])?.runtime;
        let agent = Agent::builder(client, name.clone(), Arc::clone(&runtime))
            .inventory_interval(INVENTORY_INTERVAL)
            .build();
        let health = agent.health();
        let agent = Part::start(
            format!("the agent of {name}"),
            troubles,
            |stop| async move {
                let ended = agent.run(stop.cancelled()).await;
                ended.map_err(|error| error.to_string())
            },
        );
        let beating = object.clone();
        let heart = Part::start(format!("{name}"), troubles, |stop| async move {
            stop.run_until_cancelled(beating.beat()).await;
            Ok(())
        });
        Ok(Self {
            facts,
            folder,
            registry,
            object,
            runtime,
            health,
            parts: [agent, heart],
        })
    }

    pub(super) fn name(&self) -> &NodeName {
        &self.facts.name
    }

    /// What its agent still waits for.
    pub(super) fn agent_ready(&self) -> Result<(), String> {
        self.health.ready()
    }

    /// Turns it Ready.
    pub(super) async fn turn_ready(&self) -> Result<(), DemoError> {
        let what = format!("turn {} Ready", self.name());
        let ready = self.object.set_ready(true).await;
        ready.map_err(DemoError::refused(what))
    }

    /// Where its images are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether its layout itself holds that image.
    pub(super) async fn holds(&self, image: &ImageRef) -> Result<bool, DemoError> {
        let found = self.runtime.lookup(image).await;
        Ok(found
            .map_err(DemoError::runtime("look up an image"))?
            .is_some())
    }

    /// How many images its layout itself holds, under whatever names.
    pub(super) async fn images(&self) -> Result<usize, DemoError> {
        let images = self.runtime.list().await;
        Ok(images.map_err(DemoError::runtime("list images"))?.len())
    }

    /// Bytes of everything in its folder.
    pub(super) async fn bytes(&self) -> Result<ByteSize, DemoError> {
        let folder = self.folder.clone();
        let measured = tokio::task::spawn_blocking(move || size(&folder)).await;
        let measured = measured.map_err(crate::commands::CommandError::from)?;
        let bytes = measured.map_err(|source| DemoError::File {
            path: self.folder.clone(),
            source,
        })?;
        Ok(ByteSize::new(bytes))
    }

    /// Removes an image by other means than the agent's: the layout is opened anew.
    pub(super) async fn lose(&self, image: &ImageRef) -> Result<Removal, DemoError> {
        let other = Session::layout(&self.folder, vec![self.registry.clone()])?;
        let removed = other.runtime.remove(image).await;
        removed.map_err(DemoError::runtime("remove an image"))
    }

    /// How large an image is in its layout; nothing where it is not there.
    pub(super) async fn size(&self, image: &ImageRef) -> Result<ByteSize, DemoError> {
        let layout = Session::layout(&self.folder, vec![self.registry.clone()])?;
        let found = layout.runtime.lookup(image).await;
        let found = found.map_err(DemoError::runtime("look up an image"))?;
        Ok(found.map_or(ByteSize::new(0), |image| image.size))
    }

    /// Begins to end its agent.
    pub(super) fn cancel(&self) {
        self.parts.iter().for_each(Part::cancel);
    }

    /// Ends its agent.
    pub(super) async fn stop(self) {
        for part in self.parts {
            part.stop().await;
        }
    }
}

fn size(path: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => size(&entry.path())?,
            false => entry.metadata()?.len(),
        };
    }
    Ok(bytes)
}
