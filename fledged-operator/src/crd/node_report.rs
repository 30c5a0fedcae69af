//! From what a warmer reports to the status of a NodeImageCache, and back.

use fledged_core::error::Reason;
use fledged_core::model::{ByteSize, Digest, ImagePhase, ImageRef, ImageReport, NodeReport};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::node_image_cache::{NodeImageCacheStatus, NodeImageStatus};
use super::wire::{parse, whole_seconds};

/// Longest text of one failure, in characters. A runtime repeats the reference up to four times in
/// one; 2,000 images that all fail still make an object of less than 1.5 MiB, etcd's limit.
const MESSAGE_MAX: usize = 400;

impl NodeImageCacheStatus {
    /// The status that says this.
    #[must_use]
    pub fn from_report(report: &NodeReport) -> Self {
        let count = |wanted: fn(ImagePhase) -> bool| {
            let images = report.images.iter().filter(|image| wanted(image.phase));
            Some(u32::try_from(images.count()).unwrap_or(u32::MAX))
        };
        Self {
            observed_generation: i64::try_from(report.observed_generation).ok(),
            desired: count(|phase| {
                let leaving = [ImagePhase::Removing, ImagePhase::Removed, ImagePhase::InUse];
                !leaving.contains(&phase)
            }),
            cached: count(|phase| phase == ImagePhase::Cached),
            failed: count(|phase| phase == ImagePhase::Failed),
            images: report.images.iter().map(NodeImageStatus::from).collect(),
        }
    }
}

impl From<&ImageReport> for NodeImageStatus {
    fn from(report: &ImageReport) -> Self {
        Self {
            image: report.image.as_str().to_owned(),
            phase: report.phase,
            digest: report.digest.as_ref().map(ToString::to_string),
            // None has a size of nothing: whoever pulled it could not tell.
            bytes: report.size.map(|size| size.bytes()).filter(|b| *b > 0),
            attempts: Some(report.attempts).filter(|attempts| *attempts != first(report)),
            started: report.started_at.map(whole_seconds),
            finished: report.finished_at.map(whole_seconds),
            next_attempt: report.next_attempt_at.map(whole_seconds),
            revision: report
                .revision
                .filter(|revision| *revision > 0 || !cached(report)),
            reason: report.reason.map(|reason| reason.to_string()),
            message: report.message.as_deref().map(shortened),
        }
    }
}

impl NodeImageStatus {
    /// The report it holds, unless its reference can't be read.
    pub(super) fn to_report(&self) -> Option<ImageReport> {
        let time = |time: &Option<Time>| time.as_ref().map(|time| time.0);
        let mut report = ImageReport::new(ImageRef::parse(&self.image).ok()?, self.phase);
        report.digest = self.digest.as_deref().and_then(|d| Digest::parse(d).ok());
        report.size = self.bytes.map(ByteSize::new);
        report.started_at = time(&self.started);
        report.attempts = self.attempts.unwrap_or(first(&report));
        report.finished_at = time(&self.finished);
        report.next_attempt_at = time(&self.next_attempt);
        report.revision = self.revision.or(cached(&report).then_some(0));
        // A word of a later version is a failure all the same.
        let reason = |word: &String| parse(word).unwrap_or(Reason::Unknown);
        report.reason = self.reason.as_ref().map(reason);
        report.message.clone_from(&self.message);
        Some(report)
    }
}

/// Attempts that need not be written: one where a round began, else none.
fn first(report: &ImageReport) -> u32 {
    report.started_at.is_some().into()
}

fn cached(report: &ImageReport) -> bool {
    report.phase == ImagePhase::Cached
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MESSAGE_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}
