//! Delays after failures: schedules, jitter, and which schedule a class of failure has.

use std::time::Duration;

use crate::error::{ErrorClass, Failure};

/// Longest `Retry-After` that is honoured: rate-limit windows last minutes to hours (Docker Hub:
/// six), and a wrong header must not stop a node for ever.
const ASKED_MAX: Duration = Duration::from_secs(24 * 3600);

/// A delay that doubles from `base` up to `cap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Delay after the first failure.
    pub base: Duration,
    /// Longest delay.
    pub cap: Duration,
}

impl Schedule {
    /// A schedule in seconds.
    #[must_use]
    pub const fn seconds(base: u64, cap: u64) -> Self {
        Self {
            base: Duration::from_secs(base),
            cap: Duration::from_secs(cap),
        }
    }

    /// The delay after `failures` failures in a row, without jitter.
    #[must_use]
    pub fn delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.cap)
    }
}

/// `delay` with jitter: from `share` less to `share` more. A delay that would overflow stays unchanged.
pub(crate) fn jittered(delay: Duration, share: f64, rng: &mut fastrand::Rng) -> Duration {
    let share = share.clamp(0.0, 1.0);
    let factor = 1.0 - share + 2.0 * share * rng.f64();
    Duration::try_from_secs_f64(delay.as_secs_f64() * factor).unwrap_or(delay)
}

/// The delays between attempts of one operation against a server that many processes share: they
/// double up to the schedule's cap and are spread, so that a thousand agents do not come back at the
/// same moment.
#[derive(Debug)]
pub struct RetryDelays {
    schedule: Schedule,
    failures: u32,
    rng: fastrand::Rng,
}

impl RetryDelays {
    /// Delays of that schedule. The seed is that of the jitter.
    #[must_use]
    pub fn new(schedule: Schedule, seed: u64) -> Self {
        Self {
            schedule,
            failures: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// The delay after one more failure: half of the schedule's delay to all of it, and never
    /// shorter than `retry_after`, the delay the server asked for.
    pub fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let delay = self.schedule.delay(self.failures);
        match retry_after {
            None => delay.mul_f64(0.5 + self.rng.f64() / 2.0),
            // All clients get the same delay, so only longer delays can spread them.
            Some(asked) => asked + delay.max(asked / 2).mul_f64(self.rng.f64()),
        }
    }

    /// The operation succeeded: the next failure counts as the first.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The schedules of a [`Warmer`](crate::warmer::Warmer), by class of failure.
///
/// A round is a series of attempts within one image's deadline. Only transient failures are repeated
/// within a round; any other failure ends it, and the next round starts after a longer delay.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Backoff {
    /// Between attempts of a round after a transient failure. Default 1 s to 30 s.
    pub transient: Schedule,
    /// Between attempts while the registry throttles without naming a delay. Default 5 s to 5 min.
    pub throttled: Schedule,
    /// Between rounds that ended with a transient failure or at the deadline. Default 30 s to 5 min,
    /// the kubelet's longest image back-off.
    pub round: Schedule,
    /// Between rounds after refused credentials, a missing image, or with a misconfigured registry. Default
    /// 1 min to 15 min.
    pub refused: Schedule,
    /// Between rounds after a malformed image or with an unsupported runtime. Default 5 min to 1 h.
    pub invalid: Schedule,
    /// How long a full disk stops new pulls. Default 1 min to 10 min.
    pub disk_full: Schedule,
    /// Before an evicted image is pulled again. The first eviction is repaired at once; repeated ones after
    /// 10 s to 30 min.
    pub evicted: Schedule,
    /// Between attempts to read the inventory. Default 1 s to 30 s.
    pub inventory: Schedule,
    /// Share by which a delay is spread, 0 to 1. Default 0.25: from 25 % less to 25 % more.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            transient: Schedule::seconds(1, 30),
            throttled: Schedule::seconds(5, 300),
            round: Schedule::seconds(30, 300),
            refused: Schedule::seconds(60, 900),
            invalid: Schedule::seconds(300, 3600),
            disk_full: Schedule::seconds(60, 600),
            evicted: Schedule::seconds(10, 1800),
            inventory: Schedule::seconds(1, 30),
            jitter: 0.25,
        }
    }
}

impl Backoff {
    /// The delay before the next attempt of the same round, after `attempts` that failed.
    pub fn within_round(
        &self,
        failure: &Failure,
        attempts: u32,
        rng: &mut fastrand::Rng,
    ) -> Duration {
        let schedule = match failure.class() {
            ErrorClass::Throttled => &self.throttled,
            _ => &self.transient,
        };
        // A delay from the registry replaces the default for throttling.
        let schedule = failure.retry_after.map_or(schedule, |_| &self.transient);
        self.honour(failure, schedule.delay(attempts), rng)
    }

    /// The delay before the next round, after `rounds` that failed.
    pub fn between_rounds(
        &self,
        failure: &Failure,
        rounds: u32,
        rng: &mut fastrand::Rng,
    ) -> Duration {
        let schedule = match failure.class() {
            ErrorClass::Unauthorized | ErrorClass::NotFound | ErrorClass::Misconfigured => {
                &self.refused
            }
            ErrorClass::Invalid | ErrorClass::Fatal => &self.invalid,
            ErrorClass::DiskFull => &self.disk_full,
            ErrorClass::Retryable | ErrorClass::Throttled => &self.round,
        };
        self.honour(failure, schedule.delay(rounds), rng)
    }

    /// The delay with jitter, but never shorter than the failure's `retry_after`.
    fn honour(&self, failure: &Failure, delay: Duration, rng: &mut fastrand::Rng) -> Duration {
        let delay = self.spread(delay, rng);
        match failure.retry_after {
            Some(asked) => delay.max(Self::asked(asked, rng)),
            None => delay,
        }
    }

    /// The delay that the registry asked for, at most a day, lengthened by up to a tenth, so that nodes do
    /// not all retry at once.
    pub(crate) fn asked(asked: Duration, rng: &mut fastrand::Rng) -> Duration {
        let asked = asked.min(ASKED_MAX);
        asked.saturating_add(asked.mul_f64(0.1 * rng.f64()))
    }

    /// The delay with this configuration's jitter.
    pub fn spread(&self, delay: Duration, rng: &mut fastrand::Rng) -> Duration {
        jittered(delay, self.jitter, rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;

    fn mk_rng() -> fastrand::Rng {
        fastrand::Rng::with_seed(7)
    }

    #[test]
    fn a_schedule_doubles_up_to_its_cap() {
        let schedule = Schedule::seconds(3, 20);
        let delays = [0, 1, 2, 3, 4, 5, 40, u32::MAX].map(|n| schedule.delay(n).as_secs());
        assert_eq!(delays, [3, 3, 6, 12, 20, 20, 20, 20]);
    }

    #[test]
    fn long_schedules_saturate() {
        let endless = Schedule {
            base: Duration::MAX,
            cap: Duration::MAX,
        };
        let backoff = Backoff {
            round: endless,
            ..Backoff::default()
        };
        let failure = Failure::new(Reason::RegistryError, "503");
        let mut rng = mk_rng();
        for _ in 0..100 {
            let delay = backoff.between_rounds(&failure, u32::MAX, &mut rng);
            assert!(delay >= Duration::from_secs(u64::MAX / 2));
        }
    }

    #[test]
    fn jitter_uses_its_whole_range() {
        let backoff = Backoff::default();
        let mut rng = mk_rng();
        let mut seen = (f64::MAX, 0.0_f64);
        for _ in 0..10_000 {
            let delay = backoff
                .spread(Duration::from_secs(100), &mut rng)
                .as_secs_f64();
            assert!((75.0..=125.0).contains(&delay), "{delay}");
            seen = (seen.0.min(delay), seen.1.max(delay));
        }
        assert!(seen.0 < 76.0 && seen.1 > 124.0, "{seen:?}");
    }

    #[test]
    fn invalid_jitter_is_limited() {
        for jitter in [f64::NAN, f64::INFINITY, -1.0, 7.0] {
            let backoff = Backoff {
                jitter,
                ..Backoff::default()
            };
            let delay = backoff.spread(Duration::from_secs(100), &mut mk_rng());
            assert!(delay <= Duration::from_secs(200), "{jitter}: {delay:?}");
        }
    }

    #[test]
    fn delays_are_never_shorter_than_retry_after() {
        let backoff = Backoff::default();
        let mut rng = mk_rng();
        let asked = Duration::from_secs(1_000);
        let failure = Failure::new(Reason::TooManyRequests, "429").with_retry_after(Some(asked));
        for attempt in 1..200 {
            for delay in [
                backoff.within_round(&failure, attempt, &mut rng),
                backoff.between_rounds(&failure, attempt, &mut rng),
            ] {
                assert!(delay >= asked && delay <= asked.mul_f64(1.1), "{delay:?}");
            }
        }
        // A delay replaces the default for throttling, which begins at 5 s.
        let short = failure
            .clone()
            .with_retry_after(Some(Duration::from_secs(2)));
        let delay = backoff.within_round(&short, 1, &mut rng);
        assert!(delay < Duration::from_secs(3), "{delay:?}");
        // A short delay does not shorten the back-off.
        let failure = failure.with_retry_after(Some(Duration::from_millis(1)));
        let delay = backoff.within_round(&failure, 6, &mut rng);
        assert!(delay >= Duration::from_secs(22), "{delay:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_delays() {
        let delays = |seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            [1, 2, 3].map(|n| Backoff::default().spread(Duration::from_secs(n), &mut rng))
        };
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
    }

    #[test]
    fn every_error_class_has_its_schedule() {
        let backoff = Backoff {
            jitter: 0.0,
            ..Backoff::default()
        };
        let first = |reason| {
            let failure = Failure::new(reason, "");
            let mut rng = mk_rng();
            let within = backoff.within_round(&failure, 1, &mut rng).as_secs();
            (
                within,
                backoff.between_rounds(&failure, 1, &mut rng).as_secs(),
            )
        };
        assert_eq!(first(Reason::ConnectionFailed), (1, 30));
        assert_eq!(first(Reason::TooManyRequests), (5, 30));
        assert_eq!(first(Reason::Unauthorized).1, 60);
        assert_eq!(first(Reason::ImageNotFound).1, 60);
        assert_eq!(first(Reason::RegistryMisconfigured).1, 60);
        assert_eq!(first(Reason::DiskFull).1, 60);
        assert_eq!(first(Reason::InvalidImage).1, 300);
        assert_eq!(first(Reason::RuntimeUnsupported).1, 300);
    }

    #[test]
    fn retry_delays_double_to_the_cap_and_differ_by_seed() {
        let schedule = Schedule::seconds(1, 30);
        let row = |seed| {
            let mut delays = RetryDelays::new(schedule, seed);
            let row: Vec<f64> = (0..8).map(|_| delays.next(None).as_secs_f64()).collect();
            row
        };
        for (delay, longest) in row(1).iter().zip([1, 2, 4, 8, 16, 30, 30, 30]) {
            let longest = f64::from(longest);
            assert!((longest / 2.0..=longest).contains(delay), "{delay}");
        }
        assert_ne!(row(1), row(2));
        let mut delays = RetryDelays::new(schedule, 1);
        let _ = delays.next(None);
        delays.reset();
        assert!(delays.next(None) <= Duration::from_secs(1));
    }

    #[test]
    fn retry_delays_are_never_shorter_than_retry_after() {
        let mut delays = RetryDelays::new(Schedule::seconds(1, 30), 1);
        let asked = Duration::from_secs(40);
        for _ in 0..20 {
            let delay = delays.next(Some(asked));
            let latest = asked + Duration::from_secs(30);
            assert!((asked..=latest).contains(&delay), "{delay:?}");
        }
    }
}
