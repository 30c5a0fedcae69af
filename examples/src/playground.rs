//! An embedded cluster, which needs nothing installed.

use std::error::Error;
use std::path::PathBuf;

use fledged_apiserver::Server;
use fledged_core::model::NodeName;
use fledged_kube::crd::{ReadCache, install};
use fledged_operator::agent::{Agent, AgentConfig};
use futures_util::StreamExt;
use kube::api::{DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt, api::ApiResource};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// The nodes of every playground.
const NODES: [&str; 2] = ["node-1", "node-2"];

/// An API server in this process with two nodes, the custom resources, and the sample objects of an example. Prints
/// the status of ImageCaches. Stopped when dropped.
pub struct Playground {
    client: Client,
    folder: TempDir,
    tasks: JoinSet<()>,
    _server: Server,
}

impl Playground {
    /// Starts a playground with these objects.
    ///
    /// # Errors
    ///
    /// Any failure to start.
    pub async fn start(objects: impl IntoIterator<Item = Value>) -> Result<Self, Box<dyn Error>> {
        let server = Server::builder().seed(NODES.map(node));
        let server = server.start().await?;
        let client = server.client()?;
        install(&client).await?;
        let folder = tempfile::tempdir()?;
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, server.kubeconfig())?;
        println!(
            "a cluster of two nodes runs in this process; to look around, in another terminal:"
        );
        println!("  export KUBECONFIG={}", kubeconfig.display());
        println!("  kubectl get nodes,imagecaches,nodeimagecaches -A");
        for object in objects {
            create(&client, object).await?;
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(print_statuses(client.clone()));
        Ok(Self {
            client,
            folder,
            tasks,
            _server: server,
        })
    }

    /// A client of the API server.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The folder with the images of a node.
    #[must_use]
    pub fn images_of(&self, node: &str) -> PathBuf {
        self.folder.path().join("images").join(node)
    }

    /// Runs an agent for each node, which pulls images into the node's folder.
    ///
    /// # Errors
    ///
    /// A folder that can't be created.
    pub fn with_agents(mut self) -> Result<Self, Box<dyn Error>> {
        for node in NODES {
            let uri = format!("oci:{}", self.images_of(node).display());
            let runtime = fledged_cri::open(&uri.parse()?, Default::default())?;
            let agent = Agent::new(
                self.client(),
                NodeName::new(node)?,
                runtime,
                AgentConfig::default(),
            );
            self.tasks.spawn(async move {
                if let Err(error) = agent.run(std::future::pending()).await {
                    eprintln!("{error}");
                }
            });
        }
        Ok(self)
    }
}

/// Returns a Node without a kubelet.
fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": { "kubernetes.io/os": "linux" } },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}

async fn create(client: &Client, object: Value) -> Result<(), Box<dyn Error>> {
    let object: DynamicObject = serde_json::from_value(object)?;
    let types = object.types.as_ref().ok_or("an object without a kind")?;
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(types)?);
    let api: Api<DynamicObject> = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    api.create(&PostParams::default(), &object).await?;
    Ok(())
}

/// Prints the status of every ImageCache when it changes.
async fn print_statuses(client: Client) {
    let caches: Api<ReadCache> = Api::all(client);
    let changes = watcher(caches, watcher::Config::default());
    let changes = changes.default_backoff().applied_objects();
    futures_util::pin_mut!(changes);
    while let Some(change) = changes.next().await {
        let Ok(cache) = change else { continue };
        let text = |field: &str| cache.status.get(field)?.as_str().map(str::to_owned);
        if let (Some(reason), Some(status)) = (text("reason"), text("status")) {
            let message = text("message").unwrap_or_default();
            println!("{}: {reason}: {status}: {message}", cache.name_any());
        }
    }
}
