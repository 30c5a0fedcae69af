//! What goes wrong in a simulation.

use std::time::Duration;

use crate::error::{Failure, Reason};

/// One thing that can go wrong with an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It fails at once.
    Fail(Failure),
    /// It fails after half of its bytes.
    FailMidway(Failure),
    /// It never answers; only whoever asked ends it.
    Hang,
    /// It takes that much longer.
    Slow(Duration),
}

impl Fault {
    /// Fails at once for that reason.
    #[must_use]
    pub fn fail(reason: Reason) -> Self {
        Self::Fail(Failure::new(reason, format!("injected: {reason}")))
    }
}

/// Which faults, how often, and for how long.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faults {
    /// Faults of pulls, drawn evenly.
    pub pulls: Vec<Fault>,
    /// Faults of readings and removals, drawn evenly.
    pub calls: Vec<Fault>,
    /// Chance that an operation meets one, 0 to 1.
    pub chance: f64,
    /// No faults from then on, counted from the start of the simulation.
    pub until: Duration,
}

impl Faults {
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
