//! Removals: what is judged, started and done.

use jiff::Timestamp;

use super::entry::Entry;
use super::event::NodeCommand;
use super::obstacle::obstacle;
use super::warmer::Warmer;
use crate::error::{Failure, Reason};
use crate::model::{ImagePhase, ImageRef};
use crate::port::{Removal, RemovalScope, RuntimeImage};

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
        let wanted = |r: &ImageRef| self.entries.get(r).is_some_and(Entry::wants_present);
        let doomed = |r: &ImageRef| self.entries.get(r).is_some_and(|e| !e.wants_present());
        let obstacle = inventory
            .find_all(image)
            .find_map(|found| obstacle(inventory, image, found, wanted, doomed));
        let Some(mut entry) = self.entries.get_mut(image) else {
            return;
        };
        entry.known = true;
        entry.present = found.is_some();
        if entry.report.phase == ImagePhase::Removed {
            return;
        }
        // A runtime that refused because of a container is asked again once that is gone.
        let refused =
            entry.report.phase == ImagePhase::InUse && entry.report.reason == Some(Reason::InUse);
        match (found, obstacle) {
            (None, _) => removed(&mut entry, now),
            (Some(found), Some((reason, message))) => {
                entry.describe(found);
                entry.report.phase = ImagePhase::InUse;
                entry.explain(reason, message);
                entry.due = None;
                entry.round = None;
            }
            (Some(found), None) if refused && inventory.is_in_use(found) => entry.describe(found),
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
    /// that takes other names along could take away one that a pull has just added, so there
    /// removals wait for pulls under way, and for a reading that knows what those brought.
    pub(super) fn start_removals(&mut self, now: Timestamp, acts: &mut Vec<NodeCommand>) {
        if self.removal.is_some() || !self.removal_due(now) {
            return;
        }
        if self.removes_more_than_names() {
            if !self.pulls.is_empty() {
                return;
            }
            if self.inventory_outdated {
                if self.read_failure.is_some() {
                    self.postpone_removals(now);
                } else if !self.reading {
                    self.read_soon(now);
                    self.start_reading(now, acts);
                }
                return;
            }
        }
        while let Some(image) = self.entries.next_removal() {
            // The assignment may have changed since the image was last judged.
            let found = self
                .inventory
                .as_ref()
                .and_then(|i| i.find(&image))
                .cloned();
            self.judge_removal(&image, found.as_ref(), now);
            self.touched.insert(image.clone());
            let Some(mut entry) = self.entries.get_mut(&image) else {
                continue;
            };
            if !entry.removable(now) {
                continue;
            }
            entry.begin(ImagePhase::Removing, now);
            entry.removing = true;
            self.removal = Some(image.clone());
            acts.push(NodeCommand::Remove { image });
            return;
        }
    }

    /// The reading that removals need can't be had for now: they wait for it like images that
    /// nothing is known of, and pulls need not wait for them.
    fn postpone_removals(&mut self, now: Timestamp) {
        for image in self.entries.ready_removals() {
            if let Some(mut entry) = self.entries.get_mut(&image) {
                entry.reconsider(now);
            }
            self.touched.insert(image);
        }
    }

    /// Whether the runtime may take other names of an image away with the one to be removed.
    pub(super) fn removes_more_than_names(&self) -> bool {
        self.inventory
            .as_ref()
            .is_some_and(|i| i.removal() != RemovalScope::Reference)
    }

    /// Whether a removal is under way or could be started now.
    pub(super) fn removal_due(&self, now: Timestamp) -> bool {
        self.removal.is_some()
            || self
                .entries
                .next_removal_due()
                .is_some_and(|due| due <= now)
    }

    pub(super) fn removal_ended(
        &mut self,
        image: &ImageRef,
        result: Result<Removal, Failure>,
        now: Timestamp,
    ) {
        if self.removal.as_ref() == Some(image) {
            self.removal = None;
        }
        if matches!(result, Ok(Removal::Removed)) {
            self.reconsider_namesakes(image, now);
        }
        let Some(mut entry) = self.entries.get_mut(image) else {
            return;
        };
        entry.stale = self.last_inventory;
        if !std::mem::take(&mut entry.removing) {
            // It was assigned otherwise meanwhile, and the removal may have undone that.
            entry.present = false;
            entry.reconsider(now);
            drop(entry);
            self.touched.insert(image.clone());
            self.read_soon(now);
            return;
        }
        self.touched.insert(image.clone());
        match result {
            Ok(Removal::Removed | Removal::Absent) => {
                removed(&mut entry, now);
                drop(entry);
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

    /// Other names may have gone with it. One of them may have been assigned while it was removed,
    /// and found present.
    fn reconsider_namesakes(&mut self, image: &ImageRef, now: Timestamp) {
        let Some(inventory) = &self.inventory else {
            return;
        };
        let Some(found) = inventory.find(image) else {
            return;
        };
        let mut unknown = false;
        for name in inventory.removal().takes_along(image, found) {
            if let Some(mut entry) = self.entries.get_mut(name)
                && entry.wants_present()
            {
                entry.stale = self.last_inventory;
                entry.present = false;
                entry.reconsider(now);
                self.touched.insert(name.clone());
                unknown = true;
            }
        }
        if unknown {
            self.read_soon(now);
        }
    }

    /// Space was freed: what failed for want of it is worth another try.
    pub(super) fn retry_blocked(&mut self, now: Timestamp) {
        self.entries.for_each_mut(|entry| {
            if entry.report.phase == ImagePhase::Failed
                && entry.report.reason == Some(Reason::DiskFull)
            {
                entry.report.phase = ImagePhase::Pending;
                entry.report.reason = None;
                entry.report.message = None;
                entry.due = Some(now);
                self.touched.insert(entry.spec.image.clone());
            }
        });
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
