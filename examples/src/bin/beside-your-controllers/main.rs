//! Runs fledged's controller in a program with its own controller. Both share the program's `kube::Client`, shutdown
//! signal, registry of metrics and HTTP server.
//!
//! Its own controller is a gate. A Deployment with the annotation `fledged.example/wait-for: CACHE` is
//! paused until that ImageCache is Ready, so that a new version is rolled out when its images are on the
//! nodes, and not while they are pulled. Pods that run go on meanwhile. Edit the ImageCache first, then
//! the Deployment.
//!
//! ```console
//! beside-your-controllers               # on the cluster it runs in, or that KUBECONFIG names
//! beside-your-controllers --embedded    # on a cluster in this process, with a Deployment that waits
//! curl localhost:8080/metrics; curl localhost:8080/readyz
//! ```
//!
//! `gate.rs` is the program's own controller, `http.rs` the server. In addition to fledged's rights the program needs:
//! get, list, watch and patch deployments.

mod gate;
mod http;

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use clap::Parser;
use fledged_core::tokio::ShutdownSignal;
use fledged_examples::Playground;
use fledged_kube::lease::{LeaseName, identity};
use fledged_operator::controller::{Candidate, Controller, ControllerConfig};
use futures_util::FutureExt;
use kube::Client;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

/// Rolls Deployments out once their images are on the nodes.
#[derive(Debug, Parser)]
struct Args {
    /// Where metrics and probes are served.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
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
    // Shared, so that several tasks can wait for the signal.
    let stop = async move {
        shutdown.recv().await;
    };
    let stop = stop.boxed().shared();

    let mut registry = Registry::default();
    let gate = gate::Gate::new(client.clone(), &mut registry);
    let mut config = ControllerConfig::default();
    if let Some(namespace) = args.lease_namespace {
        // The lease of `fledged-operator controller`, so that the two never act side by side.
        let lease = LeaseName::of_controller(namespace);
        config.election = Some(Candidate::new(lease, identity(None)));
    }
    let fledged = Controller::new(client, config);
    // Adds metrics `fledged_…` beside the program's own. With a registry of `sub_registry_with_prefix`
    // they would have another prefix, which dashboards made for fledged would not find.
    fledged.register_metrics(&mut registry);
    let health = fledged.health();
    let served = http::serve(args.listen, Arc::new(registry), health, stop.clone());

    // The first failure ends the other tasks, and the program returns it.
    let fledged = async { Ok::<_, Box<dyn Error>>(fledged.run(stop.clone()).await?) };
    let gate = gate.run(stop.clone()).map(Ok);
    tokio::try_join!(fledged, gate, served)?;
    Ok(())
}

/// Sample objects for an embedded cluster.
fn samples() -> [Value; 2] {
    let image = "registry.k8s.io/pause:3.10";
    let cache = json!({
        "apiVersion": "kubefledged.io/v1alpha2",
        "kind": "ImageCache",
        "metadata": { "name": "web", "namespace": "default" },
        "spec": { "cacheSpec": [{ "images": [image] }] },
    });
    let annotations = json!({ "fledged.example/wait-for": "web" });
    let labels = json!({ "app": "web" });
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": "web", "namespace": "default", "annotations": annotations },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [{ "name": "web", "image": image }] },
            },
        },
    });
    [cache, deployment]
}
