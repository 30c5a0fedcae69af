//! A runtime whose pulls are measured.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fledged_core::error::Failure;
use fledged_core::model::ImageRef;
use fledged_core::port::{
    Clock, FilesystemUsage, ImageId, ImageRuntime, PullRequest, Removal, RuntimeImage, RuntimeInfo,
};
use jiff::Timestamp;

use super::health::AgentHealth;
use super::metrics::AgentMetrics;

/// Passes everything on, and takes note of how it went.
pub(super) struct Measured {
    pub(super) runtime: Arc<dyn ImageRuntime>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: AgentMetrics,
    pub(super) health: AgentHealth,
}

/// A pull under way; one that is dropped was cancelled.
struct Pull<'a> {
    measured: &'a Measured,
    began: Timestamp,
    ended: bool,
}

impl Pull<'_> {
    fn time(&self) -> Duration {
        let time = self.measured.clock.now().duration_since(self.began);
        Duration::try_from(time).unwrap_or_default()
    }

    fn ended(mut self, result: &Result<RuntimeImage, Failure>) {
        self.ended = true;
        let (word, size) = match result {
            Ok(image) => ("Succeeded", Some(image.size)),
            Err(error) => (error.reason.as_str(), None),
        };
        self.measured.metrics.pulled(word, self.time(), size);
    }
}

impl Drop for Pull<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let time = self.time();
            self.measured.metrics.pulled("Cancelled", time, None);
        }
    }
}

#[async_trait]
impl ImageRuntime for Measured {
    async fn info(&self) -> Result<RuntimeInfo, Failure> {
        self.runtime.info().await
    }

    async fn list(&self) -> Result<Vec<RuntimeImage>, Failure> {
        let images = self.runtime.list().await?;
        // The last step of a reading; that one failed is told by the loop, which knows of time limits
        // too.
        self.health.inventory(Ok(()));
        Ok(images)
    }

    async fn lookup(&self, image: &ImageRef) -> Result<Option<RuntimeImage>, Failure> {
        self.runtime.lookup(image).await
    }

    async fn in_use(&self) -> Result<Vec<ImageId>, Failure> {
        self.runtime.in_use().await
    }

    async fn pull(&self, request: PullRequest) -> Result<RuntimeImage, Failure> {
        let pull = Pull {
            measured: self,
            began: self.clock.now(),
            ended: false,
        };
        let result = self.runtime.pull(request).await;
        pull.ended(&result);
        result
    }

    async fn remove(&self, image: &ImageRef) -> Result<Removal, Failure> {
        self.runtime.remove(image).await
    }

    async fn filesystems(&self) -> Result<Vec<FilesystemUsage>, Failure> {
        self.runtime.filesystems().await
    }
}
