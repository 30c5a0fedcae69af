//! From arguments to a cluster.

use std::net::IpAddr;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use super::args::ConnectionArgs;
use super::error::ClusterError;

/// Longest that a connection may take: who asks is waiting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A cluster that can be asked.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(super) client: Client,
    /// For messages.
    pub(super) url: String,
    /// Where ImageCaches are looked for.
    pub(super) namespace: String,
}

/// Finds the cluster as kubectl does. Nothing is asked of it yet.
pub(crate) async fn connect(args: &ConnectionArgs) -> Result<Connection, ClusterError> {
    let options = KubeConfigOptions {
        context: args.context.clone(),
        ..KubeConfigOptions::default()
    };
    let mut config = match (&args.kubeconfig, &args.context) {
        (Some(path), _) => {
            let fail = |source: KubeconfigError| match &args.context {
                Some(name) if !matches!(source, KubeconfigError::ReadConfig(..)) => {
                    context_error(name, source)
                }
                _ => ClusterError::Kubeconfig {
                    path: path.clone(),
                    source: Box::new(source),
                },
            };
            let file = Kubeconfig::read_from(path).map_err(fail)?;
            let config = Config::from_custom_kubeconfig(file, &options).await;
            config.map_err(fail)?
        }
        (None, Some(name)) => {
            let config = Config::from_kubeconfig(&options).await;
            config.map_err(|source| context_error(name, source))?
        }
        (None, None) => {
            let fail = |source: KubeconfigError| ClusterError::Variable {
                value: std::env::var("KUBECONFIG").unwrap_or_default(),
                source: Box::new(source),
            };
            match Kubeconfig::from_env().map_err(fail)? {
                Some(file) => {
                    let config = Config::from_custom_kubeconfig(file, &options).await;
                    config.map_err(fail)?
                }
                None => {
                    let config = Config::infer().await;
                    config.map_err(|error| ClusterError::NoCluster(Box::new(error)))?
                }
            }
        }
    };
    if is_loopback(config.cluster_url.host()) {
        // No proxy is on the way to this machine itself, whatever $HTTPS_PROXY says.
        config.proxy_url = None;
    }
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // What does not answer is told of, not asked again unseen.
    config.default_retry = false;
    let namespace = args.namespace.clone();
    let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
    let url = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(|source| ClusterError::Client {
        url: url.clone(),
        source: Box::new(source),
    })?;
    Ok(Connection {
        client,
        url,
        namespace,
    })
}

fn is_loopback(host: Option<&str>) -> bool {
    let host = host.unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let address = address.parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn context_error(name: &str, source: KubeconfigError) -> ClusterError {
    ClusterError::Context {
        name: name.to_owned(),
        source: Box::new(source),
    }
}
