//! How the loop fares, in numbers.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use fledged_core::runner::{ClusterObserver, QueueDepth};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// From a tenth of a millisecond, what one node's change costs, to 10 s: the aim for a full plan of
/// 5,000 nodes is 0.3 s.
const LATENCIES: [f64; 11] = [
    0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0,
];

/// Metrics of a [`Controller`](super::Controller).
#[derive(Debug, Clone)]
pub struct ControllerMetrics {
    latency: Histogram,
    waiting: Gauge<i64, AtomicI64>,
    under_way: Gauge<i64, AtomicI64>,
    leader: Gauge<i64, AtomicI64>,
}

impl Default for ControllerMetrics {
    fn default() -> Self {
        Self {
            latency: Histogram::new(LATENCIES),
            waiting: Gauge::default(),
            under_way: Gauge::default(),
            leader: Gauge::default(),
        }
    }
}

impl ControllerMetrics {
    /// Metrics that a registry shows.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register_with_unit(
            "fledged_reconcile_latency",
            "Time from an event to the decision what to write",
            Unit::Seconds,
            metrics.latency.clone(),
        );
        registry.register(
            "fledged_queue_depth",
            "Writes that wait to be begun or tried again",
            metrics.waiting.clone(),
        );
        registry.register(
            "fledged_writes_under_way",
            "Writes that are not answered yet",
            metrics.under_way.clone(),
        );
        registry.register(
            "fledged_leader",
            "Whether this controller leads",
            metrics.leader.clone(),
        );
        metrics
    }

    pub(super) fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }
}

impl ClusterObserver for ControllerMetrics {
    fn planned(&self, took: Duration, queue: QueueDepth) {
        if !took.is_zero() {
            self.latency.observe(took.as_secs_f64());
        }
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.waiting.set(count(queue.waiting));
        self.under_way.set(count(queue.under_way));
    }
}
