//! What is to happen to which entry, and when: kept in order, so that nobody has to look at all of
//! them to find out.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Included};

use jiff::Timestamp;

use super::entry::{Entry, Rank};
use crate::model::ImagePhase;
use crate::time::after;

/// What an entry adds to the agenda.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dates {
    rank: Rank,
    settled: bool,
    /// When its round has to be over.
    round_ends: Option<Timestamp>,
    /// When its wait for an inventory has to be over.
    wait_ends: Option<Timestamp>,
    pull_due: Option<Timestamp>,
    removal_due: Option<Timestamp>,
}

impl Dates {
    pub(super) fn of(entry: &Entry) -> Self {
        let waits = !entry.known && entry.report.phase != ImagePhase::Failed;
        let due = entry.due.filter(|_| entry.known);
        Self {
            rank: entry.rank(),
            settled: entry.is_settled(),
            round_ends: entry.round_ends().filter(|_| !entry.removing),
            wait_ends: waits.then(|| after(entry.waiting_since, entry.spec.deadline)),
            pull_due: due.filter(|_| entry.wants_present() && entry.pull.is_none()),
            removal_due: due.filter(|_| !entry.wants_present()),
        }
    }
}

/// The dates of all entries, each of which goes by its place in the assignment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Agenda {
    unsettled: usize,
    round_ends: BTreeSet<(Timestamp, usize)>,
    wait_ends: BTreeSet<(Timestamp, usize)>,
    pub(super) pulls: Attempts,
    pub(super) removals: Attempts,
}

impl Agenda {
    pub(super) fn add(&mut self, dates: Dates) {
        let Dates { rank, settled, .. } = dates;
        self.unsettled += usize::from(!settled);
        let dated = |at: Timestamp| (at, rank.order);
        self.round_ends.extend(dates.round_ends.map(dated));
        self.wait_ends.extend(dates.wait_ends.map(dated));
        self.pulls.add(dates.pull_due, rank);
        self.removals.add(dates.removal_due, rank);
    }

    pub(super) fn remove(&mut self, dates: Dates) {
        let Dates { rank, settled, .. } = dates;
        self.unsettled -= usize::from(!settled);
        if let Some(at) = dates.round_ends {
            self.round_ends.remove(&(at, rank.order));
        }
        if let Some(at) = dates.wait_ends {
            self.wait_ends.remove(&(at, rank.order));
        }
        self.pulls.remove(dates.pull_due, rank);
        self.removals.remove(dates.removal_due, rank);
    }

    /// Attempts that are due by then may begin.
    pub(super) fn advance(&mut self, now: Timestamp) {
        self.pulls.advance(now);
        self.removals.advance(now);
    }

    pub(super) fn is_settled(&self) -> bool {
        self.unsettled == 0
    }

    /// When the next round, or wait for an inventory, has to be over.
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        let ends = [self.round_ends.first(), self.wait_ends.first()];
        ends.into_iter().flatten().map(|(at, _)| *at).min()
    }

    /// Rounds that have to be over by then.
    pub(super) fn rounds_over(&self, now: Timestamp) -> impl Iterator<Item = usize> {
        let over = self.round_ends.range(..=(now, usize::MAX));
        over.map(|(_, order)| *order)
    }

    /// Waits for an inventory that have to be over by then.
    pub(super) fn waits_over(&self, now: Timestamp) -> impl Iterator<Item = usize> {
        let over = self.wait_ends.range(..=(now, usize::MAX));
        over.map(|(_, order)| *order)
    }
}

/// Attempts that are planned: by when they are due and, once they are, by who goes first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Attempts {
    planned: BTreeSet<(Timestamp, Rank)>,
    /// Of these, what is due by `now`.
    ready: BTreeSet<Rank>,
    now: Timestamp,
}

impl Attempts {
    fn add(&mut self, due: Option<Timestamp>, rank: Rank) {
        let Some(due) = due else { return };
        self.planned.insert((due, rank));
        if due <= self.now {
            self.ready.insert(rank);
        }
    }

    fn remove(&mut self, due: Option<Timestamp>, rank: Rank) {
        let Some(due) = due else { return };
        self.planned.remove(&(due, rank));
        self.ready.remove(&rank);
    }

    fn advance(&mut self, now: Timestamp) {
        let (from, to) = (self.now.min(now), self.now.max(now));
        let between = (Excluded((from, Rank::LAST)), Included((to, Rank::LAST)));
        for (_, rank) in self.planned.range(between) {
            // A clock may be set back.
            match self.now < now {
                true => self.ready.insert(*rank),
                false => self.ready.remove(rank),
            };
        }
        self.now = now;
    }

    /// What may begin, who goes first first.
    pub(super) fn ready(&self) -> impl Iterator<Item = usize> {
        self.ready.iter().map(|rank| rank.order)
    }

    /// When each is due, the earliest first.
    pub(super) fn planned(&self) -> impl Iterator<Item = (Timestamp, usize)> {
        self.planned.iter().map(|(due, rank)| (*due, rank.order))
    }
}
