//! The images of the assignment, and the agenda that follows from where they stand.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use jiff::Timestamp;

use super::agenda::{Agenda, Dates};
use super::entry::Entry;
use crate::model::ImageRef;

/// All entries. Whatever is changed about one is on the agenda at once.
#[derive(Debug, Default)]
pub(super) struct Entries {
    by_image: BTreeMap<ImageRef, Entry>,
    /// In the order of the assignment.
    order: Vec<ImageRef>,
    agenda: Agenda,
}

impl Entries {
    /// Adds an entry at the end of the assignment.
    pub(super) fn push(&mut self, mut entry: Entry) {
        entry.order = self.order.len();
        let image = entry.spec.image.clone();
        self.agenda.add(Dates::of(&entry));
        self.order.push(image.clone());
        self.by_image.insert(image, entry);
    }

    /// Takes all of them away.
    pub(super) fn take(&mut self) -> BTreeMap<ImageRef, Entry> {
        std::mem::take(self).by_image
    }

    pub(super) fn get(&self, image: &ImageRef) -> Option<&Entry> {
        self.by_image.get(image)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Entry> {
        self.by_image.values()
    }

    /// In the order of the assignment.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Entry> {
        self.order.iter().filter_map(|image| self.get(image))
    }

    /// An entry to be changed.
    pub(super) fn get_mut(&mut self, image: &ImageRef) -> Option<EntryMut<'_>> {
        let entry = self.by_image.get_mut(image)?;
        Some(EntryMut::new(entry, &mut self.agenda))
    }

    /// Changes entries one after another, in the order of their images.
    pub(super) fn for_each_mut(&mut self, mut change: impl FnMut(&mut Entry)) {
        for entry in self.by_image.values_mut() {
            change(&mut EntryMut::new(entry, &mut self.agenda));
        }
    }

    /// What is due by then may begin.
    pub(super) fn advance(&mut self, now: Timestamp) {
        self.agenda.advance(now);
    }

    pub(super) fn are_settled(&self) -> bool {
        self.agenda.is_settled()
    }

    /// When the next round, or wait for an inventory, has to be over.
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        self.agenda.next_end()
    }

    /// When the next pull is due that does not wait for the removal of that image.
    pub(super) fn next_pull_due(&self, removal: Option<&ImageRef>) -> Option<Timestamp> {
        let mut planned = self.agenda.pulls.planned();
        let next = planned.find(|(_, order)| !self.is(*order, removal));
        next.map(|(due, _)| due)
    }

    /// When the next removal is due.
    pub(super) fn next_removal_due(&self) -> Option<Timestamp> {
        let next = self.agenda.removals.planned().next();
        next.map(|(due, _)| due)
    }

    /// The next pull that may begin, not of the image that is being removed.
    pub(super) fn next_pull(&mut self, removal: Option<&ImageRef>) -> Option<EntryMut<'_>> {
        let mut ready = self.agenda.pulls.ready();
        let next = ready.find(|order| !self.is(*order, removal))?;
        drop(ready);
        let image = self.image(next)?;
        self.get_mut(&image)
    }

    /// The next removal that may begin.
    pub(super) fn next_removal(&self) -> Option<ImageRef> {
        self.image(self.agenda.removals.ready().next()?)
    }

    /// Every pull that may begin.
    pub(super) fn ready_pulls(&self) -> Vec<ImageRef> {
        self.images(self.agenda.pulls.ready())
    }

    /// Every removal that may begin.
    pub(super) fn ready_removals(&self) -> Vec<ImageRef> {
        self.images(self.agenda.removals.ready())
    }

    /// Images whose round has to be over by then, in their order.
    pub(super) fn rounds_over(&self, now: Timestamp) -> Vec<ImageRef> {
        self.images(self.agenda.rounds_over(now))
    }

    /// Images whose wait for an inventory has to be over by then.
    pub(super) fn waits_over(&self, now: Timestamp) -> Vec<ImageRef> {
        self.images(self.agenda.waits_over(now))
    }

    fn is(&self, order: usize, image: Option<&ImageRef>) -> bool {
        image.is_some() && self.order.get(order) == image
    }

    fn image(&self, order: usize) -> Option<ImageRef> {
        self.order.get(order).cloned()
    }

    fn images(&self, orders: impl Iterator<Item = usize>) -> Vec<ImageRef> {
        let mut images: Vec<_> = orders.filter_map(|order| self.image(order)).collect();
        // Not in the order of the assignment: what becomes of each must not hang on that.
        images.sort();
        images
    }
}

/// An entry that is being changed. The agenda follows when it is dropped.
#[derive(Debug)]
pub(super) struct EntryMut<'a> {
    entry: &'a mut Entry,
    agenda: &'a mut Agenda,
    before: Dates,
}

impl<'a> EntryMut<'a> {
    fn new(entry: &'a mut Entry, agenda: &'a mut Agenda) -> Self {
        Self {
            before: Dates::of(entry),
            entry,
            agenda,
        }
    }
}

impl Deref for EntryMut<'_> {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        self.entry
    }
}

impl DerefMut for EntryMut<'_> {
    fn deref_mut(&mut self) -> &mut Entry {
        self.entry
    }
}

impl Drop for EntryMut<'_> {
    fn drop(&mut self) {
        let after = Dates::of(self.entry);
        if after != self.before {
            self.agenda.remove(self.before);
            self.agenda.add(after);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{AssignedImage, DesiredState, ImagePhase};
    use crate::warmer::{InventoryId, PullId};

    const ENTRIES: usize = 6;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn mk_entry(name: usize, state: DesiredState) -> Entry {
        // Against the order of the assignment.
        let image = format!("app-{}", ENTRIES - name).parse().unwrap();
        let spec = AssignedImage {
            state,
            deadline: Duration::from_secs(5),
            ..AssignedImage::present(image)
        };
        Entry::new(spec, InventoryId(0), at(0))
    }

    /// Anything that the agenda hangs on, changed to anything.
    #[derive(Debug, Clone)]
    enum Change {
        Known(bool),
        Phase(ImagePhase),
        Due(Option<i64>),
        Round(Option<i64>),
        Pulling(bool),
        Removing(bool),
        FailedRounds(u32),
        Attempts(u32),
    }

    fn change() -> impl Strategy<Value = Change> {
        let phases = [ImagePhase::Pending, ImagePhase::Cached, ImagePhase::Failed];
        let time = || prop::option::of(0..10i64);
        prop_oneof![
            any::<bool>().prop_map(Change::Known),
            prop::sample::select(phases.to_vec()).prop_map(Change::Phase),
            time().prop_map(Change::Due),
            time().prop_map(Change::Round),
            any::<bool>().prop_map(Change::Pulling),
            any::<bool>().prop_map(Change::Removing),
            (0..3u32).prop_map(Change::FailedRounds),
            (0..3u32).prop_map(Change::Attempts),
        ]
    }

    fn make(change: &Change, entry: &mut Entry) {
        match *change {
            Change::Known(known) => entry.known = known,
            Change::Phase(phase) => entry.report.phase = phase,
            Change::Due(due) => entry.due = due.map(at),
            Change::Round(round) => entry.round = round.map(at),
            Change::Pulling(pulling) => entry.pull = pulling.then_some(PullId(1)),
            Change::Removing(removing) => entry.removing = removing,
            Change::FailedRounds(rounds) => entry.failed_rounds = rounds,
            Change::Attempts(attempts) => entry.report.attempts = attempts,
        }
    }

    /// What a look at every entry finds, by which the agenda is judged.
    fn first_ready(entries: &Entries, now: Timestamp, state: DesiredState) -> Option<&ImageRef> {
        let ready = entries.values().filter(|e| {
            e.spec.state == state
                && e.known
                && e.pull.filter(|_| e.wants_present()).is_none()
                && e.due.is_some_and(|due| due <= now)
        });
        let first = ready.min_by_key(|e| e.rank());
        first.map(|e| &e.spec.image)
    }

    proptest! {
        #[test]
        fn the_agenda_is_what_a_look_at_every_entry_finds(
            states in prop::collection::vec(any::<bool>(), ENTRIES),
            steps in prop::collection::vec((0..ENTRIES, change(), prop::option::of(0..10i64)), 0..60),
        ) {
            let mut entries = Entries::default();
            for (name, present) in states.into_iter().enumerate() {
                let state = if present { DesiredState::Present } else { DesiredState::Absent };
                entries.push(mk_entry(name, state));
            }
            let mut now = at(0);
            for (name, change, time) in steps {
                let image = entries.order[name].clone();
                make(&change, &mut entries.get_mut(&image).unwrap());
                // Also backwards.
                now = time.map_or(now, at);
                entries.advance(now);

                let mut anew = Agenda::default();
                anew.advance(now);
                entries.values().for_each(|entry| anew.add(Dates::of(entry)));
                prop_assert_eq!(&entries.agenda, &anew);

                let pull = first_ready(&entries, now, DesiredState::Present).cloned();
                let next = entries.next_pull(None).map(|entry| entry.spec.image.clone());
                prop_assert_eq!(next, pull.clone());
                let removal = first_ready(&entries, now, DesiredState::Absent).cloned();
                prop_assert_eq!(entries.next_removal(), removal);
                let other = entries.next_pull(pull.as_ref()).map(|e| e.spec.image.clone());
                prop_assert!(other.is_none() || other != pull);

                let over = |e: &&Entry| !e.removing && e.round_ends().is_some_and(|end| end <= now);
                let over: Vec<_> = entries.values().filter(over).map(|e| e.spec.image.clone()).collect();
                prop_assert_eq!(entries.rounds_over(now), over);
                prop_assert_eq!(entries.are_settled(), entries.values().all(Entry::is_settled));
            }
        }
    }
}
