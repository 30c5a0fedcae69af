//! What slows downloads of layers down, and for how long.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a reading of the pressure is shown.
const CURRENT: Duration = Duration::from_secs(10);

/// What slows downloads of layers down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SlowedBy {
    /// The highest rate of all pulls, or that of an ImageCache.
    Limit,
    /// Pulls of other clients of the runtime.
    OtherPulls,
    /// Tasks of the machine that wait for I/O.
    Io,
    /// Tasks of the machine that wait for memory.
    Memory,
}

impl SlowedBy {
    /// All.
    pub const ALL: [Self; 4] = [Self::Limit, Self::OtherPulls, Self::Io, Self::Memory];

    /// The word for it: `limit`, `other_pulls`, `io`, `memory`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::OtherPulls => "other_pulls",
            Self::Io => "io",
            Self::Memory => "memory",
        }
    }
}

/// What has slowed the downloads of a runtime down. Clones share it. Without the feature `oci`, nothing is downloaded.
#[derive(Debug, Clone, Default)]
pub struct PullSlowdowns(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    times: [Duration; SlowedBy::ALL.len()],
    /// Until when the times are counted.
    #[cfg(feature = "oci")]
    counted: Option<Instant>,
    /// The latest reading and its time.
    pressure: Option<(Instant, PressureReading)>,
}

/// Shares of time in percent, if they were read.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct PressureReading {
    pub(crate) io: Option<f64>,
    pub(crate) memory: Option<f64>,
}

impl PullSlowdowns {
    /// The time in which at least one download waited because of that.
    #[must_use]
    pub fn time(&self, by: SlowedBy) -> Duration {
        let counts = self.lock();
        let times = SlowedBy::ALL.iter().zip(counts.times);
        let time = times.filter(|(one, _)| **one == by).map(|(_, time)| time);
        time.sum()
    }

    /// The share of the last 10 seconds in which at least one task of the machine waited for I/O, in percent. `None` if
    /// no layers were downloaded in the last 10 seconds, or pressure on I/O has no limit or is not known.
    #[must_use]
    pub fn io_pressure(&self) -> Option<f64> {
        self.current().io
    }

    /// As [`io_pressure`](Self::io_pressure), for memory.
    #[must_use]
    pub fn memory_pressure(&self) -> Option<f64> {
        self.current().memory
    }

    fn current(&self) -> PressureReading {
        let latest = self.lock().pressure;
        let latest = latest.filter(|(at, _)| at.elapsed() < CURRENT);
        latest.map(|(_, reading)| reading).unwrap_or_default()
    }

    /// Counts a download that waits until then.
    #[cfg(feature = "oci")]
    pub(crate) fn waits(&self, by: SlowedBy, until: Instant) {
        let mut counts = self.lock();
        let now = Instant::now();
        let from = counts.counted.map_or(now, |counted| counted.max(now));
        counts.counted = Some(from.max(until));
        let more = until.saturating_duration_since(from);
        for (one, time) in SlowedBy::ALL.iter().zip(&mut counts.times) {
            if *one == by {
                *time = time.saturating_add(more);
            }
        }
    }

    #[cfg(feature = "oci")]
    pub(crate) fn set_pressure(&self, reading: PressureReading) {
        self.lock().pressure = Some((Instant::now(), reading));
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, feature = "oci"))]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_in_which_several_wait_is_counted_once() {
        let slowdowns = PullSlowdowns::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        slowdowns.waits(SlowedBy::Io, at(4));
        slowdowns.waits(SlowedBy::Limit, at(3));
        slowdowns.waits(SlowedBy::Memory, at(5));
        tokio::time::advance(Duration::from_secs(8)).await;
        slowdowns.waits(SlowedBy::Io, at(7));
        slowdowns.waits(SlowedBy::Io, at(10));
        let times = SlowedBy::ALL.map(|by| slowdowns.time(by).as_secs());
        assert_eq!(times, [0, 0, 4 + 2, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_reading_is_not_shown() {
        let slowdowns = PullSlowdowns::default();
        assert_eq!(slowdowns.io_pressure(), None);
        slowdowns.set_pressure(PressureReading {
            io: Some(12.5),
            memory: None,
        });
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(slowdowns.io_pressure(), Some(12.5));
        assert_eq!(slowdowns.memory_pressure(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(slowdowns.io_pressure(), None);
    }
}
