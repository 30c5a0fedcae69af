//! The figures of a campaign.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::ledger::Counts;
use super::plan::Act;
use super::run::CONVERGENCE;

/// What a campaign found.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub(super) seed: u64,
    pub(super) took: Duration,
    pub(super) rounds: u64,
    /// Whether the caller ended it.
    pub(super) stopped: bool,
    /// Time spent in each phase of the rounds.
    pub(super) phases: BTreeMap<&'static str, Duration>,
    /// Injected faults by kind, also of the kinds that there were none of.
    pub(super) faults: BTreeMap<String, u64>,
    /// Faults that were not met, for example by a request to the registry; they are not counted.
    pub(super) not_met: u64,
    /// Processes that were killed or stopped while a layer was downloaded.
    pub(super) during_pulls: u64,
    /// Requests of users by kind.
    pub(super) requests: BTreeMap<&'static str, u64>,
    /// Processes that ended by themselves, and were started again.
    pub(super) ended: BTreeMap<&'static str, u64>,
    /// Time from the end of the faults until everything had converged, and the round.
    pub(super) recoveries: Vec<(Duration, u64)>,
    /// Rounds in which users had to ask for a second refresh.
    pub(super) second_refreshes: u64,
    pub(super) wedged: u64,
    pub(super) counts: Counts,
    pub(super) failures: Vec<String>,
}

impl Outcome {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            faults: Act::kinds().map(|kind| (kind, 0)).collect(),
            ..Self::default()
        }
    }

    /// Adds the time since then to a phase.
    pub(super) fn spend(&mut self, phase: &'static str, since: Instant) {
        *self.phases.entry(phase).or_default() += since.elapsed();
    }

    /// Whether it was ended by [`Options::stop`](super::Options::stop).
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Number of faults that were injected.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.faults.values().sum()
    }

    /// What went wrong; empty if nothing did.
    #[must_use]
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// How often everything converged.
    #[must_use]
    pub fn convergences(&self) -> usize {
        self.recoveries.len()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut recoveries = self.recoveries.clone();
        recoveries.sort_unstable();
        writeln!(f, "seed                 {}", self.seed)?;
        writeln!(f, "wall time            {:.0} s", self.took.as_secs_f64())?;
        writeln!(f, "rounds               {}", self.rounds)?;
        for (phase, took) in &self.phases {
            let took = took.as_secs_f64();
            writeln!(f, "  {took:>6.0} s  {phase}")?;
        }
        writeln!(f, "convergences         {}", recoveries.len())?;
        let median = recoveries.get(recoveries.len() / 2);
        if let (Some((median, _)), Some((worst, round))) = (median, recoveries.last()) {
            let (median, worst) = (median.as_secs_f64(), worst.as_secs_f64());
            writeln!(
                f,
                "recovery             median {median:.1} s, worst {worst:.1} s (round {round})"
            )?;
        }
        writeln!(f, "second refreshes     {}", self.second_refreshes)?;
        writeln!(
            f,
            "wedged (>{} s)      {}",
            CONVERGENCE.as_secs(),
            self.wedged
        )?;
        writeln!(f, "images lost          {}", self.counts.images_lost)?;
        writeln!(f, "wrong removals       {}", self.counts.wrong_removals)?;
        writeln!(f, "ordered removals     {}", self.counts.ordered_removals)?;
        writeln!(f, "left behind          {}", self.counts.left_behind)?;
        writeln!(f, "lost by the runtime  {}", self.counts.lost_by_runtime)?;
        writeln!(f, "faults injected      {}", self.injected())?;
        for (kind, count) in &self.faults {
            writeln!(f, "  {count:>6}  {kind}")?;
        }
        writeln!(
            f,
            "  in {} of them a layer was being downloaded",
            self.during_pulls
        )?;
        writeln!(
            f,
            "  {} more of registry or disk that nothing met",
            self.not_met
        )?;
        writeln!(
            f,
            "requests of users    {}",
            self.requests.values().sum::<u64>()
        )?;
        for (kind, count) in &self.requests {
            writeln!(f, "  {count:>6}  {kind}")?;
        }
        for (part, count) in &self.ended {
            writeln!(f, "ended by itself      {part}: {count}")?;
        }
        Ok(())
    }
}
