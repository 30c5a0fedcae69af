//! A controller of one's own on top of fledged: keeps an ImageCache `deployments` in every namespace
//! that is labelled `fledged.example/cache-deployments=true`, with the images of its Deployments. A
//! Deployment that is scaled up, moved or rolled back then finds its images on the nodes.
//!
//! fledged's own controller runs in the same process, on the same client. Agents run on the nodes, as
//! with `fledged-operator controller`, whose place this program takes.
//!
//! ```console
//! images-of-deployments [--lease-namespace NAMESPACE --identity NAME]
//! ```
//!
//! It speaks to the cluster it runs in, or to the one that KUBECONFIG names. Beside fledged's own
//! rights it needs: get, list, watch namespaces and deployments; get, list, watch, create, patch and
//! delete imagecaches.

mod derive;
mod reconcile;
mod step;

use std::error::Error;
use std::io::IsTerminal;

use clap::Parser;
use fledged_cri::registry::ensure_tls_provider;
use fledged_cri::signals::Shutdown;
use fledged_operator::controller::Controller;
use fledged_operator::lease::{LeaseName, LeaseTimes};
use futures_util::FutureExt;
use kube::Client;

/// Keeps the images of Deployments on the nodes.
#[derive(Debug, Parser)]
struct Args {
    /// Namespace of the lease that fledged's controller holds while it acts; needed where more than
    /// one of this program runs.
    #[arg(long, value_name = "NAMESPACE", requires = "identity")]
    lease_namespace: Option<String>,
    /// Name of this candidate for the lease, which no other may have.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    identity: Option<String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
    log.with_ansi(std::io::stderr().is_terminal()).init();
    ensure_tls_provider();
    let mut shutdown = Shutdown::catch()?;
    let stop = async move {
        shutdown.requested().await;
    };
    let stop = stop.boxed().shared();
    let client = Client::try_default().await?;

    let mut fledged = Controller::builder(client.clone());
    if let (Some(namespace), Some(identity)) = (args.lease_namespace, args.identity) {
        // The lease of `fledged-operator controller`, so that the two never act side by side.
        let name = "kubefledged-controller".to_owned();
        let lease = LeaseName { namespace, name };
        fledged = fledged.election(lease, identity, LeaseTimes::default());
    }
    let fledged = fledged.build().run(stop.clone());
    // Needs no election: what two of them write is the same.
    let ours = reconcile::run(client, stop).map(Ok);
    tokio::try_join!(fledged, ours)?;
    Ok(())
}
