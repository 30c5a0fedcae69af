//! One image of the assignment: where it stands, and its attempts.

use std::cmp::Reverse;

use jiff::Timestamp;

use super::event::{InventoryId, PullId};
use super::hold::Hold;
use crate::backoff::Backoff;
use crate::error::{Failure, Reason};
use crate::model::{AssignedImage, DesiredState, ImagePhase, ImagePullPolicy, ImageReport};
use crate::port::RuntimeImage;
use crate::time::{after, between};

/// Place in the queue of those that are due; see [`Entry::rank`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    priority: Reverse<i32>,
    no_round: bool,
    failed_rounds: u32,
    attempts: u32,
    /// Place in the assignment.
    pub(super) order: usize,
}

impl Rank {
    /// Behind everybody.
    pub(super) const LAST: Self = Self {
        priority: Reverse(i32::MIN),
        no_round: true,
        failed_rounds: u32::MAX,
        attempts: u32::MAX,
        order: usize::MAX,
    };
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) spec: AssignedImage,
    /// Place in the assignment, given with it; breaks ties.
    pub(super) order: usize,
    /// What is told about it.
    pub(super) report: ImageReport,
    /// What was told last; nothing is told twice.
    pub(super) told: Option<ImageReport>,
    /// Whether an inventory has said, since the last change, whether it is there.
    pub(super) known: bool,
    pub(super) present: bool,
    /// Readings asked for up to this one say nothing about the image as it is now.
    pub(super) stale: InventoryId,
    /// When the wait for a first inventory began.
    pub(super) waiting_since: Timestamp,
    pub(super) pull: Option<PullId>,
    /// The revision that the pull under way will satisfy.
    pub(super) pull_revision: u64,
    pub(super) removing: bool,
    /// When the next attempt is due; `None` where none is needed.
    pub(super) due: Option<Timestamp>,
    /// Start of the round under way.
    pub(super) round: Option<Timestamp>,
    /// Since when something other than the image itself keeps it from being pulled.
    pub(super) held_since: Option<Timestamp>,
    /// Whether its credentials were changed while the pull under way used the old ones.
    pub(super) recredentialed: bool,
    /// Rounds in a row that failed.
    pub(super) failed_rounds: u32,
    /// Times in a row that it vanished soon after it was cached.
    pub(super) evictions: u32,
    pub(super) cached_at: Option<Timestamp>,
    /// What was told before a restart, or before somebody wanted to be sure of it, until it is known
    /// whether it still holds.
    pub(super) past: Option<ImageReport>,
}

impl Entry {
    pub(super) fn new(spec: AssignedImage, stale: InventoryId, now: Timestamp) -> Self {
        let phase = match spec.state {
            DesiredState::Present => ImagePhase::Pending,
            DesiredState::Absent => ImagePhase::Removing,
        };
        Self {
            report: ImageReport::new(spec.image.clone(), phase),
            told: None,
            spec,
            order: 0,
            known: false,
            present: false,
            stale,
            waiting_since: now,
            pull: None,
            pull_revision: 0,
            removing: false,
            due: None,
            round: None,
            held_since: None,
            recredentialed: false,
            failed_rounds: 0,
            evictions: 0,
            cached_at: None,
            past: None,
        }
    }

    pub(super) fn wants_present(&self) -> bool {
        self.spec.state == DesiredState::Present
    }

    pub(super) fn is_settled(&self) -> bool {
        // What can't be known is given up on as failed.
        self.report.phase.is_settled() && (self.known || self.report.phase == ImagePhase::Failed)
    }

    /// Whether a pull is needed although the image is there.
    fn wants_fresh(&self) -> bool {
        self.spec.pull_policy == ImagePullPolicy::Always && !self.is_satisfied()
    }

    fn is_satisfied(&self) -> bool {
        let satisfied = self.report.revision;
        satisfied.is_some_and(|satisfied| satisfied >= self.spec.revision)
    }

    /// When the round under way has to be over.
    pub(super) fn round_ends(&self) -> Option<Timestamp> {
        Some(after(self.round?, self.spec.deadline))
    }

    /// What decides who goes first among those that are due: smaller is sooner. Whoever's deadline
    /// is running comes before those whose deadline is not: it would pass in the queue.
    pub(super) fn rank(&self) -> Rank {
        Rank {
            priority: Reverse(self.spec.priority),
            no_round: self.round.is_none(),
            failed_rounds: self.failed_rounds,
            attempts: self.report.attempts,
            order: self.order,
        }
    }

    /// Whether a removal is due.
    pub(super) fn removable(&self, now: Timestamp) -> bool {
        !self.wants_present() && self.known && self.due.is_some_and(|due| due <= now)
    }

    /// An inventory says that it is there.
    pub(super) fn found(&mut self, image: &RuntimeImage, now: Timestamp) {
        self.known = true;
        self.present = true;
        self.describe(image);
        if self.wants_fresh() {
            self.due_now_unless_set(now);
            return;
        }
        let cached_at = self.cached_at;
        if self.report.phase != ImagePhase::Cached {
            self.cached(now);
        }
        // The same image as before: how it got there, and when, is still true.
        if let Some(past) = self.past.take().filter(|p| p.digest == self.report.digest) {
            self.report.attempts = past.attempts;
            self.report.started_at = past.started_at;
            self.report.finished_at = past.finished_at;
            self.cached_at = cached_at.or(self.cached_at);
        }
    }

    /// An inventory says that it is not there.
    pub(super) fn missing(
        &mut self,
        now: Timestamp,
        window: std::time::Duration,
        backoff: &Backoff,
        rng: &mut fastrand::Rng,
    ) {
        // A copy that could not be refreshed is as good as any while it lasts.
        let vanished = match self.report.phase {
            ImagePhase::Cached => true,
            ImagePhase::Failed => self.present,
            // It was there until somebody wanted to be sure of it.
            ImagePhase::Pending => self.present && !self.known,
            _ => false,
        };
        self.known = true;
        self.present = false;
        self.report.digest = None;
        self.report.size = None;
        if vanished {
            let lived = self.cached_at.map(|at| between(at, now));
            self.evictions = match lived {
                Some(lived) if lived < window => self.evictions.saturating_add(1),
                _ => 0,
            };
            // Whoever asks for it now need not wait.
            let repeated = match self.is_satisfied() {
                true => self.evictions,
                false => 0,
            };
            let delay = match repeated {
                0 | 1 => std::time::Duration::ZERO,
                n => backoff.spread(backoff.evicted.delay(n - 1), rng),
            };
            self.due = Some(after(now, delay));
            self.round = None;
            self.report.attempts = 0;
            self.report.started_at = None;
            if repeated > 1 {
                // Whatever takes it away will do so again: not something that waiting ends.
                self.report.phase = ImagePhase::Failed;
                self.report.finished_at = Some(now);
            } else {
                self.report.phase = ImagePhase::Pending;
                self.report.finished_at = None;
            }
            let message = match repeated {
                0 | 1 => "it was present and was removed by something else".to_owned(),
                times => format!(
                    "it was removed by something else {times} times in a row soon after it was \
                     there; is there room for it?"
                ),
            };
            self.explain(Reason::Evicted, message);
        } else {
            self.due_now_unless_set(now);
        }
    }

    fn due_now_unless_set(&mut self, now: Timestamp) {
        if self.due.is_none() {
            self.due = Some(now);
            self.report.phase = ImagePhase::Pending;
            self.report.reason = None;
            self.report.message = None;
        }
    }

    /// It is there and fresh: the round is over.
    pub(super) fn cached(&mut self, now: Timestamp) {
        self.report.phase = ImagePhase::Cached;
        self.report.revision = Some(self.spec.revision.max(self.report.revision.unwrap_or(0)));
        if self.round.is_none() {
            // Found, not pulled.
            self.report.attempts = 0;
            self.report.started_at = None;
        }
        self.report.finished_at = self.round.map(|_| now);
        self.report.reason = None;
        self.report.message = None;
        self.cached_at = Some(now);
        self.due = None;
        self.round = None;
        self.held_since = None;
        self.failed_rounds = 0;
    }

    /// A pull succeeded. That it is there is true as of now; what it is, as of when the pull began.
    pub(super) fn pulled(&mut self, now: Timestamp) {
        self.cached(now);
        if self.spec.pull_policy == ImagePullPolicy::Always {
            self.report.revision = Some(self.pull_revision);
        }
        if self.wants_fresh() {
            self.due = Some(now);
            self.report.phase = ImagePhase::Pending;
        }
    }

    pub(super) fn describe(&mut self, image: &RuntimeImage) {
        self.report.digest.clone_from(&image.digest);
        self.report.size = Some(image.size);
    }

    /// An attempt starts.
    pub(super) fn begin(&mut self, phase: ImagePhase, now: Timestamp) {
        self.past = None;
        if self.round.is_none() {
            self.round = Some(now);
            self.report.attempts = 0;
            self.report.started_at = Some(now);
            self.report.finished_at = None;
            // Why it is pulled again is worth telling while it is.
            if self.report.reason != Some(Reason::Evicted) {
                self.report.reason = None;
                self.report.message = None;
            }
        }
        self.report.attempts = self.report.attempts.saturating_add(1);
        self.report.phase = phase;
        self.due = None;
        self.held_since = None;
        self.recredentialed = false;
    }

    /// An attempt failed: back off within the round, or end it.
    pub(super) fn failed(
        &mut self,
        failure: &Failure,
        now: Timestamp,
        backoff: &Backoff,
        rng: &mut fastrand::Rng,
    ) {
        self.explain(failure.reason, self.told_as(failure));
        if failure.class().is_transient() {
            let due = after(
                now,
                backoff.within_round(failure, self.report.attempts, rng),
            );
            if self.round_ends().is_some_and(|end| due < end) {
                self.report.phase = ImagePhase::BackingOff;
                self.due = Some(due);
                return;
            }
        }
        self.end_round(failure, now, backoff, rng);
    }

    /// The round ends without success; the next one is due later.
    pub(super) fn end_round(
        &mut self,
        failure: &Failure,
        now: Timestamp,
        backoff: &Backoff,
        rng: &mut fastrand::Rng,
    ) {
        self.failed_rounds = self.failed_rounds.saturating_add(1);
        self.report.phase = ImagePhase::Failed;
        self.report.finished_at = Some(now);
        self.due = Some(after(
            now,
            backoff.between_rounds(failure, self.failed_rounds, rng),
        ));
        self.round = None;
    }

    /// It fails before it was attempted, because of something that concerns more than itself.
    pub(super) fn blocked(&mut self, hold: &Hold, now: Timestamp) {
        if self.report.phase != ImagePhase::Failed || self.report.reason != Some(hold.reason) {
            self.explain(hold.reason, hold.message.clone());
            self.ended_unattempted(now);
        }
        self.report.phase = ImagePhase::Failed;
        self.round = None;
        self.held_since = None;
        self.due = Some(hold.until);
    }

    /// It is over for now; where no attempt was made, none of an earlier round is told.
    pub(super) fn ended_unattempted(&mut self, now: Timestamp) {
        if self.round.is_none() {
            self.report.attempts = 0;
            self.report.started_at = None;
        }
        self.report.finished_at = Some(now);
    }

    pub(super) fn explain(&mut self, reason: Reason, message: String) {
        self.report.reason = Some(reason);
        self.report.message = Some(message);
    }

    pub(super) fn told_as(&self, failure: &Failure) -> String {
        if self.present && self.wants_present() {
            format!("an earlier copy is present, but it could not be refreshed: {failure}")
        } else {
            failure.message.clone()
        }
    }

    /// The report as it stands now.
    pub(super) fn snapshot(&self) -> ImageReport {
        let mut report = self.report.clone();
        report.next_attempt_at = match report.phase {
            ImagePhase::BackingOff | ImagePhase::Failed => self.due,
            ImagePhase::Pending => self.due.filter(|_| self.held_since.is_some()),
            _ => None,
        };
        report
    }
}
