//! The wall clock and the shutdown signals of a process that runs on tokio.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::port::Clock;

/// A [`Clock`] that reads the wall clock, never goes back, and sleeps with tokio.
///
/// It adds the monotonic time elapsed to the wall time at its creation. If the wall clock is ahead of
/// that (NTP set it after boot, or the machine was suspended, during which the monotonic clock does not
/// advance), it jumps forward to the wall clock. If the wall clock is set back, it ignores that.
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
    /// A clock that starts at the current wall time.
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
        // Both clocks are read under the lock: otherwise two callers could store their anchors out of order.
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

/// SIGINT and SIGTERM. While a value of this type exists, neither signal ends the process.
#[derive(Debug)]
pub struct ShutdownSignal {
    interrupt: Signal,
    terminate: Signal,
}

impl ShutdownSignal {
    /// Installs the handlers of both signals. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// The operating system's error if a handler cannot be installed.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal and returns its number.
    pub async fn recv(&mut self) -> u8 {
        let number = |kind: SignalKind| u8::try_from(kind.as_raw_value()).unwrap_or_default();
        tokio::select! {
            _ = self.interrupt.recv() => number(SignalKind::interrupt()),
            _ = self.terminate.recv() => number(SignalKind::terminate()),
        }
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
    async fn the_clock_advances_when_the_wall_clock_is_set_back() {
        let start: Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
        WALL.set(start);
        let clock = clock();
        assert_eq!(clock.now(), start);
        WALL.set(start - 1.hour());
        clock.sleep(Duration::from_secs(5)).await;
        assert_eq!(clock.now(), start + 5.seconds());
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_follows_the_wall_clock_only_forward() {
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
    fn the_wall_clock_is_read_without_a_tokio_runtime() {
        let before = Timestamp::now();
        let clock = TokioClock::new();
        let (first, second) = (clock.now(), clock.now());
        assert!(before <= first && first <= second);
    }
}
