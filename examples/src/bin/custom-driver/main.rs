//! A custom `NodeDriver`, for edge nodes behind one gateway. The nodes have no connection to a registry and no agent.
//! This program pulls the images of each node into the folder `DIR/NODE`, an OCI image layout that is then copied
//! to the node, served to it, or built into its disk. Users write ImageCaches and read their status, as with agents.
//!
//! ```console
//! custom-driver DIR               # on the cluster it runs in, or that KUBECONFIG names
//! custom-driver DIR --embedded    # on a cluster in this process, with an ImageCache to begin with
//! ```
//!
//! `driver.rs` implements `NodeDriver`: assignments in, events out. `node.rs` is one node: the node loop of
//! fledged-core, which pulls, retries, removes and repairs images, on a folder.

mod driver;
mod node;

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use fledged_core::model::CountOrPercent;
use fledged_core::tokio::ShutdownSignal;
use fledged_examples::Playground;
use fledged_operator::controller::{Controller, ControllerConfig};
use kube::Client;
use serde_json::json;

/// Keeps the images of every node in a folder.
#[derive(Debug, Parser)]
struct Args {
    /// Folder that holds the folders of the nodes.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Nodes whose images are pulled at the same time.
    #[arg(long, value_name = "N", default_value_t = 4)]
    nodes_at_once: u32,
    /// Starts a cluster in this process, to try it out.
    #[arg(long)]
    embedded: bool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    fledged_examples::set_up();
    let mut shutdown = ShutdownSignal::listen()?;
    let playground = match args.embedded {
        true => Some(Playground::start([sample()]).await?),
        false => None,
    };
    let client = match &playground {
        Some(playground) => playground.client(),
        None => Client::try_default().await?,
    };

    let driver = driver::GatewayDriver::new(client.clone(), args.folder);
    let mut config = ControllerConfig::default();
    config.planner.max_concurrent_nodes = CountOrPercent::Count(args.nodes_at_once);
    config.driver = Some(Arc::new(driver));
    // If more than one replica runs, also set `config.election`, because all replicas write to the same folders.
    let controller = Controller::new(client, config);
    let stop = async {
        shutdown.recv().await;
    };
    controller.run(stop).await?;
    Ok(())
}

/// A sample cache for an embedded cluster.
fn sample() -> serde_json::Value {
    json!({
        "apiVersion": "kubefledged.io/v1alpha2",
        "kind": "ImageCache",
        "metadata": { "name": "edge", "namespace": "default" },
        "spec": { "cacheSpec": [{ "images": ["registry.k8s.io/pause:3.10"] }] },
    })
}
