//! An idle cluster: once everything has converged and nothing changes, nothing is written but the Lease.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Builder;

use super::ledger::Violation;
use super::moves::{CacheName, FIXED, MUTABLE, Move, PRIVATE, Setup};
use super::run::CONVERGENCE;
use super::trace::Trace;
use super::world::World;

/// The caches of an idle cluster, the last of them for one zone.
const CACHES: [CacheName; 4] = [
    ("alpha", "front"),
    ("alpha", "back"),
    ("beta", "front"),
    ("beta", "back"),
];
/// How many of them list mutable tags, if any do.
const MUTABLE_CACHES: u64 = 2;
/// The most nodes that pull at once.
const NODE_LIMIT: u32 = 3;
/// Time between two looks at what has not converged.
const LOOK: Duration = Duration::from_secs(10);
/// Time from convergence to the idle time: the last reports and statuses are written.
const SETTLE: Duration = Duration::from_secs(300);

/// A cluster in which nothing happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdleCluster {
    /// Its nodes.
    pub nodes: usize,
    /// How long nothing happens.
    pub lasting: Duration,
    /// How often mutable tags are pulled again; zero: never.
    pub refresh: Duration,
    /// Whether two of the four caches list images with mutable tags.
    pub mutable_tags: bool,
}

impl IdleCluster {
    /// Five nodes with two controllers and four caches that do nothing for this time: without refreshes, and with
    /// mutable tags.
    #[must_use]
    pub fn new(lasting: Duration) -> Self {
        Self {
            nodes: 5,
            lasting,
            refresh: Duration::ZERO,
            mutable_tags: true,
        }
    }

    /// With refreshes at the default interval, and with or without mutable tags to pull again.
    #[must_use]
    pub fn with_refreshes(mut self, mutable_tags: bool) -> Self {
        self.refresh = Duration::from_secs(15 * 60);
        self.mutable_tags = mutable_tags;
        self
    }

    /// The most writes that its refreshes take: for each cache with mutable tags an order, and reports of the begin
    /// and the end, for each node; a status of the cache and an event at the begin and at the end; and for the nodes
    /// that pull at once, two statuses with counts.
    fn allowed(&self) -> u64 {
        if self.refresh.is_zero() || !self.mutable_tags {
            return 0;
        }
        let times = self.lasting.as_secs().div_ceil(self.refresh.as_secs());
        let nodes = self.nodes as u64;
        let waves = nodes.div_ceil(u64::from(NODE_LIMIT));
        times * MUTABLE_CACHES * (3 * nodes + 4 + 2 * waves)
    }

    fn setup(&self) -> Setup {
        Setup {
            nodes: self.nodes,
            node_limit: NODE_LIMIT,
            pulls: 3,
            refresh: self.refresh,
            record_bytes: 512 * 1024,
            whole_removals: Vec::new(),
            hostile: false,
            lease_retry: Duration::from_secs(2),
            trouble: Duration::ZERO,
            quiet: Duration::ZERO,
            idle: Duration::ZERO,
            refresh_after: false,
            jobs: None,
        }
    }

    fn spec(&self, cache: usize) -> Value {
        let (fixed, _) = FIXED[cache];
        let images: Vec<&str> = match cache {
            0 if self.mutable_tags => vec![fixed, MUTABLE[0].0],
            1 if self.mutable_tags => vec![MUTABLE[1].0],
            2 => vec![fixed, PRIVATE[0].0],
            _ => vec![fixed],
        };
        let mut spec = json!({ "cacheSpec": [{ "images": images }] });
        match cache {
            2 => spec["imagePullSecrets"] = json!([{ "name": "login-of-beta" }]),
            3 => spec["cacheSpec"][0]["nodeSelector"] = json!({ "zone": "a" }),
            _ => {}
        }
        spec
    }
}

/// What an idle cluster did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct IdleOutcome {
    /// The broken invariants.
    pub violations: Vec<Violation>,
    /// The writes of controllers and agents in the idle time by resource, without Leases.
    pub writes: BTreeMap<String, u64>,
    /// The most writes that refreshes at the interval may take.
    pub allowed: u64,
    /// Requests, pulls and other steps in the idle time.
    pub steps: u64,
    /// The writes after an edit at the end, which shows that the processes work.
    pub writes_of_edit: BTreeMap<String, u64>,
}

/// Runs an idle cluster on a tokio runtime of its own. `printed`: each step is printed to stderr.
///
/// # Panics
///
/// If the simulation itself fails.
#[must_use]
pub fn run_idle(cluster: &IdleCluster, printed: bool) -> IdleOutcome {
    fastrand::seed(1);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(play(cluster, printed))
}

async fn play(cluster: &IdleCluster, printed: bool) -> IdleOutcome {
    let trace = Trace::new(printed);
    let mut world = World::new(1, &cluster.setup(), trace.clone()).await;
    for (number, cache) in CACHES.into_iter().enumerate() {
        let spec = cluster.spec(number);
        world.act(&Move::Apply(cache, spec)).await;
    }
    converge(&mut world, &trace).await;
    world.advance(trace.now() + SETTLE).await;
    world.ledger.take_writes();
    let (before, began) = (trace.sum().0, trace.now());
    world.advance(began + cluster.lasting).await;
    let writes = world.ledger.take_writes();
    let steps = trace.sum().0 - before;
    let allowed = cluster.allowed();
    if writes.values().sum::<u64>() > allowed {
        let found = format!("{writes:?}, allowed: {allowed}");
        let invariant = "nothing is written while nothing changes";
        world.ledger.violate(invariant, found);
    }
    let edit = json!({ "cacheSpec": [{ "images": [FIXED[0].0, FIXED[4].0] }] });
    world.act(&Move::Apply(CACHES[3], edit)).await;
    converge(&mut world, &trace).await;
    IdleOutcome {
        violations: world.ledger.violations(),
        writes,
        allowed,
        steps,
        writes_of_edit: world.ledger.take_writes(),
    }
}

/// Lets time pass until everything has converged, or an invariant is broken.
async fn converge(world: &mut World, trace: &Trace) {
    let began = trace.now();
    loop {
        world.advance(trace.now() + LOOK).await;
        // Time no longer passes then.
        if world.ledger.is_broken() {
            return;
        }
        let left = world.unsettled();
        if left.is_empty() {
            return;
        }
        if trace.now() > began + CONVERGENCE {
            let found = format!("after {CONVERGENCE:?}: {}", left.join("; "));
            return world.ledger.violate("everything converges", found);
        }
    }
}
