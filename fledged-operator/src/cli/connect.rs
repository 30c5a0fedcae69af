//! From flags to a client.

use std::time::Duration;

use http::header::{HeaderValue, USER_AGENT};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::args::CommonArgs;

/// Longest silence of an answer: longer than a watch lasts, which may have nothing to say.
const READ_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest that a request may take to be sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The file can't be read, or says nothing that can be used.
    #[error("--kubeconfig: {path:?}: {source}")]
    Kubeconfig {
        path: String,
        source: Box<kube::config::KubeconfigError>,
    },
    /// Neither in a cluster nor told where one is.
    #[error("no cluster: give --kubeconfig, or run in one: {0}")]
    Infer(Box<kube::config::InferConfigError>),
    /// The client can't be set up.
    #[error("cannot set up a client for {url}: {source}")]
    Client {
        url: String,
        source: Box<kube::Error>,
    },
}

/// A client for the cluster that the flags name, the one it runs in, or the default kubeconfig's.
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
    // Whatever is to be tried again is, with delays of our own: a request that repeats itself
    // unseen would hold its place among the writes under way.
    config.default_retry = false;
    // Whose requests these are, in an audit log and wherever a write does not say it by itself.
    let program = HeaderValue::from_static(concat!("fledged-operator/", env!("CARGO_PKG_VERSION")));
    config.headers.push((USER_AGENT, program));
    // A server that dies without a word must not be listened to for ever.
    config.read_timeout = Some(READ_TIMEOUT);
    config.write_timeout = Some(WRITE_TIMEOUT);
    let url = config.cluster_url.to_string();
    Client::try_from(config).map_err(|source| ConnectError::Client {
        url,
        source: Box::new(source),
    })
}
