//! The node side: compares a node's assignment with the inventory of its runtime.
//!
//! [`Warmer`] is a pure state machine: [`Warmer::apply`] takes events, [`Warmer::poll`] returns commands,
//! and [`Warmer::next_wakeup`] is the time of the next poll. [`crate::runner`] is the loop around it.

mod entry;
mod hold;
mod inventory;
mod node_event;
mod progress;
mod remove;
mod superseded;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::time::Duration;

use jiff::Timestamp;

use self::entry::{Entries, Entry};
use self::hold::Holds;
pub use self::hold::{DiskHold, Hold};
pub use self::inventory::Inventory;
pub use self::node_event::{InventoryId, NodeCommand, NodeEvent, PullId};
pub use self::progress::{ImageProgress, Update};
use crate::backoff::Backoff;
use crate::error::{Failure, Reason};
use crate::model::{
    AssignedImage, Assignment, ByteSize, DesiredState, ImagePhase, ImagePullPolicy, ImageRef,
    ImageReport, NodeReport, ProtectedImages, PullLimit,
};
use crate::port::{CredentialsRequest, RuntimeImage};
use crate::time::after;

/// Shortest interval and deadline; the loop would spin with zero.
const SHORTEST: Duration = Duration::from_secs(1);

/// Limits and intervals of a [`Warmer`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WarmerConfig {
    /// Concurrent pulls. Default 3: enough to hide latencies, few enough to leave bandwidth for starting
    /// pods (the kubelet pulls one image at a time by default).
    pub max_parallel_pulls: NonZeroUsize,
    /// Interval at which the runtime's inventory is read, at least one second. Shortened by up to a tenth, at
    /// random, so that nodes do not read at the same time. Default 60 s, so that an evicted image is pulled
    /// again within about a minute.
    pub inventory_interval: Duration,
    /// Evictions sooner than this after the image was cached count as repeated and wait for
    /// [`Backoff::evicted`]. Default 30 min: the kubelet's garbage collection runs every 5 min, and
    /// an immediate pull of an image that it removes again would only wear the disk.
    pub eviction_window: Duration,
    /// Used share of the image file systems, in percent, at which no pull begins. Default `None`: no limit but the
    /// runtime's own "no space left". Without effect where the runtime's [`FilesystemUsage`] has no capacity.
    ///
    /// [`FilesystemUsage`]: crate::port::FilesystemUsage
    pub image_fs_high_threshold: Option<u8>,
    /// Images that are never removed. Default [`ProtectedImages::default`].
    pub protected: ProtectedImages,
    /// Delays of retries.
    pub backoff: Backoff,
}

impl Default for WarmerConfig {
    fn default() -> Self {
        Self {
            max_parallel_pulls: NonZeroUsize::MIN.saturating_add(2),
            inventory_interval: Duration::from_secs(60),
            eviction_window: Duration::from_secs(30 * 60),
            image_fs_high_threshold: None,
            protected: ProtectedImages::default(),
            backoff: Backoff::default(),
        }
    }
}

/// Largest age of the used share of the image file systems after a pull has ended.
const DISK_AGE_MAX: Duration = Duration::from_secs(10);

/// How long a runtime may take to stop a cancelled pull, or a pull of an agent that was killed. A runtime that has all
/// layers still adds the image.
const PULL_STOPS_WITHIN: Duration = Duration::from_secs(10);

/// Divisor of the interval for the largest random reduction.
const EARLIER: u32 = 10;

/// A running pull.
#[derive(Debug, Clone)]
struct RunningPull {
    image: ImageRef,
    since: Timestamp,
}

/// Reconciles one node's images with its assignment.
///
/// Pure: no clock, no I/O, no randomness but the seed's. After every [`apply`](Self::apply) and at
/// every [`next_wakeup`](Self::next_wakeup), call [`poll`](Self::poll) and carry out its commands.
#[derive(Debug, Clone)]
pub struct Warmer {
    config: WarmerConfig,
    rng: fastrand::Rng,
    record: Option<String>,
    generation: u64,
    assigned: bool,
    entries: Entries,
    history: BTreeMap<ImageRef, ImageReport>,
    pulls: BTreeMap<PullId, RunningPull>,
    last_pull: u64,
    /// The running removal, even if its image is desired again.
    removal: Option<ImageRef>,
    inventory: Option<Inventory>,
    inventory_at: Option<Timestamp>,
    /// The last requested reading.
    last_inventory: InventoryId,
    reading: bool,
    /// When to read the inventory next; `None` while that depends on a running reading.
    read_due: Option<Timestamp>,
    read_failures: u32,
    read_failure: Option<Failure>,
    /// Whether images were pulled after the last reading.
    inventory_outdated: bool,
    /// Whether pulls ran when the current reading began, which may have missed them.
    reading_overlaps: bool,
    /// Whether a pull ended during the current reading, which may have missed it.
    pulled_in_reading: bool,
    holds: Holds,
    polled_at: Option<Timestamp>,
    /// Pulls that the loop must cancel.
    cancelled: Vec<PullId>,
    /// New limits of running pulls.
    limited: BTreeMap<PullId, Option<PullLimit>>,
    /// Images whose report may have changed.
    touched: BTreeSet<ImageRef>,
}

impl Warmer {
    /// A warmer without an assignment. The same seed and the same events give the same commands.
    #[must_use]
    pub fn new(config: WarmerConfig, seed: u64) -> Self {
        Self {
            config,
            rng: fastrand::Rng::with_seed(seed),
            record: None,
            generation: 0,
            assigned: false,
            entries: Entries::default(),
            history: BTreeMap::new(),
            pulls: BTreeMap::new(),
            last_pull: 0,
            removal: None,
            inventory: None,
            inventory_at: None,
            last_inventory: InventoryId(0),
            reading: false,
            read_due: None,
            read_failures: 0,
            read_failure: None,
            inventory_outdated: false,
            reading_overlaps: false,
            pulled_in_reading: false,
            holds: Holds::default(),
            polled_at: None,
            cancelled: Vec::new(),
            limited: BTreeMap::new(),
            touched: BTreeSet::new(),
        }
    }

    /// Applies an event that happened at `now`.
    pub fn apply(&mut self, event: NodeEvent, now: Timestamp) {
        match event {
            NodeEvent::Resumed(reports) => {
                self.history = reports.into_iter().map(|r| (r.image.clone(), r)).collect();
            }
            NodeEvent::Assigned(assignment) => self.assign(assignment, now),
            NodeEvent::RefreshRequested => self.refresh(now),
            NodeEvent::ResyncRequested => self.read_soon(now),
            NodeEvent::Interrupted => self.interrupted(now),
            NodeEvent::InventoryRead { id, result } => self.inventory_read(id, result, now),
            NodeEvent::PullProgressed { id, done } => self.pull_progressed(id, done),
            NodeEvent::PullEnded {
                id,
                result,
                unused_credentials,
            } => self.pull_ended(id, result, unused_credentials, now),
            NodeEvent::RemovalEnded { image, result } => self.removal_ended(&image, result, now),
        }
    }

    /// The commands to execute at `now`. Empty if it is called again without a change.
    pub fn poll(&mut self, now: Timestamp) -> Vec<NodeCommand> {
        self.polled_at = Some(now);
        self.holds.expire(now);
        self.expire_rounds(now);
        self.expire_waits(now);
        let mut acts = Vec::new();
        self.stop_cancelled(&mut acts);
        self.limit_pulls(&mut acts);
        self.start_reading(now, &mut acts);
        self.start_removals(now, &mut acts);
        self.start_pulls(now, &mut acts);
        // Where no pull could be started after all, those that waited for pulls.
        self.start_removals(now, &mut acts);
        if self.unverified() && !self.reading {
            self.read_soon(now);
            self.start_reading(now, &mut acts);
        }
        // Reports first: `Pulling` is reported before the pull begins.
        let mut commands = self.take_reports();
        commands.append(&mut acts);
        commands
    }

    /// When to call [`poll`](Self::poll) next if no event comes before. Right after a poll, this is in the
    /// future.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        if !self.assigned {
            return None;
        }
        let reading = self.read_due.filter(|_| !self.reading);
        let full = self.free_slots() == 0;
        let removing = self.removal.is_some();
        let exclusive = self.removes_more_than_names();
        let removals_first = exclusive && self.polled_at.is_some_and(|at| self.removal_due(at));
        let pull = match full || removals_first {
            true => None,
            false => self.entries.next_start(self.removal.as_ref(), self.slots()),
        };
        let pull = pull.map(|due| self.next_start().map_or(due, |at| at.max(due)));
        let recall = self.next_recall().filter(|_| !removals_first);
        let recall = recall.map(|(at, _)| at);
        let unclear = !self.pulls.is_empty() || self.inventory_outdated;
        let removal = match exclusive && unclear {
            true => self.removals_overdue_at(),
            false => self.entries.next_removal_due(self.pulls.is_empty()),
        };
        // A reading that an overdue removal waits for is running.
        let removal = removal.filter(|at| !removing && self.polled_at.is_none_or(|p| *at > p));
        let times = [reading, self.entries.next_end(), pull, recall, removal];
        times.into_iter().flatten().min()
    }

    /// Whether every assigned image is present, removed, kept for a reason or failed for this round,
    /// and pulled images were found in the runtime's inventory afterwards. False before the first
    /// assignment.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.assigned && self.entries.are_settled() && !self.unverified()
    }

    /// The state of every image, in the order of the assignment.
    #[must_use]
    pub fn report(&self) -> NodeReport {
        let entries = self.entries.in_order();
        let busy = entries
            .iter()
            .filter(|entry| entry.progress.report.phase.is_busy());
        let busy = busy.map(|entry| &entry.progress.spec);
        let images = entries.iter().map(|entry| self.snapshot(entry));
        NodeReport::new(self.generation, images)
            .with_record(self.record.clone())
            .with_inventory_at(self.inventory_at)
            .with_busy(busy)
    }

    /// The number of running pulls.
    #[must_use]
    pub fn pulls_under_way(&self) -> usize {
        self.pulls.len()
    }

    /// Reports of the images whose state changed since their last report.
    fn take_reports(&mut self) -> Vec<NodeCommand> {
        let mut reports = Vec::new();
        self.touch_superseding();
        for image in std::mem::take(&mut self.touched) {
            let entry = self.entries.get(&image);
            let Some(entry) = entry.filter(|entry| !entry.superseded) else {
                continue;
            };
            let report = self.snapshot(entry);
            if let Some(entry) = self.entries.get_mut(&image)
                && entry.last_report.as_ref() != Some(&report)
            {
                entry.last_report = Some(report.clone());
                reports.push(NodeCommand::Report(report));
            }
        }
        reports
    }

    fn assign(&mut self, assignment: Assignment, now: Timestamp) {
        self.record = assignment.record;
        self.generation = assignment.generation;
        self.assigned = true;
        let mut previous = self.entries.take();
        let mut unknown = self.inventory_at.is_none();
        for mut spec in each_once(assignment.images) {
            spec.deadline = spec.deadline.max(SHORTEST);
            let image = spec.image.clone();
            let entry = match previous.remove(&image) {
                Some(mut entry) if entry.progress.spec.state == spec.state => {
                    entry.superseded = false;
                    if let Some(pull) = entry.pull
                        && entry.progress.spec.pull_limit != spec.pull_limit
                    {
                        self.limited.insert(pull, spec.pull_limit.clone());
                    }
                    if entry.update(spec, now) {
                        // A running reading may be too old for the new revision.
                        entry.stale = self.last_inventory;
                        unknown = true;
                        if entry.wants_present() {
                            self.holds.release_disk();
                        }
                    }
                    entry
                }
                other => {
                    let past = self.history.remove(&image);
                    let known = other.as_ref().map(|entry| &entry.progress.report);
                    let held = known.or(past.as_ref()).is_some_and(ImageReport::is_held);
                    let stops = after(now, PULL_STOPS_WITHIN);
                    let killed = past
                        .as_ref()
                        .is_some_and(|past| past.phase == ImagePhase::Pulling);
                    let mut may_appear_until = killed.then_some(stops);
                    if let Some(other) = &other {
                        may_appear_until = other.may_appear_until;
                        if let Some(pull) = other.pull {
                            self.cancel(pull);
                            may_appear_until = Some(stops);
                        }
                    }
                    unknown = true;
                    let foreign = spec.removal.as_ref().is_some_and(|order| order.if_held)
                        && !held
                        && !crate::planted::is("foreign-image-removed");
                    let superseded = known.map(|report| report.superseded.clone());
                    let mut entry = Entry::new(spec, self.last_inventory, now).resumed(past);
                    entry.may_appear_until = may_appear_until;
                    if let Some(superseded) = superseded {
                        entry.progress.report.superseded = superseded;
                    }
                    if foreign {
                        entry.progress.report.superseded.clear();
                        entry.removed(now);
                    }
                    entry
                }
            };
            self.touched.insert(image);
            self.entries.push(entry);
        }
        for (image, entry) in previous {
            if let Some(pull) = entry.pull {
                self.cancel(pull);
            }
            if entry.superseded && self.entries.get(&image).is_none() {
                self.entries.push(entry);
            }
        }
        self.drop_superseded();
        self.history.clear();
        if unknown {
            self.read_soon(now);
        }
    }

    fn refresh(&mut self, now: Timestamp) {
        self.holds.lift_disk();
        for entry in self.entries.values_mut() {
            if entry.pull.is_some() {
                continue;
            }
            if entry.wants_present() && entry.progress.spec.pull_policy == ImagePullPolicy::Always {
                entry.progress.report.revision = None;
                entry.reconsider(now);
            } else {
                match entry.progress.report.phase {
                    ImagePhase::Failed | ImagePhase::BackingOff => entry.retry(now),
                    ImagePhase::Pending if entry.known => entry.progress.due = Some(now),
                    _ => {}
                }
            }
            self.touched.insert(entry.progress.spec.image.clone());
        }
        self.read_soon(now);
    }

    /// Handles the loss of running operations, whose effect is unknown: every image, except removed ones, is
    /// checked against a new inventory.
    fn interrupted(&mut self, now: Timestamp) {
        self.pulls.clear();
        self.cancelled.clear();
        self.limited.clear();
        self.removal = None;
        self.reading = false;
        for entry in self.entries.values_mut() {
            entry.pull = None;
            entry.removing = false;
            entry.stale = self.last_inventory;
            match entry.progress.report.phase {
                ImagePhase::Removed => {}
                ImagePhase::Cached | ImagePhase::InUse => {
                    entry.known = false;
                    entry.waiting_since = now;
                }
                _ => entry.reconsider(now),
            }
            self.touched.insert(entry.progress.spec.image.clone());
        }
        self.read_soon(now);
    }

    fn cancel(&mut self, pull: PullId) {
        if !crate::planted::is("cancelled-pull-counts") {
            self.pulls.remove(&pull);
        }
        self.cancelled.push(pull);
    }

    /// Makes a reading of the inventory due now, even during another reading.
    fn read_soon(&mut self, now: Timestamp) {
        self.read_due = Some(now);
        self.read_failures = 0;
    }

    /// Makes a reading of the inventory due at that time at the latest.
    fn read_by(&mut self, at: Timestamp) {
        self.read_due = Some(self.read_due.map_or(at, |due| due.min(at)));
    }

    /// Whether pulls have ended that no reading has confirmed, and nothing else is left to do.
    fn unverified(&self) -> bool {
        self.inventory_outdated
            && self.read_failure.is_none()
            && self.pulls.is_empty()
            && self.entries.are_settled()
    }

    fn start_reading(&mut self, now: Timestamp, acts: &mut Vec<NodeCommand>) {
        if self.reading || !self.assigned || self.read_due.is_none_or(|due| due > now) {
            return;
        }
        self.last_inventory.0 += 1;
        self.reading = true;
        if self.read_failure.is_none() {
            // The deadline for the inventory begins now.
            for entry in self.entries.values_mut().filter(|entry| !entry.known) {
                entry.waiting_since = now;
            }
        }
        self.reading_overlaps = !self.pulls.is_empty();
        self.pulled_in_reading = false;
        self.read_due = None;
        acts.push(NodeCommand::ReadInventory {
            id: self.last_inventory,
            with_usage: self.entries.values().any(Entry::needs_usage),
            with_disk: self.config.image_fs_high_threshold.is_some(),
        });
    }

    fn inventory_read(
        &mut self,
        id: InventoryId,
        result: Result<Inventory, Failure>,
        now: Timestamp,
    ) {
        if id != self.last_inventory {
            return;
        }
        self.reading = false;
        let again = self.read_due;
        match result {
            Ok(inventory) => {
                self.read_failures = 0;
                self.read_failure = None;
                self.inventory_at = Some(now);
                self.inventory = Some(inventory);
                let overlaps = self.reading_overlaps && !self.removals_overdue(now);
                self.inventory_outdated = overlaps || self.pulled_in_reading;
                // Spreads the readings of nodes with simultaneous assignments, which may share a host.
                let interval = self.config.inventory_interval;
                let earlier = (interval / EARLIER).mul_f64(self.rng.f64());
                let interval = interval.saturating_sub(earlier);
                self.read_due = Some(after(now, interval.max(SHORTEST)))
                    .filter(|_| !crate::planted::is("read-only-once"));
                if self.above_threshold().is_none() {
                    self.resume_pulls(now);
                }
                self.evaluate(id, now);
            }
            Err(failure) => {
                self.read_failures = self.read_failures.saturating_add(1);
                let schedule = self.config.backoff.inventory.delay(self.read_failures);
                let delay = self.config.backoff.spread(schedule, &mut self.rng);
                self.read_due = Some(after(now, delay))
                    .filter(|_| !crate::planted::is("failed-reading-not-repeated"));
                if !failure.class().is_transient() {
                    self.give_up_waiting(&failure, Timestamp::MAX, now);
                }
                self.read_failure = Some(failure);
            }
        }
        // Another reading was requested during this one.
        if let Some(again) = again {
            self.read_due = self.read_due.map(|due| due.min(again));
        }
    }

    /// Compares every image with a new inventory.
    fn evaluate(&mut self, id: InventoryId, now: Timestamp) {
        let Some(inventory) = &self.inventory else {
            return;
        };
        let mut replaced = false;
        for entry in self.entries.values_mut().filter(|e| e.wants_present()) {
            if !entry.is_shown_by(id) {
                continue;
            }
            let image = entry.progress.spec.image.clone();
            self.touched.insert(image.clone());
            match inventory.find(&image) {
                Some(found) if entry.found(found, now) => {
                    // This reading may lack the images in use.
                    entry.stale = id;
                    replaced = true;
                }
                Some(_) => {}
                None => entry.missing(
                    now,
                    self.config.eviction_window,
                    &self.config.backoff,
                    &mut self.rng,
                ),
            }
        }
        self.follow_superseded(id, now);
        let absent = self.entries.values().filter(|e| !e.wants_present());
        let absent = absent.filter(|e| e.is_shown_by(id));
        let absent: Vec<ImageRef> = absent.map(|e| e.progress.spec.image.clone()).collect();
        for image in absent {
            self.touched.insert(image.clone());
            let found = self.inventory.as_ref().and_then(|i| i.find(&image));
            let found = found.cloned();
            self.judge_removal(&image, found.as_ref(), now);
        }
        if replaced {
            self.read_soon(now);
        }
    }

    /// Fails images that have waited their whole deadline for an inventory.
    fn expire_waits(&mut self, now: Timestamp) {
        let Some(failure) = self.read_failure.clone().or_else(|| {
            self.reading
                .then(|| Failure::new(Reason::RuntimeUnavailable, "the runtime does not answer"))
        }) else {
            return;
        };
        self.give_up_waiting(&failure, now, now);
    }

    /// Fails images whose wait for an inventory has to be over by `until`.
    fn give_up_waiting(&mut self, failure: &Failure, until: Timestamp, now: Timestamp) {
        for entry in self.entries.expired_waits(until) {
            entry.progress.report.phase = ImagePhase::Failed;
            entry.progress.ended_unattempted(now);
            entry
                .progress
                .explain(failure.reason, failure.message.clone());
            self.touched.insert(entry.progress.spec.image.clone());
        }
    }

    /// Largest number of pulls at the same time.
    fn slots(&self) -> usize {
        self.config.max_parallel_pulls.get() + usize::from(crate::planted::is("one-pull-too-many"))
    }

    /// Time from which another pull may start after the disk was full.
    fn next_start(&self) -> Option<Timestamp> {
        let last = self.pulls.values().map(|pull| pull.since).max();
        self.holds.next_start(last)
    }

    fn free_slots(&self) -> usize {
        self.slots().saturating_sub(self.pulls.len())
    }

    fn start_pulls(&mut self, now: Timestamp, acts: &mut Vec<NodeCommand>) {
        self.block_above_threshold(now);
        self.block_held(now);
        if self.removes_more_than_names() && self.removal_due(now) {
            return;
        }
        self.fill_slots(now, acts);
        while let Some((at, image)) = self.next_recall()
            && at <= now
        {
            self.recall(&image, now);
            self.stop_cancelled(acts);
            self.fill_slots(now, acts);
        }
    }

    fn stop_cancelled(&mut self, acts: &mut Vec<NodeCommand>) {
        let cancelled = std::mem::take(&mut self.cancelled);
        acts.extend(
            cancelled
                .into_iter()
                .map(|id| NodeCommand::CancelPull { id }),
        );
    }

    /// Changes the limits of the pulls that still run.
    fn limit_pulls(&mut self, acts: &mut Vec<NodeCommand>) {
        let limited = std::mem::take(&mut self.limited).into_iter();
        let running = limited.filter(|(id, _)| self.pulls.contains_key(id));
        acts.extend(running.map(|(id, limit)| NodeCommand::LimitPull { id, limit }));
    }

    fn fill_slots(&mut self, now: Timestamp, acts: &mut Vec<NodeCommand>) {
        for _ in 0..self.free_slots() {
            if self.next_start().is_some_and(|at| at > now) {
                return;
            }
            let slots = self.slots();
            let next = self.entries.next_pull(self.removal.as_ref(), slots, now);
            let Some(entry) = next else {
                return;
            };
            self.last_pull += 1;
            let id = PullId(self.last_pull);
            entry.begin(ImagePhase::Pulling, now);
            entry.pull = Some(id);
            entry.last_pull = id.0;
            entry.pull_revision = entry.progress.spec.revision;
            let image = entry.progress.spec.image.clone();
            let pull = RunningPull {
                image: image.clone(),
                since: now,
            };
            self.pulls.insert(id, pull);
            self.touched.insert(image.clone());
            acts.push(NodeCommand::Pull {
                id,
                credentials: CredentialsRequest::new(image)
                    .with_pull_secrets(entry.progress.spec.pull_secrets.iter().cloned())
                    .with_service_accounts(entry.progress.spec.service_accounts.iter().cloned()),
                limit: entry.progress.spec.pull_limit.clone(),
                deadline: entry.progress.round_ends().unwrap_or(now),
            });
        }
    }

    fn next_recall(&self) -> Option<(Timestamp, ImageRef)> {
        self.entries
            .next_recall(self.removal.as_ref(), self.slots())
    }

    /// Cancels a running pull for the image of another namespace. It begins again when there is a slot for it.
    fn recall(&mut self, image: &ImageRef, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(image) else {
            return;
        };
        let Some(pull) = entry.pull.take() else {
            return;
        };
        entry.may_appear_until = Some(after(now, PULL_STOPS_WITHIN));
        entry.stale = self.last_inventory;
        entry.progress.round = None;
        entry.progress.reset_phase();
        entry.progress.due = Some(now);
        self.touched.insert(image.clone());
        self.cancel(pull);
    }

    /// The used share of the fullest image file system by the last reading, if it is at or above the threshold.
    fn above_threshold(&self) -> Option<u8> {
        let threshold = self.config.image_fs_high_threshold?;
        let used = self.inventory.as_ref()?.disk_used()?;
        Some(used).filter(|used| *used >= threshold)
    }

    /// Holds the pulls that are due back while the image file systems are above the threshold. A reading below it
    /// makes them due again.
    fn block_above_threshold(&mut self, now: Timestamp) {
        let (Some(used), Some(threshold)) =
            (self.above_threshold(), self.config.image_fs_high_threshold)
        else {
            return;
        };
        if self.entries.due_pulls(now).next().is_none() {
            return;
        }
        let longest = self.config.backoff.disk_full.cap;
        let hold = Hold {
            until: after(now, self.config.backoff.spread(longest, &mut self.rng)),
            reason: Reason::ImageFsAboveThreshold,
            message: format!(
                "not started: {used} % of the node's image file system are used, the threshold is {threshold} %"
            ),
        };
        for entry in self.entries.due_pulls(now) {
            entry.held_back(&hold, now);
            self.touched.insert(entry.progress.spec.image.clone());
        }
    }

    /// The image file systems are below the threshold: the pulls that it stopped are due.
    fn resume_pulls(&mut self, now: Timestamp) {
        for entry in self.entries.values_mut() {
            let report = &mut entry.progress.report;
            if report.reason == Some(Reason::ImageFsAboveThreshold) {
                report.finished_at = None;
                entry.progress.reset_phase();
                entry.progress.due = Some(now);
                self.touched.insert(entry.progress.spec.image.clone());
            }
        }
    }

    /// Applies holds to the pulls that are due: a pull waits where the hold ends within its deadline,
    /// and else fails with the hold's reason.
    fn block_held(&mut self, now: Timestamp) {
        for entry in self.entries.due_pulls(now) {
            let Some(hold) = self
                .holds
                .on(&entry.progress.spec.image, entry.namespaces(), now)
            else {
                continue;
            };
            // Time spent waiting for a free slot does not count.
            let since = *entry.held_since.get_or_insert(now);
            let patience = entry
                .progress
                .round_ends()
                .unwrap_or_else(|| after(since, entry.progress.spec.deadline));
            if hold.reason == Reason::DiskFull || hold.until >= patience {
                entry.blocked(hold, now);
            } else {
                entry.progress.due = Some(hold.until);
                // The registry's answer for this image is more specific than the hold.
                if entry.progress.report.reason != Some(hold.reason) {
                    entry.progress.explain(hold.reason, hold.message.clone());
                }
            }
            self.touched.insert(entry.progress.spec.image.clone());
        }
    }

    fn pull_progressed(&mut self, id: PullId, done: ByteSize) {
        let pull = self.pulls.get(&id);
        if let Some(entry) = pull.and_then(|pull| self.entries.get_mut(&pull.image)) {
            entry.progress.progressed(done);
        }
    }

    fn pull_ended(
        &mut self,
        id: PullId,
        result: Result<RuntimeImage, Failure>,
        unused_credentials: Option<String>,
        now: Timestamp,
    ) {
        let Some(RunningPull { image, .. }) = self.pulls.remove(&id) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&image) else {
            return;
        };
        entry.pull = None;
        entry.stale = self.last_inventory;
        self.touched.insert(image.clone());
        match result {
            Ok(pulled) => {
                self.holds.lift_disk();
                entry.present = true;
                entry.pulled(&pulled, unused_credentials, now);
                self.inventory_outdated = true;
                self.pulled_in_reading = true;
                self.read_disk_soon(now);
                self.drop_superseded();
            }
            Err(failure) => {
                entry.failed(&failure, now, &self.config.backoff, &mut self.rng);
                let (backoff, rng) = (&self.config.backoff, &mut self.rng);
                self.holds
                    .failed(&image, entry.namespaces(), &failure, now, backoff, rng);
                // The inventory is read once the runtime is back.
                if failure.reason == Reason::RuntimeUnavailable && self.read_failure.is_none() {
                    self.read_soon(now);
                }
            }
        }
    }

    /// A pull has filled the disk further: it is read again before many others can begin.
    fn read_disk_soon(&mut self, now: Timestamp) {
        let inventory = self.inventory.as_ref();
        let measured = inventory.is_some_and(|inventory| inventory.disk_used().is_some());
        if self.config.image_fs_high_threshold.is_some() && measured {
            let soon = after(now, DISK_AGE_MAX);
            self.read_due = self.read_due.map(|due| due.min(soon));
        }
    }

    /// The running pulls whose slots a namespace without a running pull waits for.
    fn waited_for(&self, now: Timestamp) -> BTreeSet<ImageRef> {
        if self.free_slots() > 0 {
            return BTreeSet::new();
        }
        let running = self.pulls.values().map(|pull| &pull.image);
        running
            .filter(|image| self.entries.is_waited_for(image, now))
            .cloned()
            .collect()
    }

    /// Ends rounds whose deadline has passed: running pulls are cancelled, unless they received bytes and no
    /// namespace without a running pull waits for their slot. An image that waits for its next attempt or a
    /// free slot keeps its last failure.
    fn expire_rounds(&mut self, now: Timestamp) {
        if self.entries.expired_rounds(now).next().is_none() {
            return;
        }
        let mut cancelled = Vec::new();
        let waited_for = self.waited_for(now);
        for entry in self.entries.expired_rounds(now) {
            if entry.pull.is_some()
                && !waited_for.contains(&entry.progress.spec.image)
                && entry.progress.extend_round()
            {
                self.touched.insert(entry.progress.spec.image.clone());
                continue;
            }
            let failure = match entry.pull.take() {
                Some(pull) => {
                    cancelled.push(pull);
                    entry.may_appear_until = Some(after(now, PULL_STOPS_WITHIN));
                    entry.stale = self.last_inventory;
                    let failure = entry.progress.deadline_exceeded();
                    let message = entry.progress.message_for(&failure, entry.present);
                    entry.progress.explain(failure.reason, message);
                    failure
                }
                None => Failure::new(entry.progress.report.reason.unwrap_or(Reason::Unknown), ""),
            };
            entry
                .progress
                .end_round(&failure, now, &self.config.backoff, &mut self.rng);
            self.touched.insert(entry.progress.spec.image.clone());
        }
        for pull in cancelled {
            self.cancel(pull);
        }
    }
}

/// Each image once: present wins over absent.
fn each_once(images: Vec<AssignedImage>) -> Vec<AssignedImage> {
    let mut unique: Vec<AssignedImage> = Vec::with_capacity(images.len());
    let mut places = BTreeMap::new();
    for spec in images {
        let place = *places.entry(spec.image.clone()).or_insert(unique.len());
        match unique.get_mut(place) {
            None => unique.push(spec),
            Some(first) => {
                if first.state == DesiredState::Absent && spec.state == DesiredState::Present {
                    *first = spec;
                }
            }
        }
    }
    unique
}
