//! The faults of a simulation.

use std::time::Duration;

use crate::error::{Failure, Reason};

/// A fault of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The operation fails at once.
    Fail(Failure),
    /// The operation fails after half of its bytes.
    FailMidway(Failure),
    /// The call never returns; the caller has to drop it.
    Hang,
    /// The operation takes longer by this duration.
    Slow(Duration),
}

impl Fault {
    /// A fault that fails at once with this reason.
    #[must_use]
    pub fn fail(reason: Reason) -> Self {
        Self::Fail(Failure::new(reason, format!("injected: {reason}")))
    }
}

/// The faults of a simulation, their chance, and the time at which they end.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Faults {
    /// Faults of pulls, each with the same chance.
    pub pulls: Vec<Fault>,
    /// Faults of all other calls, each with the same chance: readings and removals of a runtime, writes of a cluster.
    pub calls: Vec<Fault>,
    /// Chance that an operation has a fault, 0 to 1.
    pub chance: f64,
    /// Time since the start of the simulation after which there are no faults.
    pub until: Duration,
}

impl Faults {
    /// Faults for every operation until `end`, counted from the start of the simulation.
    #[must_use]
    pub fn until(end: Duration) -> Self {
        Self {
            pulls: Vec::new(),
            calls: Vec::new(),
            chance: 1.0,
            until: end,
        }
    }

    /// With another chance that an operation has a fault, 0 to 1.
    #[must_use]
    pub fn with_chance(mut self, chance: f64) -> Self {
        self.chance = chance;
        self
    }

    /// With these faults of pulls.
    #[must_use]
    pub fn with_pulls(mut self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.pulls = faults.into_iter().collect();
        self
    }

    /// With these faults of readings, removals and writes.
    #[must_use]
    pub fn with_calls(mut self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.calls = faults.into_iter().collect();
        self
    }

    /// Draws a fault for a pull, or none.
    pub(super) fn draw_pull(&self, elapsed: Duration, rng: &mut fastrand::Rng) -> Option<Fault> {
        self.draw(&self.pulls, elapsed, rng)
    }

    /// Draws a fault for any other call, or none.
    pub(super) fn draw_call(&self, elapsed: Duration, rng: &mut fastrand::Rng) -> Option<Fault> {
        self.draw(&self.calls, elapsed, rng)
    }

    fn draw(&self, from: &[Fault], elapsed: Duration, rng: &mut fastrand::Rng) -> Option<Fault> {
        if from.is_empty() || elapsed >= self.until || rng.f64() >= self.chance {
            return None;
        }
        from.get(rng.usize(..from.len())).cloned()
    }
}
