//! What a planner with many caches takes for one event and the poll after it.
//!
//! Each figure is a median, which other work on the machine moves little: the sizes differ by far more.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use fledged_core::model::{
    AssignedImage, CacheId, CacheSpecImages, CountOrPercent, DesiredState, ImageCacheSpec,
    ImagePhase, ImageReport, NodeFacts, NodeName, NodeReport,
};
use fledged_core::planner::{CacheFacts, ClusterCommand, ClusterEvent, Planner, PlannerConfig};
use jiff::Timestamp;

/// Nodes that flap, one after another.
const FLAPS: usize = 200;
/// Polls without a change.
const POLLS: usize = 1_000;
/// Edits of the last cache.
const EDITS: u64 = 5;
/// Cold clusters.
const PLANS: usize = 3;

/// How large a cluster is.
#[derive(Clone, Copy)]
struct Size {
    nodes: usize,
    caches: usize,
    /// Caches for every node; each of the others is for one node.
    everywhere: usize,
    /// Images of each cache.
    images: usize,
    /// Whether all caches list the same images.
    shared: bool,
}

fn main() {
    let size = |nodes, caches, everywhere, images, shared| Size {
        nodes,
        caches,
        everywhere,
        images,
        shared,
    };
    // `cargo test --benches` only wants to see that it runs.
    let sizes = match std::env::args().any(|arg| arg == "--bench") {
        true => vec![
            size(989, 198, 198, 1, false),
            size(1_000, 10_000, 10, 1, false),
            size(1_000, 10_000, 10, 1, true),
        ],
        false => vec![size(10, 30, 3, 2, false), size(10, 30, 3, 2, true)],
    };
    for size in sizes {
        measure(size);
    }
}

/// Prints the costs of a cluster of that size.
fn measure(size: Size) {
    let mut plans = Vec::new();
    let mut planned = None;
    for _ in 0..PLANS {
        let mut cluster = Cluster::cold(size);
        let (took, commands) = timed(|| cluster.poll());
        plans.push(took);
        planned = Some((cluster, commands));
    }
    let (mut cluster, commands) = planned.unwrap();
    assert_eq!(cluster.carry_out(commands), size.nodes);
    cluster.settle();
    let flaps = FLAPS.min(size.nodes);
    let not_ready = cluster.flap(flaps, false);
    let ready = cluster.flap(flaps, true);
    cluster.settle();
    let polls = (0..POLLS).map(|_| {
        let (took, commands) = timed(|| cluster.poll());
        assert_eq!(commands, []);
        took
    });
    let polls = polls.collect();
    let mut edits = Vec::new();
    for generation in 2..2 + EDITS {
        let event = mk_cache(size, size.caches - 1, generation);
        let (took, commands) = timed(|| cluster.apply(event));
        edits.push(took);
        assert!(cluster.carry_out(commands) > 0);
        cluster.pass();
    }
    let Size {
        nodes,
        caches,
        everywhere,
        images,
        shared,
    } = size;
    println!(
        "{nodes} nodes, {caches} caches of {images} images ({everywhere} for every node{}): full plan {:.1?}, \
         a node turns NotReady {:.1?}, Ready {:.1?}, an empty poll {:.2?}, an edit {:.1?}",
        if shared { ", all the same images" } else { "" },
        median(plans),
        median(not_ready),
        median(ready),
        median(polls),
        median(edits),
    );
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn timed<T>(act: impl FnOnce() -> T) -> (Duration, T) {
    let began = Instant::now();
    let result = act();
    (began.elapsed(), result)
}

/// A planner, and a cluster that executes its commands at once.
struct Cluster {
    planner: Planner,
    now: Timestamp,
}

impl Cluster {
    /// All objects are applied, and nothing is planned yet. Every node may pull at once.
    fn cold(size: Size) -> Self {
        let mut config = PlannerConfig::default();
        config.max_concurrent_nodes = CountOrPercent::Count(size.nodes.try_into().unwrap());
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut planner = Planner::new(config, 1);
        for cache in 0..size.caches {
            planner.apply(mk_cache(size, cache, 1), now);
        }
        for node in 0..size.nodes {
            planner.apply(mk_node(node, true), now);
        }
        planner.apply(ClusterEvent::Synced, now);
        Self { planner, now }
    }

    /// What the loop of a controller does after an event.
    fn poll(&mut self) -> Vec<ClusterCommand> {
        let commands = self.planner.poll(self.now);
        black_box(self.planner.next_wakeup());
        commands
    }

    fn apply(&mut self, event: ClusterEvent) -> Vec<ClusterCommand> {
        self.planner.apply(event, self.now);
        self.poll()
    }

    /// Nodes change their readiness, one after another.
    fn flap(&mut self, nodes: usize, ready: bool) -> Vec<Duration> {
        let changes = (0..nodes).map(|node| {
            let event = mk_node(node, ready);
            let (took, _) = timed(|| self.apply(event));
            took
        });
        changes.collect()
    }

    /// Acknowledges the writes of assignments, and reports everything as done. Returns their number.
    fn carry_out(&mut self, commands: Vec<ClusterCommand>) -> usize {
        let mut written = 0;
        for command in commands {
            if let ClusterCommand::WriteAssignment {
                node,
                ticket,
                images,
            } = command
            {
                written += 1;
                let report = mk_report(ticket, &images);
                let generation = ticket;
                let acknowledged = ClusterEvent::AssignmentWritten {
                    node: node.clone(),
                    ticket,
                    generation,
                };
                self.planner.apply(acknowledged, self.now);
                let reported = ClusterEvent::Reported { node, report };
                self.planner.apply(reported, self.now);
            }
        }
        written
    }

    /// Time passes, and what is due is done.
    fn pass(&mut self) {
        self.now += Duration::from_secs(20);
        let commands = self.poll();
        self.carry_out(commands);
    }

    /// Time passes until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..4 {
            self.pass();
        }
    }
}

fn mk_node(node: usize, ready: bool) -> ClusterEvent {
    let labels = [
        ("kubernetes.io/hostname", format!("node-{node:05}")),
        ("kubernetes.io/os", "linux".to_owned()),
        ("number", node.to_string()),
        ("topology.kubernetes.io/zone", format!("zone-{}", node % 3)),
    ];
    let facts = NodeFacts::new(NodeName::new(format!("node-{node:05}")).unwrap());
    ClusterEvent::NodeApplied(facts.with_labels(labels).with_ready(ready))
}

/// A cache of that number. The first image differs from one generation to the next.
fn mk_cache(size: Size, cache: usize, generation: u64) -> ClusterEvent {
    let first = if size.shared { 0 } else { cache * size.images };
    let images = (first..first + size.images).map(|image| {
        if generation > 1 && image == first {
            format!("registry.example.com/team/edited:v{generation}")
        } else {
            format!("registry.example.com/team/app-{image:05}:v1.2.3")
        }
    });
    let mut entry = CacheSpecImages::new(images);
    if cache >= size.everywhere {
        entry = entry.with_node_selector([("number", (cache % size.nodes).to_string())]);
    }
    let uid = format!("9f3c1d52-0000-4000-8000-{cache:012}");
    let id = CacheId::new("kube-fledged", format!("cache-{cache:05}"), uid);
    let facts = CacheFacts::of_spec(id, generation, &ImageCacheSpec::new([entry]));
    ClusterEvent::CacheApplied(Box::new(facts))
}

fn mk_report(generation: u64, images: &[AssignedImage]) -> NodeReport {
    let images = images.iter().map(|entry| {
        let phase = match entry.state {
            DesiredState::Present => ImagePhase::Cached,
            DesiredState::Absent => ImagePhase::Removed,
        };
        ImageReport::new(entry.image.clone(), phase).with_revision(entry.revision)
    });
    NodeReport::new(generation, images)
}
