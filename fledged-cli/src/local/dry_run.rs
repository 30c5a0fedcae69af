//! What an apply or a purge would do, from one reading of the runtime.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use fledged_core::error::Reason;
use fledged_core::model::{Assignment, DesiredState, ImagePhase, ImageRef, NodeReport};
use fledged_core::port::{ImageId, RuntimeImage};
use fledged_core::warmer::{Inventory, NodeCommand, NodeEvent, Warmer, WarmerConfig};
use jiff::Timestamp;

/// Asks a warmer what it would do with the assignment, and carries out none of its commands.
///
/// `Pending` marks an image that would be pulled, `Removing` one that would be removed. The other phases
/// are those of a real run.
pub(super) fn preview(
    assignment: Assignment,
    inventory: Inventory,
    mut config: WarmerConfig,
    now: Timestamp,
) -> NodeReport {
    // Every pull becomes visible in one poll; none is started.
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
    mark_in_use(&mut report, &inventory);
    report
}

/// Marks the removals that the runtime would refuse.
///
/// Where a removal affects only one name, the warmer attempts it and the runtime refuses to remove the last
/// name of an image that a container uses.
fn mark_in_use(report: &mut NodeReport, inventory: &Inventory) {
    let scope = inventory.removal();
    // The names that remain of each image in use after the removals so far.
    let mut remaining: BTreeMap<&ImageId, RuntimeImage> = BTreeMap::new();
    for entry in &mut report.images {
        let used = inventory
            .find(&entry.image)
            .filter(|image| inventory.is_in_use(image));
        let (ImagePhase::Removing, Some(used_image)) = (entry.phase, used) else {
            continue;
        };
        let image = remaining
            .entry(&used_image.id)
            .or_insert_with(|| used_image.clone());
        let also_removed: Vec<_> = scope.takes_along(&entry.image, image).cloned().collect();
        let is_removed = |name: &ImageRef| *name == entry.image || also_removed.contains(name);
        if image.references.iter().all(is_removed) {
            entry.phase = ImagePhase::InUse;
            entry.reason = Some(Reason::InUse);
            entry.message = inventory.users_of(used_image).map(str::to_owned);
        } else {
            image.references.retain(|name| !is_removed(name));
        }
    }
}

/// Whether the assignment removes anything, so that the images in use have to be read.
pub(super) fn has_removals(assignment: &Assignment) -> bool {
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

    /// The phases of `purged` on a runtime that holds one image with these names.
    fn phases(names: &[&str], purged: &[&str], used: bool, scope: RemovalScope) -> Vec<ImagePhase> {
        let text = format!(
            "apiVersion: kubefledged.io/v1alpha2\nkind: ImageCache\nmetadata: {{name: a}}\nspec: {{cacheSpec: [{{images: {purged:?}}}]}}\n"
        );
        let caches = parse(&[("test".to_owned(), text)]).unwrap().caches;
        let node = NodeFacts::new(NodeName::new("n").unwrap());
        let assignment =
            Assignment::for_node(&node, &caches, AssignmentDefaults::default()).into_absent();
        let image = RuntimeImage::new("1", names.iter().map(|n| ImageRef::parse(n).unwrap()));
        let users = used.then(|| image.id.clone().into());
        let inventory = Inventory::new(vec![image], users, scope);
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let report = preview(assignment, inventory, WarmerConfig::default(), now);
        report.images.iter().map(|image| image.phase).collect()
    }

    #[test]
    fn the_last_name_of_an_image_in_use_is_kept() {
        use ImagePhase::{InUse, Removed, Removing};
        let digest = format!("a@sha256:{}", "0".repeat(64));
        for scope in [RemovalScope::Reference, RemovalScope::ReferenceAndDigests] {
            let used = |names: &[&str], purged: &[&str]| phases(names, purged, true, scope);
            assert_eq!(used(&["a:1"], &["a:1"]), [InUse]);
            assert_eq!(used(&["a:1", "b:1"], &["a:1"]), [Removing]);
            assert_eq!(used(&["a:1", "b:1"], &["a:1", "b:1"]), [Removing, InUse]);
            assert_eq!(used(&["a:1"], &["c:1", "a:1"]), [Removed, InUse]);
            assert_eq!(phases(&["a:1"], &["a:1"], false, scope), [Removing]);
        }
        let docker = RemovalScope::ReferenceAndDigests;
        let names = ["a:1", digest.as_str()];
        assert_eq!(phases(&names, &["a:1"], true, docker), [InUse]);
        assert_eq!(phases(&names, &["a:1"], false, docker), [Removing]);
    }
}
