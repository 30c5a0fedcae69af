//! The clock of a real machine.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fledged_core::port::Clock;
use jiff::Timestamp;
use tokio::time::Instant;

/// The machine's time, never going back, and tokio's sleep.
///
/// Counts monotonic time from the wall time it was made at. Where the wall clock is ahead of that
/// (set by NTP after boot, or after a suspend, during which monotonic time stands still) it follows;
/// where the wall clock is set back it does not.
pub struct TokioClock {
    wall: fn() -> Timestamp,
    anchor: Mutex<Anchor>,
}

#[derive(Debug, Clone, Copy)]
struct Anchor {
    wall: Timestamp,
    monotonic: Instant,
}

impl Anchor {
    fn at(self, now: Instant) -> Timestamp {
        let elapsed = now.saturating_duration_since(self.monotonic);
        jiff::SignedDuration::try_from(elapsed)
            .ok()
            .and_then(|elapsed| self.wall.checked_add(elapsed).ok())
            .unwrap_or(Timestamp::MAX)
    }
}

impl TokioClock {
    /// A clock that shows the wall time now.
    #[must_use]
    pub fn new() -> Self {
        Self::with_wall(Timestamp::now)
    }

    fn with_wall(wall: fn() -> Timestamp) -> Self {
        Self {
            wall,
            anchor: Mutex::new(Anchor {
                wall: wall(),
                monotonic: Instant::now(),
            }),
        }
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TokioClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioClock").finish_non_exhaustive()
    }
}

#[async_trait]
impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        // Both clocks are read under the lock: two callers could otherwise anchor out of order.
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        let monotonic = Instant::now();
        let (counted, wall) = (anchor.at(monotonic), (self.wall)());
        if wall <= counted {
            return counted;
        }
        *anchor = Anchor { wall, monotonic };
        wall
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use jiff::ToSpan;

    use super::*;

    thread_local! {
        static WALL: Cell<Timestamp> = const { Cell::new(Timestamp::UNIX_EPOCH) };
    }

    fn clock() -> TokioClock {
        TokioClock::with_wall(|| WALL.get())
    }

    #[tokio::test(start_paused = true)]
    async fn counts_on_when_the_wall_clock_is_set_back() {
        let start: Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
        WALL.set(start);
        let clock = clock();
        assert_eq!(clock.now(), start);
        WALL.set(start - 1.hour());
        clock.sleep(Duration::from_secs(5)).await;
        assert_eq!(clock.now(), start + 5.seconds());
    }

    #[tokio::test(start_paused = true)]
    async fn follows_the_wall_clock_when_that_is_ahead_and_keeps_what_it_showed() {
        let boot = Timestamp::UNIX_EPOCH;
        WALL.set(boot);
        let clock = clock();
        let set: Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
        WALL.set(set);
        assert_eq!(clock.now(), set);
        WALL.set(boot);
        clock.sleep(Duration::from_millis(1500)).await;
        assert_eq!(clock.now(), set + 1500.milliseconds());
    }

    #[test]
    fn works_outside_a_tokio_runtime_and_agrees_with_the_machine() {
        let before = Timestamp::now();
        let clock = TokioClock::new();
        let (first, second) = (clock.now(), clock.now());
        assert!(before <= first && first <= second);
    }
}
