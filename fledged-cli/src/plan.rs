//! What an apply or a purge would do, from one look at the runtime.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use fledged_core::error::Reason;
use fledged_core::model::{Assignment, DesiredState, ImagePhase, ImageRef, NodeReport};
use fledged_core::port::{ImageId, RuntimeImage};
use fledged_core::warmer::{Inventory, NodeCommand, NodeEvent, Warmer, WarmerConfig};
use jiff::Timestamp;

/// Asks the machine that would act what it would do, and does nothing of it.
///
/// `Pending` is what would be pulled, `Removing` what would be removed; the other phases are as
/// after a real run.
#[must_use]
pub fn plan(assignment: Assignment, inventory: Inventory, now: Timestamp) -> NodeReport {
    let mut config = WarmerConfig::default();
    // Every pull shows up at once; none is begun.
    config.max_parallel_pulls = NonZeroUsize::MAX;
    let mut warmer = Warmer::new(config, 0);
    warmer.apply(NodeEvent::Assigned(assignment), now);
    let reading = warmer
        .poll(now)
        .into_iter()
        .find_map(|command| match command {
            NodeCommand::ReadInventory { id, .. } => Some(id),
            _ => None,
        });
    if let Some(id) = reading {
        let result = Ok(inventory.clone());
        warmer.apply(NodeEvent::InventoryRead { id, result }, now);
        warmer.poll(now);
    }
    let mut report = warmer.report();
    for image in &mut report.images {
        if matches!(image.phase, ImagePhase::Pulling | ImagePhase::BackingOff) {
            image.phase = ImagePhase::Pending;
        }
        image.attempts = 0;
        image.started_at = None;
        image.finished_at = None;
    }
    keep_used(&mut report, &inventory);
    report
}

/// Removals that the runtime would refuse.
///
/// Where a removal takes one name only, the machine leaves it to the runtime to refuse: it does so
/// for the last name of an image that a container uses.
fn keep_used(report: &mut NodeReport, inventory: &Inventory) {
    let scope = inventory.removal();
    // What is left of the images in use, removal by removal.
    let mut left: BTreeMap<&ImageId, RuntimeImage> = BTreeMap::new();
    for entry in &mut report.images {
        let used = inventory
            .find(&entry.image)
            .filter(|image| inventory.is_in_use(image));
        let (ImagePhase::Removing, Some(image)) = (entry.phase, used) else {
            continue;
        };
        let left = left.entry(&image.id).or_insert_with(|| image.clone());
        let taken: Vec<_> = scope.takes_along(&entry.image, left).cloned().collect();
        let goes = |name: &ImageRef| *name == entry.image || taken.contains(name);
        if left.references.iter().all(goes) {
            entry.phase = ImagePhase::InUse;
            entry.reason = Some(Reason::InUse);
            entry.message = Some("a container uses it".to_owned());
        } else {
            left.references
                .retain(|name| *name != entry.image && !taken.contains(name));
        }
    }
}

/// Whether a removal is asked for at all, so that the images in use matter.
#[must_use]
pub fn removes(assignment: &Assignment) -> bool {
    assignment
        .images
        .iter()
        .any(|entry| entry.state == DesiredState::Absent)
}

#[cfg(test)]
mod tests {
    use fledged_core::model::{AssignmentDefaults, NodeFacts, NodeName};
    use fledged_core::port::RemovalScope;

    use super::*;
    use crate::manifest::parse;

    /// What becomes of `purged` where one image in use has those names.
    fn phases(names: &[&str], purged: &[&str], used: bool, scope: RemovalScope) -> Vec<ImagePhase> {
        let text = format!(
            "apiVersion: kubefledged.io/v1alpha2\nkind: ImageCache\nmetadata: {{name: a}}\nspec: {{cacheSpec: [{{images: {purged:?}}}]}}\n"
        );
        let caches = parse(&[("test".to_owned(), text)]).unwrap().caches;
        let node = NodeFacts::new(NodeName::new("n").unwrap());
        let assignment =
            Assignment::for_node(&node, &caches, AssignmentDefaults::default()).into_absent();
        let image = RuntimeImage::new("1", names.iter().map(|n| ImageRef::parse(n).unwrap()));
        let users = used.then(|| image.id.clone());
        let inventory = Inventory::new(vec![image], users, scope);
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let report = plan(assignment, inventory, now);
        report.images.iter().map(|image| image.phase).collect()
    }

    #[test]
    fn the_last_name_of_an_image_in_use_stays() {
        use ImagePhase::{InUse, Removed, Removing};
        let digest = format!("a@sha256:{}", "0".repeat(64));
        for scope in [RemovalScope::Reference, RemovalScope::ReferenceAndDigests] {
            let plan = |names: &[&str], purged: &[&str]| phases(names, purged, true, scope);
            assert_eq!(plan(&["a:1"], &["a:1"]), [InUse]);
            assert_eq!(plan(&["a:1", "b:1"], &["a:1"]), [Removing]);
            assert_eq!(plan(&["a:1", "b:1"], &["a:1", "b:1"]), [Removing, InUse]);
            assert_eq!(plan(&["a:1"], &["c:1", "a:1"]), [Removed, InUse]);
            assert_eq!(phases(&["a:1"], &["a:1"], false, scope), [Removing]);
        }
        let docker = RemovalScope::ReferenceAndDigests;
        let names = ["a:1", digest.as_str()];
        assert_eq!(phases(&names, &["a:1"], true, docker), [InUse]);
        assert_eq!(phases(&names, &["a:1"], false, docker), [Removing]);
    }
}
