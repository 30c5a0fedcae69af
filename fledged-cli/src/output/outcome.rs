//! The result of an apply or a purge: JSON and table of the same values.

use std::time::Duration;

use fledged_core::model::{ByteSize, Digest, ImagePhase, ImageReport, NodeReport};
use serde::Serialize;

use super::{Align, Table};
use crate::printable::printable;

/// The result of one command, as `-o json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// The images, in the order of the manifests.
    pub images: Vec<ImageOutcome>,
    /// Counts over all of them.
    pub summary: Summary,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageOutcome {
    /// The reference as the user wrote it.
    pub reference: String,
    /// Where it stands.
    pub phase: ImagePhase,
    /// Digest of what is there.
    pub digest: Option<Digest>,
    /// Size of what is there, in bytes, as the runtime counts it.
    pub size_bytes: Option<ByteSize>,
    /// Pulls that were begun; zero for what was there already.
    pub attempts: u32,
    /// From the first attempt's start to the end, in seconds; null where nothing was attempted.
    pub seconds: Option<f64>,
    /// Why, in one word.
    pub reason: Option<String>,
    /// The runtime's own text.
    pub message: Option<String>,
}

/// Counts over all images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Images that the manifests name for this node.
    pub desired: usize,
    /// Images that are there.
    pub cached: usize,
    /// Images that failed.
    pub failed: usize,
    /// What the whole took, in seconds.
    pub seconds: f64,
}

/// Seconds with three decimals: more is noise.
#[must_use]
pub fn rounded_seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

/// `1 image`, `2 images`.
#[must_use]
pub fn pluralised(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

/// How long an image took, from its report.
pub(super) fn took(report: &ImageReport) -> Option<Duration> {
    let (start, end) = (report.started_at?, report.finished_at?);
    if report.attempts == 0 {
        return None;
    }
    Duration::try_from(end.duration_since(start)).ok()
}

/// The start of a digest, long enough to tell images apart.
pub(crate) fn short_digest(digest: &Digest) -> String {
    let hex: String = digest.hex().chars().take(12).collect();
    format!("{}:{hex}", digest.algorithm())
}

impl Outcome {
    /// What a report says, after that long.
    #[must_use]
    pub fn new(report: &NodeReport, elapsed: Duration) -> Self {
        let images: Vec<ImageOutcome> = report
            .images
            .iter()
            .map(|image| ImageOutcome {
                reference: image.image.original().to_owned(),
                phase: image.phase,
                digest: image.digest.clone(),
                size_bytes: image.size,
                attempts: image.attempts,
                seconds: took(image).map(rounded_seconds),
                reason: image.reason.map(|reason| reason.to_string()),
                message: image.message.clone(),
            })
            .collect();
        let count = |phase| images.iter().filter(|i| i.phase == phase).count();
        let summary = Summary {
            desired: images.len(),
            cached: count(ImagePhase::Cached),
            failed: count(ImagePhase::Failed),
            seconds: rounded_seconds(elapsed),
        };
        Self { images, summary }
    }

    /// The JSON of it, with a line feed at the end.
    ///
    /// # Errors
    ///
    /// None in practice: every value has a JSON form.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// The table of it, and each message below it.
    #[must_use]
    pub fn table(&self) -> String {
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
                image.phase.to_string(),
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
                let message = printable(message);
                text.push_str(&format!("{}: {message}\n", image.reference));
            }
        }
        text
    }

    /// How many images were to be removed and were not there.
    #[must_use]
    pub fn absent(&self) -> usize {
        let images = self.images.iter();
        images
            .filter(|i| i.phase == ImagePhase::Removed && i.attempts == 0)
            .count()
    }

    /// How many images stand in that phase.
    #[must_use]
    pub fn count(&self, phase: ImagePhase) -> usize {
        self.images.iter().filter(|i| i.phase == phase).count()
    }
}

#[cfg(test)]
mod tests {
    use fledged_core::error::Reason;
    use fledged_core::model::ImageRef;
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
    fn json_has_exactly_the_promised_shape() {
        let outcome = Outcome::new(&report(), Duration::from_millis(2_500));
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
    fn the_table_is_readable() {
        let outcome = Outcome::new(&report(), Duration::from_millis(2_500));
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
