//! The node loop around the warmer, on a simulated node.
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{
    AssignedImage, Assignment, ByteSize, CacheId, ImagePhase, ImageRef, ImageReport, NodeReport,
    PullLimit, PullRate,
};
use fledged_core::port::{Clock, PullProgress};
use fledged_core::runner::{NodeLoop, NodeObserver, PullOutcome};
use fledged_core::sim::{Fault, Faults, SimClock, SimImage, SimRegistry, SimRuntime, TraceEvent};
use fledged_core::warmer::{NodeEvent, Warmer, WarmerConfig};
use futures_util::FutureExt;
use futures_util::stream::{self, Stream, StreamExt};

/// Bandwidth in bytes per second, so an image of this size takes a second.
const SPEED: u64 = 8_000_000;

fn mk_ref(text: &str) -> ImageRef {
    text.parse().unwrap()
}

fn mk_assignment(images: &[AssignedImage]) -> Assignment {
    Assignment::new(1, images.to_vec())
}

fn mk_present(text: &str) -> AssignedImage {
    AssignedImage::present(mk_ref(text))
}

fn mk_absent(text: &str) -> AssignedImage {
    AssignedImage::absent(mk_ref(text))
}

fn mk_image(name: &str, seconds: u64) -> SimImage {
    SimImage::new(name, &[(name, ByteSize::new(seconds * SPEED))])
}

/// A node with a registry of the images `a` and `b`, whose pulls take 1 s each, and `big`, whose pull takes 100 s.
struct Node {
    clock: SimClock,
    runtime: SimRuntime,
    observer: Arc<Recorder>,
    node: NodeLoop,
}

/// Records the calls of an observer.
#[derive(Default)]
struct Recorder {
    phases: Mutex<Vec<(String, ImagePhase)>>,
    progress: Mutex<Vec<(String, PullProgress)>>,
    failures: Mutex<Vec<(String, Failure)>>,
    starts: Mutex<Vec<String>>,
    ends: Mutex<Vec<String>>,
}

impl NodeObserver for Recorder {
    fn image_changed(&self, report: &ImageReport) {
        let mut phases = self.phases.lock().unwrap();
        phases.push((report.image.to_string(), report.phase));
    }

    fn pull_started(&self, image: &ImageRef) {
        self.starts.lock().unwrap().push(image.to_string());
    }

    fn progress(&self, image: &ImageRef, progress: PullProgress) {
        let mut seen = self.progress.lock().unwrap();
        seen.push((image.to_string(), progress));
    }

    fn pull_ended(&self, image: &ImageRef, outcome: PullOutcome<'_>, took: Duration) {
        let word = match outcome {
            PullOutcome::Succeeded(_) => "Succeeded",
            PullOutcome::Failed(reason) => reason.as_str(),
            _ => "Cancelled",
        };
        let mut ends = self.ends.lock().unwrap();
        ends.push(format!("{image} {word} {}", took.as_secs()));
    }

    fn runtime_failed(&self, operation: &str, failure: &Failure) {
        let mut failures = self.failures.lock().unwrap();
        failures.push((operation.to_owned(), failure.clone()));
    }
}

fn mk_node() -> Node {
    mk_node_with(Faults::default())
}

fn mk_node_with(faults: Faults) -> Node {
    let clock = SimClock::new();
    let registry = SimRegistry::new()
        .with("a", mk_image("a", 1))
        .with("b", mk_image("b", 1))
        .with("big", mk_image("big", 100));
    let runtime = SimRuntime::new(clock.clone(), registry, 1)
        .with_bandwidth(SPEED)
        .with_faults(faults);
    let observer = Arc::new(Recorder::default());
    let mut config = WarmerConfig::default();
    config.max_parallel_pulls = NonZeroUsize::new(2).unwrap();
    let node = NodeLoop::new(
        Warmer::new(config, 1),
        Arc::new(runtime.clone()),
        Arc::new(clock.clone()),
    )
    .with_observer(observer.clone());
    Node {
        clock,
        runtime,
        observer,
        node,
    }
}

impl Node {
    fn settle(&mut self, images: &[AssignedImage]) -> NodeReport {
        let settled = self.node.settle(mk_assignment(images));
        self.clock.block_on(settled).unwrap()
    }

    fn run<S: Stream<Item = NodeEvent>>(&mut self, inputs: S, seconds: u64) -> NodeReport {
        let end = self.clock.sleep(Duration::from_secs(seconds));
        self.clock.block_on(self.node.run(inputs, end)).unwrap()
    }

    /// Returns a stream of inputs, each at its time in seconds from now.
    fn inputs(&self, inputs: Vec<(u64, NodeEvent)>) -> impl Stream<Item = NodeEvent> + use<> {
        let clock = self.clock.clone();
        let start = clock.elapsed();
        stream::iter(inputs).then(move |(at, input)| {
            let clock = clock.clone();
            async move {
                let due = start + Duration::from_secs(at);
                clock.sleep(due.saturating_sub(clock.elapsed())).await;
                input
            }
        })
    }

    /// Time of the first occurrence of an event.
    fn first(&self, event: &TraceEvent) -> Option<Duration> {
        let trace = self.runtime.trace();
        trace
            .iter()
            .find(|entry| entry.event == *event)
            .map(|entry| entry.at)
    }

    fn count(&self, event: &TraceEvent) -> usize {
        let trace = self.runtime.trace();
        trace.iter().filter(|entry| entry.event == *event).count()
    }
}

fn phases(report: &NodeReport) -> Vec<ImagePhase> {
    report.images.iter().map(|r| r.phase).collect()
}

#[test]
fn settling_pulls_missing_images_and_ends() {
    let mut node = mk_node();
    node.runtime.preload(&mk_ref("b"));
    let report = node.settle(&[
        mk_present("a"),
        mk_present("b"),
        mk_present("missing"),
        mk_absent("c"),
    ]);
    use ImagePhase::{Cached, Failed, Removed};
    assert_eq!(phases(&report), [Cached, Cached, Failed, Removed]);
    assert_eq!(report.images[2].reason, Some(Reason::ImageNotFound));
    assert_eq!(report.observed_generation, 1);
    assert!(node.runtime.holds(&mk_ref("a")));
    assert!(
        node.clock.elapsed() < Duration::from_secs(2),
        "{:?}",
        node.clock.elapsed()
    );
    assert_eq!(node.node.report(), report);
}

#[test]
fn settling_an_empty_assignment_takes_no_time() {
    let mut node = mk_node();
    assert_eq!(node.settle(&[]).images, []);
    assert_eq!(node.clock.elapsed(), Duration::ZERO);
}

#[test]
fn settling_again_reads_the_inventory_again() {
    let mut node = mk_node();
    let images = [mk_present("a"), mk_present("b")];
    for round in 1..4 {
        let report = node.settle(&images);
        assert_eq!(phases(&report), [ImagePhase::Cached; 2]);
        assert!(node.runtime.holds(&mk_ref("a")), "round {round}");
        assert_eq!(node.count(&TraceEvent::Pulled(mk_ref("a"))), round);
        assert_eq!(node.count(&TraceEvent::Pulled(mk_ref("b"))), 1);
        node.runtime.evict(&mk_ref("a"));
        let clock = node.clock.clone();
        clock
            .block_on(clock.sleep(Duration::from_secs(3_600)))
            .unwrap();
    }
    let phases = node.observer.phases.lock().unwrap();
    assert!(
        phases.iter().filter(|(image, _)| image == "b").count() <= 3,
        "{phases:?}"
    );
}

#[test]
fn settling_ends_while_the_runtime_does_not_answer() {
    let faults = Faults::until(Duration::MAX).with_calls(vec![Fault::Hang]);
    let mut node = mk_node_with(faults);
    let report = node.settle(&[mk_present("a"), mk_absent("b")]);
    assert_eq!(phases(&report), [ImagePhase::Failed; 2]);
    assert_eq!(report.images[0].reason, Some(Reason::RuntimeUnavailable));
    assert_eq!(node.clock.elapsed(), Duration::from_secs(300));
    let failures = node.observer.failures.lock().unwrap();
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert_eq!(failures[0].0, "inventory");
    assert!(failures[0].1.message.contains("120 s"), "{failures:?}");
}

#[test]
fn a_call_without_an_answer_is_retried() {
    let faults = Faults::until(Duration::from_secs(100)).with_calls(vec![Fault::Hang]);
    let mut node = mk_node_with(faults);
    let report = node.settle(&[mk_present("a")]);
    assert_eq!(phases(&report), [ImagePhase::Cached]);
    assert!(node.clock.elapsed() < Duration::from_secs(125));
}

#[test]
fn a_stalled_pull_is_dropped_at_its_deadline() {
    let faults = Faults::until(Duration::MAX).with_pulls(vec![Fault::Hang]);
    let mut node = mk_node_with(faults);
    let report = node.settle(&[mk_present("a")]);
    assert_eq!(report.images[0].reason, Some(Reason::DeadlineExceeded));
    let dropped = node.first(&TraceEvent::PullFailed(mk_ref("a")));
    assert_eq!(dropped, Some(Duration::from_secs(300)));
    assert_eq!(
        *node.observer.ends.lock().unwrap(),
        ["a DeadlineExceeded 300"]
    );
}

#[test]
fn the_end_of_each_pull_is_observed() {
    let mut node = mk_node();
    node.settle(&[mk_present("a"), mk_present("b")]);
    let edits = vec![(0, NodeEvent::Assigned(mk_assignment(&[mk_present("big")])))];
    let inputs = node.inputs(edits);
    node.run(inputs, 10);
    let ends = node.observer.ends.lock().unwrap();
    assert_eq!(
        *ends,
        ["a Succeeded 2", "b Succeeded 2", "big Cancelled 10"]
    );
}

#[test]
fn running_follows_edits_and_drops_obsolete_pulls() {
    let mut node = mk_node();
    let edits = vec![
        (1, NodeEvent::Assigned(mk_assignment(&[mk_present("big")]))),
        (11, NodeEvent::Assigned(mk_assignment(&[mk_present("a")]))),
    ];
    let inputs = node.inputs(edits);
    let report = node.run(inputs, 60);
    assert_eq!(phases(&report), [ImagePhase::Cached]);
    let dropped = node.first(&TraceEvent::PullFailed(mk_ref("big")));
    assert_eq!(dropped, Some(Duration::from_secs(11)));
    assert!(!node.runtime.holds(&mk_ref("big")));
    assert_eq!(
        node.clock.elapsed(),
        Duration::from_secs(60),
        "the loop ran on after the end of its inputs"
    );
}

#[test]
fn running_repairs_drift_within_an_interval_and_on_refresh() {
    let mut node = mk_node();
    let inputs = vec![
        (0, NodeEvent::Assigned(mk_assignment(&[mk_present("a")]))),
        (500, NodeEvent::RefreshRequested),
    ];
    let (clock, runtime) = (node.clock.clone(), node.runtime.clone());
    let evicted = async move {
        clock.sleep(Duration::from_secs(90)).await;
        runtime.evict(&mk_ref("a"));
        clock.sleep(Duration::from_secs(405)).await;
        runtime.evict(&mk_ref("a"));
    };
    let inputs = node.inputs(inputs);
    let evictions = evicted.into_stream().filter_map(|()| async { None });
    node.run(stream::select(inputs, evictions), 600);
    let trace = node.runtime.trace();
    let pulled = trace
        .iter()
        .filter(|e| e.event == TraceEvent::Pulled(mk_ref("a")));
    let pulled: Vec<_> = pulled.map(|e| e.at.as_secs()).collect();
    assert_eq!(pulled.len(), 3, "{pulled:?}");
    assert!(
        (91..160).contains(&pulled[1]),
        "within an interval: {pulled:?}"
    );
    assert!(
        (501..515).contains(&pulled[2]),
        "at the refresh: {pulled:?}"
    );
}

#[test]
fn shutting_down_abandons_pulls_at_once() {
    let mut node = mk_node();
    let inputs = vec![(0, NodeEvent::Assigned(mk_assignment(&[mk_present("big")])))];
    let inputs = node.inputs(inputs);
    let report = node.run(inputs, 10);
    assert_eq!(phases(&report), [ImagePhase::Pulling]);
    assert_eq!(node.clock.elapsed(), Duration::from_secs(10));
    let dropped = node.first(&TraceEvent::PullFailed(mk_ref("big")));
    assert_eq!(dropped, Some(Duration::from_secs(10)));
    // The loop can be used again.
    let report = node.settle(&[mk_present("big")]);
    assert_eq!(phases(&report), [ImagePhase::Cached]);
    assert!(node.clock.elapsed() < Duration::from_secs(115));
}

#[test]
fn a_loop_starts_over_after_its_future_was_dropped() {
    let mut node = mk_node();
    let clock = node.clock.clone();
    {
        let unfinished = node
            .node
            .settle(mk_assignment(&[mk_present("big"), mk_absent("b")]));
        let soon = clock.sleep(Duration::from_secs(10));
        clock
            .block_on(futures_util::future::select(Box::pin(unfinished), soon))
            .unwrap();
    }
    let report = node.settle(&[mk_present("a"), mk_present("big")]);
    assert_eq!(phases(&report), [ImagePhase::Cached; 2]);
    assert!(
        clock.elapsed() < Duration::from_secs(150),
        "{:?}",
        clock.elapsed()
    );
    assert_eq!(node.count(&TraceEvent::PullFailed(mk_ref("big"))), 1);
}

#[test]
fn reports_before_a_restart_are_resumed() {
    let mut node = mk_node();
    for name in ["a", "b"] {
        node.runtime.preload(&mk_ref(name));
    }
    let satisfied = ImageReport::new(mk_ref("a"), ImagePhase::Cached).with_revision(7);
    let always = |name: &str| {
        mk_present(name)
            .with_revision(7)
            .with_pull_policy(fledged_core::model::ImagePullPolicy::Always)
    };
    let inputs = vec![
        (0, NodeEvent::Resumed(vec![satisfied])),
        (
            0,
            NodeEvent::Assigned(mk_assignment(&[always("a"), always("b")])),
        ),
    ];
    let inputs = node.inputs(inputs);
    node.run(inputs, 30);
    assert_eq!(node.count(&TraceEvent::Pulled(mk_ref("a"))), 0);
    assert_eq!(node.count(&TraceEvent::Pulled(mk_ref("b"))), 1);
}

#[test]
fn an_observer_sees_phases_and_progress() {
    let mut node = mk_node();
    node.settle(&[mk_present("a")]);
    let phases = node.observer.phases.lock().unwrap();
    let seen: Vec<_> = phases.iter().map(|(_, phase)| *phase).collect();
    use ImagePhase::{Cached, Pending, Pulling};
    assert_eq!(seen, [Pending, Pulling, Cached]);
    let size = ByteSize::new(SPEED);
    let progress = node.observer.progress.lock().unwrap();
    let whole = PullProgress::new(size, size);
    assert_eq!(progress.last(), Some(&("a".to_owned(), whole)));
    assert_eq!(*node.observer.starts.lock().unwrap(), ["a"]);
}

#[test]
fn a_loop_implements_debug() {
    let node = mk_node();
    assert!(format!("{:?}", node.node).contains("NodeLoop"));
}

#[test]
fn a_long_pull_is_complete_in_one_attempt_while_bytes_arrive() {
    let mut node = mk_node_with(Faults::default());
    // The pull takes 100 s, and each step of the simulated transfer 12.5 s.
    let image = mk_present("big").with_deadline(Duration::from_secs(15));
    let report = node.settle(&[image]);
    let big = &report.images[0];
    assert_eq!((big.phase, big.attempts), (ImagePhase::Cached, 1));
    assert_eq!(node.count(&TraceEvent::PullFailed(mk_ref("big"))), 0);
    // Each deadline changes the report, so that the node does not count as unresponsive.
    let phases = node.observer.phases.lock().unwrap();
    let pulling = phases.iter().filter(|(_, p)| *p == ImagePhase::Pulling);
    assert!(pulling.count() >= 6, "{phases:?}");
}

/// The image with the rate of the cache `web`, in bytes a second.
fn mk_limited(image: &str, rate: u64) -> AssignedImage {
    let cache = CacheId::new("default", "web", "u");
    let rate = PullRate::new(ByteSize::new(rate)).unwrap();
    mk_present(image).with_pull_limit(PullLimit::new(cache, rate))
}

#[test]
fn pulls_of_a_cache_share_its_rate() {
    let mut node = mk_node();
    let report = node.settle(&[mk_limited("a", SPEED / 10), mk_limited("b", SPEED / 10)]);
    assert_eq!(phases(&report), [ImagePhase::Cached; 2]);
    let seconds = node.clock.elapsed().as_secs();
    assert!((19..22).contains(&seconds), "{seconds}");
}

#[test]
fn a_new_rate_applies_to_a_running_pull() {
    let mut node = mk_node();
    let assign = |rate| NodeEvent::Assigned(mk_assignment(&[mk_limited("big", rate)]));
    // Half of its 100 s at full speed, the rest at a tenth of it.
    let inputs = node.inputs(vec![(0, assign(SPEED)), (50, assign(SPEED / 10))]);
    let report = node.run(inputs, 1_000);
    assert_eq!(phases(&report), [ImagePhase::Cached]);
    assert_eq!(node.count(&TraceEvent::Pulled(mk_ref("big"))), 1);
    let pulled = node.first(&TraceEvent::Pulled(mk_ref("big"))).unwrap();
    assert!((400..600).contains(&pulled.as_secs()), "{pulled:?}");
}
