//! Removals: whether an image may be removed, when the removal starts, how it ends.

use std::time::Duration;

use jiff::Timestamp;

use super::Warmer;
use super::entry::Entry;
use super::inventory::Inventory;
use super::node_event::NodeCommand;
use crate::error::{Failure, Reason};
use crate::model::{ImagePhase, ImageRef};
use crate::port::{Removal, RemovalScope, RuntimeImage};
use crate::time::after;

/// How long removals wait for running pulls, and pulls that are due wait for them: most pulls end within that time. A
/// registry that sends nothing keeps a pull running up to its deadline, which may be hours.
const PATIENCE: Duration = Duration::from_secs(60);

impl Warmer {
    /// Decides whether an image that should be absent can be removed.
    pub(super) fn judge_removal(
        &mut self,
        image: &ImageRef,
        found: Option<&RuntimeImage>,
        now: Timestamp,
    ) {
        let Some(inventory) = &self.inventory else {
            return;
        };
        let superseded = self.entries.get(image).is_some_and(|e| e.superseded);
        // A superseded digest is removed only with all names of its image.
        let scope = match superseded {
            true => RemovalScope::Image,
            false => inventory.removal(),
        };
        let protected = &self.config.protected;
        let wanted = |r: &ImageRef| self.entries.get(r).is_some_and(Entry::wants_present);
        let doomed = |r: &ImageRef| {
            let absent = self.entries.get(r).is_some_and(|e| !e.wants_present());
            absent && protected.pattern_of(r).is_none()
        };
        let kept = protected.why_kept(image);
        let obstacle = kept.map(|why| (Reason::Protected, why)).or_else(|| {
            let mut all = inventory.find_all(image);
            all.find_map(|found| obstacle(inventory, scope, image, found, wanted, doomed))
        });
        let Some(entry) = self.entries.get_mut(image) else {
            return;
        };
        entry.known = true;
        entry.present = found.is_some();
        if entry.progress.report.phase == ImagePhase::Removed {
            return;
        }
        // A removal that the runtime refused is retried once no container uses the image, and never if the
        // runtime refuses it for good.
        let kept = entry.progress.report.phase == ImagePhase::InUse;
        let refused = kept && entry.progress.report.reason == Some(Reason::InUse);
        let refused_for_good = kept && entry.refused;
        match (found, obstacle) {
            (None, _) if superseded => self.superseded_removed(image),
            (None, _) => match entry.may_appear(now) {
                Some(until) => self.read_by(until),
                None => entry.removed(now),
            },
            (Some(found), Some((reason, message))) => {
                entry.describe(found);
                entry.progress.kept(reason, message);
            }
            (Some(found), None) if refused_for_good || (refused && inventory.is_in_use(found)) => {
                entry.describe(found);
            }
            (Some(found), None) => {
                entry.describe(found);
                if entry.progress.due.is_none() {
                    entry.progress.due = Some(now);
                    entry.progress.report.phase = ImagePhase::Removing;
                    entry.progress.clear_reason();
                }
            }
        }
    }

    /// Starts the next removal.
    ///
    /// Removals run one at a time: they are quick, and each changes what the next may remove. A runtime
    /// that removes other names as well could remove one that a pull has just added. There, removals
    /// wait for running pulls, though not for long, and for an inventory read after them.
    pub(super) fn start_removals(&mut self, now: Timestamp, acts: &mut Vec<NodeCommand>) {
        if self.removal.is_some() || !self.removal_due(now) {
            return;
        }
        let idle = self.is_idle(now);
        if self.removes_more_than_names() {
            if !self.pulls.is_empty() && !self.removals_overdue(now) {
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
        while let Some(image) = self.entries.next_removal(idle, now) {
            // The assignment may have changed since the image was last judged.
            let found = self
                .inventory
                .as_ref()
                .and_then(|i| i.find(&image))
                .cloned();
            self.judge_removal(&image, found.as_ref(), now);
            self.touched.insert(image.clone());
            let Some(entry) = self.entries.get_mut(&image) else {
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

    /// The inventory that removals need cannot be read for now: the images wait for it like new ones,
    /// and pulls do not wait for the removals.
    fn postpone_removals(&mut self, now: Timestamp) {
        for entry in self.entries.values_mut().filter(|e| e.removable(now)) {
            entry.reconsider(now);
            self.touched.insert(entry.progress.spec.image.clone());
        }
    }

    /// Whether a removal may remove other names of the image as well.
    pub(super) fn removes_more_than_names(&self) -> bool {
        self.inventory
            .as_ref()
            .is_some_and(|i| i.removal() != RemovalScope::Reference)
    }

    /// Whether a removal is running or could be started now.
    pub(super) fn removal_due(&self, now: Timestamp) -> bool {
        let next = self.entries.next_removal_due(self.is_idle(now));
        self.removal.is_some() || next.is_some_and(|due| due <= now)
    }

    /// Whether no pull is running or due. Removals that a refresh causes wait for that, because other pulls wait
    /// for a removal, and the removal for the running pulls, which may take an hour.
    fn is_idle(&self, now: Timestamp) -> bool {
        let next = self.entries.next_pull_due();
        self.pulls.is_empty() && next.is_none_or(|due| due > now)
    }

    /// When the first removal has waited long enough for running pulls.
    pub(super) fn removals_overdue_at(&self) -> Option<Timestamp> {
        let due = self.entries.next_removal_due(self.pulls.is_empty());
        due.map(|due| after(due, PATIENCE))
    }

    /// Whether a removal has waited long enough for running pulls.
    pub(super) fn removals_overdue(&self, now: Timestamp) -> bool {
        self.removals_overdue_at().is_some_and(|at| at <= now)
    }

    pub(super) fn removal_ended(
        &mut self,
        image: &ImageRef,
        result: Result<Removal, Failure>,
        now: Timestamp,
    ) {
        if self.removal.as_ref() == Some(image)
            && !(result.is_err() && crate::planted::is("failed-removal-blocks"))
        {
            self.removal = None;
        }
        if matches!(result, Ok(Removal::Removed)) {
            self.reconsider_namesakes(image, now);
            // The next removal may depend on whether a tag is the last one.
            if let Some(inventory) = &mut self.inventory {
                inventory.remove(image);
            }
        }
        let Some(entry) = self.entries.get_mut(image) else {
            return;
        };
        entry.stale = self.last_inventory;
        if !std::mem::take(&mut entry.removing) {
            // The assignment has changed meanwhile, and the removal may have undone a pull.
            entry.present = false;
            entry.reconsider(now);
            self.touched.insert(image.clone());
            self.read_soon(now);
            return;
        }
        self.touched.insert(image.clone());
        match result {
            Ok(Removal::Removed | Removal::Absent) => {
                if let Some(until) = entry.may_appear(now) {
                    // The removed image may be an earlier one.
                    entry.reconsider(now);
                    self.read_by(until);
                } else {
                    entry.removed(now);
                    if entry.superseded {
                        self.superseded_removed(image);
                    }
                }
                if self.holds.release_disk() {
                    self.retry_blocked(now);
                }
            }
            Ok(Removal::InUse(by)) => {
                entry.progress.report.phase = ImagePhase::InUse;
                entry.progress.explain(Reason::InUse, by);
                entry.progress.round = None;
            }
            Err(failure) if failure.reason.keeps_image() => {
                entry.refused = true;
                entry.progress.kept(failure.reason, failure.message);
            }
            Err(failure) => entry.failed(&failure, now, &self.config.backoff, &mut self.rng),
        }
    }

    /// Checks names that may have been removed along with the image: one of them may have been assigned
    /// during the removal and found present.
    fn reconsider_namesakes(&mut self, image: &ImageRef, now: Timestamp) {
        let Some(inventory) = &self.inventory else {
            return;
        };
        let Some(found) = inventory.find(image) else {
            return;
        };
        let mut unknown = false;
        for name in inventory.removal().takes_along(image, found) {
            if let Some(entry) = self.entries.get_mut(name)
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

    /// Space was freed: retries images that failed because the disk was full.
    pub(super) fn retry_blocked(&mut self, now: Timestamp) {
        for entry in self.entries.values_mut() {
            if entry.progress.report.phase == ImagePhase::Failed
                && entry.progress.report.reason == Some(Reason::DiskFull)
            {
                entry.progress.report.phase = ImagePhase::Pending;
                entry.progress.clear_reason();
                entry.progress.due = Some(now);
                self.touched.insert(entry.progress.spec.image.clone());
            }
        }
    }
}

/// Why `target` may not be removed from `image` now, if so: the image is in use or pinned, or the
/// runtime would remove another name with it that is to be present or is not assigned at all.
///
/// `scope` is what the removal takes. `is_doomed` returns whether a reference is to be absent.
pub(super) fn obstacle(
    inventory: &Inventory,
    scope: RemovalScope,
    target: &ImageRef,
    image: &RuntimeImage,
    is_desired: impl Fn(&ImageRef) -> bool,
    is_doomed: impl Fn(&ImageRef) -> bool,
) -> Option<(Reason, String)> {
    if image.pinned {
        return Some((Reason::Pinned, "the runtime has it pinned".to_owned()));
    }
    let shared = |how: &str, name: &ImageRef| {
        let message =
            format!("the same image is {how} {name}, which the runtime would remove with it");
        Some((Reason::SharedImage, message))
    };
    if let Some(wanted) = scope
        .takes_along(target, image)
        .find(|name| is_desired(name))
    {
        return shared("wanted as", wanted);
    }
    // A digest reference was added with its tag, so it goes with the tag.
    let came_along = |name: &ImageRef| {
        let doomed = |other: &&ImageRef| is_doomed(other) && other.name() == name.name();
        name.digest().is_some() && image.references.iter().any(|other| doomed(&other))
    };
    let mut taken = scope.takes_along(target, image);
    if let Some(stranger) = taken.find(|name| {
        !is_doomed(name) && !came_along(name) && !crate::planted::is("other-names-removed")
    }) {
        return shared("also named", stranger);
    }
    // Where a removal takes one name only, the runtime knows whether it is the last.
    let users = inventory.users_of(image);
    let users =
        users.filter(|_| scope == RemovalScope::Image && !crate::planted::is("use-ignored"));
    users.map(|users| (Reason::InUse, users.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ByteSize;
    use crate::port::ImageId;

    fn mk_image(names: &[&str]) -> RuntimeImage {
        RuntimeImage {
            id: ImageId("id".to_owned()),
            references: names.iter().map(|n| ImageRef::parse(n).unwrap()).collect(),
            digest: None,
            size: ByteSize::ZERO,
            pinned: false,
            via: None,
        }
    }

    /// Returns the reason to keep the image if `app:1` is absent and `wanted` present.
    fn found(
        image: &RuntimeImage,
        used: bool,
        scope: RemovalScope,
        wanted: &[&str],
    ) -> Option<Reason> {
        let used = used.then(|| image.id.clone().into());
        let target = ImageRef::parse("app:1").unwrap();
        let inventory = Inventory::new(vec![image.clone()], used, scope);
        let is = |names: &[&str], r: &ImageRef| names.iter().any(|n| r.original() == *n);
        let obstacle = obstacle(
            &inventory,
            scope,
            &target,
            image,
            |r| is(wanted, r),
            |r| is(&["app:1"], r),
        );
        obstacle.map(|(reason, _)| reason)
    }

    #[test]
    fn an_unused_image_with_one_name_is_removable() {
        for scope in [RemovalScope::Image, RemovalScope::Reference] {
            assert_eq!(found(&mk_image(&["app:1"]), false, scope, &[]), None);
        }
    }

    #[test]
    fn other_names_keep_images_only_from_whole_removals() {
        use RemovalScope::{Image, Reference};
        let two = mk_image(&["app:1", "app:2"]);
        assert_eq!(found(&two, false, Image, &[]), Some(Reason::SharedImage));
        assert_eq!(
            found(&two, false, Image, &["app:2"]),
            Some(Reason::SharedImage)
        );
        assert_eq!(found(&two, false, Reference, &["app:2"]), None);
        let one = mk_image(&["app:1"]);
        assert_eq!(found(&one, true, Image, &[]), Some(Reason::InUse));
        assert_eq!(found(&one, true, Reference, &[]), None);
    }

    #[test]
    fn a_pin_keeps_the_image_for_every_scope() {
        for scope in [RemovalScope::Image, RemovalScope::Reference] {
            let pinned = RuntimeImage {
                pinned: true,
                ..mk_image(&["app:1"])
            };
            assert_eq!(found(&pinned, true, scope, &[]), Some(Reason::Pinned));
        }
    }

    #[test]
    fn the_last_tag_is_removed_with_its_digests() {
        let scope = RemovalScope::ReferenceAndDigests;
        let digest = format!("app@sha256:{}", "0".repeat(64));
        let foreign = format!("mirror.example/{digest}");
        let wanted = [digest.as_str(), foreign.as_str()];
        let last = mk_image(&["app:1", &digest, &foreign]);
        assert_eq!(found(&last, true, scope, &[]), None);
        assert_eq!(
            found(&last, false, scope, &wanted),
            Some(Reason::SharedImage)
        );
        assert_eq!(found(&last, false, scope, &wanted[1..]), None);
        let not_the_last = mk_image(&["app:1", "app:2", &digest]);
        assert_eq!(found(&not_the_last, false, scope, &wanted), None);
    }

    #[test]
    fn a_digest_counts_only_for_its_repository() {
        let hex = "0".repeat(64);
        let own = format!("app@sha256:{hex}");
        let other = format!("mirror.example/app@sha256:{hex}");
        let image = mk_image(&["app:1", &own]);
        assert_eq!(found(&image, false, RemovalScope::Image, &[]), None);
        // The digest is desired.
        let wanted = [own.as_str()];
        let kept = found(&image, false, RemovalScope::Image, &wanted);
        assert_eq!(kept, Some(Reason::SharedImage));
        let image = mk_image(&["app:1", &other]);
        let kept = found(&image, false, RemovalScope::Image, &[]);
        assert_eq!(kept, Some(Reason::SharedImage));
    }
}
