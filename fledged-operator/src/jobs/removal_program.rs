//! The program of a removal Job: `fledged-operator job remove`, and its termination message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{
    AssignedImage, Assignment, ImagePhase, ImageRef, ImageReport, ProtectedImages,
};
use fledged_core::port::{
    Clock, FilesystemUsage, ImageRuntime, ImageUse, PullRequest, Removal, RuntimeImage, RuntimeInfo,
};
use fledged_core::runner::NodeLoop;
use fledged_core::warmer::{Warmer, WarmerConfig};
use serde::{Deserialize, Serialize};

/// Maximum length of a termination message that a kubelet passes on, in bytes.
pub const MESSAGE_MAX: usize = 4_096;
/// First limit of texts in characters if the message is too long; it is reduced until the message fits.
const TEXT_MAX: usize = 400;
/// How long a transient failure of the runtime is retried.
const RETRY_FOR: Duration = Duration::from_secs(20);

/// The outcome of each image, by its position in the Job's arguments. An image in none of the lists was
/// not processed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RemovalOutcomes {
    /// Images that were removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<usize>,
    /// Images that were not present.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<usize>,
    /// Images that were kept, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kept: BTreeMap<usize, String>,
    /// Images that could not be removed: a [`Reason`] and the runtime's own text.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<usize, (String, String)>,
}

impl RemovalOutcomes {
    /// Records the outcome of one image.
    pub fn set(&mut self, place: usize, outcome: Result<Removal, Failure>) {
        match outcome {
            Ok(Removal::Removed) => self.removed.push(place),
            Ok(Removal::Absent) => self.absent.push(place),
            Ok(Removal::InUse(by)) => {
                self.kept.insert(place, by);
            }
            // A variant that a later version of the core adds.
            Ok(other) => {
                let text = format!("{other:?}");
                self.failed
                    .insert(place, (Reason::Unknown.to_string(), text));
            }
            Err(failure) => {
                let reason = failure.reason.to_string();
                self.failed.insert(place, (reason, failure.message));
            }
        }
    }

    /// The outcome of one image; `None` if it was not processed.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<Result<Removal, Failure>> {
        if self.removed.contains(&place) {
            return Some(Ok(Removal::Removed));
        }
        if self.absent.contains(&place) {
            return Some(Ok(Removal::Absent));
        }
        if let Some(by) = self.kept.get(&place) {
            return Some(Ok(Removal::InUse(by.clone())));
        }
        let (reason, message) = self.failed.get(&place)?;
        let word = serde_json::Value::from(reason.as_str());
        let reason = serde_json::from_value(word).unwrap_or(Reason::Unknown);
        Some(Err(Failure::new(reason, message.as_str())))
    }

    /// JSON of at most [`MESSAGE_MAX`] bytes; texts are cut until it fits.
    #[must_use]
    pub fn to_message(&self) -> String {
        let mut cut = self.clone();
        let mut most = TEXT_MAX;
        loop {
            let text = serde_json::to_string(&cut).unwrap_or_default();
            if text.len() <= MESSAGE_MAX || most == 0 {
                return text;
            }
            let texts = cut.failed.values_mut().map(|(_, text)| text);
            for text in texts.chain(cut.kept.values_mut()) {
                *text = text.chars().take(most).collect();
            }
            most /= 2;
        }
    }

    /// Reads a termination message.
    ///
    /// # Errors
    ///
    /// A description of the syntax error.
    pub fn parse(message: &str) -> Result<Self, String> {
        serde_json::from_str(message.trim()).map_err(|error| error.to_string())
    }
}

/// Removes images from a runtime by the rules of an agent: an image stays if it is pinned or `protected`, if a
/// container uses it, or if it has another name that is in `keep` or is not to be removed.
///
/// Transient failures are retried for 20 s and then reported.
pub async fn remove_images(
    runtime: Arc<dyn ImageRuntime>,
    clock: Arc<dyn Clock>,
    images: &[ImageRef],
    keep: &[ImageRef],
    protected: ProtectedImages,
) -> RemovalOutcomes {
    let wanted: BTreeSet<&ImageRef> = keep.iter().collect();
    let doomed = images.iter().filter(|image| !wanted.contains(image));
    let doomed = doomed.map(|image| AssignedImage::absent(image.clone()).with_deadline(RETRY_FOR));
    let keep = keep.iter().cloned().map(AssignedImage::present);
    let assignment = Assignment::new(1, keep.chain(doomed));
    let runtime = Arc::new(NeverPulls(runtime));
    let mut config = WarmerConfig::default();
    config.protected = protected;
    let warmer = Warmer::new(config, 0);
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
        ImagePhase::InUse if report.reason == Some(Reason::InUse) => Ok(Removal::InUse(message())),
        ImagePhase::InUse | ImagePhase::Failed => {
            let reason = report.reason.unwrap_or(Reason::Unknown);
            Err(Failure::new(reason, message()))
        }
        _ => Ok(Removal::InUse("a cache wants it".to_owned())),
    }
}

/// A runtime that never pulls: images in `keep` need not be present.
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

    async fn in_use(&self) -> Result<Vec<ImageUse>, Failure> {
        self.0.in_use().await
    }

    async fn pull(&self, _: PullRequest) -> Result<RuntimeImage, Failure> {
        // A class that ends the round at once.
        Err(Failure::new(
            Reason::InvalidReference,
            "this Job does not pull",
        ))
    }

    async fn remove(&self, image: &ImageRef) -> Result<Removal, Failure> {
        self.0.remove(image).await
    }

    async fn discard_unfinished(&self, image: &ImageRef) -> Result<(), Failure> {
        self.0.discard_unfinished(image).await
    }

    async fn filesystems(&self) -> Result<Vec<FilesystemUsage>, Failure> {
        self.0.filesystems().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_read_by_position() {
        let failure = Failure::new(Reason::RuntimeUnavailable, "no such socket");
        let all = [
            Ok(Removal::Removed),
            Ok(Removal::Absent),
            Ok(Removal::InUse("by a container".to_owned())),
            Err(failure),
        ];
        let mut outcomes = RemovalOutcomes::default();
        for (place, outcome) in all.iter().enumerate() {
            outcomes.set(place, outcome.clone());
        }
        let read = RemovalOutcomes::parse(&format!("{}\n", outcomes.to_message())).unwrap();
        for (place, outcome) in all.into_iter().enumerate() {
            assert_eq!(read.get(place), Some(outcome));
        }
        assert_eq!(read.get(4), None);
        assert!(RemovalOutcomes::parse("panicked").is_err());
    }

    #[test]
    fn fifty_failures_fit_into_a_message() {
        let mut outcomes = RemovalOutcomes::default();
        for place in 0..50 {
            let failure = Failure::new(Reason::CredentialsUnavailable, "é\"".repeat(3_000));
            outcomes.set(place, Err(failure));
        }
        let message = outcomes.to_message();
        assert!(message.len() <= MESSAGE_MAX, "{}", message.len());
        let read = RemovalOutcomes::parse(&message).unwrap();
        let failure = read.get(49).unwrap().unwrap_err();
        assert_eq!(failure.reason, Reason::CredentialsUnavailable);
    }
}
