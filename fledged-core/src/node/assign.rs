//! What changes when the node is assigned something else, or asked to refresh.

use jiff::Timestamp;

use super::entry::Entry;
use super::event::PullId;
use super::warmer::Warmer;
use crate::model::{Assignment, DesiredState, ImagePhase, ImagePullPolicy};

impl Warmer {
    pub(super) fn assign(&mut self, assignment: Assignment, now: Timestamp) {
        self.generation = assignment.generation;
        self.assigned = true;
        let mut previous = std::mem::take(&mut self.entries);
        self.order.clear();
        let mut unknown = false;
        for (order, spec) in assignment.images.into_iter().enumerate() {
            let image = spec.image.clone();
            let twice = self.entries.get(&image);
            if twice.is_some_and(|e| e.wants_present() || spec.state == DesiredState::Absent) {
                continue;
            }
            if twice.is_none() {
                self.order.push(image.clone());
            }
            let entry = match previous.remove(&image) {
                Some(mut entry) if entry.spec.state == spec.state => {
                    let renewed = entry.spec.revision < spec.revision;
                    let mended = entry.spec.pull_secrets != spec.pull_secrets
                        || entry.spec.service_accounts != spec.service_accounts
                        || entry.spec.pull_policy != spec.pull_policy
                        || entry.spec.deadline != spec.deadline;
                    entry.order = order;
                    entry.spec = spec;
                    if renewed {
                        entry.reconsider(now);
                        unknown = true;
                    } else if mended && entry.report.phase == ImagePhase::Failed {
                        entry.due = Some(now);
                    }
                    entry
                }
                other => {
                    if let Some(pull) = other.and_then(|entry| entry.pull) {
                        self.cancel(pull);
                    }
                    unknown = true;
                    let mut entry = Entry::new(spec, order, self.last_inventory, now);
                    if let Some(past) = self.history.remove(&image) {
                        entry.report.revision = past.revision;
                        if past.phase == ImagePhase::Removed
                            && !entry.wants_present()
                            && past.revision == Some(entry.spec.revision)
                        {
                            entry.report = past;
                            entry.known = true;
                        }
                    }
                    entry
                }
            };
            self.touched.insert(image.clone());
            self.entries.insert(image, entry);
        }
        for entry in previous.into_values() {
            if let Some(pull) = entry.pull {
                self.cancel(pull);
            }
        }
        self.history.clear();
        if unknown || self.inventory_at.is_none() {
            self.read_soon(now);
        }
    }

    pub(super) fn refresh(&mut self, now: Timestamp) {
        self.holds.lift();
        for (image, entry) in &mut self.entries {
            if entry.pull.is_some() {
                continue;
            }
            if entry.wants_present() && entry.spec.pull_policy == ImagePullPolicy::Always {
                entry.report.revision = None;
                entry.reconsider(now);
            } else if matches!(
                entry.report.phase,
                ImagePhase::Failed | ImagePhase::BackingOff
            ) {
                entry.due = Some(now);
            }
            self.touched.insert(image.clone());
        }
        self.read_soon(now);
    }

    pub(super) fn cancel(&mut self, pull: PullId) {
        self.pulls.remove(&pull);
        self.cancelled.push(pull);
    }
}
