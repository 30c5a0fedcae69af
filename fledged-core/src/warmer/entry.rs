//! The images of the assignment: the state of each, its attempts, and which is due next.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::event::{InventoryId, PullId};
use super::hold::Hold;
use crate::backoff::Backoff;
use crate::error::{Failure, Reason};
use crate::model::{
    AssignedImage, DesiredState, ImagePhase, ImagePullPolicy, ImageRef, ImageReport,
};
use crate::port::RuntimeImage;
use crate::time::{after, between};

/// Place in the queue of the images that are due, smaller first: priority, whether no round is under
/// way, failed rounds, attempts, place in the assignment.
type Rank = (Reverse<i32>, bool, u32, u32, usize);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) spec: AssignedImage,
    /// Place in the assignment, given with it; breaks ties.
    pub(super) order: usize,
    pub(super) report: ImageReport,
    /// The last report that was handed out; an equal one is not repeated.
    pub(super) last_report: Option<ImageReport>,
    /// Whether an inventory was read since the last change.
    pub(super) known: bool,
    pub(super) present: bool,
    /// Readings up to this one began too early to show the image as it is now.
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
    /// The report from before a restart or a new check, until an inventory confirms it.
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
            last_report: None,
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
        // Without an inventory, the image fails once its wait is over.
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

    /// The order in which due images are attempted. A running round comes before one that has not
    /// begun, whose deadline does not count yet.
    fn rank(&self) -> Rank {
        (
            Reverse(self.spec.priority),
            self.round.is_none(),
            self.failed_rounds,
            self.report.attempts,
            self.order,
        )
    }

    /// When the next pull is due; `None` where none is needed or one is under way.
    fn pull_due(&self) -> Option<Timestamp> {
        let waits = self.known && self.wants_present() && self.pull.is_none();
        self.due.filter(|_| waits)
    }

    /// When the next removal is due; `None` where none is needed.
    fn removal_due(&self) -> Option<Timestamp> {
        let waits = self.known && !self.wants_present();
        self.due.filter(|_| waits)
    }

    /// When the round under way, or the wait for an inventory, has to be over.
    fn ends(&self) -> impl Iterator<Item = Timestamp> {
        self.round_expires().into_iter().chain(self.wait_expires())
    }

    /// When the round under way is to be ended; a removal is not interrupted.
    fn round_expires(&self) -> Option<Timestamp> {
        self.round_ends().filter(|_| !self.removing)
    }

    /// When the wait for an inventory is to be given up.
    fn wait_expires(&self) -> Option<Timestamp> {
        let waits = !self.known && self.report.phase != ImagePhase::Failed;
        waits.then(|| after(self.waiting_since, self.spec.deadline))
    }

    /// Whether a removal is due.
    pub(super) fn removable(&self, now: Timestamp) -> bool {
        self.removal_due().is_some_and(|due| due <= now)
    }

    /// An inventory has the image.
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

    /// An inventory does not have the image.
    pub(super) fn missing(
        &mut self,
        now: Timestamp,
        window: Duration,
        backoff: &Backoff,
        rng: &mut fastrand::Rng,
    ) {
        // A copy that could not be refreshed is as good as any while it lasts.
        let vanished = match self.report.phase {
            ImagePhase::Cached => true,
            ImagePhase::Failed => self.present,
            // It was there before it was to be checked again.
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
            // A new revision does not wait.
            let repeated = match self.is_satisfied() {
                true => self.evictions,
                false => 0,
            };
            let delay = match repeated {
                0 | 1 => Duration::ZERO,
                n => backoff.spread(backoff.evicted.delay(n - 1), rng),
            };
            self.due = Some(after(now, delay));
            self.round = None;
            self.report.attempts = 0;
            self.report.started_at = None;
            if repeated > 1 {
                // What removed it will remove it again.
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

    /// The image is present and fresh: the round is over.
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

    /// A pull succeeded. The revision it satisfies is that of when the pull began.
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
            // Why it is pulled again stays in the report during the pull.
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
        self.explain(failure.reason, self.message_for(failure));
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

    /// The image fails without an attempt, because of a hold on more than itself.
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

    /// The round is over; where no attempt was made, those of an earlier round are not reported.
    pub(super) fn ended_unattempted(&mut self, now: Timestamp) {
        if self.round.is_none() {
            self.report.attempts = 0;
            self.report.started_at = None;
        }
        self.report.finished_at = Some(now);
    }

    /// The image is absent, as assigned.
    pub(super) fn removed(&mut self, now: Timestamp) {
        self.known = true;
        self.present = false;
        self.report.phase = ImagePhase::Removed;
        self.report.revision = Some(self.spec.revision);
        self.report.finished_at = Some(now);
        self.report.digest = None;
        self.report.size = None;
        self.report.reason = None;
        self.report.message = None;
        self.due = None;
        self.round = None;
        self.failed_rounds = 0;
    }

    pub(super) fn explain(&mut self, reason: Reason, message: String) {
        self.report.reason = Some(reason);
        self.report.message = Some(message);
    }

    pub(super) fn message_for(&self, failure: &Failure) -> String {
        if self.present && self.wants_present() {
            format!("an earlier copy is present, but it could not be refreshed: {failure}")
        } else {
            failure.message.clone()
        }
    }

    /// The report as of now.
    pub(super) fn snapshot(&self) -> ImageReport {
        let mut report = self.report.clone();
        report.next_attempt_at = match report.phase {
            ImagePhase::BackingOff | ImagePhase::Failed => self.due,
            ImagePhase::Pending => self.due.filter(|_| self.held_since.is_some()),
            _ => None,
        };
        report
    }

    /// Takes over the report from before a restart: the satisfied revision, how the image got there,
    /// and that it was removed, which is not done twice.
    pub(super) fn resumed(mut self, past: Option<ImageReport>) -> Self {
        let Some(past) = past else { return self };
        self.report.revision = past.revision;
        let removed = past.phase == ImagePhase::Removed && !self.wants_present();
        if removed && past.revision == Some(self.spec.revision) {
            self.report = past;
            self.report.image = self.spec.image.clone();
            self.known = true;
        } else if past.phase == ImagePhase::Cached && self.wants_present() {
            self.past = Some(past);
        }
        self
    }

    /// Starts over: the next inventory decides what is to be done. A pull under way goes on.
    pub(super) fn reconsider(&mut self, now: Timestamp) {
        if self.pull.is_some() || self.removing {
            return;
        }
        if self.report.phase == ImagePhase::Cached {
            self.past = Some(self.report.clone());
        }
        self.known = false;
        self.waiting_since = now;
        self.due = None;
        self.round = None;
        self.held_since = None;
        self.report.reason = None;
        self.report.message = None;
        self.report.phase = match self.spec.state {
            DesiredState::Present => ImagePhase::Pending,
            DesiredState::Absent => ImagePhase::Removing,
        };
    }

    /// Makes the next attempt due now, if an inventory has shown that one is needed.
    pub(super) fn retry(&mut self, now: Timestamp) {
        if self.known {
            self.due = Some(now);
        } else {
            self.reconsider(now);
        }
    }

    /// The image is assigned again, perhaps under another spelling. Returns whether an inventory has to
    /// be read for it.
    pub(super) fn update(&mut self, spec: AssignedImage, now: Timestamp) -> bool {
        let renewed = self.spec.revision < spec.revision;
        let recredentialed = self.spec.pull_secrets != spec.pull_secrets
            || self.spec.service_accounts != spec.service_accounts;
        let mended = recredentialed
            || self.spec.pull_policy != spec.pull_policy
            || self.spec.deadline != spec.deadline;
        // The reference may be spelled differently.
        self.report.image = spec.image.clone();
        self.spec = spec;
        self.recredentialed |= recredentialed && self.pull.is_some();
        if renewed {
            self.reconsider(now);
        } else if mended && self.report.phase == ImagePhase::Failed {
            self.failed_rounds = 0;
            self.retry(now);
        }
        renewed
    }
}

/// The images of the assignment. Every query looks at all of them: a node has a few hundred.
#[derive(Debug, Default)]
pub(super) struct Entries {
    by_image: BTreeMap<ImageRef, Entry>,
}

impl Entries {
    /// Adds an entry at the end of the assignment.
    pub(super) fn push(&mut self, mut entry: Entry) {
        entry.order = self.by_image.len();
        self.by_image.insert(entry.spec.image.clone(), entry);
    }

    pub(super) fn take(&mut self) -> BTreeMap<ImageRef, Entry> {
        std::mem::take(&mut self.by_image)
    }

    pub(super) fn get(&self, image: &ImageRef) -> Option<&Entry> {
        self.by_image.get(image)
    }

    pub(super) fn get_mut(&mut self, image: &ImageRef) -> Option<&mut Entry> {
        self.by_image.get_mut(image)
    }

    /// In the order of the images.
    pub(super) fn values(&self) -> impl Iterator<Item = &Entry> {
        self.by_image.values()
    }

    /// In the order of the images.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.by_image.values_mut()
    }

    /// In the order of the assignment.
    pub(super) fn in_order(&self) -> Vec<&Entry> {
        let mut entries: Vec<_> = self.values().collect();
        entries.sort_by_key(|entry| entry.order);
        entries
    }

    pub(super) fn are_settled(&self) -> bool {
        self.values().all(Entry::is_settled)
    }

    /// When the next round, or wait for an inventory, has to be over.
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        self.values().flat_map(Entry::ends).min()
    }

    /// When the next pull is due that does not wait for the removal of that image.
    pub(super) fn next_pull_due(&self, removal: Option<&ImageRef>) -> Option<Timestamp> {
        let entries = self.values().filter(|e| Some(&e.spec.image) != removal);
        entries.filter_map(Entry::pull_due).min()
    }

    /// When the next removal is due.
    pub(super) fn next_removal_due(&self) -> Option<Timestamp> {
        self.values().filter_map(Entry::removal_due).min()
    }

    /// The next pull to start, not of the image that is being removed.
    pub(super) fn next_pull(
        &mut self,
        removal: Option<&ImageRef>,
        now: Timestamp,
    ) -> Option<&mut Entry> {
        let entries = self.values_mut().filter(|e| {
            Some(&e.spec.image) != removal && e.pull_due().is_some_and(|due| due <= now)
        });
        entries.min_by_key(|entry| entry.rank())
    }

    /// The next removal to start.
    pub(super) fn next_removal(&self, now: Timestamp) -> Option<ImageRef> {
        let entries = self.values().filter(|e| e.removable(now));
        let first = entries.min_by_key(|entry| entry.rank())?;
        Some(first.spec.image.clone())
    }

    /// Pulls that are due, in the order of the images.
    pub(super) fn due_pulls(&mut self, now: Timestamp) -> impl Iterator<Item = &mut Entry> {
        let due = move |e: &&mut Entry| e.pull_due().is_some_and(|due| due <= now);
        self.values_mut().filter(due)
    }

    /// Images whose round has to be over by now, in the order of the images.
    pub(super) fn expired_rounds(&mut self, now: Timestamp) -> impl Iterator<Item = &mut Entry> {
        let expired = move |e: &&mut Entry| e.round_expires().is_some_and(|end| end <= now);
        self.values_mut().filter(expired)
    }

    /// Images whose wait for an inventory has to be over by `until`, in the order of the images.
    pub(super) fn expired_waits(&mut self, until: Timestamp) -> impl Iterator<Item = &mut Entry> {
        let expired = move |e: &&mut Entry| e.wait_expires().is_some_and(|end| end <= until);
        self.values_mut().filter(expired)
    }
}
