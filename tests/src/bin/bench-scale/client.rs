//! Kubernetes clients whose requests are counted.

use std::path::Path;
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::meter::Meter;

/// Read timeout, as in the agent program.
const READ_TIMEOUT: Duration = Duration::from_secs(300);

/// Returns a client whose requests `meter` counts.
pub(crate) async fn metered(kubeconfig: &Path, meter: &Meter) -> Result<Client, String> {
    let fail = |error: &dyn std::fmt::Display| format!("{}: {error}", kubeconfig.display());
    let file = Kubeconfig::read_from(kubeconfig).map_err(|e| fail(&e))?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(file, &options).await;
    let mut config = config.map_err(|e| fail(&e))?;
    // As in the programs: without the client's retries, every attempt is counted.
    config.default_retry = false;
    config.read_timeout = Some(READ_TIMEOUT);
    let builder = ClientBuilder::try_from(config).map_err(|e| fail(&e))?;
    Ok(builder.with_layer(meter).build())
}
