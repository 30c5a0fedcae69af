//! How often a node's state is written: numbers, and nothing else.

use std::time::Duration;

use jiff::Timestamp;

/// Wait for what changes together with a change that ends a rollout or tells a failure; half of it on
/// some nodes, so that a hundred that are done together do not write together.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// From an assignment to its first answer, while there is work to do: what is there already is known
/// by then, and the answer says so.
pub(super) const ANSWER: Duration = Duration::from_secs(1);
/// From a change on a node that was settled to the first word of it: most repairs take less, and
/// are then told once.
const REPAIR: Duration = Duration::from_secs(3);
/// Between any two writes.
const LEAST: Duration = Duration::from_secs(1);
/// Between writes that tell of mere progress: 20 images that take 14 s are told of at 1 s, at 11 s
/// and when they are there.
const PROGRESS: [Duration; 3] = [
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(30),
];
/// Between writes that tell what nobody waits for: attempts and delays of an image that goes on
/// failing, a digest that was learnt later.
const DETAIL: Duration = Duration::from_secs(30);
/// Longest between writes that tell of new failures; doubles up to it.
const FAILURE_MAX: Duration = Duration::from_secs(30);
/// Failures this long apart have nothing to do with each other.
const FAILURE_MEMORY: Duration = Duration::from_secs(300);
/// Bytes a second that one node may write; 1,000 nodes at once are then 100 MB/s at the very worst.
const BYTES_PER_SECOND: f64 = 100_000.0;
/// Share by which delays are spread, so that nodes that were assigned together do not write together.
const JITTER: f64 = 0.2;

/// When which kind of news may be written next.
#[derive(Debug)]
pub(super) struct Pace {
    rng: fastrand::Rng,
    /// This node's own of [`DEBOUNCE`], [`REPAIR`] and [`DETAIL`].
    debounce: Duration,
    repair: Duration,
    details: Duration,
    /// Progress writes since the node was last settled.
    progress: usize,
    /// Failure writes in a row.
    failures: u32,
    failed_at: Option<Timestamp>,
    /// Nothing at all before this.
    any_from: Timestamp,
    progress_from: Timestamp,
    failure_from: Timestamp,
    detail_from: Timestamp,
}

impl Pace {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        Self {
            debounce: DEBOUNCE.mul_f64(0.5 + rng.f64() / 2.0),
            repair: spread(REPAIR, &mut rng),
            details: spread(DETAIL, &mut rng),
            rng,
            progress: 0,
            failures: 0,
            failed_at: None,
            any_from: Timestamp::MIN,
            progress_from: Timestamp::MIN,
            failure_from: Timestamp::MIN,
            detail_from: Timestamp::MIN,
        }
    }

    /// A new assignment: its news have the full pace again.
    pub(super) fn assigned(&mut self) {
        self.progress = 0;
        self.failures = 0;
        self.progress_from = Timestamp::MIN;
        self.failure_from = Timestamp::MIN;
    }

    /// That much was written.
    pub(super) fn written(&mut self, bytes: usize, settled: bool, failure: bool, now: Timestamp) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a size of some megabytes at most"
        )]
        let transfer = Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND);
        self.any_from = after(now, transfer.max(LEAST));
        let step = PROGRESS.get(self.progress).or(PROGRESS.last());
        let step = step.copied().unwrap_or(LEAST);
        self.progress_from = match settled {
            true => Timestamp::MIN,
            false => after(now, self.spread(step)),
        };
        self.progress = match settled {
            true => 0,
            false => self.progress.saturating_add(1),
        };
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
            let gap = LEAST.saturating_mul(1 << self.failures.saturating_sub(1).min(10));
            let gap = self.spread(gap.min(FAILURE_MAX));
            self.failure_from = after(now, gap);
        }
    }

    /// Nothing is written sooner.
    pub(super) fn any(&self, at: Timestamp) -> Timestamp {
        at.max(self.any_from)
    }

    /// When progress since then is to be told.
    pub(super) fn progress(&self, since: Timestamp) -> Timestamp {
        let first = match self.progress {
            0 => after(since, self.repair),
            _ => since,
        };
        first.max(self.progress_from)
    }

    /// When something that happened then, and that nothing else is waited for, is to be told.
    pub(super) fn debounced(&self, since: Timestamp) -> Timestamp {
        after(since, self.debounce)
    }

    /// When a failure since then is to be told.
    pub(super) fn failure(&self, since: Timestamp) -> Timestamp {
        self.debounced(since).max(self.failure_from)
    }

    /// When a detail known since then is to be told.
    pub(super) fn detail(&self, since: Timestamp) -> Timestamp {
        after(since, self.details).max(self.detail_from)
    }

    /// A delay with jitter.
    pub(super) fn spread(&mut self, delay: Duration) -> Duration {
        spread(delay, &mut self.rng)
    }
}

fn spread(delay: Duration, rng: &mut fastrand::Rng) -> Duration {
    delay.mul_f64(1.0 - JITTER + 2.0 * JITTER * rng.f64())
}

/// The moment that much later.
pub(crate) fn after(at: Timestamp, delay: Duration) -> Timestamp {
    at.checked_add(delay).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When each of a thousand nodes tells of something that happened on all of them at once.
    fn told(when: impl Fn(&Pace) -> Timestamp) -> Vec<Duration> {
        let mut told: Vec<Duration> = (0..1_000)
            .map(|seed| when(&Pace::new(seed)).duration_since(Timestamp::UNIX_EPOCH))
            .map(|delay| delay.try_into().unwrap())
            .collect();
        told.sort_unstable();
        told
    }

    /// The largest share that lies within that time.
    fn busiest(sorted: &[Duration], within: Duration) -> usize {
        let shares = sorted.iter().enumerate();
        let shares =
            shares.map(|(from, first)| sorted.partition_point(|at| *at < *first + within) - from);
        shares.max().unwrap()
    }

    #[test]
    fn nodes_that_are_done_together_write_one_after_another_and_soon() {
        let now = Timestamp::UNIX_EPOCH;
        let done = told(|pace| pace.debounced(now));
        assert!(busiest(&done, Duration::from_millis(10)) <= 250, "{done:?}");
        assert!(*done.last().unwrap() <= Duration::from_millis(100));
    }

    #[test]
    fn what_nobody_waits_for_is_spread_over_seconds() {
        let now = Timestamp::UNIX_EPOCH;
        let second = Duration::from_secs(1);
        assert!(busiest(&told(|pace| pace.detail(now)), second) <= 150);
        assert!(busiest(&told(|pace| pace.progress(now)), second / 10) <= 150);
    }
}
