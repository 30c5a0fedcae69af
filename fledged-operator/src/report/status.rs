//! Writing one status, and what came of it.

use std::time::Duration;

use fledged_core::model::NodeName;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::core::request::Request;
use kube::{Client, Resource};
use serde_json::json;

use super::request::{Refusal, request};
use crate::crd::{NodeImageCache, NodeImageCacheStatus};

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
pub(crate) struct StatusApi {
    client: Client,
    node: NodeName,
    manager: &'static str,
}

impl StatusApi {
    /// Of that node, as that field manager.
    pub(crate) fn new(client: Client, node: NodeName, manager: &'static str) -> Self {
        Self {
            client,
            node,
            manager,
        }
    }

    /// Writes the status of the object with that UID by server-side apply; returns its size in bytes.
    pub(super) async fn write(
        &self,
        uid: Option<String>,
        status: NodeImageCacheStatus,
    ) -> Result<usize, WriteError> {
        let failed = |problem: String| WriteError::Failed {
            node: self.node.clone(),
            problem,
            retry_after: None,
        };
        let node = self.node.as_str();
        let patch = Patch::Apply(json!({
            "apiVersion": NodeImageCache::api_version(&()),
            "kind": NodeImageCache::kind(&()),
            "metadata": { "name": node, "uid": uid },
            "status": status,
        }));
        let parameters = PatchParams::apply(self.manager).force();
        let patch = Request::new(NodeImageCache::url_path(&(), None))
            .patch_subresource("status", node, &parameters, &patch)
            .map_err(|error| failed(error.to_string()))?;
        let bytes = patch.body().len();
        let answer = request(&self.client, patch, WRITE_LIMIT).await;
        let answer = answer.map_err(|refusal| self.refused(refusal, bytes))?;
        let object: PartialObjectMeta<NodeImageCache> =
            serde_json::from_slice(&answer).map_err(|error| failed(error.to_string()))?;
        // API servers do not compare the UID of a status that is applied. The watch tells of the new
        // object, and it is answered for itself.
        if object.metadata.uid.is_some() && object.metadata.uid != uid {
            return Err(WriteError::Gone {
                node: self.node.clone(),
                problem: "another object has its name".to_owned(),
            });
        }
        Ok(bytes)
    }

    fn refused(&self, refusal: Refusal, bytes: usize) -> WriteError {
        let node = self.node.clone();
        let (problem, retry_after) = (refusal.problem, refusal.retry_after);
        let Some(status) = refusal.status else {
            return WriteError::Failed {
                node,
                problem,
                retry_after,
            };
        };
        // "Not found" without a name: the definition is not served (yet), the object may well exist.
        let named = status.details.as_ref().is_some_and(|d| !d.name.is_empty());
        let text = status.message.to_ascii_lowercase();
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
                retry_after,
            }
        }
    }
}
