//! Who leads, judged by what stands in the Lease and when it last changed.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Intervals of an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseTimes {
    /// How long others wait after the last renewal that they saw. Whole seconds. Default 15 s.
    pub lease_duration: Duration,
    /// How long a leader tries to renew before it gives up; less than the lease. Default 10 s.
    pub renew_deadline: Duration,
    /// Time between attempts to acquire or renew. Default 2 s.
    pub retry_period: Duration,
}

impl Default for LeaseTimes {
    /// Those of Kubernetes' own controllers (`component-base/config`).
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

impl LeaseTimes {
    /// With another duration of the lease.
    #[must_use]
    pub fn with_lease_duration(mut self, duration: Duration) -> Self {
        self.lease_duration = duration;
        self
    }

    /// With another time to renew in.
    #[must_use]
    pub fn with_renew_deadline(mut self, deadline: Duration) -> Self {
        self.renew_deadline = deadline;
        self
    }

    /// With another time between attempts.
    #[must_use]
    pub fn with_retry_period(mut self, period: Duration) -> Self {
        self.retry_period = period;
        self
    }
}

/// What stands in a Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseRecord {
    /// Who holds it; empty: nobody.
    pub holder: String,
    /// How long it is held after a renewal.
    pub duration: Duration,
    /// When it was last renewed, by the holder's clock: only ever compared with itself.
    pub renewed: Option<Timestamp>,
    /// How often it changed hands.
    pub transitions: i32,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Write this record; it makes or keeps us the leader.
    Write(LeaseRecord),
    /// Somebody else leads; look again after that time.
    Wait(Duration),
}

/// One candidate's view of an election.
///
/// Clocks of different machines are never compared: a lease has run out when it was not seen to change
/// for its duration, by our own clock.
#[derive(Debug, Clone)]
pub struct Election {
    identity: String,
    times: LeaseTimes,
    observed: Option<(LeaseRecord, Timestamp)>,
    renewed_at: Option<Timestamp>,
}

impl Election {
    /// A candidate of that identity, which no other candidate may have.
    #[must_use]
    pub fn new(identity: impl Into<String>, times: LeaseTimes) -> Self {
        Self {
            identity: identity.into(),
            times,
            observed: None,
            renewed_at: None,
        }
    }

    /// Who we are.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The intervals.
    #[must_use]
    pub fn times(&self) -> LeaseTimes {
        self.times
    }

    /// Judges what stands in the Lease now; `None` where there is none.
    pub fn evaluate(&mut self, found: Option<&LeaseRecord>, now: Timestamp) -> Step {
        let known = self.observed.as_ref().map(|(record, _)| record);
        if known != found {
            self.observed = found.map(|record| (record.clone(), now));
        }
        let transitions = match found {
            None => 0,
            Some(record) if record.holder == self.identity => record.transitions,
            Some(record) if record.holder.is_empty() => record.transitions.saturating_add(1),
            Some(record) => {
                let seen_at = self.observed.as_ref().map_or(now, |(_, at)| *at);
                let left = remaining(seen_at, record.duration, now);
                if !left.is_zero() {
                    return Step::Wait(left.min(self.times.retry_period));
                }
                record.transitions.saturating_add(1)
            }
        };
        Step::Write(LeaseRecord {
            holder: self.identity.clone(),
            duration: self.times.lease_duration,
            renewed: Some(now),
            transitions,
        })
    }

    /// The record was written; the attempt began at `at`.
    pub fn written(&mut self, record: LeaseRecord, at: Timestamp) {
        self.observed = Some((record, at));
        self.renewed_at = Some(at);
    }

    /// How long we may still act as the leader; zero when we must stop. Never longer than others
    /// wait, counted from the start of the last renewal.
    #[must_use]
    pub fn time_left(&self, now: Timestamp) -> Duration {
        match self.renewed_at {
            None => Duration::ZERO,
            Some(at) => remaining(at, self.times.renew_deadline, now),
        }
    }

    /// The record that gives the lease back, if we hold what stands there: whoever looks next may
    /// take it at once.
    #[must_use]
    pub fn released(&self, found: &LeaseRecord) -> Option<LeaseRecord> {
        (found.holder == self.identity).then(|| LeaseRecord {
            holder: String::new(),
            duration: Duration::from_secs(1),
            ..found.clone()
        })
    }
}

fn remaining(since: Timestamp, span: Duration, now: Timestamp) -> Duration {
    let passed = now.duration_since(since).max(SignedDuration::ZERO);
    span.saturating_sub(Duration::try_from(passed).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn mk(identity: &str) -> Election {
        Election::new(identity, LeaseTimes::default())
    }

    fn write(step: Step) -> LeaseRecord {
        match step {
            Step::Write(record) => record,
            Step::Wait(left) => panic!("waits {left:?}"),
        }
    }

    #[test]
    fn a_lease_that_nobody_holds_is_taken_and_kept() {
        let mut us = mk("a");
        let record = write(us.evaluate(None, at(0)));
        assert_eq!((record.holder.as_str(), record.transitions), ("a", 0));
        us.written(record.clone(), at(0));
        assert_eq!(us.time_left(at(4)), Duration::from_secs(6));
        let renewed = write(us.evaluate(Some(&record), at(4)));
        assert_eq!((renewed.renewed, renewed.transitions), (Some(at(4)), 0));
        us.written(renewed, at(4));
        assert_eq!(us.time_left(at(14)), Duration::ZERO);
    }

    #[test]
    fn anothers_lease_is_taken_only_when_it_was_not_seen_to_change_for_its_duration() {
        let (mut us, mut them) = (mk("a"), mk("b"));
        // Their clock is far behind ours: it does not matter.
        let first = write(them.evaluate(None, at(-5_000)));
        let wait = |seconds| Step::Wait(Duration::from_secs(seconds));
        assert_eq!(us.evaluate(Some(&first), at(0)), wait(2));
        assert_eq!(us.evaluate(Some(&first), at(14)), wait(1));
        let second = LeaseRecord {
            renewed: Some(at(-4_990)),
            ..first
        };
        assert_eq!(
            us.evaluate(Some(&second), at(14)),
            wait(2),
            "it was renewed"
        );
        assert_eq!(us.evaluate(Some(&second), at(28)), wait(1));
        let taken = write(us.evaluate(Some(&second), at(29)));
        assert_eq!((taken.holder.as_str(), taken.transitions), ("a", 1));
    }

    #[test]
    fn a_lease_that_was_given_back_is_taken_at_once() {
        let (mut us, mut them) = (mk("a"), mk("b"));
        let record = write(them.evaluate(None, at(0)));
        assert_eq!(us.released(&record), None, "it is not ours");
        let released = them.released(&record).unwrap();
        let taken = write(us.evaluate(Some(&released), at(1)));
        assert_eq!((taken.holder.as_str(), taken.transitions), ("a", 1));
    }

    #[test]
    fn a_leader_stops_before_others_may_take_over() {
        let times = LeaseTimes::default();
        assert!(times.renew_deadline < times.lease_duration);
        let mut us = mk("a");
        assert_eq!(us.time_left(at(0)), Duration::ZERO, "it was never held");
        let record = write(us.evaluate(None, at(0)));
        us.written(record, at(0));
        assert_eq!(us.time_left(at(10)), Duration::ZERO);
    }
}
