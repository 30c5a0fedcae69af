//! A planner, and a cluster that executes its commands at once.

use std::fmt;
use std::time::Duration;

use fledged_core::model::{
    AssignedImage, CacheId, CacheSpecImages, CountOrPercent, ImageCacheSpec, ImagePhase,
    ImageReport, NodeFacts, NodeName, NodeReport,
};
use fledged_core::planner::{CacheFacts, ClusterCommand, ClusterEvent, Planner, PlannerConfig};
use jiff::Timestamp;

use super::{mk_ref, start};

/// Caches that the images are spread over; each matches every node.
const CACHES: usize = 5;
/// Node pools; one more cache matches only the first, which is 1 % of the nodes.
const POOLS: usize = 100;

/// How large a cluster is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub nodes: usize,
    pub images: usize,
}

impl Size {
    pub fn pairs(self) -> u64 {
        u64::try_from(self.nodes * self.images).unwrap()
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.nodes, self.images)
    }
}

/// A planner of a cluster of that size.
pub struct Fleet {
    planner: Planner,
    now: Timestamp,
    size: Size,
}

impl Fleet {
    /// All objects are applied, and nothing is planned yet. Every node may pull at once, so that planning
    /// is measured and not waiting.
    pub fn cold(size: Size) -> Self {
        let nodes = CountOrPercent::Count(size.nodes.try_into().unwrap());
        let mut config = PlannerConfig::default();
        config.max_concurrent_nodes = nodes;
        config.refresh_interval = Duration::ZERO;
        let mut planner = Planner::new(config, 1);
        let now = start();
        for cache in 0..CACHES {
            let facts = Box::new(mk_cache(size, cache, 1));
            planner.apply(ClusterEvent::CacheApplied(facts), now);
        }
        for node in 0..size.nodes {
            planner.apply(ClusterEvent::NodeApplied(mk_node(node, node)), now);
        }
        Self { planner, now, size }
    }

    /// Every node has reported all images as cached, and every status is written.
    pub fn warm(size: Size) -> Self {
        let mut fleet = Self::cold(size);
        let written = fleet.plan();
        assert_eq!(
            assignments(&written),
            (size.nodes, size.nodes * size.images)
        );
        fleet.carry_out(&written);
        let statuses = fleet.pass(Duration::from_secs(2));
        assert_eq!(assignments(&statuses), (0, 0));
        assert_eq!(cached(&statuses), size.pairs());
        // Recorded statuses are checked some time after they were written.
        let quiet = fleet.pass(Duration::from_secs(60));
        fleet.record(&quiet);
        let quiet = fleet.pass(Duration::from_secs(60));
        assert_eq!(quiet, []);
        fleet
    }

    /// Like [`warm`](Self::warm), with one more cache that matches 1 % of the nodes.
    pub fn warm_with_pool(size: Size) -> Self {
        let mut fleet = Self::warm(size);
        let written = fleet.apply(pool_event(size, 1));
        let matched = size.nodes / POOLS;
        assert_eq!(assignments(&written).0, matched);
        fleet.carry_out(&written);
        fleet.pass(Duration::from_secs(2));
        fleet
    }

    /// The first plan.
    pub fn plan(&mut self) -> Vec<ClusterCommand> {
        self.apply(ClusterEvent::Synced)
    }

    /// Applies one event. Returns the commands that follow.
    pub fn apply(&mut self, event: ClusterEvent) -> Vec<ClusterCommand> {
        self.planner.apply(event, self.now);
        self.planner.poll(self.now)
    }

    /// Time passes without an event.
    pub fn pass(&mut self, time: Duration) -> Vec<ClusterCommand> {
        self.now += time;
        self.planner.poll(self.now)
    }

    /// Acknowledges the writes, and reports all images as cached.
    fn carry_out(&mut self, commands: &[ClusterCommand]) {
        for command in commands {
            if let ClusterCommand::WriteAssignment {
                node,
                ticket,
                images,
            } = command
            {
                let generation = *ticket;
                let written = ClusterEvent::AssignmentWritten {
                    node: node.clone(),
                    ticket: *ticket,
                    generation,
                };
                self.planner.apply(written, self.now);
                let reported = ClusterEvent::Reported {
                    node: node.clone(),
                    report: mk_report(generation, images),
                };
                self.planner.apply(reported, self.now);
            }
        }
    }

    /// Sends the echoes of the written statuses.
    pub fn record(&mut self, commands: &[ClusterCommand]) {
        for cache in 0..CACHES {
            let mut facts = mk_cache(self.size, cache, 1);
            let written = commands.iter().rev().find_map(|command| match command {
                ClusterCommand::WriteStatus { cache, status } if *cache == facts.id => Some(status),
                _ => None,
            });
            if let Some(status) = written {
                facts.status = Some((**status).clone());
                let seen = ClusterEvent::CacheApplied(Box::new(facts));
                self.planner.apply(seen, self.now);
            }
        }
    }

    /// A new node.
    pub fn joining(&self) -> ClusterEvent {
        ClusterEvent::NodeApplied(mk_node(self.size.nodes, 1))
    }

    /// The first node, unchanged.
    pub fn heartbeat(&self) -> ClusterEvent {
        ClusterEvent::NodeApplied(mk_node(0, 0))
    }

    /// The first node, in another pool.
    pub fn moved(&self, pool: usize) -> ClusterEvent {
        ClusterEvent::NodeApplied(mk_node(0, pool))
    }

    /// The first node reports all images as cached, or all but the first.
    pub fn report(&self, whole: bool) -> ClusterEvent {
        let images = (0..self.size.images).map(|image| AssignedImage::present(mk_ref(image)));
        let mut report = mk_report(u64::MAX >> 1, &images.collect::<Vec<_>>());
        if !whole {
            let first = report.images.first_mut().unwrap();
            first.phase = ImagePhase::Pulling;
        }
        ClusterEvent::Reported {
            node: mk_name(0),
            report,
        }
    }

    /// An edit of a cache that matches every node: another first image.
    pub fn edit(&self, generation: u64) -> ClusterEvent {
        ClusterEvent::CacheApplied(Box::new(mk_cache(self.size, 0, generation)))
    }

    /// The same of a cache that matches 1 % of the nodes.
    pub fn edit_pool(&self, generation: u64) -> ClusterEvent {
        pool_event(self.size, generation)
    }

    /// Deletes the node that joined.
    pub fn leave(&mut self) {
        let node = mk_name(self.size.nodes);
        let deleted = self.apply(ClusterEvent::NodeGone(node.clone()));
        if let Some(ClusterCommand::DeleteAssignment { ticket, .. }) = deleted.first() {
            let ticket = *ticket;
            self.apply(ClusterEvent::AssignmentDeleted { node, ticket });
        }
    }
}

/// How many nodes are written, and how many images to them.
pub fn assignments(commands: &[ClusterCommand]) -> (usize, usize) {
    let written = commands.iter().filter_map(|command| match command {
        ClusterCommand::WriteAssignment { images, .. } => Some(images.len()),
        _ => None,
    });
    written.fold((0, 0), |(nodes, images), more| (nodes + 1, images + more))
}

/// How many statuses are written.
pub fn statuses(commands: &[ClusterCommand]) -> usize {
    let status = |command: &&ClusterCommand| matches!(command, ClusterCommand::WriteStatus { .. });
    commands.iter().filter(status).count()
}

/// Cached pairs by the statuses that are written.
fn cached(commands: &[ClusterCommand]) -> u64 {
    let counts = commands.iter().filter_map(|command| match command {
        ClusterCommand::WriteStatus { status, .. } => Some(status.counts.cached),
        _ => None,
    });
    counts.sum()
}

fn mk_name(node: usize) -> NodeName {
    NodeName::new(format!("node-{node:05}")).unwrap()
}

fn mk_node(node: usize, pool: usize) -> NodeFacts {
    let labels = [
        ("kubernetes.io/arch", "amd64".to_owned()),
        ("kubernetes.io/hostname", format!("node-{node:05}")),
        ("kubernetes.io/os", "linux".to_owned()),
        ("pool", format!("pool-{}", pool % POOLS)),
        ("topology.kubernetes.io/zone", format!("zone-{}", node % 3)),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value));
    NodeFacts::new(mk_name(node)).with_labels(labels)
}

/// One of the caches that match every node, with its share of the images. The first image differs
/// from one generation to the next.
fn mk_cache(size: Size, cache: usize, generation: u64) -> CacheFacts {
    let share = size.images / CACHES;
    let mut images: Vec<usize> = (cache * share..(cache + 1) * share).collect();
    if generation.is_multiple_of(2) {
        images[0] += size.images;
    }
    mk_facts(&format!("cache-{cache}"), &images, None, generation)
}

/// The cache that matches 1 % of the nodes, with as many images as the others have.
fn pool_event(size: Size, generation: u64) -> ClusterEvent {
    let share = size.images / CACHES;
    let mut images: Vec<usize> = (2 * size.images..2 * size.images + share).collect();
    if generation.is_multiple_of(2) {
        images[0] += size.images;
    }
    let facts = mk_facts("pool-0", &images, Some("pool-0"), generation);
    ClusterEvent::CacheApplied(Box::new(facts))
}

fn mk_facts(name: &str, images: &[usize], pool: Option<&str>, generation: u64) -> CacheFacts {
    let selector = pool.map(|pool| ("pool".to_owned(), pool.to_owned()));
    let images = images.iter().map(|i| mk_ref(*i).to_string());
    let entry = CacheSpecImages::new(images).with_node_selector(selector);
    let spec = ImageCacheSpec::new([entry]);
    let uid = format!("9f3c1d52-0000-4000-8000-{name:>12}");
    let id = CacheId::new("kube-fledged", name, uid);
    CacheFacts::of_spec(id, generation, &spec)
}

fn mk_report(generation: u64, images: &[AssignedImage]) -> NodeReport {
    let images = images.iter().map(|entry| {
        ImageReport::new(entry.image.clone(), ImagePhase::Cached).with_revision(entry.revision)
    });
    NodeReport::new(generation, images)
}
