//! Growing delays, spread so that a thousand agents do not come back at the same moment.

use std::time::Duration;

use fledged_core::warmer::Schedule;

/// The delays after failures in a row.
#[derive(Debug)]
pub(crate) struct Delays {
    rng: fastrand::Rng,
    schedule: Schedule,
    failures: u32,
}

impl Delays {
    pub(crate) fn new(seed: u64, schedule: Schedule) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            schedule,
            failures: 0,
        }
    }

    /// The delay after one more failure; never shorter than the other side asked for.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let delay = self.schedule.delay(self.failures);
        match asked {
            None => delay.mul_f64(0.5 + self.rng.f64() / 2.0),
            // Everybody is asked for the same; coming later is allowed, sooner is not.
            Some(asked) => asked + delay.max(asked / 2).mul_f64(self.rng.f64()),
        }
    }

    /// It works again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule::seconds(1, 30);

    #[test]
    fn delays_grow_to_half_a_minute_and_differ_between_agents() {
        let seconds = |seed| {
            let mut delays = Delays::new(seed, SCHEDULE);
            let row: Vec<f64> = (0..8).map(|_| delays.next(None).as_secs_f64()).collect();
            row
        };
        for (delay, longest) in seconds(1).iter().zip([1, 2, 4, 8, 16, 30, 30, 30]) {
            let longest = f64::from(longest);
            assert!((longest / 2.0..=longest).contains(delay), "{delay}");
        }
        assert_ne!(seconds(1), seconds(2));
        let mut delays = Delays::new(1, SCHEDULE);
        let _ = delays.next(None);
        delays.reset();
        assert!(delays.next(None) <= Duration::from_secs(1));
    }

    #[test]
    fn what_was_asked_for_is_kept() {
        let mut delays = Delays::new(1, SCHEDULE);
        let asked = Duration::from_secs(40);
        for _ in 0..20 {
            let delay = delays.next(Some(asked));
            let latest = asked + Duration::from_secs(30);
            assert!((asked..=latest).contains(&delay), "{delay:?}");
        }
    }
}
