//! What changes when the node is assigned something else, or asked to refresh.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::config::SHORTEST;
use super::entry::Entry;
use super::event::PullId;
use super::warmer::Warmer;
use crate::model::{
    AssignedImage, Assignment, DesiredState, ImagePhase, ImagePullPolicy, ImageReport,
};

impl Warmer {
    pub(super) fn assign(&mut self, assignment: Assignment, now: Timestamp) {
        self.record = assignment.record;
        self.generation = assignment.generation;
        self.assigned = true;
        let mut previous = self.entries.take();
        let mut unknown = self.inventory_at.is_none();
        for mut spec in each_once(assignment.images) {
            spec.deadline = spec.deadline.max(SHORTEST);
            let image = spec.image.clone();
            let entry = match previous.remove(&image) {
                Some(mut entry) if entry.spec.state == spec.state => {
                    if entry.update(spec, now) {
                        // A reading under way may lack what the new revision needs to know.
                        entry.stale = self.last_inventory;
                        unknown = true;
                    }
                    entry
                }
                other => {
                    if let Some(pull) = other.and_then(|entry| entry.pull) {
                        self.cancel(pull);
                    }
                    unknown = true;
                    let past = self.history.remove(&image);
                    Entry::new(spec, self.last_inventory, now).resumed(past)
                }
            };
            self.touched.insert(image);
            self.entries.push(entry);
        }
        for entry in previous.into_values() {
            if let Some(pull) = entry.pull {
                self.cancel(pull);
            }
        }
        self.history.clear();
        if unknown {
            self.read_soon(now);
        }
    }

    pub(super) fn refresh(&mut self, now: Timestamp) {
        self.holds.lift();
        self.entries.for_each_mut(|entry| {
            if entry.pull.is_some() {
                return;
            }
            if entry.wants_present() && entry.spec.pull_policy == ImagePullPolicy::Always {
                entry.report.revision = None;
                entry.reconsider(now);
            } else {
                match entry.report.phase {
                    ImagePhase::Failed | ImagePhase::BackingOff => entry.retry(now),
                    ImagePhase::Pending if entry.known => entry.due = Some(now),
                    _ => {}
                }
            }
            self.touched.insert(entry.spec.image.clone());
        });
        self.read_soon(now);
    }

    /// Nothing that was under way will be answered any more, and what happened meanwhile is not
    /// known: all but what was removed for good is held against a new reading.
    pub(super) fn interrupted(&mut self, now: Timestamp) {
        self.pulls.clear();
        self.cancelled.clear();
        self.removal = None;
        self.reading = false;
        self.entries.for_each_mut(|entry| {
            entry.pull = None;
            entry.removing = false;
            entry.stale = self.last_inventory;
            match entry.report.phase {
                ImagePhase::Removed => {}
                ImagePhase::Cached | ImagePhase::InUse => {
                    entry.known = false;
                    entry.waiting_since = now;
                }
                _ => entry.reconsider(now),
            }
            self.touched.insert(entry.spec.image.clone());
        });
        self.read_soon(now);
    }

    pub(super) fn cancel(&mut self, pull: PullId) {
        self.pulls.remove(&pull);
        self.cancelled.push(pull);
    }
}

impl Entry {
    /// What was told before a restart: which revision is satisfied, how it got there, and that it
    /// was removed, which is not done twice.
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

    /// Makes the next attempt due now, as far as it is known that one is needed.
    pub(super) fn retry(&mut self, now: Timestamp) {
        if self.known {
            self.due = Some(now);
        } else {
            self.reconsider(now);
        }
    }

    /// The same image is assigned again, perhaps in other words. Whether an inventory has to say
    /// what that means.
    pub(super) fn update(&mut self, spec: AssignedImage, now: Timestamp) -> bool {
        let renewed = self.spec.revision < spec.revision;
        let recredentialed = self.spec.pull_secrets != spec.pull_secrets
            || self.spec.service_accounts != spec.service_accounts;
        let mended = recredentialed
            || self.spec.pull_policy != spec.pull_policy
            || self.spec.deadline != spec.deadline;
        // The same image, perhaps in other words.
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

/// The images, each once: where one is wanted and unwanted at a time, it is wanted.
fn each_once(images: Vec<AssignedImage>) -> Vec<AssignedImage> {
    let mut kept: Vec<AssignedImage> = Vec::with_capacity(images.len());
    let mut places = BTreeMap::new();
    for spec in images {
        let place = *places.entry(spec.image.clone()).or_insert(kept.len());
        match kept.get_mut(place) {
            None => kept.push(spec),
            Some(first) => {
                if first.state == DesiredState::Absent && spec.state == DesiredState::Present {
                    *first = spec;
                }
            }
        }
    }
    kept
}
