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
    /// It never answers; only a deadline ends it.
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
    /// Faults of readings and removals, drawn evenly; a `Hang` here is taken as a failure, because
    /// the port promises an answer.
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

    /// Draws a failure for a call, or none.
    pub(super) fn draw_call(&self, elapsed: Duration, rng: &mut fastrand::Rng) -> Option<Failure> {
        match self.draw(&self.calls, elapsed, rng)? {
            Fault::Fail(failure) | Fault::FailMidway(failure) => Some(failure),
            Fault::Hang => Some(Failure::new(
                Reason::RuntimeUnavailable,
                "injected: no answer",
            )),
            Fault::Slow(_) => None,
        }
    }

    fn draw(&self, from: &[Fault], elapsed: Duration, rng: &mut fastrand::Rng) -> Option<Fault> {
        if from.is_empty() || elapsed >= self.until || rng.f64() >= self.chance {
            return None;
        }
        from.get(rng.usize(..from.len())).cloned()
    }
}
