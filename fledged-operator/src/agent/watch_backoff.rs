//! The delays between the watches of an agent, spread so that many agents do not reconnect at once.

use std::time::Duration;

use fledged_core::backoff::{RetryDelays, Schedule};

/// Range of the first delay after a lost connection. A server or load balancer that restarts drops all
/// connections at once.
const SPREAD: Duration = Duration::from_secs(5);
/// The following delays. They are wide from the start, so that whenever the server comes back, few agents
/// reconnect in the same second.
const SCHEDULE: Schedule = Schedule::seconds(8, LONGEST);
/// Longest delay in seconds, well below the time after which the controller counts an agent as unresponsive.
const LONGEST: u64 = 20;
/// Duration of a watch after which the back-off is reset: longer than the longest delay, and shorter than the
/// minute after which some proxies close every watch.
pub(super) const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// How a watch, or an attempt to start one, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WatchEnd {
    /// At its deadline.
    Due,
    /// The connection closed before the deadline.
    Lost,
    /// The resourceVersion has expired (410): a new list is needed.
    Expired,
    /// An event could not be parsed: a new list is needed.
    Unreadable,
    /// The request failed; with the Retry-After of the response.
    Failed(Option<Duration>),
}

/// The delays between watches, spread over many agents.
#[derive(Debug)]
pub(super) struct WatchBackoff {
    rng: fastrand::Rng,
    delays: RetryDelays,
    failing: bool,
    expired: bool,
}

impl WatchBackoff {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        Self {
            delays: RetryDelays::new(SCHEDULE, rng.u64(..)),
            rng,
            failing: false,
            expired: false,
        }
    }

    /// The delay before the next attempt, after a watch that lasted this long.
    pub(super) fn delay(&mut self, end: WatchEnd, lasted: Duration) -> Duration {
        let healthy = lasted >= HEALTHY_AFTER;
        if healthy {
            self.delays.reset();
            self.failing = false;
            self.expired = false;
        }
        let asked = match end {
            // No delay: each agent has a different watch duration, so deadlines are spread.
            WatchEnd::Due => return Duration::ZERO,
            // The agent has just waited for its turn, so its list need not wait again.
            WatchEnd::Expired if !healthy && !std::mem::replace(&mut self.expired, true) => {
                return Duration::ZERO;
            }
            WatchEnd::Lost | WatchEnd::Expired | WatchEnd::Unreadable => None,
            WatchEnd::Failed(asked) => asked,
        };
        let first = !std::mem::replace(&mut self.failing, true);
        match asked {
            None if first => SPREAD.mul_f64(self.rng.f64()),
            _ => self.delays.next(asked),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENTS: u64 = 1_000;
    const WATCH: Duration = Duration::from_secs(200);
    const NONE: Duration = Duration::ZERO;

    /// Times at which agents are connected again after an outage of this length that all start with.
    fn returns(outage: Duration, refusal: WatchEnd) -> Vec<Duration> {
        let mut returns: Vec<Duration> = (0..AGENTS)
            .map(|seed| {
                let mut backoff = WatchBackoff::new(seed);
                let mut now = backoff.delay(WatchEnd::Lost, WATCH);
                while now < outage {
                    now += backoff.delay(refusal, NONE);
                }
                now
            })
            .collect();
        returns.sort_unstable();
        returns
    }

    /// The largest share that lies within one second.
    fn share_of_the_busiest_second(sorted: &[Duration]) -> f64 {
        let busiest = sorted.iter().enumerate().map(|(from, first)| {
            let end = *first + Duration::from_secs(1);
            sorted.partition_point(|at| *at < end) - from
        });
        let busiest = busiest.max().unwrap();
        f64::from(u32::try_from(busiest).unwrap()) / f64::from(u32::try_from(sorted.len()).unwrap())
    }

    #[test]
    fn reconnects_are_spread_after_any_outage() {
        for outage in [
            0, 500, 1_000, 2_000, 3_000, 5_000, 8_000, 20_000, 60_000, 600_000,
        ] {
            let outage = Duration::from_millis(outage);
            let returns = returns(outage, WatchEnd::Failed(None));
            let share = share_of_the_busiest_second(&returns);
            assert!(share <= 0.27, "{outage:?}: {share}");
            let last = *returns.last().unwrap() - outage;
            assert!(last <= Duration::from_secs(LONGEST), "{outage:?}: {last:?}");
        }
    }

    #[test]
    fn answer_grace_is_longer_than_the_longest_delay() {
        let grace = fledged_core::planner::PlannerConfig::default().answer_grace;
        assert!(grace >= Duration::from_secs(LONGEST + 10), "{grace:?}");
    }

    #[test]
    fn retry_after_is_a_lower_bound_and_spread() {
        for asked in [1, 5, 60].map(Duration::from_secs) {
            let returns = returns(Duration::from_secs(6), WatchEnd::Failed(Some(asked)));
            let share = share_of_the_busiest_second(&returns);
            assert!(share <= 0.27, "{asked:?}: {share}");
            let mut backoff = WatchBackoff::new(1);
            for _ in 0..20 {
                assert!(backoff.delay(WatchEnd::Failed(Some(asked)), NONE) >= asked);
            }
        }
    }

    #[test]
    fn no_delay_after_watches_that_end_at_their_deadline() {
        for seed in 0..AGENTS {
            let mut backoff = WatchBackoff::new(seed);
            for _ in 0..3 {
                assert_eq!(backoff.delay(WatchEnd::Due, WATCH), NONE);
            }
            // One that has its turn is not sent away because it has to list.
            assert_eq!(backoff.delay(WatchEnd::Expired, NONE), NONE);
            assert_ne!(backoff.delay(WatchEnd::Expired, NONE), NONE);
        }
    }

    #[test]
    fn relists_after_410_are_spread() {
        let mut delays: Vec<Duration> = (0..AGENTS)
            .map(|seed| WatchBackoff::new(seed).delay(WatchEnd::Expired, WATCH))
            .collect();
        delays.sort_unstable();
        assert!(share_of_the_busiest_second(&delays) <= 0.27);
    }

    #[test]
    fn short_watches_back_off() {
        let mut backoff = WatchBackoff::new(1);
        let delays: Vec<u64> = (0..6)
            .map(|_| {
                backoff
                    .delay(WatchEnd::Lost, Duration::from_secs(1))
                    .as_secs()
            })
            .collect();
        for (delay, range) in delays
            .iter()
            .zip([0..5, 4..8, 8..16, 10..20, 10..20, 10..20])
        {
            assert!(range.contains(delay), "{delays:?}");
        }
        let again = backoff.delay(WatchEnd::Lost, WATCH);
        assert!(
            again <= SPREAD,
            "a healthy watch resets the back-off: {again:?}"
        );
    }
}
