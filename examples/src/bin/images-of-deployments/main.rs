//! A controller on top of fledged: keeps an ImageCache `deployments` in every namespace with the label
//! `fledged.example/cache-deployments=true`, with the images of its Deployments. A Deployment that is scaled up,
//! moved or rolled back then finds its images on the nodes.
//!
//! fledged's own controller runs in the same process, on the same client. Agents run on the nodes, as
//! with `fledged-operator controller`, whose place this program takes.
//!
//! ```console
//! images-of-deployments               # on the cluster it runs in, or that KUBECONFIG names
//! images-of-deployments --embedded    # on a cluster in this process, with a Deployment to begin with
//! ```
//!
//! `derive.rs` computes the spec of the cache, and `step.rs` the next action for the cache that exists, both without
//! I/O. `reconcile.rs` reads and writes. In addition to fledged's rights the program needs: get, list and watch
//! namespaces and deployments; get, list, watch, create, patch and delete imagecaches.

mod derive;
mod reconcile;
mod step;

use std::error::Error;

use clap::Parser;
use fledged_core::tokio::ShutdownSignal;
use fledged_examples::Playground;
use fledged_kube::lease::{LeaseName, identity};
use fledged_operator::controller::{Candidate, Controller, ControllerConfig};
use futures_util::FutureExt;
use kube::Client;
use serde_json::{Value, json};

/// Keeps the images of Deployments on the nodes.
#[derive(Debug, Parser)]
struct Args {
    /// Namespace of the lease that fledged's controller holds while it acts; needed where more than
    /// one of this program runs.
    #[arg(long, value_name = "NAMESPACE")]
    lease_namespace: Option<String>,
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
        true => Some(Playground::start(samples()).await?.with_agents()?),
        false => None,
    };
    let client = match &playground {
        Some(playground) => playground.client(),
        None => Client::try_default().await?,
    };
    let stop = async move {
        shutdown.recv().await;
    };
    let stop = stop.boxed().shared();

    let mut config = ControllerConfig::default();
    if let Some(namespace) = args.lease_namespace {
        // The lease of `fledged-operator controller`, so that the two never act side by side.
        let lease = LeaseName::of_controller(namespace);
        config.election = Some(Candidate::new(lease, identity(None)));
    }
    let fledged = Controller::new(client.clone(), config).run(stop.clone());
    // Needs no election, because all replicas write the same objects.
    let ours = reconcile::run(client, stop).map(Ok);
    tokio::try_join!(fledged, ours)?;
    Ok(())
}

/// Sample objects for an embedded cluster.
fn samples() -> [Value; 2] {
    let labels = json!({ "fledged.example/cache-deployments": "true" });
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": "shop", "labels": labels },
    });
    let labels = json!({ "app": "web" });
    let container = json!({ "name": "web", "image": "registry.k8s.io/pause:3.10" });
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": "web", "namespace": "shop" },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } },
        },
    });
    [namespace, deployment]
}
