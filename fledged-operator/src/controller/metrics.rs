//! Metrics of the controller: its loop, its writes, and the state of the caches.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fledged_core::model::CacheId;
use fledged_core::planner::{ActionStatus, CacheStatus, ClusterEvent};
use fledged_core::port::WriteFailure;
use fledged_core::runner::{ClusterObserver, QueueDepth};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Buckets in seconds, from 0.1 ms, the cost of a change of one node, to 10 s. The target for a full plan of 5,000
/// nodes is 0.3 s.
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
    /// Creates the metrics and registers them.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register_with_unit(
            "fledged_reconcile_latency",
            "Time from an event to the resulting plan",
            Unit::Seconds,
            metrics.latency.clone(),
        );
        registry.register(
            "fledged_queue_depth",
            "Writes that wait for their first attempt or a retry",
            metrics.waiting.clone(),
        );
        registry.register(
            "fledged_writes_under_way",
            "Writes in progress",
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
        self.under_way.set(count(queue.in_progress));
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    /// `assignment`, `status`, `annotation`, `finalizer`, `event`.
    object: &'static str,
    /// `ok`, `conflict`, `gone`, `failed`.
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// The share of one cache in the gauges; the counts are in the order of [`STATES`].
type Share = (ActionStatus, [u64; 5]);

/// Metrics of a [`KubeCluster`](super::KubeCluster). No label holds the name of a cache, node or image.
#[derive(Debug, Clone, Default)]
pub struct ClusterMetrics {
    writes: Family<WriteLabels, Counter>,
    caches: Family<StatusLabels, Gauge<i64, AtomicI64>>,
    images: Family<StateLabels, Gauge<i64, AtomicI64>>,
    /// The current share of each cache, to subtract it when it changes.
    shares: Arc<Mutex<BTreeMap<CacheId, Share>>>,
}

const STATES: [&str; 5] = ["desired", "cached", "pulling", "failed", "unreachable"];

impl ClusterMetrics {
    /// Creates the metrics and registers them.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "fledged_api_writes",
            "Writes to the API server by object and result",
            metrics.writes.clone(),
        );
        registry.register(
            "fledged_image_caches",
            "ImageCaches by the status of their last action",
            metrics.caches.clone(),
        );
        registry.register(
            "fledged_images",
            "Pairs of image and node of all ImageCaches by state",
            metrics.images.clone(),
        );
        metrics
    }

    pub(super) fn count_write(&self, object: &'static str, failure: Option<&WriteFailure>) {
        let result = match failure {
            None => "ok",
            Some(WriteFailure::Conflict(_)) => "conflict",
            Some(WriteFailure::Gone(_)) => "gone",
            Some(_) => "failed",
        };
        let labels = WriteLabels { object, result };
        self.writes.get_or_create(&labels).inc();
    }

    pub(super) fn set_cache(&self, cache: &CacheId, status: &CacheStatus) {
        let counts = status.counts;
        let now = (
            status.status,
            [
                counts.desired,
                counts.cached,
                counts.pulling,
                counts.failed,
                counts.unreachable,
            ],
        );
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = shares.insert(cache.clone(), now) {
            self.add(before, -1);
        }
        self.add(now, 1);
    }

    /// Counts caches with a status from before a restart, and removes deleted caches.
    pub(super) fn observe(&self, event: &ClusterEvent) {
        match event {
            ClusterEvent::CacheApplied(facts) => {
                if let Some(status) = &facts.status {
                    self.set_cache(&facts.id, status);
                }
            }
            ClusterEvent::CacheGone(id) => {
                let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(before) = shares.remove(id) {
                    self.add(before, -1);
                }
            }
            _ => {}
        }
    }

    fn add(&self, (status, counts): Share, sign: i64) {
        let labels = StatusLabels {
            status: status.as_str(),
        };
        self.caches.get_or_create(&labels).inc_by(sign);
        for (state, count) in STATES.into_iter().zip(counts) {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            let gauge = self.images.get_or_create(&StateLabels { state });
            gauge.inc_by(sign.saturating_mul(count));
        }
    }
}
