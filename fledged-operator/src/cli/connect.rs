//! From flags to a client.

use std::time::Duration;

use http::header::{HeaderValue, USER_AGENT};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::args::CommonArgs;

/// Read timeout of a response. It is longer than a watch, which may be idle.
const READ_TIMEOUT: Duration = Duration::from_secs(300);
/// Limit for sending a request.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why no client could be created.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The kubeconfig cannot be read or is invalid.
    #[error("--kubeconfig: {path:?}: {source}")]
    Kubeconfig {
        path: String,
        source: Box<kube::config::KubeconfigError>,
    },
    /// No cluster is configured.
    #[error("no cluster: pass --kubeconfig or run in a cluster: {0}")]
    Infer(Box<kube::config::InferConfigError>),
    /// The client cannot be created.
    #[error("cannot create a client for {url}: {source}")]
    Client {
        url: String,
        source: Box<kube::Error>,
    },
}

/// A client for the cluster of the flags, else of the pod, else of the default kubeconfig.
pub(super) async fn connect(args: &CommonArgs) -> Result<Client, ConnectError> {
    let mut config = match (&args.kubeconfig, &args.master) {
        (Some(path), _) if !path.is_empty() => {
            let fail = |source| ConnectError::Kubeconfig {
                path: path.clone(),
                source: Box::new(source),
            };
            let file = Kubeconfig::read_from(path).map_err(fail)?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(file, &options).await;
            config.map_err(fail)?
        }
        (_, master) => match (Config::infer().await, master) {
            (Ok(config), _) => config,
            (Err(_), Some(url)) => Config::new(url.clone()),
            (Err(error), None) => return Err(ConnectError::Infer(Box::new(error))),
        },
    };
    if let Some(url) = &args.master {
        config.cluster_url = url.clone();
    }
    // The program retries by itself, with its own delays. A request that kube retries would hold its slot among the
    // concurrent writes.
    config.default_retry = false;
    // Identifies the program in audit logs and as the default field manager.
    let program = HeaderValue::from_static(concat!("fledged-operator/", env!("CARGO_PKG_VERSION")));
    config.headers.push((USER_AGENT, program));
    // A dead connection must not block a watch for ever.
    config.read_timeout = Some(READ_TIMEOUT);
    config.write_timeout = Some(WRITE_TIMEOUT);
    let url = config.cluster_url.to_string();
    Client::try_from(config).map_err(|source| ConnectError::Client {
        url,
        source: Box::new(source),
    })
}
