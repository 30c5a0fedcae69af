//! The pace of a node's writes: intervals, byte rate, jitter.

use std::time::Duration;

use jiff::Timestamp;

use crate::backoff::{Schedule, jittered};
use crate::time::after;

/// Delay of the write of a failure or of the end of a rollout, so that simultaneous changes are written
/// together. Shortened by up to half, at random, so that nodes that finish together do not write together.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Delay of the acknowledgement of an assignment while there is work to do, so that it includes the
/// inventory.
pub(super) const ANSWER: Duration = Duration::from_secs(1);
/// Delay of the write of a change on a settled node. Most repairs take less time and are then written once.
const REPAIR: Duration = Duration::from_secs(3);
/// Shortest interval of writes.
const LEAST: Duration = Duration::from_secs(1);
/// Intervals of writes with only progress: a rollout of 20 images that takes 14 s is written at 1 s, at
/// 11 s and at its end.
const PROGRESS: [Duration; 3] = [
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(30),
];
/// Interval of writes with only details.
const DETAIL: Duration = Duration::from_secs(30);
/// Intervals of writes with new failures.
const FAILURE: Schedule = Schedule::seconds(1, 30);
/// Intervals of writes because a namespace has no busy images any more: a node with many namespaces does not write for
/// each.
const REST: Schedule = Schedule::seconds(2, 30);
/// Time after which a failure no longer counts as one in a row.
const FAILURE_MEMORY: Duration = Duration::from_secs(300);
/// Limit of bytes per second for one node, so that 1,000 nodes write at most 100 MB/s.
const BYTES_PER_SECOND: f64 = 100_000.0;
/// Share by which delays are spread, so that nodes with simultaneous assignments do not write together.
const JITTER: f64 = 0.2;

/// The earliest times of the next writes, by kind of change.
#[derive(Debug)]
pub(super) struct Pace {
    rng: fastrand::Rng,
    /// This node's own [`DEBOUNCE`], [`REPAIR`] and [`DETAIL`].
    debounce: Duration,
    repair: Duration,
    details: Duration,
    /// Progress writes since the node was last settled.
    progress: usize,
    /// Failure writes in a row.
    failures: u32,
    failed_at: Option<Timestamp>,
    /// Writes for namespaces without busy images, since the last assignment.
    rests: u32,
    /// Nothing is written before this.
    any_from: Timestamp,
    progress_from: Timestamp,
    failure_from: Timestamp,
    detail_from: Timestamp,
    rest_from: Timestamp,
}

impl Pace {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        Self {
            debounce: DEBOUNCE.mul_f64(0.5 + rng.f64() / 2.0),
            repair: jittered(REPAIR, JITTER, &mut rng),
            details: jittered(DETAIL, JITTER, &mut rng),
            rng,
            progress: 0,
            failures: 0,
            failed_at: None,
            rests: 0,
            any_from: Timestamp::MIN,
            progress_from: Timestamp::MIN,
            failure_from: Timestamp::MIN,
            detail_from: Timestamp::MIN,
            rest_from: Timestamp::MIN,
        }
    }

    /// A new assignment: its progress and failures start at the shortest intervals again.
    pub(super) fn assigned(&mut self) {
        self.progress = 0;
        self.failures = 0;
        self.progress_from = Timestamp::MIN;
        self.failure_from = Timestamp::MIN;
        self.rests = 0;
        self.rest_from = Timestamp::MIN;
    }

    /// A report of `bytes` was written. `settled` when no image had work left; `failure` when it
    /// reported a new failure.
    pub(super) fn written(&mut self, bytes: usize, settled: bool, failure: bool, now: Timestamp) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a size of some megabytes at most"
        )]
        let transfer = Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND);
        self.any_from = after(now, transfer.max(LEAST));
        let step = PROGRESS.get(self.progress).or(PROGRESS.last());
        let step = step.copied().unwrap_or(LEAST);
        if settled {
            self.progress = 0;
            self.progress_from = Timestamp::MIN;
        } else {
            self.progress = self.progress.saturating_add(1);
            self.progress_from = after(now, self.spread(step));
        }
        self.detail_from = after(now, self.spread(DETAIL));
        if failure {
            let recent = self
                .failed_at
                .is_some_and(|at| now < after(at, FAILURE_MEMORY));
            self.failures = if recent {
                self.failures.saturating_add(1)
            } else {
                1
            };
            self.failed_at = Some(now);
            let gap = self.spread(FAILURE.delay(self.failures));
            self.failure_from = after(now, gap);
        }
    }

    /// A report was written after a namespace had no busy images any more.
    pub(super) fn rest_written(&mut self, now: Timestamp) {
        self.rests = self.rests.saturating_add(1);
        let gap = self.spread(REST.delay(self.rests));
        self.rest_from = after(now, gap);
    }

    /// When progress is written if a namespace has no busy images since `since`.
    pub(super) fn rested(&self, since: Timestamp) -> Timestamp {
        self.debounced(since).max(self.rest_from)
    }

    /// The earliest write at or after `at`.
    pub(super) fn any(&self, at: Timestamp) -> Timestamp {
        at.max(self.any_from)
    }

    /// When progress that is pending since `since` is written.
    pub(super) fn progress(&self, since: Timestamp) -> Timestamp {
        let first = match self.progress {
            0 => after(since, self.repair),
            _ => since,
        };
        if crate::planted::is("progress-not-paced") {
            since
        } else {
            first.max(self.progress_from)
        }
    }

    /// When a change at `since` that needs no further wait is written.
    pub(super) fn debounced(&self, since: Timestamp) -> Timestamp {
        after(since, self.debounce)
    }

    /// When a failure that is pending since `since` is written.
    pub(super) fn failure(&self, since: Timestamp) -> Timestamp {
        self.debounced(since).max(self.failure_from)
    }

    /// When a detail that is pending since `since` is written.
    pub(super) fn detail(&self, since: Timestamp) -> Timestamp {
        after(since, self.details).max(self.detail_from)
    }

    /// A delay with jitter.
    pub(super) fn spread(&mut self, delay: Duration) -> Duration {
        jittered(delay, JITTER, &mut self.rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the times at which 1,000 nodes write a change that happens on all of them at once.
    fn write_times(when: impl Fn(&Pace) -> Timestamp) -> Vec<Duration> {
        let mut times: Vec<Duration> = (0..1_000)
            .map(|seed| when(&Pace::new(seed)).duration_since(Timestamp::UNIX_EPOCH))
            .map(|delay| delay.try_into().unwrap())
            .collect();
        times.sort_unstable();
        times
    }

    /// Returns the largest number of writes within any period of this length.
    fn busiest(sorted: &[Duration], within: Duration) -> usize {
        let writes = sorted.iter().enumerate();
        let writes =
            writes.map(|(from, first)| sorted.partition_point(|at| *at < *first + within) - from);
        writes.max().unwrap()
    }

    #[test]
    fn nodes_that_finish_together_write_within_100_ms_spread() {
        let now = Timestamp::UNIX_EPOCH;
        let done = write_times(|pace| pace.debounced(now));
        assert!(busiest(&done, Duration::from_millis(10)) <= 250, "{done:?}");
        assert!(*done.last().unwrap() <= Duration::from_millis(100));
    }

    #[test]
    fn details_and_repairs_are_spread_over_seconds() {
        let now = Timestamp::UNIX_EPOCH;
        let second = Duration::from_secs(1);
        assert!(busiest(&write_times(|pace| pace.detail(now)), second) <= 150);
        assert!(busiest(&write_times(|pace| pace.progress(now)), second / 10) <= 150);
    }
}
