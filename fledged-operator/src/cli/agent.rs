//! `fledged-operator agent`.

use fledged_core::tokio::ShutdownSignal;
use fledged_cri::oci::OciLayoutOptions;
use fledged_cri::target::RuntimeUri;
use prometheus_client::registry::Registry;
use tracing::info;

use super::args::AgentArgs;
use super::connect::connect;
use super::dispatch::ProgramError;
use super::listen::{listen, serving};
use fledged_operator::agent::Agent;
use fledged_operator::serve::Routes;

pub(super) async fn run(args: AgentArgs, mut shutdown: ShutdownSignal) -> Result<(), ProgramError> {
    let uri = match args.runtime {
        Some(uri) => uri,
        None => RuntimeUri::detect().await?,
    };
    let runtime = fledged_cri::open(&uri, OciLayoutOptions::default())?;
    let client = connect(&args.common).await?;
    let mut registry = Registry::default();
    let agent = Agent::builder(client, args.node_name.clone(), runtime)
        .max_parallel_pulls(args.max_parallel_pulls)
        .inventory_interval(args.inventory_interval)
        .metrics(&mut registry)
        .build();
    let health = agent.health();
    let (live, ready) = (health.clone(), health);
    let routes = Routes::new()
        .with_liveness("loop", move || live.live())
        .with_readiness("agent", move || ready.ready());
    let served = listen(&args.common, registry, routes).await?;
    info!(version = env!("CARGO_PKG_VERSION"), node = %args.node_name, runtime = %uri, "agent starting");
    let stop = async move {
        shutdown.recv().await;
    };
    serving(served, agent.run(stop)).await??;
    Ok(())
}
