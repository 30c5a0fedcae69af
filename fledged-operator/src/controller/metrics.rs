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

/// What one cache adds to the gauges; the counts in the order of [`STATES`].
type Share = (ActionStatus, [u64; 5]);

/// Metrics of a [`KubeCluster`](super::KubeCluster); no label has a cache's, node's or image's name.
#[derive(Debug, Clone, Default)]
pub struct ClusterMetrics {
    writes: Family<WriteLabels, Counter>,
    caches: Family<StatusLabels, Gauge<i64, AtomicI64>>,
    images: Family<StateLabels, Gauge<i64, AtomicI64>>,
    /// What was last told of each cache, to take it away again.
    told: Arc<Mutex<BTreeMap<CacheId, Share>>>,
}

const STATES: [&str; 5] = ["desired", "cached", "pulling", "failed", "unreachable"];

impl ClusterMetrics {
    /// Metrics that a registry shows.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "fledged_api_writes",
            "Writes to the API server, by what was written and how it ended",
            metrics.writes.clone(),
        );
        registry.register(
            "fledged_image_caches",
            "ImageCaches by the status of their last action",
            metrics.caches.clone(),
        );
        registry.register(
            "fledged_images",
            "Images times nodes of all ImageCaches, by where they stand",
            metrics.images.clone(),
        );
        metrics
    }

    pub(super) fn written(&self, object: &'static str, failure: Option<&WriteFailure>) {
        let result = match failure {
            None => "ok",
            Some(WriteFailure::Conflict(_)) => "conflict",
            Some(WriteFailure::Gone(_)) => "gone",
            Some(_) => "failed",
        };
        let labels = WriteLabels { object, result };
        self.writes.get_or_create(&labels).inc();
    }

    pub(super) fn cache_told(&self, cache: &CacheId, status: &CacheStatus) {
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
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = told.insert(cache.clone(), now) {
            self.add(before, -1);
        }
        self.add(now, 1);
    }

    /// Takes note of caches that were there before, and of those that are gone.
    pub(super) fn heard(&self, event: &ClusterEvent) {
        match event {
            ClusterEvent::CacheApplied(facts) => {
                if let Some(status) = &facts.status {
                    self.cache_told(&facts.id, status);
                }
            }
            ClusterEvent::CacheGone(id) => {
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(before) = told.remove(id) {
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
