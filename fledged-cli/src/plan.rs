//! What an apply or a purge would do, from one look at the runtime.

use std::num::NonZeroUsize;

use fledged_core::model::{Assignment, DesiredState, ImagePhase, NodeReport};
use fledged_core::node::{Inventory, NodeCommand, NodeEvent, Warmer, WarmerConfig};
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
        let result = Ok(inventory);
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
    report
}

/// Whether a removal is asked for at all, so that the images in use matter.
#[must_use]
pub fn removes(assignment: &Assignment) -> bool {
    assignment
        .images
        .iter()
        .any(|entry| entry.state == DesiredState::Absent)
}
