//! The wall clock of one simulated process.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fledged_core::port::Clock;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// The time at which every simulation starts.
pub(super) const START: &str = "2026-01-01T00:00:00Z";

/// A clock that follows tokio's paused clock as [`TokioClock`](fledged_core::tokio::TokioClock) follows its own: a wall
/// clock that is set back has no effect, and one that is ahead moves this clock forward.
pub(super) struct ProcessClock {
    origin: Instant,
    state: Mutex<State>,
}

struct State {
    /// How far the machine's wall clock is ahead of the simulation.
    wall: SignedDuration,
    /// How far this clock is.
    ahead: SignedDuration,
}

impl ProcessClock {
    /// A clock without skew. `origin` is the start of the simulation.
    pub(super) fn new(origin: Instant) -> Self {
        let (wall, ahead) = (SignedDuration::ZERO, SignedDuration::ZERO);
        let state = Mutex::new(State { wall, ahead });
        Self { origin, state }
    }

    /// Sets the machine's wall clock forward or back by this time.
    pub(super) fn jump(&self, by: SignedDuration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.wall = state.wall.saturating_add(by);
        state.ahead = state.ahead.max(state.wall);
    }
}

/// The time of a clock without skew.
pub(super) fn wall_time(origin: Instant) -> Timestamp {
    let start: Timestamp = START.parse().unwrap();
    start + SignedDuration::try_from(origin.elapsed()).unwrap()
}

#[async_trait]
impl Clock for ProcessClock {
    fn now(&self) -> Timestamp {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        wall_time(self.origin) + state.ahead
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
