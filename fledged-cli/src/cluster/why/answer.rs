//! What is answered.

use jiff::Timestamp;
use serde::Serialize;

/// Why an image is cached or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum WhyReason {
    /// It is.
    Cached,
    /// The spec of the cache is invalid.
    InvalidSpec,
    /// The cache does not name the image.
    ImageNotInCache,
    /// There is no such node.
    NodeNotFound,
    /// The cache is being deleted.
    CacheDeleting,
    /// The cache does not mean the node.
    NodeNotSelected,
    /// A taint that the cache does not tolerate.
    NodeTainted,
    /// The cache is purged.
    CachePurged,
    /// It is to be removed, but something uses it.
    KeptInUse,
    /// The node has another operating system.
    NodeNotLinux,
    /// The node is about to be deleted.
    NodeLeaving,
    /// The node is not Ready.
    NodeNotReady,
    /// No controller has looked at the cache since it was made or edited.
    NotTakenUp,
    /// The node has not been told of it yet.
    NotAssigned,
    /// The node's agent does not answer.
    AgentSilent,
    /// The node's agent has not begun with it.
    Waiting,
    /// It is being pulled.
    Pulling,
    /// Attempts to pull it fail so far.
    BackingOff,
    /// The last round of pulls ended without it.
    Failed,
}

/// A field that says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// Kind and name.
    pub object: String,
    /// Path of the field.
    pub field: String,
    /// What stands there.
    pub value: String,
    /// Since when, where that is known.
    pub since: Option<Timestamp>,
}

/// The answer, as `-o json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Namespace of the ImageCache.
    pub namespace: String,
    /// Name of the ImageCache.
    pub name: String,
    /// Name of the node.
    pub node: String,
    /// The image as it was asked for.
    pub image: String,
    /// Whether it is cached.
    pub cached: bool,
    /// Why, in one word.
    pub reason: WhyReason,
    /// Why, in words.
    pub because: String,
    /// What says so.
    pub evidence: Vec<Evidence>,
    /// The reason of a failed pull, in one word.
    pub failure: Option<String>,
    /// The registry's or runtime's own text.
    pub message: Option<String>,
    /// Attempts of the current or last round of pulls.
    pub attempts: Option<u32>,
    /// When the next is due.
    pub next_attempt: Option<Timestamp>,
    /// Digest of what is there.
    pub digest: Option<String>,
    /// What to do.
    pub advice: Option<String>,
}

impl Answer {
    pub(super) fn with(
        mut self,
        object: String,
        field: impl Into<String>,
        value: impl Into<String>,
    ) -> Self {
        self.evidence.push(Evidence {
            object,
            field: field.into(),
            value: value.into(),
            since: None,
        });
        self
    }

    /// Since when that holds which was added last.
    pub(super) fn since(mut self, at: Option<Timestamp>) -> Self {
        if let Some(last) = self.evidence.last_mut() {
            last.since = at;
        }
        self
    }

    pub(super) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}
