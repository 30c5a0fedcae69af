//! The servers of metrics and probes.

use std::future::Future;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::task::JoinSet;

use super::args::CommonArgs;
use super::dispatch::ProgramError;
use fledged_operator::serve::{Routes, Server};

/// Starts both servers; one server serves both if they have the same address.
pub(super) async fn listen(
    args: &CommonArgs,
    registry: Registry,
    probes: Routes,
) -> Result<JoinSet<()>, ProgramError> {
    let metrics_at = args.metrics_bind_address.0.clone();
    let probes_at = args.health_probe_bind_address.0.clone();
    let registry = Arc::new(registry);
    let probes = probes.with_probes();
    let mut servers = JoinSet::new();
    let both = metrics_at == probes_at;
    let places = [
        (
            metrics_at.filter(|_| !both),
            Routes::new().with_metrics(Arc::clone(&registry)),
        ),
        (
            probes_at,
            if both {
                probes.with_metrics(registry)
            } else {
                probes
            },
        ),
    ];
    for (address, routes) in places {
        if let Some(address) = address {
            let server = Server::bind(&address, routes).await?;
            servers.spawn(server.run(std::future::pending()));
        }
    }
    Ok(servers)
}

/// Runs `work` while the servers run. The end of a server is an error.
pub(super) async fn serving<T>(
    mut servers: JoinSet<()>,
    work: impl Future<Output = T>,
) -> Result<T, ProgramError> {
    let broken = async {
        match servers.join_next().await {
            Some(_) => ProgramError::ServerEnded,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = work => Ok(result),
        error = broken => Err(error),
    }
}
