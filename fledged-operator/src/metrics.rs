//! The metrics: names, labels and help texts. No label holds the name of a cache, node or image, except in the metrics of
//! each cache, which are off by default.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fledged_core::model::{ByteSize, CacheId, ImagePhase, ImageReport};
use fledged_core::planner::{ActionStatus, CacheStatus, ClusterEvent, ConditionKind};
use fledged_core::port::WriteFailure;
use fledged_core::runner::{ClusterObserver, QueueDepth};
use fledged_cri::{PullSlowdowns, SlowedBy};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Label names with their values.
type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Gauges = Family<Labels<1>, Gauge>;

/// Registers metrics, each with its name, its unit, which ends the name, and its help text.
macro_rules! register {
    ($registry:expr; $($metric:expr => $name:literal $(($unit:ident))?, $help:literal;)*) => {
        $(register!(@one $registry, $metric, $name, $help $(, $unit)?);)*
    };
    (@one $registry:expr, $metric:expr, $name:literal, $help:literal) => {
        $registry.register($name, $help, $metric.clone())
    };
    (@one $registry:expr, $metric:expr, $name:literal, $help:literal, $unit:ident) => {
        $registry.register_with_unit($name, $help, Unit::$unit, $metric.clone())
    };
}

fn gauge_value(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

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

/// Metrics of an agent. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct AgentMetrics {
    images: Gauges,
    backing_off: Gauge,
    superseded: Gauge,
    pulls: Counters<1>,
    running: Gauge,
    received: Counter,
    pull_seconds: Histogram,
    image_bytes: Histogram,
    status_writes: Counters<1>,
    inventory_failures: Counter,
}

impl Default for AgentMetrics {
    fn default() -> Self {
        let metrics = Self {
            images: Family::default(),
            backing_off: Gauge::default(),
            superseded: Gauge::default(),
            pulls: Family::default(),
            running: Gauge::default(),
            received: Counter::default(),
            pull_seconds: Histogram::new(PULL_SECONDS),
            image_bytes: Histogram::new(IMAGE_BYTES),
            status_writes: Family::default(),
            inventory_failures: Counter::default(),
        };
        metrics.images(&[]);
        metrics
    }
}

impl AgentMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        register! { registry;
            self.images => "fledged_agent_images", "Images of the node's assignment by phase";
            self.backing_off => "fledged_agent_images_in_backoff",
                "Images that wait for the next attempt after a failure";
            self.superseded => "fledged_agent_superseded_digests",
                "Digests that tags named before and that are still on the node";
            self.pulls => "fledged_agent_pulls",
                "Finished pulls by result: Succeeded, Cancelled or the reason of the failure";
            self.running => "fledged_agent_pulls_running", "Running pulls";
            self.received => "fledged_agent_pull_received" (Bytes),
                "Bytes that pulls have received, of runtimes that report progress";
            self.pull_seconds => "fledged_agent_pull_duration" (Seconds), "Duration of successful pulls";
            self.image_bytes => "fledged_agent_pulled_image" (Bytes),
                "Size of pulled images as reported by the runtime";
            self.status_writes => "fledged_agent_status_writes",
                "Writes of the status of the NodeImageCache by result";
            self.inventory_failures => "fledged_agent_inventory_failures",
                "Failed reads of the inventory of the runtime";
        }
    }

    /// Sets the gauges from the state of all images.
    pub(crate) fn images(&self, reports: &[ImageReport]) {
        for phase in PHASES {
            let images = reports.iter().filter(|report| report.phase == phase);
            let gauge = self.images.get_or_create(&[("phase", phase.as_str())]);
            gauge.set(gauge_value(images.count()));
        }
        let backing_off = reports.iter().filter(|r| r.next_attempt_at.is_some());
        self.backing_off.set(gauge_value(backing_off.count()));
        let superseded = reports.iter().map(|report| report.superseded.len());
        self.superseded.set(gauge_value(superseded.sum::<usize>()));
    }

    /// Counts a finished pull, with the size of the image if it succeeded.
    pub(crate) fn pulled(&self, result: &'static str, time: Duration, size: Option<ByteSize>) {
        self.pulls.get_or_create(&[("result", result)]).inc();
        if let Some(size) = size {
            self.pull_seconds.observe(time.as_secs_f64());
            #[expect(clippy::cast_precision_loss, reason = "buckets are powers of four")]
            self.image_bytes.observe(size.bytes() as f64);
        }
    }

    /// Sets the number of running pulls.
    pub(crate) fn running_pulls(&self, count: usize) {
        self.running.set(gauge_value(count));
    }

    /// Counts bytes that a pull has received since the last call.
    pub(crate) fn received(&self, bytes: u64) {
        self.received.inc_by(bytes);
    }

    pub(crate) fn status_written(&self, result: &'static str) {
        let labels = [("result", result)];
        self.status_writes.get_or_create(&labels).inc();
    }

    pub(crate) fn inventory_failed(&self) {
        self.inventory_failures.inc();
    }
}

/// What slows the pulls of an agent down, read at each scrape.
#[derive(Debug)]
pub(crate) struct SlowdownMetrics(pub(crate) PullSlowdowns);

impl Collector for SlowdownMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut slowed = encoder.encode_descriptor(
            "fledged_agent_pull_slowed",
            "Time in which a download of layers waited, by reason",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?;
        for by in SlowedBy::ALL {
            let time = ConstCounter::new(self.0.time(by).as_secs_f64());
            time.encode(slowed.encode_family(&[("reason", by.as_str())])?)?;
        }
        let mut pressure = encoder.encode_descriptor(
            "fledged_agent_pressure_ratio",
            "Share of the last 10 seconds in which tasks of the node waited, by resource; only while layers are downloaded",
            None,
            MetricType::Gauge,
        )?;
        for (by, percent) in [
            (SlowedBy::Io, self.0.io_pressure()),
            (SlowedBy::Memory, self.0.memory_pressure()),
        ] {
            if let Some(percent) = percent {
                let labels = [("resource", by.as_str())];
                ConstGauge::new(percent / 100.0).encode(pressure.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Buckets in seconds, from 0.1 ms, the cost of a change of one node, to 10 s. The target for a full plan of 5,000
/// nodes is 0.3 s.
const LATENCIES: [f64; 11] = [
    0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0,
];

/// Metrics of the loop of a controller.
#[derive(Debug, Clone)]
pub(crate) struct ControllerMetrics {
    latency: Histogram,
    waiting: Gauge,
    under_way: Gauge,
    leader: Gauge,
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
    pub(crate) fn register(&self, registry: &mut Registry) {
        register! { registry;
            self.latency => "fledged_reconcile_latency" (Seconds), "Time from an event to the resulting plan";
            self.waiting => "fledged_queue_depth", "Writes that wait for their first attempt or a retry";
            self.under_way => "fledged_writes_under_way", "Writes in progress";
            self.leader => "fledged_leader", "Whether this controller leads";
        }
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }
}

impl ClusterObserver for ControllerMetrics {
    fn planned(&self, took: Duration, queue: QueueDepth) {
        if !took.is_zero() {
            self.latency.observe(took.as_secs_f64());
        }
        self.waiting.set(gauge_value(queue.waiting));
        self.under_way.set(gauge_value(queue.in_progress));
    }
}

/// The share of one cache in the gauges; the counts are in the order of [`STATES`]. The flag is whether it is ready.
type Share = (ActionStatus, [u64; 5], bool);

const STATES: [&str; 5] = ["desired", "cached", "pulling", "failed", "unreachable"];

/// Most caches with a series of their own: a tenant may create any number of caches.
const SERIES_MAX: usize = 2_000;

/// Whether each cache is ready: one series for each.
#[derive(Debug, Clone, Default)]
struct PerCacheMetrics {
    ready: Family<[(&'static str, String); 2], Gauge>,
    /// Caches without a series, because there are too many.
    left_out: Gauge,
    series: Arc<Mutex<Series>>,
}

/// Which caches have a series.
#[derive(Debug, Default)]
struct Series {
    caches: BTreeMap<CacheId, bool>,
    /// The number of those that have one.
    shown: usize,
}

impl Series {
    /// Notes a cache, and whether it has a series from now on.
    fn insert(&mut self, cache: &CacheId, shown: bool) {
        let before = self.caches.insert(cache.clone(), shown) == Some(true);
        self.shown = self.shown + usize::from(shown) - usize::from(before);
    }

    /// Forgets a cache. Returns whether it had a series.
    fn remove(&mut self, cache: &CacheId) -> bool {
        let had_series = self.caches.remove(cache) == Some(true);
        self.shown -= usize::from(had_series);
        had_series
    }

    /// Whether a cache of the same namespace and name is known.
    fn has_name(&self, cache: &CacheId) -> bool {
        let first = CacheId::new(&*cache.namespace, &*cache.name, "");
        let next = self.caches.range(first..).next();
        next.is_some_and(|(id, _)| id.namespace == cache.namespace && id.name == cache.name)
    }
}

impl PerCacheMetrics {
    fn register(&self, registry: &mut Registry) {
        register! { registry;
            self.ready => "fledged_image_cache_ready", "Whether the ImageCache is Ready";
            self.left_out => "fledged_image_caches_without_series",
                "ImageCaches without a fledged_image_cache_ready, because there are too many";
        }
    }

    /// Sets or removes the series of a cache. A cache without one gets it at its next change when there is room.
    fn set(&self, cache: &CacheId, ready: Option<bool>) {
        let labels = [
            ("namespace", cache.namespace.clone()),
            ("name", cache.name.clone()),
        ];
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        match ready {
            None => {
                // A later cache of the same name may have the series by now.
                if series.remove(cache) && !series.has_name(cache) {
                    self.ready.remove(&labels);
                }
            }
            Some(ready) => {
                let has_series = series.caches.get(cache) == Some(&true);
                let shown = has_series || series.shown < SERIES_MAX;
                series.insert(cache, shown);
                if shown {
                    self.ready.get_or_create(&labels).set(ready.into());
                }
            }
        }
        let left_out = series.caches.len().saturating_sub(series.shown);
        self.left_out.set(gauge_value(left_out));
    }
}

/// Metrics of a [`KubeCluster`](crate::controller::KubeCluster): its writes, and the state of the caches.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClusterMetrics {
    per_cache: Option<PerCacheMetrics>,
    writes: Counters<2>,
    caches: Gauges,
    images: Gauges,
    /// The current share of each cache, to subtract it when it changes.
    shares: Arc<Mutex<BTreeMap<CacheId, Share>>>,
}

impl ClusterMetrics {
    /// Metrics with series for each cache.
    pub(crate) fn per_cache() -> Self {
        Self {
            per_cache: Some(PerCacheMetrics::default()),
            ..Self::default()
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        if let Some(per_cache) = &self.per_cache {
            per_cache.register(registry);
        }
        register! { registry;
            self.writes => "fledged_api_writes", "Writes to the API server by object and result";
            self.caches => "fledged_image_caches", "ImageCaches by the status of their last action";
            self.images => "fledged_images", "Pairs of image and node of all ImageCaches by state";
        }
    }

    /// Counts a write of an `assignment`, `status`, `annotation`, `finalizer` or `event`.
    pub(crate) fn count_write(&self, object: &'static str, failure: Option<&WriteFailure>) {
        let result = match failure {
            None => "ok",
            Some(WriteFailure::Conflict(_)) => "conflict",
            Some(WriteFailure::Gone(_)) => "gone",
            Some(WriteFailure::TooLarge(_)) => "too_large",
            Some(_) => "failed",
        };
        let labels = [("object", object), ("result", result)];
        self.writes.get_or_create(&labels).inc();
    }

    pub(crate) fn set_cache(&self, cache: &CacheId, status: &CacheStatus) {
        let c = status.counts;
        let counts = [c.desired, c.cached, c.pulling, c.failed, c.unreachable];
        let mut conditions = status.conditions.iter();
        let ready = conditions.any(|c| c.kind == ConditionKind::Ready && c.status);
        self.set_share(cache, Some((status.status, counts, ready)));
    }

    /// Counts caches with a status from before a restart, and removes deleted caches.
    pub(crate) fn observe(&self, event: &ClusterEvent) {
        match event {
            ClusterEvent::CacheApplied(facts) => {
                if let Some(status) = &facts.status {
                    self.set_cache(&facts.id, status);
                }
            }
            ClusterEvent::CacheGone(id) => self.set_share(id, None),
            _ => {}
        }
    }

    fn set_share(&self, cache: &CacheId, share: Option<Share>) {
        if let Some(per_cache) = &self.per_cache {
            per_cache.set(cache, share.map(|(_, _, ready)| ready));
        }
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match share {
            Some(share) => shares.insert(cache.clone(), share),
            None => shares.remove(cache),
        };
        let changes = [(before, -1), (share, 1)];
        let changes = changes.map(|(share, sign)| share.map(|share| (share, sign)));
        for ((status, counts, _), sign) in changes.into_iter().flatten() {
            let labels = [("status", status.as_str())];
            self.caches.get_or_create(&labels).inc_by(sign);
            for (state, count) in STATES.into_iter().zip(counts) {
                let count = gauge_value(count).saturating_mul(sign);
                self.images.get_or_create(&[("state", state)]).inc_by(count);
            }
        }
    }
}

/// Metrics of a [`JobDriver`](crate::jobs::JobDriver). Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct JobMetrics {
    creations: Counters<2>,
    status_writes: Counters<1>,
}

impl JobMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        register! { registry;
            self.creations => "fledged_job_creations", "Attempts to create a Job";
            self.status_writes => "fledged_job_status_writes", "Writes of a node's status by the job driver";
        }
    }

    pub(crate) fn created(&self, kind: &'static str, result: &'static str) {
        let labels = [("kind", kind), ("result", result)];
        self.creations.get_or_create(&labels).inc();
    }

    pub(crate) fn status_written(&self, result: &'static str) {
        let labels = [("result", result)];
        self.status_writes.get_or_create(&labels).inc();
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
        let metrics = AgentMetrics::default();
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
        metrics.running_pulls(2);
        metrics.received(40);
        metrics.received(2);
        let text = shown(&registry);
        for line in [
            "fledged_agent_pulls_running 2",
            "fledged_agent_pull_received_bytes_total 42",
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

    #[test]
    fn each_reason_of_a_slow_pull_is_exported_and_unknown_pressure_is_not() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(SlowdownMetrics(PullSlowdowns::default())));
        let text = shown(&registry);
        for reason in ["limit", "other_pulls", "io", "memory"] {
            let line =
                format!(r#"fledged_agent_pull_slowed_seconds_total{{reason="{reason}"}} 0.0"#);
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
        assert!(text.contains("# TYPE fledged_agent_pressure_ratio gauge"));
        assert!(!text.contains("fledged_agent_pressure_ratio{"), "{text}");
    }

    fn ready_lines(text: &str) -> Vec<&str> {
        let lines = text.lines();
        lines
            .filter(|line| line.starts_with("fledged_image_cache_ready{"))
            .collect()
    }

    #[test]
    fn each_cache_has_a_series_until_it_is_deleted() {
        let metrics = ClusterMetrics::per_cache();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let share = |ready| Some((ActionStatus::Succeeded, [0; 5], ready));
        let id = |uid: &str| CacheId::new("shop", "web", uid);
        metrics.set_share(&id("1"), share(false));
        metrics.set_share(&id("1"), share(true));
        let line = r#"fledged_image_cache_ready{namespace="shop",name="web"} 1"#;
        assert_eq!(ready_lines(&shown(&registry)), [line]);
        // The deletion of an object is seen after the creation of the next one.
        metrics.set_share(&id("2"), share(true));
        metrics.set_share(&id("1"), None);
        assert_eq!(ready_lines(&shown(&registry)), [line]);
        metrics.set_share(&id("2"), None);
        assert_eq!(ready_lines(&shown(&registry)), [""; 0]);
        for number in 0..SERIES_MAX + 3 {
            let id = CacheId::new("shop", format!("web-{number}"), "1");
            metrics.set_share(&id, share(true));
        }
        let text = shown(&registry);
        assert_eq!(ready_lines(&text).len(), SERIES_MAX);
        assert!(text.contains("fledged_image_caches_without_series 3"));
        // A deleted cache makes room for the next change of another one.
        let last = CacheId::new("shop", format!("web-{}", SERIES_MAX + 2), "1");
        metrics.set_share(&CacheId::new("shop", "web-7", "1"), None);
        metrics.set_share(&last, share(true));
        metrics.set_share(&last, share(false));
        let text = shown(&registry);
        assert_eq!(ready_lines(&text).len(), SERIES_MAX);
        assert!(text.contains("fledged_image_caches_without_series 2"));
    }

    #[test]
    fn caches_have_no_series_by_default() {
        let metrics = ClusterMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let id = CacheId::new("shop", "web", "1");
        metrics.set_share(&id, Some((ActionStatus::Succeeded, [0; 5], true)));
        assert!(!shown(&registry).contains("web"));
    }
}
