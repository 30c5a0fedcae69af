//! The rate of downloads while tasks of the machine wait for I/O or memory.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::field;

use super::rate_limit::{SLOW, per_second};
use crate::pressure::{self, PressureError};
use crate::slowdowns::{PressureReading, PullSlowdowns, SlowedBy};

/// The default of [`PressureLimits::io`]: a pull that writes to a slow disk causes pressure itself.
const IO: u8 = 40;
/// The default of [`PressureLimits::memory`]: pulls cause none, and tasks that wait for memory stop for long.
const MEMORY: u8 = 10;
/// Interval at which the pressure is read. The kernel updates its averages every two seconds.
const INTERVAL: Duration = Duration::from_secs(2);
/// After so long without a byte, earlier readings do not count: most likely, no pull was running.
const FORGOTTEN: Duration = Duration::from_secs(10);
/// The lowest rate below twice a limit: one busy task keeps the pressure above the limit for hours, as a database that writes
/// its log, and pulls have to end before their deadlines.
const HALVED_LEAST: u64 = 8 * SLOW;
/// Bytes a second at which downloads are no longer slowed down.
const FULL: u64 = 1024 * 1024 * 1024;

/// The pressure on the machine above which downloads of layers slow down, so that they do not get in the way of its
/// workload.
///
/// Pressure is the share of the last 10 seconds in which at least one task waited (`some avg10` of the kernel's
/// `/proc/pressure`). It is read every two seconds while layers are downloaded. Above a limit, and not falling, it halves
/// the rate, down to 8 MiB a second; above twice the limit, it reduces the rate to 1 MiB a second. Below all limits, the rate
/// doubles. Machines without this information slow nothing down.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PressureLimits {
    /// Limit for tasks that wait for I/O, in percent. `None`: they have no effect. Default: 40.
    pub io: Option<u8>,
    /// Limit for tasks that wait for memory, in percent. `None`: they have no effect. Default: 10.
    pub memory: Option<u8>,
    /// The root of the file system that has the machine's `/proc`. Default: `/`.
    pub root: PathBuf,
}

impl Default for PressureLimits {
    fn default() -> Self {
        Self::new(Some(IO), Some(MEMORY))
    }
}

impl PressureLimits {
    /// These limits for tasks that wait for I/O and for memory, in percent; `None`: they have no effect.
    #[must_use]
    pub fn new(io: Option<u8>, memory: Option<u8>) -> Self {
        Self {
            io,
            memory,
            root: PathBuf::from("/"),
        }
    }

    /// Pressure has no effect.
    #[must_use]
    pub fn none() -> Self {
        Self::new(None, None)
    }
}

/// Reads the pressure as bytes arrive.
#[derive(Debug)]
pub(super) struct PressureWatch {
    limits: PressureLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When it was last read.
    read: Option<Instant>,
    /// Bytes that were received since then.
    received: u64,
    throttle: Throttle,
    /// Whether it was logged that a resource has no pressure, or a malformed one.
    logged: Logged,
}

#[derive(Debug, Default)]
struct Logged {
    unavailable: bool,
    malformed: bool,
}

impl PressureWatch {
    pub(super) fn new(limits: PressureLimits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
        }
    }

    /// Counts received bytes, and reads the pressure if it is time to. Returns the bytes a second that it leaves, unless it
    /// leaves all.
    pub(super) fn received(
        &self,
        bytes: u64,
        slowdowns: &PullSlowdowns,
    ) -> Option<(u64, SlowedBy)> {
        if self.limits.io.is_none() && self.limits.memory.is_none() {
            return None;
        }
        let mut state = self.lock();
        state.received = state.received.saturating_add(bytes);
        let since = state.read.map(|at| at.elapsed());
        if since.is_some_and(|since| since < INTERVAL) {
            return state.throttle.reduced;
        }
        let rate = match since {
            Some(since) if since < FORGOTTEN => {
                let micros = since.as_micros().max(1);
                let rate = u128::from(state.received) * 1_000_000 / micros;
                u64::try_from(rate).unwrap_or(u64::MAX)
            }
            _ => {
                state.throttle = Throttle::default();
                0
            }
        };
        state.read = Some(Instant::now());
        state.received = 0;
        // The files are in memory, so that this thread does not wait for a disk.
        let reading = self.read(&mut state.logged);
        slowdowns.set_pressure(reading);
        let before = state.throttle.reduced;
        state.throttle.observe(&self.limits, reading, rate);
        log(before, state.throttle.reduced, reading);
        state.throttle.reduced
    }

    fn read(&self, logged: &mut Logged) -> PressureReading {
        let mut read = |resource: &str| match pressure::read(&self.limits.root, resource) {
            Ok(pressure) => Some(pressure.some.avg10),
            Err(error) => {
                logged.log(&error);
                None
            }
        };
        PressureReading {
            io: self.limits.io.and_then(|_| read("io")),
            memory: self.limits.memory.and_then(|_| read("memory")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Logged {
    /// Logs the first error of each kind: the others say the same.
    fn log(&mut self, error: &PressureError) {
        match error {
            PressureError::Unavailable(_) => {
                if !std::mem::replace(&mut self.unavailable, true) {
                    tracing::info!(%error, "pressure unknown, pulls do not slow down for it");
                }
            }
            PressureError::Malformed(_) => {
                if !std::mem::replace(&mut self.malformed, true) {
                    tracing::warn!(%error, "pressure ignored");
                }
            }
        }
    }
}

/// Logs when downloads begin to be slowed down, and the end of that.
fn log(before: Option<(u64, SlowedBy)>, after: Option<(u64, SlowedBy)>, reading: PressureReading) {
    let share = |percent: f64| field::display(format!("{percent:.1}%"));
    let (io, memory) = (reading.io.map(share), reading.memory.map(share));
    match (before, after) {
        (None, Some((rate, by))) => {
            let (rate, by) = (per_second(rate), by.as_str());
            tracing::info!(by, io, memory, %rate, "pulls slowed down for pressure on the machine");
        }
        (Some(_), None) => {
            tracing::info!(
                io,
                memory,
                "pulls no longer slowed down for pressure on the machine"
            );
        }
        (Some((old, _)), Some((rate, by))) if old != rate => {
            let (rate, by) = (per_second(rate), by.as_str());
            tracing::debug!(by, io, memory, %rate, "rate of pulls changed for pressure");
        }
        _ => {}
    }
}

/// The rate by the pressure of one reading after the other.
#[derive(Debug, Default)]
struct Throttle {
    /// Bytes a second, and the cause. `None`: all.
    reduced: Option<(u64, SlowedBy)>,
    before: PressureReading,
}

/// How far the pressure on a resource is above its limit, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Excess {
    /// Keeps the rate: the average lags behind what an earlier reduction did.
    Falling,
    /// Halves the rate, down to [`HALVED_LEAST`].
    Above,
    /// Reduces the rate to [`SLOW`].
    FarAbove,
}

impl Excess {
    fn of(limit: Option<u8>, pressure: Option<f64>, before: Option<f64>) -> Option<Self> {
        let (limit, pressure) = (f64::from(limit?), pressure?);
        if pressure > 2.0 * limit {
            Some(Self::FarAbove)
        } else if pressure <= limit {
            None
        } else if before.is_some_and(|before| pressure < before) {
            Some(Self::Falling)
        } else {
            Some(Self::Above)
        }
    }
}

impl Throttle {
    /// Takes the next reading, with the bytes that were received in a second since the one before.
    fn observe(&mut self, limits: &PressureLimits, reading: PressureReading, received: u64) {
        let before = std::mem::replace(&mut self.before, reading);
        let io = Excess::of(limits.io, reading.io, before.io);
        let memory = Excess::of(limits.memory, reading.memory, before.memory);
        let (worst, by) = (io, SlowedBy::Io).max((memory, SlowedBy::Memory));
        self.reduced = match (worst, self.reduced) {
            (None, None) => None,
            (None, Some((rate, by))) => {
                let rate = rate.saturating_mul(2);
                Some((rate, by)).filter(|_| rate < FULL)
            }
            (Some(Excess::FarAbove), _) => Some((SLOW, by)),
            (Some(Excess::Falling), Some((rate, _))) => Some((rate, by)),
            (Some(_), reduced) => {
                let rate = reduced.map_or(received, |(rate, _)| rate.min(received));
                Some(((rate / 2).max(HALVED_LEAST), by))
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::captured_log::CapturedLog;

    const MIB: u64 = 1024 * 1024;

    /// The rate in MiB after each reading of io and memory, if 64 MiB a second or the rate are received.
    fn rates(readings: &[(f64, f64)]) -> Vec<Option<(u64, SlowedBy)>> {
        let mut throttle = Throttle::default();
        let rates = readings.iter().map(|(io, memory)| {
            let reading = PressureReading {
                io: Some(*io),
                memory: Some(*memory),
            };
            let rate = throttle.reduced.map_or(64 * MIB, |(rate, _)| rate);
            throttle.observe(&PressureLimits::default(), reading, rate.min(64 * MIB));
            throttle.reduced.map(|(rate, by)| (rate / MIB, by))
        });
        rates.collect()
    }

    #[test]
    fn pressure_halves_the_rate_and_its_end_doubles_it() {
        use SlowedBy::{Io, Memory};
        for (readings, expected) in [
            (
                vec![(40.0, 10.0), (40.1, 0.0), (40.1, 0.0), (50.0, 0.0)],
                vec![None, Some((32, Io)), Some((16, Io)), Some((8, Io))],
            ),
            // While it falls, the rate stays; below the limit, it doubles.
            (
                vec![(0.0, 15.0), (0.0, 14.0), (0.0, 10.0), (0.0, 0.0)],
                vec![
                    Some((32, Memory)),
                    Some((32, Memory)),
                    Some((64, Memory)),
                    Some((128, Memory)),
                ],
            ),
            // The lowest rate at once, also while it falls.
            (
                vec![(80.1, 15.0), (30.0, 25.0), (30.0, 21.0), (30.0, 19.0)],
                vec![
                    Some((1, Io)),
                    Some((1, Memory)),
                    Some((1, Memory)),
                    Some((1, Memory)),
                ],
            ),
            // It stays above the limit: no more than below twice the limit.
            (
                vec![(90.0, 0.0), (70.0, 0.0), (70.0, 0.0), (75.0, 0.0)],
                vec![Some((1, Io)), Some((1, Io)), Some((8, Io)), Some((8, Io))],
            ),
        ] {
            assert_eq!(rates(&readings), expected, "{readings:?}");
        }
    }

    #[test]
    fn the_rate_has_a_lowest_and_an_end() {
        let mut readings = vec![(41.0, 0.0); 9];
        readings.push((90.0, 0.0));
        readings.extend([(0.0, 0.0); 10]);
        let found = rates(&readings);
        assert_eq!(found[8], Some((8, SlowedBy::Io)));
        assert_eq!(found[9], Some((1, SlowedBy::Io)));
        assert_eq!(found[18], Some((512, SlowedBy::Io)));
        assert_eq!(found[19], None);
    }

    #[test]
    fn a_rate_that_is_not_used_is_not_halved_in_vain() {
        let mut throttle = Throttle::default();
        let reading = PressureReading {
            io: Some(60.0),
            memory: None,
        };
        for (received, expected) in [(200 * MIB, 100), (20 * MIB, 10), (0, 8)] {
            throttle.observe(&PressureLimits::default(), reading, received);
            assert_eq!(throttle.reduced, Some((expected * MIB, SlowedBy::Io)));
        }
    }

    #[test]
    fn without_limit_or_reading_nothing_is_slowed_down() {
        let reading = PressureReading {
            io: Some(100.0),
            memory: Some(100.0),
        };
        let only_memory = PressureLimits {
            io: None,
            ..PressureLimits::default()
        };
        for (limits, reading, expected) in [
            (PressureLimits::none(), reading, None),
            (only_memory, reading, Some((SLOW, SlowedBy::Memory))),
            (PressureLimits::default(), PressureReading::default(), None),
        ] {
            let mut throttle = Throttle::default();
            throttle.observe(&limits, reading, MIB);
            assert_eq!(throttle.reduced, expected, "{limits:?}");
        }
    }

    struct Machine {
        root: tempfile::TempDir,
        watch: PressureWatch,
        slowdowns: PullSlowdowns,
    }

    impl Machine {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(root.path().join("proc/pressure")).unwrap();
            let limits = PressureLimits {
                root: root.path().to_owned(),
                ..PressureLimits::default()
            };
            Self {
                root,
                watch: PressureWatch::new(limits),
                slowdowns: PullSlowdowns::default(),
            }
        }

        fn set(&self, resource: &str, avg10: &str) {
            let file = self.root.path().join("proc/pressure").join(resource);
            let text = format!("some avg10={avg10} avg60=9.00 avg300=0.00 total=9\n");
            std::fs::write(file, text).unwrap();
        }

        /// Receives bytes, and returns the rate in MiB.
        fn received(&self, bytes: u64) -> Option<u64> {
            let reduced = self.watch.received(bytes, &self.slowdowns);
            reduced.map(|(rate, _)| rate / MIB)
        }
    }

    async fn seconds(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn pressure_is_read_every_two_seconds() {
        let machine = Machine::new();
        machine.set("io", "0.00");
        machine.set("memory", "0.00");
        assert_eq!(machine.received(MIB), None);
        machine.set("io", "41.00");
        seconds(1).await;
        assert_eq!(machine.received(40 * MIB), None);
        seconds(1).await;
        assert_eq!(machine.received(40 * MIB), Some(20));
        assert_eq!(machine.slowdowns.io_pressure(), Some(41.0));
        assert_eq!(machine.slowdowns.memory_pressure(), Some(0.0));
        machine.set("io", "4.00");
        seconds(2).await;
        assert_eq!(machine.received(MIB), Some(40));
    }

    #[tokio::test(start_paused = true)]
    async fn pressure_is_logged_with_units() {
        let log = CapturedLog::start();
        let machine = Machine::new();
        machine.set("io", "81.25");
        machine.set("memory", "0.00");
        machine.received(MIB);
        assert_eq!(
            log.lines(),
            [
                "INFO pulls slowed down for pressure on the machine by=\"io\" io=81.2% memory=0.0% rate=1.0 MiB/s"
            ]
        );
        machine.set("io", "0.00");
        for _ in 0..10 {
            seconds(2).await;
            machine.received(MIB);
        }
        assert_eq!(
            log.lines().last().unwrap(),
            "INFO pulls no longer slowed down for pressure on the machine io=0.0% memory=0.0%"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_pull_begins_afresh() {
        let machine = Machine::new();
        machine.set("memory", "30.00");
        assert_eq!(machine.received(MIB), Some(1));
        machine.set("memory", "0.00");
        seconds(9).await;
        assert_eq!(machine.received(MIB), Some(2));
        seconds(10).await;
        assert_eq!(machine.received(MIB), None);
        // Under pressure, with the lower rate: what it could receive is not known yet.
        machine.set("memory", "11.00");
        seconds(10).await;
        assert_eq!(machine.received(500 * MIB), Some(8));
    }

    #[tokio::test(start_paused = true)]
    async fn missing_and_malformed_files_slow_nothing_down() {
        let machine = Machine::new();
        assert_eq!(machine.received(MIB), None);
        machine.set("io", "high");
        for _ in 0..3 {
            seconds(2).await;
            assert_eq!(machine.received(MIB), None);
        }
        assert_eq!(machine.slowdowns.io_pressure(), None);
        let logged = &machine.watch.lock().logged;
        assert!(logged.unavailable && logged.malformed);
    }
}
