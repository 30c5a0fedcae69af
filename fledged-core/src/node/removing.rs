//! Removals: what is judged, started and done.

use jiff::Timestamp;

use super::entry::Entry;
use super::event::NodeCommand;
use super::obstacle::obstacle;
use super::warmer::Warmer;
use crate::error::{Failure, Reason};
use crate::model::{ImagePhase, ImageRef};
use crate::ports::{Removal, RemovalScope, RuntimeImage};

impl Warmer {
    /// Decides what becomes of an image that is to be absent.
    pub(super) fn judge_removal(
        &mut self,
        image: &ImageRef,
        found: Option<&RuntimeImage>,
        now: Timestamp,
    ) {
        let Some(inventory) = &self.inventory else {
            return;
        };
        let obstacle = found.and_then(|found| {
            let wanted = |r: &ImageRef| self.entries.get(r).is_some_and(Entry::wants_present);
            let doomed = |r: &ImageRef| self.entries.get(r).is_some_and(|e| !e.wants_present());
            obstacle(inventory, found, wanted, doomed)
        });
        let Some(entry) = self.entries.get_mut(image) else {
            return;
        };
        entry.known = true;
        entry.present = found.is_some();
        if entry.report.phase == ImagePhase::Removed {
            return;
        }
        match (found, obstacle) {
            (None, _) => removed(entry, now),
            (Some(found), Some((reason, message))) => {
                entry.describe(found);
                entry.report.phase = ImagePhase::InUse;
                entry.explain(reason, message);
                entry.due = None;
                entry.round = None;
            }
            (Some(found), None) => {
                entry.describe(found);
                if entry.due.is_none() {
                    entry.due = Some(now);
                    entry.report.phase = ImagePhase::Removing;
                    entry.report.reason = None;
                    entry.report.message = None;
                }
            }
        }
    }

    /// Starts the next removal.
    ///
    /// They go one at a time: they are quick, and each changes what the next may take. A runtime
    /// that removes an image with all its names could take away one that a pull has just added, so
    /// there removals wait for pulls under way, and for a reading that knows what those brought.
    pub(super) fn start_removals(&mut self, now: Timestamp, acts: &mut Vec<NodeCommand>) {
        if !self.removal_due(now) || self.entries.values().any(|e| e.removing) {
            return;
        }
        if self.removes_whole_images() {
            if !self.pulls.is_empty() {
                return;
            }
            if self.inventory_outdated {
                if !self.reading && self.read_failure.is_none() {
                    self.read_soon(now);
                    self.start_reading(now, acts);
                }
                return;
            }
        }
        let due = self.entries.values_mut().filter(|e| e.removable(now));
        let Some(entry) = due.min_by_key(|e| e.rank()) else {
            return;
        };
        entry.begin(ImagePhase::Removing, now);
        entry.removing = true;
        self.touched.insert(entry.spec.image.clone());
        acts.push(NodeCommand::Remove {
            image: entry.spec.image.clone(),
        });
    }

    /// Whether the runtime removes an image with every name it has.
    pub(super) fn removes_whole_images(&self) -> bool {
        self.inventory
            .as_ref()
            .is_some_and(|i| i.removal() == RemovalScope::Image)
    }

    /// Whether a removal is under way or could be started now.
    pub(super) fn removal_due(&self, now: Timestamp) -> bool {
        self.entries
            .values()
            .any(|e| e.removing || e.removable(now))
    }

    pub(super) fn removal_ended(
        &mut self,
        image: &ImageRef,
        result: Result<Removal, Failure>,
        now: Timestamp,
    ) {
        let Some(entry) = self.entries.get_mut(image) else {
            return;
        };
        entry.stale = self.last_inventory;
        if !std::mem::take(&mut entry.removing) {
            // It was assigned otherwise meanwhile, and the removal may have undone that.
            if !entry.wants_present() || entry.pull.is_none() {
                entry.reconsider(now);
                self.touched.insert(image.clone());
                self.read_soon(now);
            }
            return;
        }
        self.touched.insert(image.clone());
        match result {
            Ok(Removal::Removed | Removal::Absent) => {
                removed(entry, now);
                if self.holds.freed() {
                    self.retry_blocked(now);
                }
            }
            Ok(Removal::InUse(by)) => {
                entry.report.phase = ImagePhase::InUse;
                entry.explain(Reason::InUse, by);
                entry.round = None;
            }
            Err(failure) => entry.failed(&failure, now, &self.config.backoff, &mut self.rng),
        }
    }

    /// Space was freed: what failed for want of it is worth another try.
    pub(super) fn retry_blocked(&mut self, now: Timestamp) {
        for (image, entry) in &mut self.entries {
            if entry.report.phase == ImagePhase::Failed
                && entry.report.reason == Some(Reason::DiskFull)
            {
                entry.report.phase = ImagePhase::Pending;
                entry.due = Some(now);
                self.touched.insert(image.clone());
            }
        }
    }
}

/// The image is absent, as asked for.
fn removed(entry: &mut Entry, now: Timestamp) {
    entry.known = true;
    entry.present = false;
    entry.report.phase = ImagePhase::Removed;
    entry.report.revision = Some(entry.spec.revision);
    entry.report.finished_at = Some(now);
    entry.report.digest = None;
    entry.report.size = None;
    entry.report.reason = None;
    entry.report.message = None;
    entry.due = None;
    entry.round = None;
    entry.failed_rounds = 0;
}
