//! What the agent observes of its runtime and its loop, for metrics, probes and the status writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fledged_core::error::Failure;
use fledged_core::model::{ImageRef, NodeReport};
use fledged_core::port::{
    FilesystemUsage, ImageRuntime, ImageUse, PullProgress, PullRequest, Removal, RuntimeImage,
    RuntimeInfo,
};
use fledged_core::reporter::ReporterEvent;
use fledged_core::runner::{NodeObserver, PullOutcome};
use tokio::sync::mpsc;
use tracing::info;

use super::running_pulls::RunningPulls;
use crate::health::AgentHealth;
use crate::metrics::AgentMetrics;

/// Forwards every call to a runtime and records when an inventory was read.
pub(super) struct ProbedRuntime {
    pub(super) runtime: Arc<dyn ImageRuntime>,
    pub(super) health: AgentHealth,
    /// Whether it was logged that the used share of the image file systems is not known.
    pub(super) unmeasured: AtomicBool,
}

impl ProbedRuntime {
    /// Logs once that the threshold of the image file systems has no effect.
    fn warn_unmeasured(&self, filesystems: &[FilesystemUsage]) {
        let mut unknown = filesystems
            .iter()
            .filter(|usage| usage.used_percent().is_none());
        let unknown = unknown.next().map(|usage| usage.path.as_str());
        if (unknown.is_some() || filesystems.is_empty())
            && !self.unmeasured.swap(true, Ordering::Relaxed)
        {
            info!(
                path = unknown.unwrap_or_default(),
                "used share of the image file system not known: --image-fs-high-threshold has no effect"
            );
        }
    }
}

#[async_trait]
impl ImageRuntime for ProbedRuntime {
    async fn info(&self) -> Result<RuntimeInfo, Failure> {
        self.runtime.info().await
    }

    async fn list(&self) -> Result<Vec<RuntimeImage>, Failure> {
        let images = self.runtime.list().await?;
        // The last step of an inventory read. The loop reports failures, because it enforces the time limit.
        self.health.inventory(Ok(()));
        Ok(images)
    }

    async fn lookup(&self, image: &ImageRef) -> Result<Option<RuntimeImage>, Failure> {
        self.runtime.lookup(image).await
    }

    async fn in_use(&self) -> Result<Vec<ImageUse>, Failure> {
        self.runtime.in_use().await
    }

    async fn pull(&self, request: PullRequest) -> Result<RuntimeImage, Failure> {
        self.runtime.pull(request).await
    }

    async fn remove(&self, image: &ImageRef) -> Result<Removal, Failure> {
        self.runtime.remove(image).await
    }

    async fn discard_unfinished(&self, image: &ImageRef) -> Result<(), Failure> {
        self.runtime.discard_unfinished(image).await
    }

    async fn filesystems(&self) -> Result<Vec<FilesystemUsage>, Failure> {
        let filesystems = self.runtime.filesystems().await?;
        self.warn_unmeasured(&filesystems);
        Ok(filesystems)
    }
}

/// Passes what the node loop reports to the status writer, the metrics and the probes.
pub(super) struct Observer {
    /// Unbounded: the writer receives also while it waits for the API server.
    pub(super) reports: mpsc::UnboundedSender<ReporterEvent>,
    pub(super) metrics: AgentMetrics,
    pub(super) health: AgentHealth,
    pub(super) running: RunningPulls,
}

impl NodeObserver for Observer {
    fn report(&self, report: NodeReport) {
        self.metrics.images(&report.images);
        // Without a writer the agent ends anyway.
        let _ = self.reports.send(ReporterEvent::Observed(report));
    }

    fn pull_started(&self, image: &ImageRef) {
        self.metrics.running_pulls(self.running.begin(image));
    }

    fn progress(&self, image: &ImageRef, progress: PullProgress) {
        self.metrics
            .received(self.running.progressed(image, progress));
    }

    fn pull_ended(&self, image: &ImageRef, outcome: PullOutcome<'_>, took: Duration) {
        let (word, size) = match outcome {
            PullOutcome::Succeeded(image) => ("Succeeded", Some(image.size)),
            PullOutcome::Failed(reason) => (reason.as_str(), None),
            _ => ("Cancelled", None),
        };
        self.metrics.running_pulls(self.running.end(image));
        self.metrics.pulled(word, took, size);
    }

    fn runtime_failed(&self, operation: &str, failure: &Failure) {
        if operation == "inventory" {
            self.metrics.inventory_failed();
            self.health
                .inventory(Err(format!("{}: {failure}", failure.reason)));
        }
    }
}
