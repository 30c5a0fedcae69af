//! What happens after a failed write: retry, plan again, or drop.

use std::time::Duration;

use jiff::Timestamp;

use crate::backoff::{Backoff, Schedule};
use crate::port::WriteFailure;
use crate::time::after;

/// Delays between attempts of one write. They stay short, because one controller that limits its writes
/// is no burden for an API server that is back.
const SCHEDULE: Schedule = Schedule::seconds(1, 10);
/// Delays between attempts of a write that is too large. Only other writes can make it smaller.
const TOO_LARGE: Schedule = Schedule::seconds(60, 600);
/// Longest delay that is accepted from a server.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Most attempts of a write that nothing depends on.
const OPTIONAL_ATTEMPTS: u32 = 5;

/// What to do with a write that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterFailure {
    /// Drop it.
    Drop,
    /// Repeat it at that time, unless a newer write replaces it.
    Retry(Timestamp),
    /// Plan it again at that time.
    Replan(Timestamp),
}

/// The decision about a failed write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) next: AfterFailure,
    /// No write starts before this time: the server asked for a pause.
    pub(super) hold_until: Option<Timestamp>,
}

/// Decides by the kind of the failure. The same seed and the same failures give the same decisions.
#[derive(Debug)]
pub(super) struct WritePolicy {
    backoff: Backoff,
    rng: fastrand::Rng,
}

impl WritePolicy {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            backoff: Backoff::default(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// `failures` counts the failures in a row, including this one. Nothing depends on an `optional`
    /// write.
    pub(super) fn decide(
        &mut self,
        failure: &WriteFailure,
        failures: u32,
        optional: bool,
        now: Timestamp,
    ) -> Decision {
        let retry_after = match failure {
            WriteFailure::Unavailable { retry_after, .. } => *retry_after,
            WriteFailure::Conflict(_) | WriteFailure::Gone(_) | WriteFailure::TooLarge(_) => None,
        };
        let retry_after = retry_after.map(|delay| delay.min(RETRY_AFTER_MAX));
        let given_up = failures >= 2 && crate::planted::is("write-given-up");
        let exhausted = (optional && failures >= OPTIONAL_ATTEMPTS) || given_up;
        let next = if exhausted || matches!(failure, WriteFailure::Gone(_)) {
            AfterFailure::Drop
        } else {
            let schedule = match failure {
                WriteFailure::TooLarge(_) => TOO_LARGE,
                _ => SCHEDULE,
            };
            let delay = schedule.delay(failures);
            let delay = self.backoff.spread(delay, &mut self.rng);
            let at = after(now, delay.max(retry_after.unwrap_or_default()));
            if matches!(failure, WriteFailure::Conflict(_)) {
                AfterFailure::Replan(at)
            } else {
                AfterFailure::Retry(at)
            }
        };
        Decision {
            next,
            hold_until: retry_after.map(|delay| after(now, delay)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn mk_unavailable(retry_after: Option<u64>) -> WriteFailure {
        WriteFailure::Unavailable {
            message: "busy".to_owned(),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    fn seconds(decision: Decision) -> f64 {
        match decision.next {
            AfterFailure::Retry(at) | AfterFailure::Replan(at) => {
                at.duration_since(NOW).as_secs_f64()
            }
            AfterFailure::Drop => panic!("the write was dropped"),
        }
    }

    #[test]
    fn failures_cause_a_retry_a_replan_or_a_drop() {
        let decide = |failure: &WriteFailure, failures, optional| {
            WritePolicy::new(1)
                .decide(failure, failures, optional, NOW)
                .next
        };
        let conflict = WriteFailure::Conflict(String::new());
        let gone = WriteFailure::Gone(String::new());
        let busy = mk_unavailable(None);
        assert!(matches!(decide(&busy, 1, false), AfterFailure::Retry(_)));
        assert!(matches!(
            decide(&busy, 1_000, false),
            AfterFailure::Retry(_)
        ));
        assert!(matches!(
            decide(&busy, OPTIONAL_ATTEMPTS - 1, true),
            AfterFailure::Retry(_)
        ));
        assert_eq!(decide(&busy, OPTIONAL_ATTEMPTS, true), AfterFailure::Drop);
        assert!(matches!(
            decide(&conflict, 1, false),
            AfterFailure::Replan(_)
        ));
        assert_eq!(decide(&gone, 1, false), AfterFailure::Drop);
    }

    #[test]
    fn delays_double_up_to_their_cap_with_jitter() {
        let mut policy = WritePolicy::new(1);
        for (failures, expected) in [
            (1, 1.0),
            (2, 2.0),
            (3, 4.0),
            (4, 8.0),
            (5, 10.0),
            (u32::MAX, 10.0),
        ] {
            let delay = seconds(policy.decide(&mk_unavailable(None), failures, false, NOW));
            let range = expected * 0.75..=expected * 1.25;
            assert!(range.contains(&delay), "{failures}: {delay}");
        }
    }

    #[test]
    fn a_retry_after_holds_all_writes_and_is_capped() {
        let mut policy = WritePolicy::new(1);
        let decision = policy.decide(&mk_unavailable(Some(40)), 1, false, NOW);
        let until = after(NOW, Duration::from_secs(40));
        assert_eq!(decision.hold_until, Some(until));
        assert_eq!(decision.next, AfterFailure::Retry(until));
        let decision = policy.decide(&mk_unavailable(Some(86_400)), 1, false, NOW);
        assert_eq!(decision.hold_until, Some(after(NOW, RETRY_AFTER_MAX)));
        // A server that asks for less than the back-off does not shorten it.
        assert!(seconds(policy.decide(&mk_unavailable(Some(0)), 5, false, NOW)) >= 7.5);
        let decision = policy.decide(&mk_unavailable(None), 1, false, NOW);
        assert_eq!(decision.hold_until, None);
    }
}
