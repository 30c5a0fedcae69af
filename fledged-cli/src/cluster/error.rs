//! Why a cluster could not be asked, and what to do.

use std::fmt;
use std::path::PathBuf;

use fledged_operator::api::error::with_causes;
use kube::config::{InferConfigError, KubeconfigError};

use crate::exit::Exit;

/// What was asked of the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `get`, `list`, `watch`, `patch`.
    pub verb: &'static str,
    /// Plural and group, as in a Role.
    pub resource: &'static str,
    /// Where; `None`: in the whole cluster.
    pub namespace: Option<String>,
    /// Of which object.
    pub name: Option<String>,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if let Some(name) = &self.name {
            write!(f, " {name:?}")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace:?}"),
            None if self.name.is_none() => f.write_str(" in the whole cluster"),
            None => Ok(()),
        }
    }
}

/// Why a command for a cluster could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The file of `--kubeconfig` is of no use.
    #[error("--kubeconfig {}: {}", .path.display(), with_causes(.source))]
    Kubeconfig {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<KubeconfigError>,
    },
    /// What `$KUBECONFIG` names is of no use.
    #[error("$KUBECONFIG {value}: {}", with_causes(.source))]
    Variable {
        /// Its value.
        value: String,
        /// What is wrong with it.
        source: Box<KubeconfigError>,
    },
    /// The context of `--context` is of no use.
    #[error("--context {name:?}: {}", with_causes(.source))]
    Context {
        /// Which context.
        name: String,
        /// What is wrong with it.
        source: Box<KubeconfigError>,
    },
    /// Nobody says where a cluster is.
    #[error(
        "no cluster: {}; name a kubeconfig with --kubeconfig or $KUBECONFIG",
        with_causes(.0)
    )]
    NoCluster(Box<InferConfigError>),
    /// The client can't be set up.
    #[error("cannot set up a client for {url}: {}", with_causes(.source))]
    Client {
        /// The API server.
        url: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// Nobody answers there.
    #[error(
        "cannot {request}: the cluster at {url} does not answer: {problem}; is it up, and the kubeconfig's context the right one?"
    )]
    Unreachable {
        /// What was asked.
        request: Request,
        /// Of whom.
        url: String,
        /// What happened.
        problem: String,
    },
    /// The API server does not know the caller.
    #[error(
        "cannot {request}: the cluster at {url} refuses the credentials of the kubeconfig: {problem}"
    )]
    Unauthorized {
        /// What was asked.
        request: Request,
        /// Of whom.
        url: String,
        /// The server's words.
        problem: String,
    },
    /// The caller may not do that.
    #[error(
        "not allowed to {request}: {problem}; ask for a role with the verb {} on {}",
        .request.verb, .request.resource
    )]
    Forbidden {
        /// What was asked.
        request: Request,
        /// The server's words.
        problem: String,
    },
    /// The custom resources are not installed.
    #[error(
        "the cluster at {url} does not know {}: their CustomResourceDefinition is not installed; apply deploy/kubefledged-crd.yaml, which `fledged-operator crds` prints",
        .request.resource
    )]
    NotInstalled {
        /// What was asked.
        request: Request,
        /// Of whom.
        url: String,
    },
    /// There is no such ImageCache.
    #[error("there is no ImageCache {name:?} in namespace {namespace:?}{hint}")]
    NotFound {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Where one of that name is, if anywhere.
        hint: String,
    },
    /// It was there, and is no more.
    #[error("ImageCache {namespace}/{name} was deleted meanwhile")]
    Gone {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The API server refused for another reason.
    #[error("cannot {request}: {problem}")]
    Refused {
        /// What was asked.
        request: Request,
        /// The server's words.
        problem: String,
    },
}

impl ClusterError {
    /// What a failed request means.
    #[must_use]
    pub fn of(request: Request, url: &str, error: &kube::Error) -> Self {
        let url = url.to_owned();
        let kube::Error::Api(status) = error else {
            let problem = with_causes(error);
            return Self::Unreachable {
                request,
                url,
                problem,
            };
        };
        let problem = fledged_operator::api::error::problem(error);
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
            // Without a name it is not the object that is missing, but its kind.
            404 if !names_object => Self::NotInstalled { request, url },
            404 => Self::NotFound {
                namespace: request.namespace.unwrap_or_default(),
                name: request.name.unwrap_or_default(),
                hint: String::new(),
            },
            _ => Self::Refused { request, problem },
        }
    }

    /// How the process ends with it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Kubeconfig { .. } | Self::Variable { .. } | Self::Context { .. } => {
                Exit::BadInput
            }
            _ => Exit::Failed,
        }
    }
}
