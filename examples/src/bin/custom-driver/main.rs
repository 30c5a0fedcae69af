//! A `NodeDriver` of one's own: a fleet at the edge behind one gateway. The nodes have no line to a
//! registry and no agent; this program pulls what each of them is to hold into a folder of its own,
//! `DIR/NODE`, an OCI image layout that is carried there, served there, or built into the node's disk.
//! Users see none of that: they write ImageCaches and read their status, as with agents.
//!
//! ```console
//! custom-driver DIR               # on the cluster it runs in, or that KUBECONFIG names
//! custom-driver DIR --embedded    # on a cluster in this process, with an ImageCache to begin with
//! ```
//!
//! `driver.rs` is the seam: assignments in, events out. `node.rs` is one node: core's own
//! loop, which pulls, tries again, removes and repairs, on a folder.

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
    /// Where the folders of the nodes are.
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
    // Where more than one may run, set `config.election` too: the folders are one place.
    let controller = Controller::new(client, config);
    let stop = async {
        shutdown.recv().await;
    };
    controller.run(stop).await?;
    Ok(())
}

/// What there is to see in a cluster that has nothing yet.
fn sample() -> serde_json::Value {
    json!({
        "apiVersion": "kubefledged.io/v1alpha2",
        "kind": "ImageCache",
        "metadata": { "name": "edge", "namespace": "default" },
        "spec": { "cacheSpec": [{ "images": ["registry.k8s.io/pause:3.10"] }] },
    })
}
