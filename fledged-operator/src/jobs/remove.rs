//! What a Job that removes images does on its node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{AssignedImage, Assignment, ImagePhase, ImageRef, ImageReport};
use fledged_core::port::{
    Clock, FilesystemUsage, ImageId, ImageRuntime, PullRequest, Removal, RuntimeImage, RuntimeInfo,
};
use fledged_core::runner::NodeLoop;
use fledged_core::warmer::{Warmer, WarmerConfig};

use super::outcome::RemovalOutcomes;

/// How long a runtime that does not answer, or fails in passing, is given. The caller of the Job waits
/// for two minutes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Removes images from a runtime by the same rules as an agent does: none that is pinned, that a
/// container uses, or that has another name which nobody asked to remove, or which is in `keep`.
///
/// What fails in passing is tried again for 20 s, and then told; whoever asked may ask again.
pub async fn remove_images(
    runtime: Arc<dyn ImageRuntime>,
    clock: Arc<dyn Clock>,
    images: &[ImageRef],
    keep: &[ImageRef],
) -> RemovalOutcomes {
    let wanted: BTreeSet<&ImageRef> = keep.iter().collect();
    let doomed = images.iter().filter(|image| !wanted.contains(image));
    let doomed = doomed.map(|image| AssignedImage::absent(image.clone()).with_deadline(PATIENCE));
    let keep = keep.iter().cloned().map(AssignedImage::present);
    let assignment = Assignment::new(1, keep.chain(doomed));
    let runtime = Arc::new(NeverPulls(runtime));
    let warmer = Warmer::new(WarmerConfig::default(), 0);
    let mut node = NodeLoop::new(warmer, runtime, clock);
    let report = node.settle(assignment).await;
    let mut outcomes = RemovalOutcomes::default();
    for (place, image) in images.iter().enumerate() {
        let mut reports = report.images.iter();
        if let Some(report) = reports.find(|report| report.image == *image) {
            outcomes.set(place, outcome(report));
        }
    }
    outcomes
}

fn outcome(report: &ImageReport) -> Result<Removal, Failure> {
    let message = || report.message.clone().unwrap_or_default();
    match report.phase {
        ImagePhase::Removed if report.attempts > 0 => Ok(Removal::Removed),
        ImagePhase::Removed => Ok(Removal::Absent),
        ImagePhase::InUse => Ok(Removal::InUse(message())),
        ImagePhase::Failed => {
            let reason = report.reason.unwrap_or(Reason::Unknown);
            Err(Failure::new(reason, message()))
        }
        _ => Ok(Removal::InUse("it is wanted".to_owned())),
    }
}

/// A runtime that pulls nothing: what is to be kept need not be there.
struct NeverPulls(Arc<dyn ImageRuntime>);

#[async_trait]
impl ImageRuntime for NeverPulls {
    async fn info(&self) -> Result<RuntimeInfo, Failure> {
        self.0.info().await
    }

    async fn list(&self) -> Result<Vec<RuntimeImage>, Failure> {
        self.0.list().await
    }

    async fn lookup(&self, image: &ImageRef) -> Result<Option<RuntimeImage>, Failure> {
        self.0.lookup(image).await
    }

    async fn in_use(&self) -> Result<Vec<ImageId>, Failure> {
        self.0.in_use().await
    }

    async fn pull(&self, _: PullRequest) -> Result<RuntimeImage, Failure> {
        // Of a class that ends a round at once.
        Err(Failure::new(
            Reason::InvalidReference,
            "nothing is pulled here",
        ))
    }

    async fn remove(&self, image: &ImageRef) -> Result<Removal, Failure> {
        self.0.remove(image).await
    }

    async fn filesystems(&self) -> Result<Vec<FilesystemUsage>, Failure> {
        self.0.filesystems().await
    }
}
