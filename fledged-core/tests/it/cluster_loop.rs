//! A simulated cluster: the planner's loop, nodes that pull, and failing writes.
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{
    AssignedImage, Assignment, ByteSize, CacheId, CacheSpecImages, CountOrPercent, DeletionPolicy,
    DesiredState, ImageCacheSpec, NodeFacts, NodeName,
};
use fledged_core::planner::{
    ActionStatus, Annotation, CacheEvent, CacheFacts, CacheStatus, ClusterEvent, Planner,
    PlannerConfig,
};
use fledged_core::port::{Clock, Cluster, WriteFailure};
use fledged_core::runner::{ClusterLoop, Ended};
use fledged_core::sim::{
    Fault, Faults, SimClock, SimCluster, SimImage, SimRegistry, SimRuntime, TraceEntry, TraceEvent,
};
use fledged_core::warmer::WarmerConfig;
use futures_util::future::Either;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

const IMAGES: [&str; 4] = ["app:1", "app:2", "db:1", "tool"];
const CACHES: [&str; 2] = ["api", "web"];
const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Time in seconds at which faults, edits and restarts end.
const TROUBLE: u64 = 600;
/// End in seconds, after convergence: longer than a deadline, its grace period and the longest back-off of a write.
const END: u64 = TROUBLE + 900;

fn mk_id(name: &str) -> CacheId {
    CacheId::new("default", name, format!("uid-{name}"))
}

fn mk_name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn mk_spec(images: &[&str], zone: Option<&str>, purge: bool) -> ImageCacheSpec {
    let entry = CacheSpecImages::new(images.iter().copied());
    let spec = ImageCacheSpec::new([entry.with_node_selector(zone.map(|zone| ("zone", zone)))]);
    match purge {
        true => spec.with_deletion_policy(DeletionPolicy::Purge),
        false => spec,
    }
}

fn mk_registry() -> SimRegistry {
    let size = ByteSize::new(20_000_000);
    IMAGES.iter().fold(SimRegistry::new(), |registry, name| {
        registry.with(name, SimImage::new(name, &[(name, size)]))
    })
}

fn mk_config(nodes: u32) -> PlannerConfig {
    let mut config = PlannerConfig::default();
    config.max_concurrent_nodes = CountOrPercent::Count(nodes);
    config.refresh_interval = Duration::ZERO;
    config
}

#[derive(Debug, Clone)]
enum Step {
    Apply(usize, ImageCacheSpec),
    Delete(usize),
    Annotate(usize, Annotation),
    Join(usize, &'static str),
    Leave(usize),
    Ready(usize, bool),
    /// Something removes an image from a node.
    Lose(usize, usize),
    /// A refresh on demand; the next step follows its end.
    Refresh(usize),
}

struct Stage {
    clock: SimClock,
    cluster: SimCluster,
    /// Images that were missing at the end of a refresh.
    missed: Mutex<Vec<String>>,
}

impl Stage {
    fn new(seed: u64, chance: f64) -> Self {
        let clock = SimClock::new();
        let midway = Failure::new(Reason::ConnectionFailed, "reset");
        let faults = Faults::until(Duration::from_secs(TROUBLE))
            .with_calls(vec![
                Fault::fail(Reason::RegistryError),
                Fault::FailMidway(midway),
                Fault::Hang,
                Fault::Slow(Duration::from_secs(3)),
            ])
            .with_chance(chance);
        let cluster = SimCluster::new(clock.clone(), seed).with_faults(faults);
        Self {
            clock,
            cluster,
            missed: Mutex::default(),
        }
    }

    async fn until(&self, id: &CacheId, what: impl Fn(&CacheFacts) -> bool) {
        while !self.cluster.cache(id).is_some_and(|facts| what(&facts)) {
            self.clock.sleep(Duration::from_millis(20)).await;
            assert!(
                self.clock.elapsed().as_secs() < END,
                "the cache never reaches that state"
            );
        }
    }

    async fn refresh(&self, cache: usize) {
        let id = mk_id(CACHES[cache]);
        // A new refresh needs the annotation of the last one to be removed.
        self.until(&id, |facts| !facts.refresh_requested).await;
        let before = self.cluster.status(&id).map_or(0, |s| s.verify_revision);
        let taken_up = |status: &CacheStatus| status.verify_revision > before;
        let is_over = |status: &CacheStatus| taken_up(status) && status.completion_time.is_some();
        self.until(&id, |facts| {
            let status = facts.status.as_ref();
            // The removal of the annotation may have succeeded with an error as the answer, and is then repeated.
            if !facts.refresh_requested && !status.is_some_and(taken_up) {
                self.cluster.annotate(&id, Annotation::Refresh);
            }
            status.is_some_and(is_over)
        })
        .await;
        let cache = self.cluster.cache(&id).unwrap();
        let images = cache.spec.iter().flat_map(|spec| &spec.groups);
        for image in images.flat_map(|group| &group.images) {
            for node in self.cluster.assignments().keys() {
                if !self.cluster.runtime(node).unwrap().holds(image) {
                    let missed = format!("{image} is not on {node}");
                    self.missed.lock().unwrap().push(missed);
                }
            }
        }
    }

    fn take(&self, step: &Step) {
        match step {
            Step::Apply(cache, spec) => {
                let id = mk_id(CACHES[*cache]);
                if !self.cluster.cache(&id).is_some_and(|c| c.deleting) {
                    self.cluster.apply_cache(&id, spec);
                }
            }
            Step::Delete(cache) => self.cluster.delete_cache(&mk_id(CACHES[*cache])),
            Step::Annotate(cache, what) => self.cluster.annotate(&mk_id(CACHES[*cache]), *what),
            Step::Join(node, zone) => {
                let labels = BTreeMap::from([("zone".to_owned(), (*zone).to_owned())]);
                let facts = NodeFacts::new(mk_name(NODES[*node])).with_labels(labels);
                let runtime = SimRuntime::new(self.clock.clone(), mk_registry(), 1);
                self.cluster
                    .apply_node(facts, runtime.with_bandwidth(10_000_000));
            }
            Step::Leave(node) => self.cluster.remove_node(&mk_name(NODES[*node])),
            Step::Ready(node, ready) => self.cluster.set_ready(&mk_name(NODES[*node]), *ready),
            Step::Lose(node, image) => {
                let runtime = self.cluster.runtime(&mk_name(NODES[*node])).unwrap();
                runtime.evict(&IMAGES[*image].parse().unwrap());
            }
            Step::Refresh(_) => {}
        }
    }

    /// Plays the steps; a new planner takes over at each time in `restarts`.
    fn play(&self, config: &PlannerConfig, steps: &[(u64, Step)], restarts: &[u64]) {
        let until = |seconds: u64| {
            let at = Duration::from_secs(seconds);
            self.clock.sleep(at.saturating_sub(self.clock.elapsed()))
        };
        let script = async {
            for (at, step) in steps {
                until(*at).await;
                self.take(step);
                if let Step::Refresh(cache) = step {
                    self.refresh(*cache).await;
                }
            }
        };
        let controllers = async {
            for at in restarts.iter().chain([&END]) {
                let planner = Planner::new(config.clone(), *at);
                let cluster = Arc::new(self.cluster.clone());
                // Some with room for less than all nodes.
                let writes = NonZeroUsize::new(if at % 2 == 0 { 32 } else { 1 }).unwrap();
                let mut controller =
                    ClusterLoop::new(planner, cluster, Arc::new(self.clock.clone()), *at)
                        .with_max_writes(writes);
                assert_eq!(controller.run(until(*at)).await, Ended::Shutdown);
            }
        };
        let nodes = self.cluster.run_nodes(WarmerConfig::default(), until(END));
        let all = async { futures_util::join!(script, controllers, nodes) };
        self.clock.block_on(all).expect("no deadlock");
    }

    fn status(&self, cache: &str) -> ActionStatus {
        let facts = self.cluster.cache(&mk_id(cache)).expect("the cache exists");
        facts.status.expect("a status was written").status
    }

    fn assigned(&self, node: &str) -> Vec<String> {
        let records = self.cluster.assignments();
        let record = records.get(&mk_name(node)).cloned().unwrap_or_default();
        record.images.iter().map(|i| i.image.to_string()).collect()
    }
}

#[test]
fn images_of_a_cache_reach_its_nodes() {
    let stage = Stage::new(1, 0.0);
    let steps = [
        (0, Step::Join(0, "a")),
        (0, Step::Join(1, "b")),
        (1, Step::Apply(1, mk_spec(&["app:1", "tool"], None, true))),
        (100, Step::Join(2, "a")),
    ];
    stage.play(&mk_config(1), &steps, &[]);
    assert_eq!(stage.status("web"), ActionStatus::Succeeded);
    for node in NODES {
        assert_eq!(stage.assigned(node), ["app:1", "tool"]);
        let runtime = stage.cluster.runtime(&mk_name(node)).unwrap();
        assert!(runtime.holds(&"app:1".parse().unwrap()));
    }
    let counts = stage
        .cluster
        .cache(&mk_id("web"))
        .unwrap()
        .status
        .unwrap()
        .counts;
    assert_eq!((counts.desired, counts.cached), (6, 6));
    // Three assignments, a finalizer, the events of one action, and one status for each step of it.
    let writes = stage.cluster.writes();
    assert!(writes <= 20, "{writes} writes");
}

#[test]
fn a_purging_deletion_removes_the_images() {
    let stage = Stage::new(1, 0.0);
    let steps = [
        (0, Step::Join(0, "a")),
        (1, Step::Apply(1, mk_spec(&["app:1"], None, true))),
        (100, Step::Delete(1)),
    ];
    stage.play(&mk_config(1), &steps, &[]);
    assert_eq!(stage.cluster.cache(&mk_id("web")), None);
    assert_eq!(stage.cluster.assignments().len(), 0);
    let runtime = stage.cluster.runtime(&mk_name("n1")).unwrap();
    assert!(!runtime.holds(&"app:1".parse().unwrap()));
}

#[test]
fn a_write_that_fails_for_minutes_is_retried() {
    let stage = Stage::new(1, 1.0);
    let steps = [
        (0, Step::Join(0, "a")),
        (1, Step::Apply(1, mk_spec(&["app:1"], None, false))),
        (300, Step::Apply(1, mk_spec(&["app:2"], None, false))),
    ];
    stage.play(&mk_config(1), &steps, &[]);
    assert_eq!(stage.assigned("n1"), ["app:2"]);
    assert_eq!(stage.status("web"), ActionStatus::Succeeded);
}

#[test]
fn a_refresh_on_demand_restores_lost_images() {
    let stage = Stage::new(1, 0.0);
    let steps = [
        (0, Step::Join(0, "a")),
        (0, Step::Join(1, "a")),
        (1, Step::Apply(1, mk_spec(&["app:1", "db:1"], None, false))),
        (100, Step::Refresh(1)),
        (200, Step::Lose(1, 2)),
        (202, Step::Refresh(1)),
    ];
    stage.play(&mk_config(2), &steps, &[]);
    assert_eq!(*stage.missed.lock().unwrap(), [""; 0]);
    assert_eq!(stage.status("web"), ActionStatus::Succeeded);
    let pulls = |node: &str| {
        let runtime = stage.cluster.runtime(&mk_name(node)).unwrap();
        let trace = runtime.trace().into_iter();
        let pulled = |e: &TraceEntry| matches!(e.event, TraceEvent::Pulled(_));
        trace.filter(pulled).count()
    };
    assert_eq!((pulls("n1"), pulls("n2")), (2, 3), "nothing else is pulled");
}

fn spec() -> impl Strategy<Value = ImageCacheSpec> {
    (
        prop::sample::subsequence(IMAGES.to_vec(), 1..=IMAGES.len()),
        prop::option::of(prop::sample::select(vec!["a", "b"])),
        any::<bool>(),
    )
        .prop_map(|(images, zone, purge)| mk_spec(&images, zone, purge))
}

fn step() -> impl Strategy<Value = Step> {
    let (caches, nodes) = (0..CACHES.len(), 0..NODES.len());
    prop_oneof![
        4 => (caches.clone(), spec()).prop_map(|(c, s)| Step::Apply(c, s)),
        1 => caches.clone().prop_map(Step::Delete),
        1 => caches.clone().prop_map(|c| Step::Annotate(c, Annotation::Refresh)),
        1 => caches.prop_map(|c| Step::Annotate(c, Annotation::Purge)),
        3 => (nodes.clone(), prop::sample::select(vec!["a", "b"])).prop_map(|(n, z)| Step::Join(n, z)),
        1 => nodes.clone().prop_map(Step::Leave),
        2 => (nodes, any::<bool>()).prop_map(|(n, r)| Step::Ready(n, r)),
    ]
}

proptest! {
    // A case simulates 25 minutes of a cluster.
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_cluster_converges_once_faults_stop(
        seed in any::<u64>(),
        chance in 0.0..0.7f64,
        mut steps in prop::collection::vec((0..TROUBLE, step()), 0..25),
        mut restarts in prop::collection::vec(0..TROUBLE, 0..3),
        limit in 1..3u32,
    ) {
        steps.sort_by_key(|(at, _)| *at);
        restarts.sort_unstable();
        let stage = Stage::new(seed, chance);
        let config = mk_config(limit);
        stage.play(&config, &steps, &restarts);
        let caches: Vec<_> = CACHES.iter().filter_map(|name| stage.cluster.cache(&mk_id(name))).collect();
        for cache in &caches {
            let status = cache.status.as_ref().expect("a status was written");
            prop_assert_ne!(status.status, ActionStatus::Processing, "{:?}", cache);
            prop_assert_eq!(status.observed_generation, cache.generation);
            prop_assert!(!cache.deleting && !cache.refresh_requested && !cache.purge_requested);
        }
        let wanting = caches.iter().filter(|c| !c.status.as_ref().is_some_and(|s| s.purged));
        let wanting: Vec<_> = wanting.filter_map(|c| c.spec.as_ref().ok()).collect();
        let mut joined: BTreeMap<usize, NodeFacts> = BTreeMap::new();
        for (_, step) in &steps {
            match step {
                Step::Join(n, zone) => {
                    let labels = BTreeMap::from([("zone".to_owned(), (*zone).to_owned())]);
                    joined.insert(*n, NodeFacts::new(mk_name(NODES[*n])).with_labels(labels));
                }
                Step::Leave(n) => { joined.remove(n); }
                Step::Ready(n, ready) => {
                    if let Some(facts) = joined.get_mut(n) {
                        facts.ready = *ready;
                    }
                }
                _ => {}
            }
        }
        let records = stage.cluster.assignments();
        for name in records.keys() {
            prop_assert!(joined.values().any(|facts| facts.name == *name), "{} is gone", name);
        }
        for facts in joined.values().filter(|facts| facts.ready) {
            let expected = Assignment::for_node(facts, wanting.iter().copied(), config.defaults);
            let record = records.get(&facts.name).cloned().unwrap_or_default();
            let present = record.images.iter().all(|i| i.state == DesiredState::Present);
            prop_assert!(present, "{:?}", record);
            let names = |a: &Assignment| {
                let mut names: Vec<_> = a.images.iter().map(|i| (i.image.clone(), i.wanted_by.clone())).collect();
                names.sort();
                names
            };
            prop_assert_eq!(names(&record), names(&expected));
            let runtime = stage.cluster.runtime(&facts.name).expect("the node exists");
            for image in &expected.images {
                prop_assert!(runtime.holds(&image.image), "{} is not on {}", image.image, facts.name);
            }
        }
    }
    #[test]
    fn no_refresh_on_demand_ends_before_lost_images_are_back(
        seed in any::<u64>(),
        chance in 0.0..0.7f64,
        losses in prop::collection::vec((0..NODES.len(), 0..2usize, any::<bool>()), 1..8),
        mut restarts in prop::collection::vec(0..TROUBLE, 0..3),
        limit in 1..3u32,
    ) {
        let mut steps: Vec<_> = (0..NODES.len()).map(|n| (0, Step::Join(n, "a"))).collect();
        steps.push((1, Step::Apply(1, mk_spec(&IMAGES[..2], None, false))));
        for (n, (node, image, refreshed)) in losses.into_iter().enumerate() {
            let at = 100 + 60 * u64::try_from(n).unwrap();
            steps.push((at, Step::Lose(node, image)));
            if refreshed {
                steps.push((at, Step::Refresh(1)));
            }
        }
        restarts.sort_unstable();
        let stage = Stage::new(seed, chance);
        stage.play(&mk_config(limit), &steps, &restarts);
        prop_assert_eq!(&*stage.missed.lock().unwrap(), &Vec::<String>::new());
        prop_assert_eq!(stage.status("web"), ActionStatus::Succeeded);
    }
}

/// A cluster with events that are always there, and a clock that is later whenever it is read, as on a machine
/// on which planning takes long.
#[derive(Default)]
struct Busy {
    reads: Mutex<u32>,
    /// Events that were delivered.
    delivered: Arc<AtomicUsize>,
}

/// The number of its events.
const EVENTS: usize = 100_000;

#[async_trait]
impl Clock for Busy {
    fn now(&self) -> Timestamp {
        let mut reads = self.reads.lock().unwrap();
        *reads += 1;
        Timestamp::UNIX_EPOCH + SignedDuration::from_millis(20) * i32::try_from(*reads).unwrap()
    }

    async fn sleep(&self, _: Duration) {
        std::future::pending().await
    }
}

#[async_trait]
impl Cluster for Busy {
    fn events(&self) -> BoxStream<'static, ClusterEvent> {
        let delivered = Arc::clone(&self.delivered);
        let event = move || {
            delivered.fetch_add(1, Ordering::Relaxed);
            ClusterEvent::NodeApplied(NodeFacts::new(mk_name("n1")))
        };
        let events = std::iter::repeat_with(event).take(EVENTS);
        stream::iter(std::iter::once(ClusterEvent::Synced).chain(events)).boxed()
    }

    async fn write_assignment(
        &self,
        _: &NodeName,
        _: &[AssignedImage],
    ) -> Result<u64, WriteFailure> {
        Ok(1)
    }

    async fn delete_assignment(&self, _: &NodeName) -> Result<(), WriteFailure> {
        Ok(())
    }

    async fn write_status(&self, _: &CacheId, _: &CacheStatus) -> Result<(), WriteFailure> {
        Ok(())
    }

    async fn remove_annotation(&self, _: &CacheId, _: Annotation) -> Result<(), WriteFailure> {
        Ok(())
    }

    async fn set_finalizer(&self, _: &CacheId, _: bool) -> Result<(), WriteFailure> {
        Ok(())
    }

    async fn record_event(&self, _: &CacheId, _: &CacheEvent) -> Result<(), WriteFailure> {
        Ok(())
    }
}

#[test]
fn a_busy_loop_lets_other_futures_of_its_task_run() {
    let planner = Planner::new(PlannerConfig::default(), 1);
    let (cluster, clock) = (Arc::new(Busy::default()), Arc::new(Busy::default()));
    let delivered = Arc::clone(&cluster.delivered);
    let mut cluster_loop = ClusterLoop::new(planner, cluster, clock, 1);
    // Needs several polls, as a request does.
    let mut polls = 0;
    let renewed = poll_fn(|context| {
        polls += 1;
        context.waker().wake_by_ref();
        match polls {
            5 => Poll::Ready(delivered.load(Ordering::Relaxed)),
            _ => Poll::Pending,
        }
    });
    let working = cluster_loop.run(std::future::pending::<()>());
    let first = futures_util::future::select(renewed, Box::pin(working));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let Either::Left((before, _)) = runtime.unwrap().block_on(first) else {
        panic!("the loop ended first");
    };
    assert!(before < EVENTS / 10, "after {before} events");
}
