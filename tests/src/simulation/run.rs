//! Runs one scenario: trouble, then no faults until everything has converged, then up to an hour of nothing, and a rollout.
//! It ends at the first broken invariant.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use fledged_core::planted;
use tokio::runtime::Builder;

use super::ledger::Violation;
use super::moves::Scenario;
use super::trace::Trace;
use super::world::World;

/// Within this time after the last fault everything has converged: the longest back-off, one hour, with its jitter
/// and a round of pulls.
pub const CONVERGENCE: Duration = Duration::from_secs(90 * 60);
/// The same if users ask for a refresh when the faults end, which retries all failures.
pub const CONVERGENCE_AFTER_REFRESH: Duration = Duration::from_secs(30 * 60);
/// Time between two looks at what has not converged.
const LOOK: Duration = Duration::from_secs(10);
/// Time from convergence to the hour of nothing: the last reports and statuses are written.
const SETTLE: Duration = Duration::from_secs(300);

/// Most writes of the spec of a NodeImageCache in a rollout without faults that replaces all images of an ImageCache:
/// the removals, the pulls, and the end of the removals.
pub const ROLLOUT_SPECS: u64 = 6;
/// Most writes of the status of a NodeImageCache in such a rollout: each spec is acknowledged and its end is reported,
/// and there is some progress.
pub const ROLLOUT_REPORTS: u64 = 8;
/// Most writes of the status of an ImageCache in such a rollout, on each of its nodes.
pub const ROLLOUT_STATUSES: u64 = 6;

/// The writes of a rollout without faults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RolloutWrites {
    /// Most writes of the spec of a NodeImageCache.
    pub specs: u64,
    /// Most writes of the status of a NodeImageCache.
    pub reports: u64,
    /// Most writes of the status of an ImageCache, for each node.
    pub statuses: u64,
}

impl RolloutWrites {
    fn new(writes: &BTreeMap<String, u64>, nodes: usize) -> Self {
        let most = |resource: &str, status: bool| {
            let of_resource = writes.iter().filter(|(target, _)| {
                target.starts_with(resource) && target.ends_with("/status") == status
            });
            of_resource.map(|(_, count)| *count).max().unwrap_or(0)
        };
        let nodes = u64::try_from(nodes.max(1)).unwrap();
        Self {
            specs: most("nodeimagecaches/", false),
            reports: most("nodeimagecaches/", true),
            statuses: most("imagecaches/", true).div_ceil(nodes),
        }
    }
}

/// The result of a simulation.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outcome {
    /// The broken invariants, in the order in which they were found.
    pub violations: Vec<Violation>,
    /// The number of steps: requests, pulls, removals, moves.
    pub steps: u64,
    /// The hash of all steps. Equal hashes mean equal histories.
    pub hash: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Moves by kind.
    pub moves: BTreeMap<&'static str, u64>,
    /// Faults that requests and watches met, by kind. A move that lasts is met many times, or not at all.
    pub faults: BTreeMap<&'static str, u64>,
    /// Time from the last fault to convergence.
    pub convergence: Option<Duration>,
    /// The writes of the rollout at the end, where there was one.
    pub rollout: Option<RolloutWrites>,
    /// The last steps.
    pub tail: Vec<String>,
}

impl Outcome {
    /// Whether an invariant was broken.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        !self.violations.is_empty()
    }
}

/// Runs a scenario on a tokio runtime of its own. `printed`: each step is printed to stderr.
#[must_use]
pub fn run(scenario: &Scenario, printed: bool) -> Outcome {
    run_with_bug(scenario, None, printed)
}

/// As [`run`], of a program with this bug of [`PLANTED_BUGS`](super::PLANTED_BUGS).
#[must_use]
pub fn run_with_bug(scenario: &Scenario, bug: Option<&'static str>, printed: bool) -> Outcome {
    planted::plant(bug);
    let outcome = run_planted(scenario, printed);
    planted::plant(None);
    outcome
}

fn run_planted(scenario: &Scenario, printed: bool) -> Outcome {
    fastrand::seed(scenario.seed);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let played = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(play(scenario, printed))
    }));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Outcome {
            violations: vec![Violation {
                at: Duration::ZERO,
                invariant: "the simulation does not panic",
                found: text.unwrap_or_default(),
            }],
            steps: 0,
            hash: 0,
            simulated: Duration::ZERO,
            moves: BTreeMap::new(),
            faults: BTreeMap::new(),
            convergence: None,
            rollout: None,
            tail: Vec::new(),
        }
    })
}

async fn play(scenario: &Scenario, printed: bool) -> Outcome {
    let trace = Trace::new(printed);
    let setup = &scenario.setup;
    let mut world = World::new(scenario.seed, setup, trace.clone()).await;
    for timed in &scenario.moves {
        if world.ledger.is_broken() {
            break;
        }
        world.advance(timed.at).await;
        world.act(&timed.act).await;
    }
    world.advance(setup.trouble + Duration::from_secs(10)).await;
    world.heal().await;
    let healed = trace.now();
    let limit = match setup.refresh_after {
        true => CONVERGENCE_AFTER_REFRESH,
        false => CONVERGENCE,
    };
    let mut convergence = None;
    while !world.ledger.is_broken() {
        world.advance(trace.now() + LOOK).await;
        if converged(&world, healed + limit) {
            convergence = Some(trace.now() - healed);
            break;
        }
    }
    let mut rollout = None;
    let refreshes = !setup.refresh.is_zero();
    // What Jobs write for a refresh has no bound of its own, and a hostile tenant's pulls are retried.
    let has_bound = !setup.hostile && (!refreshes || setup.jobs.is_none());
    if convergence.is_some() && has_bound {
        world.advance(trace.now() + SETTLE).await;
        world.ledger.take_writes();
        let settled = world.unsettled().is_empty();
        let retries = world.retries_pulls();
        world.advance(trace.now() + setup.idle).await;
        let mut writes = world.ledger.take_writes();
        if world.retries_removals() {
            writes.retain(|what, _| what != "jobs");
        }
        let allowed = world.writes_of_refreshes(setup.idle);
        if settled && !retries && writes.values().sum::<u64>() > allowed {
            let found = format!("{writes:?}, allowed: {allowed}");
            world
                .ledger
                .violate("nothing is written while nothing changes", found);
        }
        if settled && setup.jobs.is_none() && !refreshes {
            rollout = roll_out(&mut world).await;
        }
    }
    let (steps, hash) = trace.sum();
    Outcome {
        violations: world.ledger.violations(),
        steps,
        hash,
        simulated: trace.now(),
        moves: trace.moves(),
        faults: trace.faults(),
        convergence,
        rollout,
        tail: trace.tail(),
    }
}

/// Whether everything has converged, which it must have by `due`.
fn converged(world: &World, due: Duration) -> bool {
    let left = world.unsettled();
    if world.trace.now() > due && !left.is_empty() {
        world
            .ledger
            .violate("everything converges", left.join("; "));
    }
    left.is_empty() && !world.ledger.is_broken()
}

/// Plays a rollout without faults, and checks what it writes.
async fn roll_out(world: &mut World) -> Option<RolloutWrites> {
    let due = world.trace.now() + CONVERGENCE_AFTER_REFRESH;
    world.roll_out().await;
    loop {
        world.advance(world.trace.now() + LOOK).await;
        if world.ledger.is_broken() {
            return None;
        }
        if converged(world, due) {
            break;
        }
    }
    let writes = world.ledger.take_writes_by_object();
    let most = RolloutWrites::new(&writes, world.nodes_ready());
    if most.specs > ROLLOUT_SPECS
        || most.reports > ROLLOUT_REPORTS
        || most.statuses > ROLLOUT_STATUSES
    {
        let found = format!("{most:?} of {writes:?}");
        world.ledger.violate("a rollout takes few writes", found);
    }
    Some(most)
}
