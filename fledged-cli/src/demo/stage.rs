//! What the acts play with: an API server, a registry, a controller, nodes.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fledged_apiserver::{HollowNode, Server};
use fledged_core::model::{ImageRef, NodeFacts, NodeName};
use fledged_cri::registry::Platform;
use fledged_operator::api::lease::{CONTROLLER_NAMESPACE, LeaseName, LeaseTimes};
use fledged_operator::controller::Controller;
use fledged_operator::crd::{ReadCache, ReadNodeCache, install};
use futures_util::future::join_all;
use jiff::Timestamp;
use kube::Client;

use super::DemoError;
use super::caches::{DemoCaches, ServedCache};
use super::images::generate;
use super::node::DemoNode;
use super::part::{Part, Troubles};
use super::registry::DemoRegistry;
use super::screen::Screen;
use crate::cluster::{Connection, ConnectionArgs, Matrix, connect, matrix_text, missing};
use crate::output::Terminal;

/// Longest that an act may take. On a slow machine one takes seconds.
const ACT_MAX: Duration = Duration::from_secs(90);
/// Longest that is looked for what was seen last.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// Rows of a matrix that is drawn; of more nodes, those that are alike are counted.
const ROWS_MAX: usize = 20;
/// Lines of a drawn matrix that are neither nodes nor images.
const AROUND: usize = 8;

/// What the acts play with.
pub(super) struct Stage {
    pub(super) screen: Screen,
    pub(super) written: DemoCaches,
    /// The same as they are applied.
    pub(super) caches: Vec<ServedCache>,
    pub(super) registry: DemoRegistry,
    pub(super) client: Client,
    pub(super) connection: Connection,
    pub(super) kubeconfig: PathBuf,
    pub(super) nodes: Vec<DemoNode>,
    /// Of the numbers in their names, so that they are listed in their order.
    digits: usize,
    folder: PathBuf,
    server: Server,
    controller: Option<Part>,
    troubles: Troubles,
    /// Longest that an act may take.
    act_max: Duration,
}

impl Stage {
    /// An API server and a registry for as many nodes, and one that joins; nobody acts yet. Everything is
    /// written to that folder.
    pub(super) async fn open(
        written: DemoCaches,
        nodes: usize,
        folder: &Path,
        terminal: &Terminal,
    ) -> Result<Self, DemoError> {
        let host = Platform::host();
        let images = written.images();
        let generated =
            tokio::task::spawn_blocking(move || generate(&images, host.os(), host.architecture()));
        let content = generated
            .await
            .map_err(crate::commands::CommandError::from)?;
        let registry = DemoRegistry::start(content).await;
        let registry = registry.map_err(DemoError::Registry)?;
        let caches = written.on(&registry.host())?;
        let server = Server::builder().start().await?;
        let client = server.client()?;
        let kubeconfig = folder.join("kubeconfig");
        write(&kubeconfig, server.kubeconfig()).await?;
        let here = ConnectionArgs {
            kubeconfig: Some(kubeconfig.clone()),
            context: None,
            namespace: None,
        };
        Ok(Self {
            screen: Screen::new(terminal, kubeconfig.display().to_string()),
            connection: connect(&here).await?,
            written,
            caches,
            registry,
            client,
            kubeconfig,
            nodes: Vec::new(),
            digits: (nodes + 1).to_string().len(),
            folder: folder.to_owned(),
            server,
            controller: None,
            troubles: Troubles::new(),
            act_max: ACT_MAX,
        })
    }

    /// The address of the API server.
    pub(super) fn url(&self) -> String {
        self.server.url()
    }

    /// Whether all ImageCaches are where somebody finds them who names no namespace.
    pub(super) fn is_plain(&self) -> bool {
        let mut namespaces = self.caches.iter().map(|cache| &cache.id.namespace);
        namespaces.all(|namespace| namespace == "default")
    }

    /// Installs the custom resources and starts the controller; the Lease that it is to hold.
    pub(super) async fn start_controller(&mut self) -> Result<LeaseName, DemoError> {
        install(&self.client).await?;
        let lease = LeaseName::of_controller(CONTROLLER_NAMESPACE);
        let controller = Controller::builder(self.client.clone())
            .election(lease.clone(), "demo", LeaseTimes::default())
            .build();
        let part = Part::start("the controller", &self.troubles, |stop| async move {
            let ended = controller.run(stop.cancelled_owned()).await;
            ended.map_err(|error| error.to_string())
        });
        self.controller = Some(part);
        Ok(lease)
    }

    /// What a node is to be like, counted from 0.
    pub(super) fn facts(&self, node: usize) -> Result<NodeFacts, DemoError> {
        let name = format!("node-{:0digits$}", node + 1, digits = self.digits);
        let name = NodeName::new(&name).map_err(|error| DemoError::Failed {
            act: "naming a node",
            seen: error.to_string(),
        })?;
        let labels = HollowNode::labels(name.as_str(), self.written.labels(node));
        Ok(NodeFacts::new(name).with_labels(labels))
    }

    /// One more node, which is not Ready yet, with its agent.
    pub(super) async fn add_node(&mut self) -> Result<(), DemoError> {
        let facts = self.facts(self.nodes.len())?;
        let (client, host) = (self.client.clone(), self.registry.host());
        let node = DemoNode::start(client, facts, &self.folder, host, &self.troubles);
        self.nodes.push(node.await?);
        Ok(())
    }

    /// The images that are meant for a node, each once.
    pub(super) fn images_for(&self, node: &NodeFacts) -> Vec<ImageRef> {
        let mut images: Vec<ImageRef> = Vec::new();
        for image in self.caches.iter().flat_map(|cache| cache.images_for(node)) {
            if !images.contains(image) {
                images.push(image.clone());
            }
        }
        images
    }

    /// A file in the demo's folder.
    pub(super) async fn file(&self, name: &str, text: String) -> Result<PathBuf, DemoError> {
        let path = self.folder.join(name);
        write(&path, text).await?;
        Ok(path)
    }

    /// The demo's own ImageCaches as they are now; somebody may have made others.
    pub(super) async fn ours(&self) -> Result<Vec<ReadCache>, DemoError> {
        let mut all = self.connection.list_caches(true).await?;
        all.retain(|read| self.caches.iter().any(|cache| cache.is(read)));
        Ok(all)
    }

    /// What `status` would show now of every cache; nothing where that can't be seen.
    pub(super) async fn matrices(&self) -> Option<String> {
        let caches = self.connection.list_caches(true).await.ok()?;
        let nodes = self.connection.list_nodes().await.ok()?;
        let records: Vec<ReadNodeCache> = self.connection.list_records().await.ok()?;
        let now = Timestamp::now();
        let texts = caches.iter().map(|cache| {
            let matrix = Matrix::new(cache, &nodes, &records, now);
            let rows = self
                .screen
                .height()
                .saturating_sub(matrix.images.len() + AROUND);
            matrix_text(&matrix, rows.clamp(1, ROWS_MAX), now)
        });
        Some(texts.collect::<Vec<_>>().join("\n"))
    }

    /// An act, or what keeps it from its end.
    pub(super) async fn within<T>(
        &self,
        act: &'static str,
        work: impl Future<Output = Result<T, DemoError>>,
    ) -> Result<T, DemoError> {
        tokio::select! {
            done = work => done,
            broken = self.broken() => Err(broken),
            () = tokio::time::sleep(self.act_max) => Err(DemoError::Hung {
                act,
                seconds: self.act_max.as_secs(),
                seen: self.seen().await,
            }),
        }
    }

    /// Resolves when a part has ended that must not.
    pub(super) async fn broken(&self) -> DemoError {
        DemoError::Broken(self.troubles.first().await)
    }

    /// How things stand, in words.
    pub(super) async fn seen(&self) -> String {
        let looking = async {
            let waiting = self.nodes.iter().filter_map(|node| {
                let waits = node.agent_ready().err()?;
                Some(format!("the agent of {}: {waits}", node.name()))
            });
            let mut seen: Vec<String> = waiting.collect();
            match self.connection.list_caches(true).await {
                Ok(caches) => seen.extend(caches.iter().map(|cache| {
                    let id = cache.id();
                    format!("ImageCache {id}: {}", missing(cache))
                })),
                Err(error) => seen.push(error.to_string()),
            }
            seen.join("; ")
        };
        let looked = tokio::time::timeout(LOOK_MAX, looking).await;
        looked.unwrap_or_else(|_| "the API server does not answer".to_owned())
    }

    /// Ends everything in good order: agents, the controller, the API server.
    pub(super) async fn close(self) {
        self.nodes.iter().for_each(DemoNode::cancel);
        join_all(self.nodes.into_iter().map(DemoNode::stop)).await;
        if let Some(controller) = self.controller {
            controller.stop().await;
        }
        self.server.shutdown().await;
    }
}

async fn write(path: &Path, text: String) -> Result<(), DemoError> {
    let written = tokio::fs::write(path, text).await;
    written.map_err(|source| DemoError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::demo::acts;
    use crate::exit::Exit;

    async fn open(folder: &Path) -> Stage {
        let terminal = Terminal::stderr();
        let caches = DemoCaches::read(Vec::new(), &terminal).await.unwrap();
        let mut stage = Stage::open(caches, 1, folder, &terminal).await.unwrap();
        stage.act_max = Duration::ZERO;
        stage
    }

    #[tokio::test]
    async fn an_act_that_hangs_is_named_with_what_was_seen_last() {
        let folder = tempfile::tempdir().unwrap();
        let stage = open(folder.path()).await;
        install(&stage.client).await.unwrap();
        acts::apply(&stage).await.unwrap();
        let hung = stage
            .within("the rollout", pending::<Result<(), _>>())
            .await;
        let error = hung.unwrap_err();
        assert_eq!(error.exit(), Exit::Failed);
        assert_eq!(
            error.to_string(),
            "the demo hung: the rollout took longer than 0 s; seen last: ImageCache default/storefront: no controller has taken it up; is one running?"
        );
        stage.close().await;
    }

    #[tokio::test]
    async fn a_part_that_breaks_off_ends_an_act() {
        let folder = tempfile::tempdir().unwrap();
        let mut stage = open(folder.path()).await;
        stage.act_max = ACT_MAX;
        let _part = Part::start("the controller", &stage.troubles, |_| async {
            Err("the lease was lost".to_owned())
        });
        let broken = stage
            .within("the rollout", pending::<Result<(), _>>())
            .await;
        assert_eq!(
            broken.unwrap_err().to_string(),
            "the demo broke off: the controller has ended: the lease was lost"
        );
        stage.close().await;
    }
}
