//! AgentMetricsInner of the agent, and where they are taken: at the runtime and at the loop.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fledged_core::error::Failure;
use fledged_core::model::{ByteSize, ImagePhase, ImageRef, ImageReport, NodeReport};
use fledged_core::port::{
    Clock, FilesystemUsage, ImageId, ImageRuntime, PullRequest, Removal, RuntimeImage, RuntimeInfo,
};
use fledged_core::reporter::ReporterEvent;
use fledged_core::runner::NodeObserver;
use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::mpsc;

use crate::agent::health::AgentHealth;

/// Buckets in seconds: from an image whose layers are all present to the default deadline of five minutes, and
/// one bucket beyond it. Each step is about twice the previous one.
const PULL_SECONDS: [f64; 12] = [
    0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0,
];
/// Buckets in bytes: from a static binary (a few MB) to images with model weights (tens of GB). Each step is
/// four times the previous one.
const IMAGE_BYTES: [f64; 9] = [
    1048576.0,
    4194304.0,
    16777216.0,
    67108864.0,
    268435456.0,
    1073741824.0,
    4294967296.0,
    17179869184.0,
    68719476736.0,
];
/// All phases, so that a phase without images is exported as zero.
const PHASES: [ImagePhase; 8] = [
    ImagePhase::Pending,
    ImagePhase::Pulling,
    ImagePhase::BackingOff,
    ImagePhase::Cached,
    ImagePhase::Failed,
    ImagePhase::Removing,
    ImagePhase::Removed,
    ImagePhase::InUse,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

/// `Succeeded`, or one of a fixed set of reasons.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// An agent's metrics. Clones share them. No label has more values than there are phases,
/// [reasons](fledged_core::error::Reason) or kinds of answers: nothing is counted by image.
#[derive(Clone)]
pub(super) struct AgentMetrics(Arc<AgentMetricsInner>);

struct AgentMetricsInner {
    images: Family<PhaseLabel, Gauge>,
    backing_off: Gauge,
    pulls: Family<ResultLabel, Counter>,
    pull_seconds: Histogram,
    image_bytes: Histogram,
    status_writes: Family<ResultLabel, Counter>,
    inventory_failures: Counter,
}

impl fmt::Debug for AgentMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentMetrics").finish_non_exhaustive()
    }
}

impl AgentMetrics {
    pub(super) fn new() -> Self {
        let metrics = Self(Arc::new(AgentMetricsInner {
            images: Family::default(),
            backing_off: Gauge::default(),
            pulls: Family::default(),
            pull_seconds: Histogram::new(PULL_SECONDS),
            image_bytes: Histogram::new(IMAGE_BYTES),
            status_writes: Family::default(),
            inventory_failures: Counter::default(),
        }));
        metrics.images(&[]);
        metrics
    }

    /// Adds the metrics to a registry, as `fledged_agent_*`.
    pub(super) fn register(&self, registry: &mut Registry) {
        let metrics = &self.0;
        let registry = registry.sub_registry_with_prefix("fledged_agent");
        registry.register(
            "images",
            "Images of the node's assignment by phase",
            metrics.images.clone(),
        );
        registry.register(
            "images_in_backoff",
            "Images that wait for the next attempt after a failure",
            metrics.backing_off.clone(),
        );
        registry.register(
            "pulls",
            "Finished pulls by result: Succeeded, Cancelled or the reason of the failure",
            metrics.pulls.clone(),
        );
        registry.register_with_unit(
            "pull_duration",
            "Duration of successful pulls",
            Unit::Seconds,
            metrics.pull_seconds.clone(),
        );
        registry.register_with_unit(
            "pulled_image",
            "Size of pulled images as reported by the runtime",
            Unit::Bytes,
            metrics.image_bytes.clone(),
        );
        registry.register(
            "status_writes",
            "Writes of the status of the NodeImageCache by result",
            metrics.status_writes.clone(),
        );
        registry.register(
            "inventory_failures",
            "Failed reads of the inventory of the runtime",
            metrics.inventory_failures.clone(),
        );
    }

    /// Sets the gauges from the state of all images.
    pub(super) fn images(&self, reports: &[ImageReport]) {
        for phase in PHASES {
            let images = reports.iter().filter(|report| report.phase == phase);
            let phase = phase.as_str();
            let gauge = self.0.images.get_or_create(&PhaseLabel { phase });
            gauge.set(count(images));
        }
        let backing_off = reports.iter().filter(|r| r.next_attempt_at.is_some());
        self.0.backing_off.set(count(backing_off));
    }

    /// Counts a finished pull, with the size of the image if it succeeded.
    pub(super) fn pulled(&self, result: &'static str, time: Duration, size: Option<ByteSize>) {
        let label = ResultLabel { result };
        self.0.pulls.get_or_create(&label).inc();
        if let Some(size) = size {
            self.0.pull_seconds.observe(time.as_secs_f64());
            #[expect(clippy::cast_precision_loss, reason = "buckets are powers of four")]
            self.0.image_bytes.observe(size.bytes() as f64);
        }
    }

    pub(super) fn status_written(&self, result: &'static str) {
        let label = ResultLabel { result };
        self.0.status_writes.get_or_create(&label).inc();
    }

    pub(super) fn inventory_failed(&self) {
        self.0.inventory_failures.inc();
    }
}

fn count<'a>(reports: impl Iterator<Item = &'a ImageReport>) -> i64 {
    i64::try_from(reports.count()).unwrap_or(i64::MAX)
}

/// Forwards every call to a runtime and records its result.
pub(super) struct MeasuredRuntime {
    pub(super) runtime: Arc<dyn ImageRuntime>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: AgentMetrics,
    pub(super) health: AgentHealth,
}

/// A pull under way; one that is dropped was cancelled.
struct MeasuredPull<'a> {
    measured: &'a MeasuredRuntime,
    began: Timestamp,
    ended: bool,
}

impl MeasuredPull<'_> {
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

impl Drop for MeasuredPull<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let time = self.time();
            self.measured.metrics.pulled("Cancelled", time, None);
        }
    }
}

#[async_trait]
impl ImageRuntime for MeasuredRuntime {
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

    async fn in_use(&self) -> Result<Vec<ImageId>, Failure> {
        self.runtime.in_use().await
    }

    async fn pull(&self, request: PullRequest) -> Result<RuntimeImage, Failure> {
        let pull = MeasuredPull {
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

/// Passes what the node loop reports to the status writer, the metrics and the probes.
#[derive(Debug)]
pub(super) struct Observer {
    /// Unbounded: the writer receives also while it waits for the API server.
    pub(super) reports: mpsc::UnboundedSender<ReporterEvent>,
    pub(super) metrics: AgentMetrics,
    pub(super) health: AgentHealth,
}

impl NodeObserver for Observer {
    fn report(&self, report: NodeReport) {
        self.metrics.images(&report.images);
        // Without a writer the agent ends anyway.
        let _ = self.reports.send(ReporterEvent::Observed(report));
    }

    fn runtime_failed(&self, operation: &str, failure: &Failure) {
        if operation == "inventory" {
            self.metrics.inventory_failed();
            self.health
                .inventory(Err(format!("{}: {failure}", failure.reason)));
        }
    }
}

#[cfg(test)]
mod tests {
    use fledged_core::error::Reason;
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn shown(registry: &Registry) -> String {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn images_are_counted_by_phase_and_pulls_by_result() {
        let metrics = AgentMetrics::new();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mk_report = |image: &str, phase| ImageReport::new(image.parse().unwrap(), phase);
        metrics.images(&[
            mk_report("app:1", ImagePhase::Pending),
            mk_report("app:2", ImagePhase::Pending),
        ]);
        let mut failed = mk_report("app:1", ImagePhase::Failed);
        failed.next_attempt_at = Some(jiff::Timestamp::UNIX_EPOCH);
        metrics.images(&[failed, mk_report("app:2", ImagePhase::Pending)]);
        metrics.pulled(Reason::Unauthorized.as_str(), Duration::from_secs(1), None);
        metrics.pulled(
            "Succeeded",
            Duration::from_secs(14),
            Some(ByteSize::new(50_000_000)),
        );
        let text = shown(&registry);
        for line in [
            r#"fledged_agent_images{phase="Pending"} 1"#,
            r#"fledged_agent_images{phase="Failed"} 1"#,
            r#"fledged_agent_images{phase="Cached"} 0"#,
            "fledged_agent_images_in_backoff 1",
            r#"fledged_agent_pulls_total{result="Unauthorized"} 1"#,
            r#"fledged_agent_pull_duration_seconds_bucket{le="10.0"} 0"#,
            r#"fledged_agent_pull_duration_seconds_bucket{le="20.0"} 1"#,
            r#"fledged_agent_pulled_image_bytes_bucket{le="67108864.0"} 1"#,
            "fledged_agent_inventory_failures_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
        metrics.images(&[]);
        let text = shown(&registry);
        assert!(text.contains("fledged_agent_images_in_backoff 0"), "{text}");
        assert!(text.contains(r#"images{phase="Failed"} 0"#), "{text}");
    }
}
