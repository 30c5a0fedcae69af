//! The result of `node apply` or `node purge`, as JSON and as a table.

use std::time::Duration;

use fledged_core::error::Reason;
use fledged_core::model::{ByteSize, Digest, ImagePhase, NodeReport};
use serde::Serialize;

use super::registry_hint::{Client, registry_hint};
use crate::output::{Align, Table, printable, rounded_seconds, short_digest, took};

/// The hint for an image that is not complete within its deadline.
const SLOW: &str =
    "raise the deadline, --deadline or that of the ImageCache; check how fast the registry sends";

/// The result, as `-o json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct RoundOutcome {
    /// The images, in the order of the manifests.
    pub(super) images: Vec<ImageOutcome>,
    /// Counts of the images.
    pub(super) summary: RoundSummary,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImageOutcome {
    /// The reference as written in the manifest.
    pub(super) reference: String,
    /// The phase.
    #[serde(skip)]
    pub(super) phase: ImagePhase,
    /// The phase in one word; in a dry run, `Absent` for an image to be removed that is not present.
    #[serde(rename = "phase")]
    shown: String,
    /// Digest of the image in the runtime.
    digest: Option<Digest>,
    /// Size of the image in the runtime, in bytes.
    size_bytes: Option<ByteSize>,
    /// Number of pulls or removals that were started; zero if nothing had to be done.
    attempts: u32,
    /// Time from the start of the first attempt to the end; null without an attempt.
    seconds: Option<f64>,
    /// The reason, in one word.
    pub(super) reason: Option<String>,
    /// The message of the runtime.
    message: Option<String>,
    /// What to change so that the image can be pulled.
    #[serde(skip)]
    hint: Option<String>,
}

/// Counts of the images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct RoundSummary {
    /// Images that the manifests select for this node.
    desired: usize,
    /// Images that are present.
    cached: usize,
    /// Images that failed.
    pub(super) failed: usize,
    /// Duration of the round, in seconds.
    pub(super) seconds: f64,
}

impl RoundOutcome {
    /// The result of a report, `elapsed` after the start.
    pub(super) fn new(report: &NodeReport, elapsed: Duration) -> Self {
        let images: Vec<ImageOutcome> = report
            .images
            .iter()
            .map(|image| ImageOutcome {
                reference: image.image.original().to_owned(),
                phase: image.phase,
                shown: image.phase.to_string(),
                digest: image.digest.clone(),
                size_bytes: image.size,
                attempts: image.attempts,
                seconds: took(image).map(rounded_seconds),
                reason: image.reason.map(|reason| reason.to_string()),
                message: image.message.clone(),
                hint: None,
            })
            .collect();
        let count = |phase| images.iter().filter(|i| i.phase == phase).count();
        let summary = RoundSummary {
            desired: images.len(),
            cached: count(ImagePhase::Cached),
            failed: count(ImagePhase::Failed),
            seconds: rounded_seconds(elapsed),
        };
        Self { images, summary }
    }

    /// With hints for failures that are about a deadline or the configuration of a registry.
    pub(super) fn with_hints(mut self, report: &NodeReport, client: Client) -> Self {
        for (outcome, image) in self.images.iter_mut().zip(&report.images) {
            if let (ImagePhase::Failed, Some(reason), Some(message)) =
                (image.phase, image.reason, &image.message)
            {
                outcome.hint = match reason {
                    Reason::DeadlineExceeded => Some(SLOW.to_owned()),
                    reason => registry_hint(&image.image, reason, message, client),
                };
            }
        }
        self
    }

    /// What a round would do, from the report of a dry run. Nothing was removed, so no image is shown as removed.
    pub(super) fn of_dry_run(report: &NodeReport, elapsed: Duration) -> Self {
        let mut outcome = Self::new(report, elapsed);
        for image in &mut outcome.images {
            if image.phase == ImagePhase::Removed {
                "Absent".clone_into(&mut image.shown);
            }
        }
        outcome
    }

    /// The table, followed by the messages.
    pub(super) fn table(&self) -> String {
        let mut table = Table::new(&[
            ("IMAGE", Align::Left),
            ("PHASE", Align::Left),
            ("DIGEST", Align::Left),
            ("SIZE", Align::Right),
            ("ATTEMPTS", Align::Right),
            ("TIME", Align::Right),
            ("REASON", Align::Left),
        ]);
        for image in &self.images {
            table.row([
                image.reference.clone(),
                image.shown.clone(),
                image.digest.as_ref().map(short_digest).unwrap_or_default(),
                image.size_bytes.map(|s| s.to_string()).unwrap_or_default(),
                image.attempts.to_string(),
                image
                    .seconds
                    .map(|seconds| format!("{seconds:.1} s"))
                    .unwrap_or_default(),
                image.reason.clone().unwrap_or_default(),
            ]);
        }
        let mut text = table.render();
        for image in &self.images {
            if let Some(message) = &image.message {
                text.push_str(&format!("{}: {}\n", image.reference, printable(message)));
            }
            if let Some(hint) = &image.hint {
                text.push_str(&format!("  hint: {hint}\n"));
            }
        }
        text
    }

    /// Number of images to be removed that were not present.
    pub(super) fn absent(&self) -> usize {
        self.images
            .iter()
            .filter(|i| i.phase == ImagePhase::Removed && i.attempts == 0)
            .count()
    }

    /// Number of images in that phase.
    pub(super) fn count(&self, phase: ImagePhase) -> usize {
        self.images.iter().filter(|i| i.phase == phase).count()
    }
}

#[cfg(test)]
mod tests {
    use fledged_core::error::Reason;
    use fledged_core::model::{ImageRef, ImageReport};
    use serde_json::json;

    use super::*;

    fn report() -> NodeReport {
        let image = |text: &str| ImageRef::parse(text).unwrap();
        let mut cached = ImageReport::new(image("app:v1"), ImagePhase::Cached);
        cached.digest = Some(Digest::parse(&format!("sha256:{}", "ab".repeat(32))).unwrap());
        cached.size = Some(ByteSize::new(12_902_728));
        cached.attempts = 2;
        cached.started_at = Some("2026-01-01T00:00:00Z".parse().unwrap());
        cached.finished_at = Some("2026-01-01T00:00:01.2345Z".parse().unwrap());
        let mut failed = ImageReport::new(image("nope"), ImagePhase::Failed);
        failed.attempts = 1;
        failed.reason = Some(Reason::ImageNotFound);
        failed.message = Some("manifest unknown".to_owned());
        NodeReport::new(
            0,
            [
                cached,
                failed,
                ImageReport::new(image("x"), ImagePhase::InUse),
            ],
        )
    }

    #[test]
    fn json_has_the_documented_fields() {
        let outcome = RoundOutcome::new(&report(), Duration::from_millis(2_500));
        assert_eq!(
            serde_json::to_value(&outcome).unwrap(),
            json!({
                "images": [
                    {"reference": "app:v1", "phase": "Cached",
                     "digest": format!("sha256:{}", "ab".repeat(32)), "sizeBytes": 12_902_728,
                     "attempts": 2, "seconds": 1.235, "reason": null, "message": null},
                    {"reference": "nope", "phase": "Failed", "digest": null, "sizeBytes": null,
                     "attempts": 1, "seconds": null, "reason": "ImageNotFound",
                     "message": "manifest unknown"},
                    {"reference": "x", "phase": "InUse", "digest": null, "sizeBytes": null,
                     "attempts": 0, "seconds": null, "reason": null, "message": null},
                ],
                "summary": {"desired": 3, "cached": 1, "failed": 1, "seconds": 2.5},
            })
        );
    }

    #[test]
    fn the_table_lists_images_and_messages() {
        let outcome = RoundOutcome::new(&report(), Duration::from_millis(2_500));
        assert_eq!(
            outcome.table(),
            "\
IMAGE    PHASE    DIGEST                    SIZE   ATTEMPTS    TIME   REASON
app:v1   Cached   sha256:abababababab   12.3 MiB          2   1.2 s
nope     Failed                                           1           ImageNotFound
x        InUse                                            0
nope: manifest unknown
"
        );
    }
}
