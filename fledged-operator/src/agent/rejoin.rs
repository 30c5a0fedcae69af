//! When a watch that is over is begun again.

use std::time::Duration;

use fledged_core::warmer::Schedule;

use crate::report::Delays;

/// Where the first attempts lie after a connection was lost: a server that restarts, or a load
/// balancer in front of it, loses everybody's at once.
const SPREAD: Duration = Duration::from_secs(5);
/// After that, wide from the start: whenever the server is back, few are about to ask.
const SCHEDULE: Schedule = Schedule::seconds(8, LONGEST);
/// Well below the time after which a controller takes an agent that does not answer for gone.
const LONGEST: u64 = 20;
/// How long a watch has to go well before a new failure counts as the first: longer than the longest
/// delay, and no longer than proxies that end every watch after a minute let it last.
pub(super) const CALM: Duration = Duration::from_secs(30);

/// How a watch, or an attempt to begin one, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// When it was to.
    Due,
    /// Before, without a word.
    Lost,
    /// What it was to go on from is not remembered: everything has to be listed anew.
    Expired,
    /// It told something that can't be read: everything has to be listed anew.
    Unreadable,
    /// It was refused, or there was no answer; with the delay that was asked for.
    Failed(Option<Duration>),
}

/// Spreads the attempts of many agents.
#[derive(Debug)]
pub(super) struct Rejoin {
    rng: fastrand::Rng,
    delays: Delays,
    failing: bool,
    expired: bool,
}

impl Rejoin {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        Self {
            delays: Delays::new(rng.u64(..), SCHEDULE),
            rng,
            failing: false,
            expired: false,
        }
    }

    /// What to wait for before the next attempt, after a watch that lasted that long.
    pub(super) fn delay(&mut self, over: Over, lasted: Duration) -> Duration {
        let calm = lasted >= CALM;
        if calm {
            self.delays.reset();
            self.failing = false;
            self.expired = false;
        }
        let asked = match over {
            // Watches do not end together: each agent has another duration.
            Over::Due => return Duration::ZERO,
            // The answer to somebody who has come at a moment of their own, and is there now.
            Over::Expired if !calm && !std::mem::replace(&mut self.expired, true) => {
                return Duration::ZERO;
            }
            Over::Lost | Over::Expired | Over::Unreadable => None,
            Over::Failed(asked) => asked,
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

    /// When each of many agents is back, after all lost a server that is away for that long.
    fn returns(outage: Duration, refusal: Over) -> Vec<Duration> {
        let mut returns: Vec<Duration> = (0..AGENTS)
            .map(|seed| {
                let mut rejoin = Rejoin::new(seed);
                let mut now = rejoin.delay(Over::Lost, WATCH);
                while now < outage {
                    now += rejoin.delay(refusal, NONE);
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
    fn few_agents_come_back_in_the_same_second_however_long_the_server_was_away() {
        for outage in [
            0, 500, 1_000, 2_000, 3_000, 5_000, 8_000, 20_000, 60_000, 600_000,
        ] {
            let outage = Duration::from_millis(outage);
            let returns = returns(outage, Over::Failed(None));
            let share = share_of_the_busiest_second(&returns);
            assert!(share <= 0.27, "{outage:?}: {share}");
            let last = *returns.last().unwrap() - outage;
            assert!(last <= Duration::from_secs(LONGEST), "{outage:?}: {last:?}");
        }
    }

    #[test]
    fn a_controller_waits_longer_than_agents_need_to_come_back() {
        let grace = fledged_core::planner::PlannerConfig::default().answer_grace;
        assert!(grace >= Duration::from_secs(LONGEST + 10), "{grace:?}");
    }

    #[test]
    fn a_busy_server_sees_them_spread_and_no_sooner_than_it_asked() {
        for asked in [1, 5, 60].map(Duration::from_secs) {
            let returns = returns(Duration::from_secs(6), Over::Failed(Some(asked)));
            let share = share_of_the_busiest_second(&returns);
            assert!(share <= 0.27, "{asked:?}: {share}");
            let mut rejoin = Rejoin::new(1);
            for _ in 0..20 {
                assert!(rejoin.delay(Over::Failed(Some(asked)), NONE) >= asked);
            }
        }
    }

    #[test]
    fn nothing_is_waited_for_while_all_is_well() {
        for seed in 0..AGENTS {
            let mut rejoin = Rejoin::new(seed);
            for _ in 0..3 {
                assert_eq!(rejoin.delay(Over::Due, WATCH), NONE);
            }
            // One that has its turn is not sent away because it has to list.
            assert_eq!(rejoin.delay(Over::Expired, NONE), NONE);
            assert_ne!(rejoin.delay(Over::Expired, NONE), NONE);
        }
    }

    #[test]
    fn versions_that_everybody_loses_at_once_are_no_reason_to_list_at_once() {
        let mut delays: Vec<Duration> = (0..AGENTS)
            .map(|seed| Rejoin::new(seed).delay(Over::Expired, WATCH))
            .collect();
        delays.sort_unstable();
        assert!(share_of_the_busiest_second(&delays) <= 0.27);
    }

    #[test]
    fn a_server_that_ends_every_watch_at_once_is_asked_less_and_less() {
        let mut rejoin = Rejoin::new(1);
        let delays: Vec<u64> = (0..6)
            .map(|_| rejoin.delay(Over::Lost, Duration::from_secs(1)).as_secs())
            .collect();
        for (delay, range) in delays
            .iter()
            .zip([0..5, 4..8, 8..16, 10..20, 10..20, 10..20])
        {
            assert!(range.contains(delay), "{delays:?}");
        }
        let again = rejoin.delay(Over::Lost, WATCH);
        assert!(again <= SPREAD, "it went well in between: {again:?}");
    }
}
