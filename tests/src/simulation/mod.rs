//! Simulation of the real program.
//!
//! The real [`Controller`](fledged_operator::controller::Controller) and [`Agent`](fledged_operator::agent::Agent)s run
//! against [`fledged_apiserver::Service`] in one thread, on paused tokio time, without sockets. In every third seed Jobs
//! take the place of agents: the real [`JobDriver`](fledged_operator::jobs::JobDriver), with stand-ins for the Job
//! controller and the kubelets. A [`Scenario`] is drawn from a seed: the world, and a list of [`Move`]s of users, nodes,
//! runtimes, registries, connections and processes.
//! [`run`] plays it and checks invariants at every step: safety always, convergence once the faults end.
//!
//! The same seed gives the same history. [`shrink`] drops moves of a scenario that fails while it fails.

mod call;
mod clock;
mod controller_manager;
mod faults;
mod idle;
mod jobs;
mod kubelets;
mod ledger;
mod machine;
mod moves;
mod planted;
mod processes;
mod registry;
mod run;
mod shrink;
mod trace;
mod world;

pub use faults::{KillPoint, WatchEnd, Weather};
pub use idle::{IdleCluster, IdleOutcome, run_idle};
pub use jobs::{JobMove, JobSetup, Lookalike};
pub use ledger::Violation;
pub use moves::{CacheName, Move, Scenario, Setup, Target, TimedMove};
pub use planted::{PLANTED_BUGS, PlantedBug};
pub use run::{
    CONVERGENCE, CONVERGENCE_AFTER_REFRESH, Outcome, ROLLOUT_REPORTS, ROLLOUT_SPECS,
    ROLLOUT_STATUSES, RolloutWrites, run, run_with_bug,
};
pub use shrink::shrink;
