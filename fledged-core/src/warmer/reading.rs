//! Reading the inventory, and holding every image against it.

use jiff::Timestamp;

use super::config::SHORTEST;
use super::event::{InventoryId, NodeCommand};
use super::inventory::Inventory;
use super::warmer::Warmer;
use crate::error::{Failure, Reason};
use crate::model::ImagePhase;
use crate::time::after;

/// A reading may come by one part in so many of the interval before its time.
const EARLIER: u32 = 10;

impl Warmer {
    /// Asks for a reading at once; one that is under way may be too old to count.
    pub(super) fn read_soon(&mut self, now: Timestamp) {
        self.read_due = Some(now);
        self.read_failures = 0;
    }

    /// Whether pulls have ended that no reading has confirmed, and nothing else is left to do.
    pub(super) fn unverified(&self) -> bool {
        self.inventory_outdated
            && self.read_failure.is_none()
            && self.pulls.is_empty()
            && self.entries.are_settled()
    }

    pub(super) fn start_reading(&mut self, now: Timestamp, acts: &mut Vec<NodeCommand>) {
        if self.reading || !self.assigned || self.read_due.is_none_or(|due| due > now) {
            return;
        }
        self.last_inventory.0 += 1;
        self.reading = true;
        if self.read_failure.is_none() {
            // What is waited for begins now; the time before was not the runtime's.
            self.entries.for_each_mut(|entry| {
                if !entry.known {
                    entry.waiting_since = now;
                }
            });
        }
        self.reading_overlaps = !self.pulls.is_empty();
        self.read_due = None;
        acts.push(NodeCommand::ReadInventory {
            id: self.last_inventory,
            with_usage: self
                .entries
                .values()
                .any(|e| !e.wants_present() && e.report.phase != ImagePhase::Removed),
        });
    }

    pub(super) fn inventory_read(
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
                self.inventory_outdated = self.reading_overlaps;
                // Nodes that were assigned together do not go on together: many may share a host.
                let interval = self.config.inventory_interval;
                let earlier = (interval / EARLIER).mul_f64(self.rng.f64());
                let interval = interval.saturating_sub(earlier);
                self.read_due = Some(after(now, interval.max(SHORTEST)));
                self.evaluate(id, now);
            }
            Err(failure) => {
                self.read_failures = self.read_failures.saturating_add(1);
                let schedule = self.config.backoff.inventory.delay(self.read_failures);
                let delay = self.config.backoff.spread(schedule, &mut self.rng);
                self.read_due = Some(after(now, delay));
                if !failure.class().is_transient() {
                    self.give_up_waiting(&failure, Timestamp::MAX, now);
                }
                self.read_failure = Some(failure);
            }
        }
        // Somebody asked for another reading while this one was under way.
        if let Some(again) = again {
            self.read_due = self.read_due.map(|due| due.min(again));
        }
    }

    /// Holds every entry against a new inventory.
    pub(super) fn evaluate(&mut self, id: InventoryId, now: Timestamp) {
        let Some(inventory) = &self.inventory else {
            return;
        };
        let mut verdicts = Vec::new();
        self.entries.for_each_mut(|entry| {
            if entry.stale >= id || entry.pull.is_some() || entry.removing {
                return;
            }
            let image = entry.spec.image.clone();
            self.touched.insert(image.clone());
            match (entry.wants_present(), inventory.find(&image)) {
                (true, Some(found)) => entry.found(found, now),
                (true, None) => entry.missing(
                    now,
                    self.config.eviction_window,
                    &self.config.backoff,
                    &mut self.rng,
                ),
                (false, found) => verdicts.push((image, found.cloned())),
            }
        });
        for (image, found) in verdicts {
            self.judge_removal(&image, found.as_ref(), now);
        }
    }

    /// Gives up on entries that have waited their whole deadline for an inventory.
    pub(super) fn expire_waits(&mut self, now: Timestamp) {
        let Some(failure) = self.read_failure.clone().or_else(|| {
            self.reading
                .then(|| Failure::new(Reason::RuntimeUnavailable, "the runtime does not answer"))
        }) else {
            return;
        };
        self.give_up_waiting(&failure, now, now);
    }

    /// Gives up on entries whose wait would have to be over by `until`.
    fn give_up_waiting(&mut self, failure: &Failure, until: Timestamp, now: Timestamp) {
        for image in self.entries.waits_over(until) {
            if let Some(mut entry) = self.entries.get_mut(&image) {
                entry.report.phase = ImagePhase::Failed;
                entry.ended_unattempted(now);
                entry.explain(failure.reason, failure.message.clone());
            }
            self.touched.insert(image);
        }
    }
}
