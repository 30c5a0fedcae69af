//! The status of a NodeImageCache: one write, how it fails, and what is left out of a status that is too large.

use fledged_core::model::NodeName;
use fledged_kube::crd::{NodeImageCache, NodeImageCacheStatus};
use fledged_kube::request_error::{is_too_large, problem};
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::core::request::Request;
use kube::{Client, Resource};
use serde_json::json;

/// Why the status of a NodeImageCache was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// The object was deleted or replaced by another of its name.
    #[error("the NodeImageCache is gone: {0}")]
    Gone(String),
    /// The object is larger than the API accepts.
    #[error("{bytes} bytes are too many: {problem}")]
    TooLarge { bytes: usize, problem: String },
    /// Another failure, which may pass.
    #[error("{}", problem(.0))]
    Failed(kube::Error),
}

impl WriteError {
    /// The value of the metrics' label.
    pub(super) fn result(&self) -> &'static str {
        match self {
            Self::Gone(_) => "Gone",
            Self::TooLarge { .. } => "TooLarge",
            Self::Failed(_) => "Failed",
        }
    }
}

/// Writes the statuses of one node.
#[derive(Clone)]
pub(crate) struct StatusApi {
    /// A [bounded](super::bounded_client) client.
    pub(crate) client: Client,
    pub(crate) node: NodeName,
    /// The field manager.
    pub(crate) manager: &'static str,
}

impl StatusApi {
    /// Writes the status of the object with this UID by server-side apply; returns its size in bytes.
    pub(super) async fn write(
        &self,
        uid: Option<String>,
        status: NodeImageCacheStatus,
    ) -> Result<usize, WriteError> {
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
            .map_err(|error| WriteError::Failed(kube::Error::BuildRequest(error)))?;
        let bytes = patch.body().len();
        let written = self.client.request(patch).await;
        let object: PartialObjectMeta<NodeImageCache> =
            written.map_err(|error| classify(error, bytes))?;
        // API servers do not compare the UID of an applied status. The watch reports the new object, which gets
        // its own status.
        if object.metadata.uid.is_some() && object.metadata.uid != uid {
            let problem = "another object has its name".to_owned();
            return Err(WriteError::Gone(problem));
        }
        Ok(bytes)
    }
}

fn classify(error: kube::Error, bytes: usize) -> WriteError {
    let kube::Error::Api(status) = &error else {
        return WriteError::Failed(error);
    };
    // Without a name, the kind is missing (not served yet), not the object.
    let named = status.details.as_ref().is_some_and(|d| !d.name.is_empty());
    let text = status.message.to_ascii_lowercase();
    let problem = problem(&error);
    if (status.is_not_found() && named) || (status.is_conflict() && text.contains("uid")) {
        WriteError::Gone(problem)
    } else if is_too_large(status) {
        WriteError::TooLarge { bytes, problem }
    } else {
        WriteError::Failed(error)
    }
}

/// Longest message of a shrunk status, in characters. The start of a message says what failed.
const MESSAGE_SHORT: usize = 80;

/// What is left out of a status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Shrink {
    /// Nothing.
    #[default]
    Nothing,
    /// The ends of messages.
    Messages,
    /// Every field that is only displayed, except sizes and attempts.
    Details,
    /// Every field that is only displayed.
    All,
}

impl Shrink {
    /// The next step.
    pub(super) fn further(self) -> Self {
        match self {
            Self::Nothing => Self::Messages,
            Self::Messages => Self::Details,
            Self::Details | Self::All => Self::All,
        }
    }

    /// Shrinks a status.
    pub(super) fn apply(self, status: &mut NodeImageCacheStatus) {
        for image in &mut status.images {
            match self {
                Self::Nothing => {}
                Self::Messages => {
                    if let Some(message) = &mut image.message
                        && let Some((end, _)) = message.char_indices().nth(MESSAGE_SHORT)
                    {
                        message.truncate(end);
                        message.push('…');
                    }
                }
                Self::Details | Self::All => {
                    image.message = None;
                    image.via = None;
                    image.via_reason = None;
                    image.digest = None;
                    image.started = None;
                    image.finished = None;
                    image.next_attempt = None;
                }
            }
            if self == Self::All {
                image.bytes = None;
                image.attempts = None;
            }
        }
    }
}

#[cfg(test)]
mod shrink_tests {
    use fledged_core::error::Reason;
    use fledged_core::model::{ImagePhase, ImageReport, NodeReport, PulledVia};

    use super::*;

    #[test]
    fn each_step_is_smaller_and_the_last_has_what_decides() {
        let mut image = ImageReport::new("app:1".parse().unwrap(), ImagePhase::Failed);
        image.message = Some("é".repeat(200));
        image.reason = Some(Reason::Unauthorized);
        image.revision = Some(3);
        image.attempts = 2;
        image.via = Some(PulledVia::Runtime("é".repeat(200)));
        image.started_at = Some(jiff::Timestamp::UNIX_EPOCH);
        let status = NodeImageCacheStatus::from_report(&NodeReport::new(4, vec![image]));
        let mut step = Shrink::Nothing;
        let (mut sizes, mut lengths) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let mut less = status.clone();
            step.apply(&mut less);
            sizes.push(serde_json::to_string(&less).unwrap().len());
            let message = less.images[0].message.as_ref();
            lengths.push(message.map(|text| text.chars().count()));
            step = step.further();
        }
        assert!(sizes.is_sorted_by(|a, b| a > b), "{sizes:?}");
        assert_eq!(lengths, [Some(200), Some(81), None, None]);
        let mut least = status;
        Shrink::All.apply(&mut least);
        assert_eq!(
            serde_json::to_value(&least.images).unwrap(),
            serde_json::json!([{"image": "docker.io/library/app:1", "phase": "Failed",
                "reason": "Unauthorized", "revision": 3}])
        );
        assert_eq!(least.observed_generation, Some(4));
    }
}
