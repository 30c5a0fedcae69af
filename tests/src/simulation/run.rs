//! Runs one scenario: trouble, then no faults until everything has converged, then an hour of nothing.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

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
/// How long nothing happens at the end.
const IDLE: Duration = Duration::from_secs(3600);
/// Time from convergence to the hour of nothing: the last reports and statuses are written.
const SETTLE: Duration = Duration::from_secs(300);

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
    /// Moves and faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Time from the last fault to convergence.
    pub convergence: Option<Duration>,
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
            faults: BTreeMap::new(),
            convergence: None,
            tail: Vec::new(),
        }
    })
}

async fn play(scenario: &Scenario, printed: bool) -> Outcome {
    let trace = Trace::new(printed);
    let setup = &scenario.setup;
    let mut world = World::new(scenario.seed, setup, trace.clone()).await;
    for timed in &scenario.moves {
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
    while world.ledger.violations().is_empty() {
        world.advance(trace.now() + LOOK).await;
        let left = world.unsettled();
        if left.is_empty() {
            convergence = Some(trace.now() - healed);
            break;
        }
        if trace.now() > healed + limit {
            let found = format!("after {limit:?}: {}", left.join("; "));
            world.ledger.violate("everything converges", found);
        }
    }
    if convergence.is_some() && !world.refreshes() && !setup.hostile {
        world.advance(trace.now() + SETTLE).await;
        world.ledger.take_writes();
        let before = world.unsettled();
        world.advance(trace.now() + IDLE).await;
        let mut writes = world.ledger.take_writes();
        if world.retries_removals() {
            writes.retain(|what, _| what != "jobs" && what != "nodeimagecaches/status");
        }
        if before.is_empty() && !writes.is_empty() {
            let found = format!("{writes:?}");
            world
                .ledger
                .violate("nothing is written while nothing changes", found);
        }
    }
    let (steps, hash) = trace.sum();
    Outcome {
        violations: world.ledger.violations(),
        steps,
        hash,
        simulated: trace.now(),
        faults: trace.faults(),
        convergence,
        tail: trace.tail(),
    }
}
