//! The machine: events in, commands out.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::config::WarmerConfig;
use super::entries::Entries;
use super::entry::Entry;
use super::event::{InventoryId, NodeCommand, NodeEvent, PullId};
use super::hold::Holds;
use super::inventory::Inventory;
use crate::error::Failure;
use crate::model::{ImageRef, ImageReport, NodeReport};

/// Brings one node's images to what it is assigned and keeps them so.
///
/// Pure: no clock, no I/O, no randomness but the seed's. After every [`apply`](Self::apply) and at
/// every [`next_wakeup`](Self::next_wakeup), call [`poll`](Self::poll) and carry out what it says.
#[derive(Debug)]
pub struct Warmer {
    pub(super) config: WarmerConfig,
    pub(super) rng: fastrand::Rng,
    pub(super) record: Option<String>,
    pub(super) generation: u64,
    pub(super) assigned: bool,
    pub(super) entries: Entries,
    pub(super) history: BTreeMap<ImageRef, ImageReport>,
    pub(super) pulls: BTreeMap<PullId, ImageRef>,
    pub(super) last_pull: u64,
    /// The removal under way, also when nobody wants it any more.
    pub(super) removal: Option<ImageRef>,
    pub(super) inventory: Option<Inventory>,
    pub(super) inventory_at: Option<Timestamp>,
    /// The last reading that was asked for.
    pub(super) last_inventory: InventoryId,
    pub(super) reading: bool,
    /// When to read it next; `None` while that depends on a reading under way.
    pub(super) read_due: Option<Timestamp>,
    pub(super) read_failures: u32,
    pub(super) read_failure: Option<Failure>,
    /// Whether images were pulled that the last reading does not know of.
    pub(super) inventory_outdated: bool,
    /// Whether pulls are or were under way while the reading is: it may have missed them.
    pub(super) reading_overlaps: bool,
    pub(super) holds: Holds,
    pub(super) polled_at: Option<Timestamp>,
    /// Pulls that nobody wants any more, to be told to the driver.
    pub(super) cancelled: Vec<PullId>,
    /// Entries that may have something to tell.
    pub(super) touched: BTreeSet<ImageRef>,
}

impl Warmer {
    /// A warmer that holds nothing yet. The same seed and the same events give the same commands.
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
            holds: Holds::default(),
            polled_at: None,
            cancelled: Vec::new(),
            touched: BTreeSet::new(),
        }
    }

    /// Takes note of something that happened at `now`.
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
            NodeEvent::PullEnded { id, result } => self.pull_ended(id, result, now),
            NodeEvent::RemovalEnded { image, result } => self.removal_ended(&image, result, now),
        }
    }

    /// What to do now. Calling it again without a change in between gives nothing.
    pub fn poll(&mut self, now: Timestamp) -> Vec<NodeCommand> {
        self.polled_at = Some(now);
        self.holds.expire(now);
        self.entries.advance(now);
        self.expire_rounds(now);
        self.expire_waits(now);
        let mut acts = Vec::new();
        for id in std::mem::take(&mut self.cancelled) {
            acts.push(NodeCommand::CancelPull { id });
        }
        self.start_reading(now, &mut acts);
        self.start_removals(now, &mut acts);
        self.start_pulls(now, &mut acts);
        if self.unverified() && !self.reading {
            self.read_soon(now);
            self.start_reading(now, &mut acts);
        }
        // Reports first: `Pulling` is to be known before the pull is begun.
        let mut commands = self.take_reports();
        commands.append(&mut acts);
        commands
    }

    /// When [`poll`](Self::poll) is next to be called if nothing happens before. Right after a
    /// poll it lies in the future: what waits for an event has no time of its own.
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
            false => self.entries.next_pull_due(self.removal.as_ref()),
        };
        let unclear = !self.pulls.is_empty() || self.inventory_outdated;
        let removal = match removing || (exclusive && unclear) {
            true => None,
            false => self.entries.next_removal_due(),
        };
        let times = [reading, self.entries.next_end(), pull, removal];
        times.into_iter().flatten().min()
    }

    /// Whether every assigned image is where it can be: present, removed, kept for a reason, or
    /// failed for this round; and what was pulled was seen in the runtime's inventory afterwards.
    /// False before the first assignment.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.assigned && self.entries.are_settled() && !self.unverified()
    }

    /// Where every image stands, in the order of the assignment.
    #[must_use]
    pub fn report(&self) -> NodeReport {
        NodeReport {
            record: self.record.clone(),
            observed_generation: self.generation,
            inventory_at: self.inventory_at,
            images: self.entries.in_order().map(Entry::snapshot).collect(),
        }
    }

    /// How many pulls are under way.
    #[must_use]
    pub fn pulls_under_way(&self) -> usize {
        self.pulls.len()
    }

    /// Reports of entries whose state differs from what was last told.
    fn take_reports(&mut self) -> Vec<NodeCommand> {
        let mut reports = Vec::new();
        for image in std::mem::take(&mut self.touched) {
            let Some(mut entry) = self.entries.get_mut(&image) else {
                continue;
            };
            let report = entry.snapshot();
            if entry.told.as_ref() != Some(&report) {
                entry.told = Some(report.clone());
                reports.push(NodeCommand::Report(report));
            }
        }
        reports
    }
}
