//! Progress that also tells which images are gone.

use fledged_core::error::Failure;
use fledged_core::model::{ImagePhase, ImageRef, ImageReport};
use fledged_core::port::PullProgress;
use fledged_core::runner::NodeObserver;
use tokio::sync::mpsc::UnboundedSender;

use super::LiveProgress;

/// Shows progress, and sends every image that is reported removed.
#[derive(Debug)]
pub struct RemovalWatch {
    progress: LiveProgress,
    removed: UnboundedSender<ImageRef>,
}

impl RemovalWatch {
    /// Shows with `progress`, sends to `removed`.
    #[must_use]
    pub fn new(progress: LiveProgress, removed: UnboundedSender<ImageRef>) -> Self {
        Self { progress, removed }
    }
}

impl NodeObserver for RemovalWatch {
    fn image_changed(&self, report: &ImageReport) {
        self.progress.image_changed(report);
        if report.phase == ImagePhase::Removed {
            // Nobody listens any more only when the process is about to end.
            let _ = self.removed.send(report.image.clone());
        }
    }

    fn progress(&self, image: &ImageRef, progress: PullProgress) {
        self.progress.progress(image, progress);
    }

    fn runtime_failed(&self, operation: &str, failure: &Failure) {
        self.progress.runtime_failed(operation, failure);
    }
}
