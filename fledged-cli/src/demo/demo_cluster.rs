//! The cluster of the demo: an API server, a registry, a controller, and nodes.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use console::Term;
use fledged_apiserver::{HollowNode, Server};
use fledged_core::model::{ByteSize, ImageRef, NodeFacts, NodeName};
use fledged_cri::registry::Platform;
use fledged_kube::crd::{ReadCache, install};
use fledged_kube::lease::{CONTROLLER_NAMESPACE, LeaseName};
use fledged_operator::controller::{Candidate, Controller, ControllerConfig};
use futures_util::future::join_all;
use jiff::Timestamp;
use kube::Client;
use tokio::io::AsyncWriteExt;

use super::DemoError;
use super::background::{BackgroundTask, TaskFailures};
use super::demo_caches::{DemoCaches, ServedCache};
use super::demo_node::DemoNode;
use super::demo_registry::{DemoRegistry, generate};
use super::screen::Screen;
use crate::args::ConnectionArgs;
use crate::command_result::CommandError;
use crate::output::Terminal;
use crate::remote::{Connection, Layout, Matrix, connect, matrix_text, missing};

/// Pause of the registry after each 64 KiB: about 2.5 MiB/s for a connection, slow enough to show a rollout and
/// fast enough for the demo to take seconds.
const REGISTRY_PAUSE: Duration = Duration::from_millis(24);
/// Time limit of a step. On a slow machine, a step takes seconds.
const STEP_MAX: Duration = Duration::from_secs(90);
/// Time limit for reading the state of the cluster after a timeout.
const STATE_MAX: Duration = Duration::from_secs(5);
/// Most nodes that a drawn matrix shows one by one.
const ROWS_MAX: usize = 20;
/// Lines of a drawn matrix other than nodes and images.
const OTHER_LINES: usize = 8;

/// The cluster of the demo.
pub(super) struct DemoCluster {
    pub(super) screen: Screen,
    /// The ImageCaches as written in the manifests.
    pub(super) written: DemoCaches,
    /// The ImageCaches as applied, with images of the demo's registry.
    pub(super) caches: Vec<ServedCache>,
    pub(super) registry: DemoRegistry,
    /// Size of the registry's content.
    pub(super) stored: ByteSize,
    pub(super) client: Client,
    pub(super) connection: Connection,
    pub(super) kubeconfig: PathBuf,
    pub(super) nodes: Vec<DemoNode>,
    /// Digits of a node's number, so that nodes are listed in order.
    digits: usize,
    folder: PathBuf,
    server: Server,
    controller: Option<BackgroundTask>,
    failures: TaskFailures,
    /// Time limit of a step.
    step_max: Duration,
}

impl DemoCluster {
    /// Starts the API server and the registry, for `nodes` nodes and one that joins. All files are in
    /// `folder`.
    pub(super) async fn open(
        written: DemoCaches,
        nodes: usize,
        folder: &Path,
        terminal: &Terminal,
    ) -> Result<Self, DemoError> {
        let host = Platform::host();
        let images = written.images();
        let content =
            tokio::task::spawn_blocking(move || generate(&images, host.os(), host.architecture()))
                .await
                .map_err(CommandError::from)?;
        let stored = ByteSize::new(content.bytes());
        let registry = DemoRegistry::start(content, REGISTRY_PAUSE)
            .await
            .map_err(DemoError::Registry)?;
        let caches = written.served_by(&registry.host())?;
        let server = Server::builder().token(secret_token()?).start().await?;
        let client = server.client()?;
        let kubeconfig = folder.join("kubeconfig");
        write_private(&kubeconfig, server.kubeconfig()).await?;
        let connection = ConnectionArgs {
            kubeconfig: Some(kubeconfig.clone()),
            context: None,
            namespace: None,
        };
        Ok(Self {
            screen: Screen::new(terminal, kubeconfig.display().to_string()),
            connection: connect(&connection).await?,
            written,
            caches,
            registry,
            stored,
            client,
            kubeconfig,
            nodes: Vec::new(),
            digits: (nodes + 1).to_string().len(),
            folder: folder.to_owned(),
            server,
            controller: None,
            failures: TaskFailures::new(),
            step_max: STEP_MAX,
        })
    }

    /// The address of the API server.
    pub(super) fn url(&self) -> String {
        self.server.url()
    }

    /// Whether all ImageCaches are in the namespace `default`, so that commands need no namespace.
    pub(super) fn is_default_namespace(&self) -> bool {
        self.caches
            .iter()
            .all(|cache| cache.id.namespace == "default")
    }

    /// Installs the custom resources and starts the controller; returns its Lease.
    pub(super) async fn start_controller(&mut self) -> Result<LeaseName, DemoError> {
        install(&self.client).await?;
        let lease = LeaseName::of_controller(CONTROLLER_NAMESPACE);
        // Without the operator's least interval between refreshes on demand: it protects a cluster from its tenants, and
        // here it would delay commands that are tried one after another.
        let mut config = ControllerConfig::default();
        config.election = Some(Candidate::new(lease.clone(), "demo"));
        let controller = Controller::new(self.client.clone(), config);
        let task = BackgroundTask::start("the controller", &self.failures, |stop| async move {
            controller
                .run(stop.cancelled_owned())
                .await
                .map_err(|error| error.to_string())
        });
        self.controller = Some(task);
        Ok(lease)
    }

    /// Name and labels of a node, counted from 0.
    pub(super) fn facts(&self, node: usize) -> Result<NodeFacts, DemoError> {
        let name = format!("node-{:0digits$}", node + 1, digits = self.digits);
        let name = NodeName::new(&name).map_err(|error| DemoError::Failed {
            step: "naming a node",
            problem: error.to_string(),
        })?;
        let labels = HollowNode::labels(name.as_str(), self.written.labels(node));
        Ok(NodeFacts::new(name).with_labels(labels))
    }

    /// Adds a node with its agent. The node is NotReady.
    pub(super) async fn add_node(&mut self) -> Result<(), DemoError> {
        let facts = self.facts(self.nodes.len())?;
        let (client, host) = (self.client.clone(), self.registry.host());
        let node = DemoNode::start(client, facts, &self.folder, host, &self.failures);
        self.nodes.push(node.await?);
        Ok(())
    }

    /// The images that the ImageCaches select for a node, each once.
    pub(super) fn images_for(&self, node: &NodeFacts) -> Vec<ImageRef> {
        let mut images: Vec<ImageRef> = Vec::new();
        for image in self.caches.iter().flat_map(|cache| cache.images_for(node)) {
            if !images.contains(image) {
                images.push(image.clone());
            }
        }
        images
    }

    /// Writes a file in the demo's directory.
    pub(super) async fn file(&self, name: &str, text: String) -> Result<PathBuf, DemoError> {
        let path = self.folder.join(name);
        write(&path, text).await?;
        Ok(path)
    }

    /// The ImageCaches of the demo as they are now; the user may have created others.
    pub(super) async fn read_caches(&self) -> Result<Vec<ReadCache>, DemoError> {
        let mut all = self.connection.list_caches(true).await?;
        all.retain(|read| self.caches.iter().any(|cache| cache.is(read)));
        Ok(all)
    }

    /// The text of `status` for every ImageCache; `None` if a request fails.
    pub(super) async fn matrices(&self) -> Option<String> {
        let caches = self.connection.list_caches(true).await.ok()?;
        let nodes = self.connection.list_nodes().await.ok()?;
        let records = self.connection.list_records().await.ok()?;
        let now = Timestamp::now();
        let texts: Vec<String> = caches
            .iter()
            .map(|cache| {
                let matrix = Matrix::new(cache, &caches, &nodes, &records, now);
                let rows = self
                    .screen
                    .height()
                    .saturating_sub(matrix.images.len() + OTHER_LINES);
                let layout = Layout::for_terminal(&Term::stderr(), rows.clamp(1, ROWS_MAX));
                matrix_text(&matrix, layout, now)
            })
            .collect();
        Some(texts.join("\n"))
    }

    /// Runs a step, until it is done, a background task ends, or the time limit is reached.
    pub(super) async fn within<T>(
        &self,
        step: &'static str,
        work: impl Future<Output = Result<T, DemoError>>,
    ) -> Result<T, DemoError> {
        tokio::select! {
            done = work => done,
            failed = self.failed() => Err(failed),
            () = tokio::time::sleep(self.step_max) => Err(DemoError::TimedOut {
                step,
                seconds: self.step_max.as_secs(),
                state: self.state().await,
            }),
        }
    }

    /// Waits until a background task ends unexpectedly.
    pub(super) async fn failed(&self) -> DemoError {
        DemoError::TaskEnded(self.failures.first().await)
    }

    /// The agents that are not ready, and why each ImageCache is not cached.
    async fn state(&self) -> String {
        let reading = async {
            let mut state: Vec<String> = self
                .nodes
                .iter()
                .filter_map(|node| {
                    let waits = node.agent_ready().err()?;
                    Some(format!("the agent of {}: {waits}", node.name()))
                })
                .collect();
            match self.connection.list_caches(true).await {
                Ok(caches) => state.extend(
                    caches
                        .iter()
                        .map(|cache| format!("ImageCache {}: {}", cache.id(), missing(cache))),
                ),
                Err(error) => state.push(error.to_string()),
            }
            state.join("; ")
        };
        tokio::time::timeout(STATE_MAX, reading)
            .await
            .unwrap_or_else(|_| "the API server does not answer".to_owned())
    }

    /// Stops the agents, the controller and the API server, in that order.
    pub(super) async fn close(self) {
        self.nodes.iter().for_each(DemoNode::cancel);
        join_all(self.nodes.into_iter().map(DemoNode::stop)).await;
        if let Some(controller) = self.controller {
            controller.stop().await;
        }
        self.server.shutdown().await;
    }
}

/// A random token: 32 bytes as hexadecimal digits.
fn secret_token() -> Result<String, DemoError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| DemoError::Failed {
        step: "creating a token",
        problem: error.to_string(),
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a file that only this user may read.
async fn write_private(path: &Path, text: String) -> Result<(), DemoError> {
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create_new(true);
    options.mode(0o600);
    let write = async {
        let mut file = options.open(path).await?;
        file.write_all(text.as_bytes()).await?;
        file.flush().await
    };
    write.await.map_err(|source| DemoError::File {
        path: path.to_owned(),
        source,
    })
}

async fn write(path: &Path, text: String) -> Result<(), DemoError> {
    tokio::fs::write(path, text)
        .await
        .map_err(|source| DemoError::File {
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::command_result::Exit;
    use crate::demo::steps;

    async fn open(folder: &Path) -> DemoCluster {
        let terminal = Terminal::stderr();
        let caches = DemoCaches::read(Vec::new(), &terminal).await.unwrap();
        let mut cluster = DemoCluster::open(caches, 1, folder, &terminal)
            .await
            .unwrap();
        cluster.step_max = Duration::ZERO;
        cluster
    }

    #[tokio::test]
    async fn a_step_that_times_out_is_named_with_the_state() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = open(folder.path()).await;
        install(&cluster.client).await.unwrap();
        steps::apply(&cluster).await.unwrap();
        let timed_out = cluster
            .within("the rollout", pending::<Result<(), _>>())
            .await;
        let error = timed_out.unwrap_err();
        assert_eq!(error.exit(), Exit::Failed);
        assert_eq!(
            error.to_string(),
            "the demo timed out: the rollout took longer than 0 s; last state: ImageCache default/storefront: no controller has processed it; check that one is running"
        );
        cluster.close().await;
    }

    #[tokio::test]
    async fn a_step_ends_when_a_background_task_fails() {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = open(folder.path()).await;
        cluster.step_max = STEP_MAX;
        let _task = BackgroundTask::start("the controller", &cluster.failures, |_| async {
            Err("the lease was lost".to_owned())
        });
        let failed = cluster
            .within("the rollout", pending::<Result<(), _>>())
            .await;
        assert_eq!(
            failed.unwrap_err().to_string(),
            "the demo was aborted: the controller ended unexpectedly: the lease was lost"
        );
        cluster.close().await;
    }
}
