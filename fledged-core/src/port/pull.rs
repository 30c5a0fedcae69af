//! One pull, and how far it has got.

use std::fmt;
use std::sync::Arc;

use super::RegistryAuth;
use crate::model::{ByteSize, ImageRef};

/// One pull.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PullRequest {
    /// What to pull.
    pub image: ImageRef,
    /// Credentials to use; anonymous without.
    pub auth: Option<RegistryAuth>,
    /// Where progress goes.
    pub progress: ProgressSink,
}

impl PullRequest {
    /// An anonymous pull without progress.
    #[must_use]
    pub fn new(image: ImageRef) -> Self {
        Self {
            image,
            auth: None,
            progress: ProgressSink::none(),
        }
    }

    /// With these credentials.
    #[must_use]
    pub fn with_auth(mut self, auth: impl Into<Option<RegistryAuth>>) -> Self {
        self.auth = auth.into();
        self
    }

    /// With somebody to tell how far it has got.
    #[must_use]
    pub fn with_progress(mut self, progress: ProgressSink) -> Self {
        self.progress = progress;
        self
    }
}

/// How far a pull has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PullProgress {
    /// Bytes fetched, of layers that were not there before.
    pub done: ByteSize,
    /// Bytes to fetch, once known; may grow while manifests are read.
    pub total: Option<ByteSize>,
}

impl PullProgress {
    /// So many bytes, of so many where that is known.
    pub fn new(done: ByteSize, total: impl Into<Option<ByteSize>>) -> Self {
        Self {
            done,
            total: total.into(),
        }
    }
}

/// Receives [`PullProgress`]; cheap to clone, called often, must not block.
#[derive(Clone)]
pub struct ProgressSink(Option<Arc<dyn Fn(PullProgress) + Send + Sync>>);

impl ProgressSink {
    /// A sink that calls `f`.
    pub fn new(f: impl Fn(PullProgress) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(f)))
    }

    /// A sink that drops everything.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Tells the receiver.
    pub fn report(&self, progress: PullProgress) {
        if let Some(f) = &self.0 {
            f(progress);
        }
    }
}

impl fmt::Debug for ProgressSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "ProgressSink"
        } else {
            "ProgressSink(none)"
        })
    }
}
