//! Superseded digests: what a tag named before its image was pulled again. They are removed like images that left
//! the assignment, by entries that are not reported. The report of the tag lists them, so that a restart does not
//! lose them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::Warmer;
use super::entry::Entry;
use super::node_event::InventoryId;
use crate::model::{ImagePhase, ImageRef, ImageReport};

impl Warmer {
    /// Begins the removal of superseded digests that a new inventory has, and forgets those that it does not have,
    /// that are protected, or that are desired: by digest, or as another tag of the repository.
    pub(super) fn follow_superseded(&mut self, id: InventoryId, now: Timestamp) {
        let Some(inventory) = &self.inventory else {
            return;
        };
        let wanted = |r: &ImageRef| self.entries.get(r).is_some_and(Entry::wants_present);
        let mut found = BTreeSet::new();
        let mut forgotten = Vec::new();
        for entry in self.entries.assigned().filter(|entry| entry.stale < id) {
            let image = &entry.progress.spec.image;
            for old in superseded_by(entry) {
                let known = self.entries.get(&old);
                if known.is_some_and(|e| e.removing || (!e.superseded && !e.wants_present())) {
                    continue;
                }
                let tagged = |name: &ImageRef| name.name() == image.name() && wanted(name);
                let held = inventory.find(&old).filter(|held| {
                    !wanted(&old)
                        && !held.references.iter().any(tagged)
                        && self.config.protected.pattern_of(&old).is_none()
                });
                match held {
                    Some(_) if known.is_some() => {}
                    Some(_) => {
                        found.insert(old);
                    }
                    None => forgotten.push((image.clone(), old)),
                }
            }
        }
        // Its entry is judged by this reading.
        let stale = InventoryId(id.0.saturating_sub(1));
        for old in found {
            self.entries.push(Entry::superseded(old, stale, now));
        }
        for (image, old) in forgotten {
            self.forget_superseded(&image, &old);
        }
        self.drop_superseded();
    }

    /// A superseded digest is not on the node any more.
    pub(super) fn superseded_removed(&mut self, old: &ImageRef) {
        for image in self.superseding(old) {
            self.forget_superseded(&image, old);
        }
        self.drop_superseded();
    }

    /// Drops the entries of superseded digests that no tag lists any more.
    pub(super) fn drop_superseded(&mut self) {
        let mut listed = BTreeMap::new();
        for entry in self.entries.assigned() {
            for old in superseded_by(entry) {
                *listed.entry(old).or_insert(true) &= entry.wants_present();
            }
        }
        self.entries.retain_superseded(&listed);
    }

    /// Marks the tags whose superseded digests may have changed.
    pub(super) fn touch_superseding(&mut self) {
        let superseded = |image: &&ImageRef| self.entries.get(image).is_some_and(|e| e.superseded);
        let touched = self.touched.iter().filter(superseded);
        let superseding: Vec<_> = touched.flat_map(|old| self.superseding(old)).collect();
        self.touched.extend(superseding);
    }

    /// The state of an assigned image. One that is to be absent is not removed before its superseded digests are.
    pub(super) fn snapshot(&self, entry: &Entry) -> ImageReport {
        let mut report = entry.snapshot();
        if entry.wants_present() || report.phase != ImagePhase::Removed {
            return report;
        }
        let Some(old) = superseded_by(entry).next() else {
            return report;
        };
        report.phase = ImagePhase::Removing;
        let known = self.entries.get(&old).map(Entry::snapshot);
        if let Some(known) = known.filter(|known| known.phase != ImagePhase::Removed) {
            report.phase = known.phase;
            report.reason = known.reason;
            let what = |text| format!("the superseded version {}: {text}", old.as_str());
            report.message = known.message.map(what);
            report.next_attempt_at = known.next_attempt_at;
        }
        report.digest = old.digest().cloned();
        report
    }

    /// The assigned tags that named that digest before.
    fn superseding(&self, old: &ImageRef) -> Vec<ImageRef> {
        let tags = self.entries.assigned();
        let tags = tags.filter(|tag| superseded_by(tag).any(|other| other == *old));
        tags.map(|tag| tag.progress.spec.image.clone()).collect()
    }

    fn forget_superseded(&mut self, image: &ImageRef, old: &ImageRef) {
        if let Some(entry) = self.entries.get_mut(image) {
            let digests = &mut entry.progress.report.superseded;
            digests.retain(|digest| Some(digest) != old.digest());
            self.touched.insert(image.clone());
        }
    }
}

/// The images that the tag named before.
fn superseded_by(entry: &Entry) -> impl Iterator<Item = ImageRef> {
    let report = &entry.progress.report;
    let image = &entry.progress.spec.image;
    report
        .superseded
        .iter()
        .map(|digest| image.at_digest(digest))
}
