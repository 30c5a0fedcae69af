//! An agent that acts on its assignment without a runtime.

use std::collections::{BTreeMap, BTreeSet};

use fledged_core::error::Reason;
use fledged_core::model::{
    Assignment, DesiredState, ImagePhase, ImageRef, ImageReport, NodeReport,
};

/// A node's agent: its images and their revisions.
#[derive(Debug, Default, Clone)]
pub(crate) struct Agent {
    pub held: BTreeMap<ImageRef, u64>,
    pub fails: BTreeMap<ImageRef, Reason>,
    pub in_use: BTreeSet<ImageRef>,
    pub reported: Option<NodeReport>,
    /// The step of the world in which each image was last verified.
    pub looked: BTreeMap<ImageRef, u64>,
}

impl Agent {
    /// Executes the assignment and reports it as done.
    pub(crate) fn act(&mut self, assignment: &Assignment, step: u64) -> NodeReport {
        let images = assignment.images.iter().map(|spec| {
            self.looked.insert(spec.image.clone(), step);
            let mut report = ImageReport::new(spec.image.clone(), ImagePhase::Cached);
            if let Some(reason) = self.fails.get(&spec.image) {
                report.phase = ImagePhase::Failed;
                report.reason = Some(*reason);
                report.message = Some(format!("the runtime failed with {reason}"));
            } else if spec.state == DesiredState::Present {
                self.held.insert(spec.image.clone(), spec.revision);
                report.revision = Some(spec.revision);
            } else if self.in_use.contains(&spec.image) {
                report.phase = ImagePhase::InUse;
                report.reason = Some(Reason::InUse);
            } else {
                self.held.remove(&spec.image);
                report.phase = ImagePhase::Removed;
            }
            report
        });
        let report = NodeReport::new(assignment.generation, images);
        self.reported = Some(report.clone());
        report
    }

    /// Whether the agent has reported a final phase for every image.
    pub(crate) fn has_answered(&self, assignment: &Assignment) -> bool {
        let removed = assignment
            .images
            .iter()
            .filter(|i| i.state == DesiredState::Absent)
            .all(|spec| {
                let reported = self.reported.as_ref();
                let mut images = reported.into_iter().flat_map(|r| &r.images);
                let kept = [ImagePhase::Removed, ImagePhase::InUse, ImagePhase::Failed];
                images.any(|r| r.image == spec.image && kept.contains(&r.phase))
            });
        removed && self.is_done(assignment)
    }

    /// Whether the agent has reported all its pulls as finished.
    pub(crate) fn is_done(&self, assignment: &Assignment) -> bool {
        let present = assignment
            .images
            .iter()
            .filter(|i| i.state == DesiredState::Present);
        let mut done = present.map(|spec| {
            let reported = self.reported.as_ref()?;
            let image = reported.images.iter().find(|r| r.image == spec.image)?;
            let cached =
                image.phase == ImagePhase::Cached && image.revision.unwrap_or(0) >= spec.revision;
            Some(cached || image.phase == ImagePhase::Failed)
        });
        done.all(|done| done == Some(true))
    }
}
