//! Metrics of the Job driver.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CreationLabel {
    kind: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabel {
    result: &'static str,
}

/// Metrics of a [`JobDriver`](super::JobDriver). Clones share their counters.
#[derive(Debug, Clone, Default)]
pub struct JobMetrics {
    creations: Family<CreationLabel, Counter<u64, AtomicU64>>,
    status_writes: Family<WriteLabel, Counter<u64, AtomicU64>>,
}

impl JobMetrics {
    /// Metrics in that registry, named `fledged_job_*`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "fledged_job_creations",
            "Attempts to create a Job",
            metrics.creations.clone(),
        );
        registry.register(
            "fledged_job_status_writes",
            "Writes of a node's status by the job driver",
            metrics.status_writes.clone(),
        );
        metrics
    }

    pub(super) fn created(&self, kind: &'static str, result: &'static str) {
        let label = CreationLabel { kind, result };
        self.creations.get_or_create(&label).inc();
    }

    pub(super) fn status_written(&self, result: &'static str) {
        let label = WriteLabel { result };
        self.status_writes.get_or_create(&label).inc();
    }
}
