//! Writing one status, and what came of it.

use std::time::Duration;

use fledged_core::model::NodeName;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde_json::json;

use super::reporter::StatusWrite;
use crate::crd::{NodeImageCache, ReadNodeCache};

/// Field manager of everything that agents write.
pub const FIELD_MANAGER: &str = "fledged-agent";
/// Longest that one write may take: an API server's own limit on a request.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// A status that was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// The object is not there any more, or another one of the same name is.
    #[error("the NodeImageCache {node} that this answers is gone: {problem}")]
    Gone { node: NodeName, problem: String },
    /// The API takes no object as large.
    #[error("the status of NodeImageCache {node} is too large, {bytes} bytes: {problem}")]
    TooLarge {
        node: NodeName,
        bytes: usize,
        problem: String,
    },
    /// Anything else; worth trying again.
    #[error("cannot write the status of NodeImageCache {node}: {problem}")]
    Failed {
        node: NodeName,
        problem: String,
        retry_after: Option<Duration>,
    },
}

impl WriteError {
    /// The value of the metrics' label.
    pub(super) fn result(&self) -> &'static str {
        match self {
            Self::Gone { .. } => "Gone",
            Self::TooLarge { .. } => "TooLarge",
            Self::Failed { .. } => "Failed",
        }
    }
}

/// Writes the statuses of one node.
#[derive(Clone)]
pub(super) struct StatusApi {
    api: Api<ReadNodeCache>,
    node: NodeName,
}

impl StatusApi {
    pub(super) fn new(client: Client, node: NodeName) -> Self {
        Self {
            api: Api::all(client),
            node,
        }
    }

    /// Writes by server-side apply; returns how many bytes that were.
    pub(super) async fn write(&self, write: StatusWrite) -> Result<usize, WriteError> {
        let body = json!({
            "apiVersion": NodeImageCache::api_version(&()),
            "kind": NodeImageCache::kind(&()),
            "metadata": { "name": self.node.as_str(), "uid": write.uid },
            "status": write.status,
        });
        let bytes = body.to_string().len();
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(&body);
        let call = self
            .api
            .patch_status(self.node.as_str(), &parameters, &patch);
        let object = match tokio::time::timeout(WRITE_LIMIT, call).await {
            Ok(Ok(object)) => object,
            Ok(Err(error)) => return Err(self.refused(&error, bytes)),
            Err(_) => {
                return Err(WriteError::Failed {
                    node: self.node.clone(),
                    problem: format!("no answer within {} s", WRITE_LIMIT.as_secs()),
                    retry_after: None,
                });
            }
        };
        // API servers do not compare the UID of a status that is applied. The watch tells of the new
        // object, and it is answered for itself.
        match object.metadata.uid.is_some_and(|uid| uid != write.uid) {
            true => Err(WriteError::Gone {
                node: self.node.clone(),
                problem: "another object has its name".to_owned(),
            }),
            false => Ok(bytes),
        }
    }

    fn refused(&self, error: &kube::Error, bytes: usize) -> WriteError {
        let node = self.node.clone();
        let problem = error.to_string();
        let kube::Error::Api(status) = error else {
            return WriteError::Failed {
                node,
                problem,
                retry_after: None,
            };
        };
        let problem = match status.message.is_empty() {
            true => format!("HTTP status {}", status.code),
            false => status.message.clone(),
        };
        // "Not found" without a name: the definition is not served (yet), the object may well exist.
        let named = status.details.as_ref().is_some_and(|d| !d.name.is_empty());
        let text = problem.to_ascii_lowercase();
        let other = status.is_conflict() && text.contains("uid");
        // A body above the API server's limit, a request above etcd's, a message above gRPC's.
        let large = status.code == 413
            || [
                "request is too large",
                "entity too large",
                "message larger than max",
            ]
            .iter()
            .any(|words| text.contains(words));
        if (status.is_not_found() && named) || other {
            WriteError::Gone { node, problem }
        } else if large {
            WriteError::TooLarge {
                node,
                bytes,
                problem,
            }
        } else {
            WriteError::Failed {
                node,
                problem,
                retry_after: retry_after(error),
            }
        }
    }
}

/// How long the API server asked to be left alone, if it did.
pub(super) fn retry_after(error: &kube::Error) -> Option<Duration> {
    let kube::Error::Api(status) = error else {
        return None;
    };
    let seconds = status.details.as_ref()?.retry_after_seconds;
    Some(Duration::from_secs(seconds.into())).filter(|asked| !asked.is_zero())
}
