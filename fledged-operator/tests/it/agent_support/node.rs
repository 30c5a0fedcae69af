//! A node with its object, runtime and agent.

use std::sync::Arc;
use std::time::Duration;

use fledged_core::model::{ImagePhase, ImageRef, NodeName};
use fledged_core::port::Clock;
use fledged_core::tokio::TokioClock;
use fledged_kube::crd::{NodeImage, NodeImageCache, NodeImageCacheSpec, NodeImageCacheStatus};
use fledged_operator::agent::{Agent, AgentConfig, AgentError, AgentHealth};
use http::Method;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{FakeRuntime, Line, Server, eventually};

pub(crate) fn image(name: &str) -> ImageRef {
    ImageRef::parse(name).unwrap()
}

/// The entries of a spec.
pub(crate) fn images(names: &[&str]) -> Vec<NodeImage> {
    let entry = |name: &&str| NodeImage {
        image: (*name).to_owned(),
        ..NodeImage::default()
    };
    names.iter().map(entry).collect()
}

/// A running agent and its shutdown signal.
type Running = (oneshot::Sender<()>, JoinHandle<Result<(), AgentError>>);

/// A node of a cluster, and the agent on it.
pub(crate) struct Node {
    pub name: String,
    pub api: Api<NodeImageCache>,
    pub line: Line,
    pub clock: Arc<dyn Clock>,
    pub runtime: FakeRuntime,
    running: Option<Running>,
}

impl Node {
    pub(crate) fn new(server: &Server, name: &str) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
        Self {
            name: name.to_owned(),
            api: Api::all(server.client.clone()),
            line: Line::new(server.client.clone()),
            runtime: FakeRuntime::new(Arc::clone(&clock)),
            clock,
            running: None,
        }
    }

    /// Writes the object's spec, as the controller does.
    pub(crate) async fn assign(&self, images: Vec<NodeImage>) -> NodeImageCache {
        let spec = NodeImageCacheSpec {
            caches: Vec::new(),
            images,
        };
        let object = NodeImageCache::new(&self.name, spec);
        let parameters = PatchParams::apply("fledged-controller").force();
        let patch = Patch::Apply(&object);
        self.api
            .patch(&self.name, &parameters, &patch)
            .await
            .unwrap()
    }

    pub(crate) async fn delete(&self) {
        self.api
            .delete(&self.name, &DeleteParams::default())
            .await
            .unwrap();
    }

    pub(crate) fn agent(&self, inventory_interval: Option<Duration>) -> Agent {
        let name = NodeName::new(self.name.as_str()).unwrap();
        let mut config = AgentConfig::default();
        config.clock = Arc::clone(&self.clock);
        config.seed = Some(7);
        if let Some(interval) = inventory_interval {
            config.warmer.inventory_interval = interval;
        }
        Agent::new(
            self.line.client(),
            name,
            Arc::new(self.runtime.clone()),
            config,
        )
    }

    /// Starts the agent.
    pub(crate) fn start(&mut self) -> AgentHealth {
        self.run(self.agent(None))
    }

    pub(crate) fn run(&mut self, agent: Agent) -> AgentHealth {
        let health = agent.health();
        let (stop, stopped) = oneshot::channel();
        let run = agent.run(async move { drop(stopped.await) });
        self.running = Some((stop, tokio::spawn(run)));
        health
    }

    /// Stops the agent and returns its result.
    pub(crate) async fn stop(&mut self) -> Result<(), AgentError> {
        let (stop, task) = self.running.take().unwrap();
        let _ = stop.send(());
        task.await.unwrap()
    }

    /// Waits until the agent ends by itself, and returns its result.
    pub(crate) async fn end(&mut self) -> Result<(), AgentError> {
        let (_stop, task) = self.running.take().unwrap();
        task.await.unwrap()
    }

    pub(crate) async fn status(&self) -> Option<NodeImageCacheStatus> {
        self.api.get_opt(&self.name).await.unwrap()?.status
    }

    /// Waits for a status that satisfies `wanted`.
    pub(crate) async fn status_when(
        &self,
        what: &str,
        wanted: impl Fn(&NodeImageCacheStatus) -> bool,
    ) -> NodeImageCacheStatus {
        eventually(what, || async { self.status().await.filter(&wanted) }).await
    }

    /// Waits for a status that acknowledges the current generation and has only final phases.
    pub(crate) async fn settled(&self) -> NodeImageCacheStatus {
        eventually("the node is settled", || async {
            let object = self.api.get(&self.name).await.unwrap();
            let generation = object.metadata.generation;
            let settled = |status: &NodeImageCacheStatus| {
                let phases = || status.images.iter().map(|image| image.phase);
                status.observed_generation == generation && phases().all(ImagePhase::is_settled)
            };
            object.status.filter(settled)
        })
        .await
    }

    /// Number of writes of the status so far, including failed ones.
    pub(crate) fn writes(&self) -> usize {
        self.line.count(&Method::PATCH, "/status")
    }

    /// Advances the clock, to show that nothing happens.
    pub(crate) async fn pass(&self, time: Duration) {
        self.clock.sleep(time).await;
    }
}
