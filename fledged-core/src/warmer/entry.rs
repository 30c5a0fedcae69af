//! The images of the assignment: the state of each, its attempts, and which is due next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::hold::Hold;
use super::node_event::{InventoryId, PullId};
use super::progress::{ImageProgress, Update};
use crate::backoff::Backoff;
use crate::error::{Failure, Reason};
use crate::model::{
    AssignedImage, AssignmentDefaults, DesiredState, Digest, ImagePhase, ImagePullPolicy, ImageRef,
    ImageReport,
};
use crate::port::RuntimeImage;
use crate::time::after;

/// Rank in the queue of due images, smaller first: priority, turn of the namespace, whether no round has begun,
/// failed rounds, attempts, position in the assignment.
type Rank = (Reverse<i32>, Turn, bool, u32, u32, usize);

/// The turn of a namespace, smaller first: running pulls, and when its last pull began.
type Turn = (usize, u64);

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) progress: ImageProgress,
    /// Position in the assignment, which breaks ties.
    pub(super) order: usize,
    /// The last returned report; an equal one is not returned again.
    pub(super) last_report: Option<ImageReport>,
    /// Whether an inventory was read since the last change.
    pub(super) known: bool,
    pub(super) present: bool,
    /// Readings up to this one began too early to show the image as it is now.
    pub(super) stale: InventoryId,
    /// Start of the wait for a first inventory.
    pub(super) waiting_since: Timestamp,
    pub(super) pull: Option<PullId>,
    /// Number of the last pull that was started; 0 for none.
    pub(super) last_pull: u64,
    /// The revision that the running pull will satisfy.
    pub(super) pull_revision: u64,
    pub(super) removing: bool,
    /// Time until which a cancelled pull may still add the image.
    pub(super) may_appear_until: Option<Timestamp>,
    /// Whether the runtime refuses to remove the image even if no container uses it.
    pub(super) refused: bool,
    /// Time since which a hold blocks the pull.
    pub(super) held_since: Option<Timestamp>,
    /// The report from before a restart or a new check, until an inventory confirms it.
    pub(super) past: Option<ImageReport>,
    /// Whether it is not assigned: a digest that an assigned tag named before.
    pub(super) superseded: bool,
    /// Whether its removal waits until no pull is running or due.
    pub(super) yields: bool,
}

impl Entry {
    pub(super) fn new(spec: AssignedImage, stale: InventoryId, now: Timestamp) -> Self {
        Self {
            progress: ImageProgress::new(spec),
            last_report: None,
            order: 0,
            known: false,
            present: false,
            stale,
            waiting_since: now,
            pull: None,
            last_pull: 0,
            pull_revision: 0,
            removing: false,
            may_appear_until: None,
            refused: false,
            held_since: None,
            past: None,
            superseded: false,
            yields: false,
        }
    }

    /// The removal of a digest that an assigned tag named before.
    pub(super) fn superseded(image: ImageRef, stale: InventoryId, now: Timestamp) -> Self {
        Self {
            superseded: true,
            ..Self::new(AssignedImage::absent(image), stale, now)
        }
    }

    pub(super) fn wants_present(&self) -> bool {
        self.progress.wants_present()
    }

    /// Whether the reading began late enough to show the image as it is now.
    pub(super) fn is_shown_by(&self, id: InventoryId) -> bool {
        (self.stale < id || crate::planted::is("reading-too-old"))
            && self.pull.is_none()
            && !self.removing
    }

    /// Time until which a cancelled pull may still add the image, if it has not passed.
    pub(super) fn may_appear(&self, now: Timestamp) -> Option<Timestamp> {
        self.may_appear_until.filter(|until| *until > now)
    }

    /// Whether it takes the images in use to decide about it, or about a digest that it named before.
    pub(super) fn needs_usage(&self) -> bool {
        let report = &self.progress.report;
        let leaving = !self.wants_present() && report.phase != ImagePhase::Removed;
        leaving || !report.superseded.is_empty()
    }

    pub(super) fn is_settled(&self) -> bool {
        // Without an inventory, the image fails once its wait is over.
        self.progress.report.phase.is_settled()
            && (self.known || self.progress.report.phase == ImagePhase::Failed)
    }

    /// The order in which due images are attempted. A running round comes before one that has not
    /// begun, whose deadline does not count yet.
    fn rank(&self, turns: &BTreeMap<&str, Turn>) -> Rank {
        let turn = |namespace| turns.get(namespace).copied().unwrap_or_default();
        (
            Reverse(self.progress.spec.priority),
            self.namespaces().map(turn).min().unwrap_or_default(),
            self.progress.round.is_none(),
            self.progress.failed_rounds,
            self.progress.report.attempts,
            self.order,
        )
    }

    /// The namespaces of the caches that want it. An image without caches has the empty one.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &str> {
        let wanted_by = &self.progress.spec.wanted_by;
        let none = wanted_by.is_empty().then_some("");
        let namespaces = wanted_by.iter().map(|id| id.namespace.as_str());
        namespaces.chain(none)
    }

    /// Whether its deadline is longer than usual, so that its pull may keep a slot for long.
    fn is_long(&self) -> bool {
        self.progress.spec.deadline > AssignmentDefaults::default().deadline
    }

    /// When the next pull is due; `None` if none is needed or one is running.
    fn pull_due(&self) -> Option<Timestamp> {
        let waits = self.known && self.wants_present() && self.pull.is_none();
        self.progress.due.filter(|_| waits)
    }

    /// When the next removal is due; `None` if none is needed.
    fn removal_due(&self) -> Option<Timestamp> {
        let waits = self.known && !self.wants_present();
        self.progress.due.filter(|_| waits)
    }

    /// The deadlines of the current round and of the wait for an inventory.
    fn ends(&self) -> impl Iterator<Item = Timestamp> {
        self.round_expires().into_iter().chain(self.wait_expires())
    }

    /// The deadline of the current round; a removal is not interrupted.
    fn round_expires(&self) -> Option<Timestamp> {
        self.progress.round_ends().filter(|_| !self.removing)
    }

    /// The deadline of the wait for an inventory.
    fn wait_expires(&self) -> Option<Timestamp> {
        let waits = !self.known && self.progress.report.phase != ImagePhase::Failed;
        waits.then(|| after(self.waiting_since, self.progress.spec.deadline))
    }

    /// Whether a removal is due.
    pub(super) fn removable(&self, now: Timestamp) -> bool {
        self.removal_due().is_some_and(|due| due <= now)
    }

    /// An inventory has the image. Returns whether the tag names another digest than before.
    pub(super) fn found(&mut self, image: &RuntimeImage, now: Timestamp) -> bool {
        self.known = true;
        self.present = true;
        let replaced = self.describe(image);
        if self.progress.wants_fresh() {
            self.due_now_unless_set(now);
            return replaced;
        }
        let cached_at = self.progress.cached_at;
        if self.progress.report.phase != ImagePhase::Cached {
            self.cached(now);
        }
        // The same image as before, so its attempts and times stay.
        if let Some(past) = self
            .past
            .take()
            .filter(|p| p.digest == self.progress.report.digest)
        {
            self.progress.report.via.clone_from(&past.via);
            self.progress.report.attempts = past.attempts;
            self.progress.report.started_at = past.started_at;
            self.progress.report.finished_at = past.finished_at;
            self.progress.cached_at = cached_at.or(self.progress.cached_at);
            // A refresh asks for a new result.
            if past.is_cached_without_credentials()
                && past.revision >= Some(self.progress.spec.revision)
            {
                self.progress.report.reason = past.reason;
                self.progress.report.message = past.message;
            }
        }
        replaced
    }

    /// An inventory does not have the image.
    pub(super) fn missing(
        &mut self,
        now: Timestamp,
        window: Duration,
        backoff: &Backoff,
        rng: &mut fastrand::Rng,
    ) {
        if self.progress.report.phase == ImagePhase::Cached
            && crate::planted::is("eviction-unnoticed")
        {
            return;
        }
        // After a failed refresh, an earlier copy counts as present until it is evicted.
        let vanished = match self.progress.report.phase {
            ImagePhase::Cached => true,
            ImagePhase::Failed => self.present,
            // The image was present before the new check.
            ImagePhase::Pending => self.present && !self.known,
            _ => false,
        };
        self.known = true;
        self.present = false;
        self.progress.report.digest = None;
        self.progress.report.size = None;
        self.progress.report.via = None;
        if vanished {
            self.progress.evicted(now, window, backoff, rng);
        } else {
            self.due_now_unless_set(now);
        }
    }

    fn due_now_unless_set(&mut self, now: Timestamp) {
        if self.progress.due.is_none() {
            self.progress.due = Some(now);
            self.progress.report.phase = ImagePhase::Pending;
            self.progress.clear_reason();
        }
    }

    /// The image is present and fresh: the round is over.
    pub(super) fn cached(&mut self, now: Timestamp) {
        self.progress.cached(now);
        self.held_since = None;
    }

    /// A pull succeeded. The revision it satisfies is that of when the pull began.
    pub(super) fn pulled(
        &mut self,
        image: &RuntimeImage,
        unused_credentials: Option<String>,
        now: Timestamp,
    ) {
        self.describe(image);
        // A pull that fetched nothing changes nothing about what did.
        if image.via.is_some() {
            self.progress.report.via.clone_from(&image.via);
        }
        self.cached(now);
        if let Some(text) = unused_credentials {
            self.progress.explain(Reason::CredentialsUnavailable, text);
        }
        if self.progress.spec.pull_policy == ImagePullPolicy::Always {
            let asked = self.progress.spec.revision;
            let satisfied = if crate::planted::is("pull-satisfies-later-refresh") {
                asked
            } else {
                self.pull_revision
            };
            self.progress.report.revision = Some(satisfied);
        }
        if self.progress.wants_fresh() {
            self.progress.due = Some(now);
            self.progress.report.phase = ImagePhase::Pending;
            self.progress.clear_reason();
        }
    }

    /// Reports what is present. Returns whether the tag names another digest than before.
    pub(super) fn describe(&mut self, image: &RuntimeImage) -> bool {
        let reference = &self.progress.spec.image;
        let report = &mut self.progress.report;
        report.size = Some(image.size);
        let digest = image.digest_of(reference).cloned();
        let before = std::mem::replace(&mut report.digest, digest);
        if before != report.digest {
            // Not what was pulled.
            report.via = None;
        }
        if self.progress.spec.state == DesiredState::Absent || reference.digest().is_some() {
            return false;
        }
        // Runtimes list every digest that the repository had for the same image.
        let current: BTreeSet<&Digest> = image.digests_of(reference).collect();
        let current =
            |digest: &Digest| current.contains(digest) || report.digest.as_ref() == Some(digest);
        report.superseded.retain(|digest| !current(digest));
        let replaced = before.filter(|digest| report.digest.is_some() && !current(digest));
        let is_replaced = replaced.is_some();
        if let Some(digest) = replaced {
            report.supersede(digest);
        }
        is_replaced
    }

    /// An attempt starts.
    pub(super) fn begin(&mut self, phase: ImagePhase, now: Timestamp) {
        self.past = None;
        self.held_since = None;
        self.progress.begin(phase, now);
    }

    /// An attempt failed: back off within the round, or end it.
    pub(super) fn failed(
        &mut self,
        failure: &Failure,
        now: Timestamp,
        backoff: &Backoff,
        rng: &mut fastrand::Rng,
    ) {
        self.progress
            .failed(failure, self.present, now, backoff, rng);
    }

    /// The image fails without an attempt, because of a hold on more than itself.
    pub(super) fn blocked(&mut self, hold: &Hold, now: Timestamp) {
        self.held_since = None;
        self.progress.blocked(hold, now);
    }

    /// No pull begins, because of a hold on all: the image fails, or stays as it is if it is present.
    pub(super) fn held_back(&mut self, hold: &Hold, now: Timestamp) {
        if self.present {
            self.held_since = None;
            self.progress.refresh_held(hold);
        } else {
            self.blocked(hold, now);
        }
    }

    /// The image is absent, as assigned.
    pub(super) fn removed(&mut self, now: Timestamp) {
        self.known = true;
        self.present = false;
        self.progress.removed(now);
    }

    /// The report as of now.
    pub(super) fn snapshot(&self) -> ImageReport {
        let mut report = self.progress.snapshot();
        if report.phase == ImagePhase::Pending && self.held_since.is_some() {
            report.next_attempt_at = self.progress.due;
        }
        report
    }

    /// Adopts the report from before a restart: the satisfied revision, the digests, the attempts and times, and
    /// a completed removal, which is not repeated.
    pub(super) fn resumed(mut self, past: Option<ImageReport>) -> Self {
        let Some(past) = past else { return self };
        self.progress.report.revision = past.revision;
        self.progress.report.digest.clone_from(&past.digest);
        self.progress.report.superseded.clone_from(&past.superseded);
        let removed = past.phase == ImagePhase::Removed && !self.wants_present();
        if removed && past.revision == Some(self.progress.spec.revision) {
            self.progress.report = past;
            self.progress.report.image = self.progress.spec.image.clone();
            self.known = true;
        } else if past.phase == ImagePhase::Cached && self.wants_present() {
            self.past = Some(past);
        }
        self
    }

    /// Starts over with the next inventory. A running pull continues.
    pub(super) fn reconsider(&mut self, now: Timestamp) {
        if self.pull.is_some() || self.removing {
            return;
        }
        if self.progress.report.phase == ImagePhase::Cached {
            self.past = Some(self.progress.report.clone());
        }
        self.known = false;
        self.waiting_since = now;
        self.progress.due = None;
        self.progress.round = None;
        self.held_since = None;
        self.progress.reset_phase();
    }

    /// Makes the next attempt due now, if an inventory has shown that one is needed.
    pub(super) fn retry(&mut self, now: Timestamp) {
        if self.known {
            self.progress.due = Some(now);
        } else {
            self.reconsider(now);
        }
    }

    /// The image is assigned again, perhaps under another spelling. Returns whether an inventory has to
    /// be read for it.
    pub(super) fn update(&mut self, spec: AssignedImage, now: Timestamp) -> bool {
        match self.progress.update(spec) {
            Update::Renewed => {
                self.reconsider(now);
                return true;
            }
            Update::Mended => self.retry(now),
            Update::Unchanged => {}
        }
        false
    }
}

/// The pulls with a long deadline, which may keep their slots for hours. With more than one slot, the last one is kept
/// for images with a usual deadline, if some are desired, and never goes to a namespace that already has a long pull:
/// images of other namespaces may come at any time.
#[derive(Debug, Default)]
struct LongPulls<'a> {
    slots: usize,
    running: usize,
    /// Whether an image with a usual deadline is desired.
    usual: bool,
    /// Namespaces with a running long pull.
    pulling: BTreeSet<&'a str>,
}

impl LongPulls<'_> {
    /// Whether the pull of this image may take a free slot.
    fn admit(&self, entry: &Entry) -> bool {
        if !entry.is_long() {
            return true;
        }
        let another = entry.namespaces().all(|own| self.pulling.contains(own));
        let kept = usize::from(self.slots > 1 && (self.usual || another));
        self.running + kept < self.slots
    }
}

/// The images of the assignment. Every query looks at all of them: a node has a few hundred.
#[derive(Debug, Clone, Default)]
pub(super) struct Entries {
    by_image: BTreeMap<ImageRef, Entry>,
}

impl Entries {
    /// Adds an entry at the end of the assignment.
    pub(super) fn push(&mut self, mut entry: Entry) {
        entry.order = self.by_image.len();
        self.by_image
            .insert(entry.progress.spec.image.clone(), entry);
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

    /// The assigned images, in the order of the images.
    pub(super) fn assigned(&self) -> impl Iterator<Item = &Entry> {
        self.values().filter(|entry| !entry.superseded)
    }

    /// Drops the entries of superseded digests that are not in `listed`, which has whether the removal yields to
    /// pulls.
    pub(super) fn retain_superseded(&mut self, listed: &BTreeMap<ImageRef, bool>) {
        self.by_image.retain(|image, entry| {
            entry.yields = entry.superseded && listed.get(image) == Some(&true);
            !entry.superseded || listed.contains_key(image)
        });
    }

    /// In the order of the images.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.by_image.values_mut()
    }

    /// The assigned images, in the order of the assignment.
    pub(super) fn in_order(&self) -> Vec<&Entry> {
        let mut entries: Vec<_> = self.assigned().collect();
        entries.sort_by_key(|entry| entry.order);
        entries
    }

    pub(super) fn are_settled(&self) -> bool {
        self.values().all(Entry::is_settled)
    }

    /// The next deadline of a round or of a wait for an inventory.
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        self.values().flat_map(Entry::ends).min()
    }

    /// When the next pull is due.
    pub(super) fn next_pull_due(&self) -> Option<Timestamp> {
        self.values().filter_map(Entry::pull_due).min()
    }

    /// When the next pull is due that may take one of `slots` slots and does not wait for the removal of that image.
    pub(super) fn next_start(&self, removal: Option<&ImageRef>, slots: usize) -> Option<Timestamp> {
        let long = self.long_pulls(slots);
        let entries = self.values();
        let entries = entries.filter(|e| Some(&e.progress.spec.image) != removal && long.admit(e));
        entries.filter_map(Entry::pull_due).min()
    }

    /// When the next removal is due. `idle`: also of those that yield to pulls.
    pub(super) fn next_removal_due(&self, idle: bool) -> Option<Timestamp> {
        let entries = self.values().filter(|e| idle || !e.yields);
        entries.filter_map(Entry::removal_due).min()
    }

    /// The next pull to start in one of `slots` slots, not of the image that is being removed.
    pub(super) fn next_pull(
        &mut self,
        removal: Option<&ImageRef>,
        slots: usize,
        now: Timestamp,
    ) -> Option<&mut Entry> {
        let turns = self.turns();
        let long = self.long_pulls(slots);
        let entries = self.by_image.values().filter(|e| {
            Some(&e.progress.spec.image) != removal
                && e.pull_due().is_some_and(|due| due <= now)
                && long.admit(e)
        });
        let next = entries.min_by_key(|entry| entry.rank(&turns))?;
        let image = next.progress.spec.image.clone();
        self.by_image.get_mut(&image)
    }

    /// The running pull that is cancelled for a namespace with an image that waits, and when: the latest one of
    /// namespaces with several long pulls, if the other one has none and none of `slots` slots for it.
    pub(super) fn next_recall(
        &self,
        removal: Option<&ImageRef>,
        slots: usize,
    ) -> Option<(Timestamp, ImageRef)> {
        let long = self.long_pulls(slots);
        if long.running < 2 {
            return None;
        }
        let waiting = self.values().filter(|e| {
            e.is_long()
                && Some(&e.progress.spec.image) != removal
                && e.namespaces().any(|own| !long.pulling.contains(own))
                && !long.admit(e)
        });
        let due = waiting.filter_map(Entry::pull_due).min()?;
        let running = || self.values().filter(|e| e.is_long() && e.pull.is_some());
        let pulls_of = |name: &str| {
            let of_name = running().filter(|e| e.namespaces().any(|of| of == name));
            of_name.count()
        };
        let several = |e: &&Entry| e.namespaces().all(|name| pulls_of(name) > 1);
        let last = running().filter(several).max_by_key(|e| e.last_pull)?;
        Some((due, last.progress.spec.image.clone()))
    }

    fn long_pulls(&self, slots: usize) -> LongPulls<'_> {
        let mut long = LongPulls {
            slots,
            ..LongPulls::default()
        };
        for entry in self
            .values()
            .filter(|e| e.wants_present() || e.pull.is_some())
        {
            long.usual |= entry.wants_present() && !entry.is_long();
            if entry.pull.is_some() && entry.is_long() {
                long.running += 1;
                long.pulling.extend(entry.namespaces());
            }
        }
        long
    }

    /// Whether a namespace without a running pull waits for the slot of this image's pull.
    pub(super) fn is_waited_for(&self, image: &ImageRef, now: Timestamp) -> bool {
        let Some(holder) = self.by_image.get(image) else {
            return false;
        };
        let served: BTreeSet<&str> = self
            .values()
            .filter(|e| e.pull.is_some())
            .flat_map(Entry::namespaces)
            .chain(holder.namespaces())
            .collect();
        self.values().any(|e| {
            e.pull_due().is_some_and(|due| due <= now)
                && e.namespaces().all(|namespace| !served.contains(namespace))
        })
    }

    /// The turns of the namespaces that have pulls under way or had some: the one with the fewest is next,
    /// and of several the one that has waited longest.
    fn turns(&self) -> BTreeMap<&str, Turn> {
        let mut turns: BTreeMap<&str, Turn> = BTreeMap::new();
        for entry in self.by_image.values().filter(|entry| entry.last_pull > 0) {
            for namespace in entry.namespaces() {
                let (under_way, last) = turns.entry(namespace).or_default();
                *under_way += usize::from(entry.pull.is_some());
                *last = (*last).max(entry.last_pull);
            }
        }
        turns
    }

    /// The next removal to start. `idle`: also of those that yield to pulls.
    pub(super) fn next_removal(&self, idle: bool, now: Timestamp) -> Option<ImageRef> {
        let entries = self.values();
        let entries = entries.filter(|e| e.removable(now) && (idle || !e.yields));
        let first = entries.min_by_key(|entry| entry.rank(&BTreeMap::new()))?;
        Some(first.progress.spec.image.clone())
    }

    /// Pulls that are due, in the order of the images.
    pub(super) fn due_pulls(&mut self, now: Timestamp) -> impl Iterator<Item = &mut Entry> {
        let due = move |e: &&mut Entry| e.pull_due().is_some_and(|due| due <= now);
        self.values_mut().filter(due)
    }

    /// Images whose round is past its deadline, in the order of the images.
    pub(super) fn expired_rounds(&mut self, now: Timestamp) -> impl Iterator<Item = &mut Entry> {
        let expired = move |e: &&mut Entry| e.round_expires().is_some_and(|end| end <= now);
        self.values_mut().filter(expired)
    }

    /// Images whose wait for an inventory ends by `until`, in the order of the images.
    pub(super) fn expired_waits(&mut self, until: Timestamp) -> impl Iterator<Item = &mut Entry> {
        let expired = move |e: &&mut Entry| e.wait_expires().is_some_and(|end| end <= until);
        self.values_mut().filter(expired)
    }
}
