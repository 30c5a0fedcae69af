//! From the kubeconfig to a connection, and the errors of requests to the cluster.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use fledged_core::model::{GoDuration, NodeName};
use fledged_kube::request_error::{problem, with_causes};
use kube::config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use crate::args::ConnectionArgs;
use crate::command_result::{CommandError, Exit};

/// Time limit for setting up a connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A cluster to send requests to.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(super) client: Client,
    /// The API server, for messages.
    pub(super) url: String,
    /// The namespace of the ImageCaches.
    pub(super) namespace: String,
}

/// Finds the cluster as kubectl does. Sends no request.
pub(crate) async fn connect(args: &ConnectionArgs) -> Result<Connection, ClusterError> {
    let mut config = config(args).await?;
    if is_loopback(config.cluster_url.host()) {
        // A proxy cannot reach this machine's loopback address, whatever $HTTPS_PROXY is.
        config.proxy_url = None;
    }
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // A failure is reported at once instead of being retried silently.
    config.default_retry = false;
    let namespace = args
        .namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
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

async fn config(args: &ConnectionArgs) -> Result<Config, ClusterError> {
    let options = KubeConfigOptions {
        context: args.context.clone(),
        ..KubeConfigOptions::default()
    };
    match (&args.kubeconfig, &args.context) {
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
            Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(fail)
        }
        (None, Some(name)) => Config::from_kubeconfig(&options)
            .await
            .map_err(|source| context_error(name, source)),
        (None, None) => {
            let fail = |source: KubeconfigError| ClusterError::Variable {
                value: std::env::var("KUBECONFIG").unwrap_or_default(),
                source: Box::new(source),
            };
            match Kubeconfig::from_env().map_err(fail)? {
                Some(file) => Config::from_custom_kubeconfig(file, &options)
                    .await
                    .map_err(fail),
                None => Config::infer()
                    .await
                    .map_err(|error| ClusterError::NoCluster(Box::new(error))),
            }
        }
    }
}

fn is_loopback(host: Option<&str>) -> bool {
    let host = host.unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn context_error(name: &str, source: KubeconfigError) -> ClusterError {
    ClusterError::Context {
        name: name.to_owned(),
        source: Box::new(source),
    }
}

/// The error with its causes. Its texts quote paths twice.
fn causes(error: &KubeconfigError) -> String {
    with_causes(error).replace("'\"", "\"").replace("\"'", "\"")
}

/// A request to the API server, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiRequest {
    /// `get`, `list`, `watch`, `patch`, `create`.
    pub(super) verb: &'static str,
    /// Plural and group, as in a Role.
    pub(super) resource: &'static str,
    /// The namespace; `None` for the whole cluster.
    pub(super) namespace: Option<String>,
    /// The name of the object.
    pub(super) name: Option<String>,
}

impl fmt::Display for ApiRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if let Some(name) = &self.name {
            write!(f, " {name:?}")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace:?}"),
            None if matches!(self.verb, "list" | "watch") => f.write_str(" in all namespaces"),
            None => Ok(()),
        }
    }
}

/// Why a command for a cluster failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// The file of `--kubeconfig` is invalid.
    #[error("--kubeconfig {}: {}", .path.display(), causes(.source))]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<KubeconfigError>,
    },
    /// A file of `$KUBECONFIG` is invalid.
    #[error("$KUBECONFIG {value}: {}", causes(.source))]
    Variable {
        /// The value of the variable.
        value: String,
        /// The cause.
        source: Box<KubeconfigError>,
    },
    /// The context of `--context` is missing or invalid.
    #[error("--context {name:?}: {}", causes(.source))]
    Context {
        /// The context.
        name: String,
        /// The cause.
        source: Box<KubeconfigError>,
    },
    /// There is no kubeconfig, and the process does not run in a cluster.
    #[error(
        "no cluster configured: {}; set --kubeconfig or $KUBECONFIG",
        with_causes(.0)
    )]
    NoCluster(Box<InferConfigError>),
    /// The client cannot be set up.
    #[error("cannot set up a client for {url}: {}", with_causes(.source))]
    Client {
        /// The API server.
        url: String,
        /// The cause.
        source: Box<kube::Error>,
    },
    /// The API server does not answer.
    #[error(
        "cannot {request}: the cluster at {url} does not answer: {problem}; check that it is up and that the context of the kubeconfig is the right one"
    )]
    Unreachable {
        /// The request.
        request: ApiRequest,
        /// The API server.
        url: String,
        /// The cause.
        problem: String,
    },
    /// The API server has not answered before the end of a wait.
    #[error("the cluster at {url} has not answered within {waited}; check that it is up")]
    NoAnswer {
        /// The API server.
        url: String,
        /// The timeout of the wait.
        waited: GoDuration,
    },
    /// The credentials are invalid.
    #[error(
        "cannot {request}: the cluster at {url} refuses the credentials of the kubeconfig: {problem}"
    )]
    Unauthorized {
        /// The request.
        request: ApiRequest,
        /// The API server.
        url: String,
        /// The API server's message.
        problem: String,
    },
    /// The user has no permission.
    #[error(
        "not allowed to {request}: {problem}; a role with the verb {} on {} is required",
        .request.verb, .request.resource
    )]
    Forbidden {
        /// The request.
        request: ApiRequest,
        /// The API server's message.
        problem: String,
    },
    /// The CustomResourceDefinition is not installed.
    #[error(
        "the cluster at {url} has no resource {}: the CustomResourceDefinition is not installed; apply deploy/kubefledged-crd.yaml, or the output of `fledged-operator crds`",
        .request.resource
    )]
    NotInstalled {
        /// The request.
        request: ApiRequest,
        /// The API server.
        url: String,
    },
    /// The ImageCache does not exist.
    #[error("there is no ImageCache {name:?} in namespace {namespace:?}{hint}")]
    NotFound {
        /// The namespace.
        namespace: String,
        /// The name.
        name: String,
        /// The namespaces that have an ImageCache of that name, if any.
        hint: String,
    },
    /// The Node does not exist, nor a NodeImageCache of that name.
    #[error("there is no Node {:?}; list the nodes with `kubectl get nodes`", .name.as_str())]
    NoNode {
        /// The name.
        name: NodeName,
    },
    /// The ImageCache was deleted while the command ran.
    #[error("ImageCache {namespace}/{name} was deleted")]
    Gone {
        /// The namespace.
        namespace: String,
        /// The name.
        name: String,
    },
    /// The server is none of Kubernetes.
    #[error("{url} does not answer as a Kubernetes API server: {problem}")]
    NotKubernetes {
        /// The server.
        url: String,
        /// How it answers.
        problem: String,
    },
    /// The API server refused the request for another reason.
    #[error("cannot {request}: {problem}")]
    Refused {
        /// The request.
        request: ApiRequest,
        /// The API server's message.
        problem: String,
    },
}

impl From<ClusterError> for CommandError {
    fn from(error: ClusterError) -> Self {
        Self::part(error.exit(), error)
    }
}

impl ClusterError {
    /// The error of a failed request.
    pub(super) fn of(request: ApiRequest, url: &str, error: &kube::Error) -> Self {
        let url = url.to_owned();
        let kube::Error::Api(status) = error else {
            let problem = with_causes(error);
            return Self::Unreachable {
                request,
                url,
                problem,
            };
        };
        let problem = problem(error);
        let names_object = status
            .details
            .as_ref()
            .is_some_and(|details| !details.name.is_empty());
        match status.code {
            401 => Self::Unauthorized {
                request,
                url,
                problem,
            },
            403 => Self::Forbidden { request, problem },
            // Without a name, the resource itself is missing.
            404 if !names_object => Self::NotInstalled { request, url },
            404 => Self::NotFound {
                namespace: request.namespace.unwrap_or_default(),
                name: request.name.unwrap_or_default(),
                hint: String::new(),
            },
            _ => Self::Refused { request, problem },
        }
    }

    /// How the process ends with this error.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Kubeconfig { .. } | Self::Variable { .. } | Self::Context { .. } => {
                Exit::BadInput
            }
            _ => Exit::Failed,
        }
    }
}
