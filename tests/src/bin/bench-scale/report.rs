//! The figures.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// Everything that was measured. Times in seconds, memory in bytes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) server: String,
    pub(crate) nodes: usize,
    pub(crate) images: usize,
    pub(crate) parallelism: usize,
    pub(crate) pull: f64,
    /// What the pulls of one node take by themselves.
    pub(crate) pulls_alone: f64,
    /// From the application of the cache to `Succeeded`.
    pub(crate) rollout: f64,
    /// NodeImageCache writes a node, controller and agent together, for the rollout.
    pub(crate) writes_per_node: f64,
    /// From a node turning Ready to its first pull, for each that joined.
    pub(crate) first_pulls: Vec<f64>,
    pub(crate) first_pull_p50: f64,
    pub(crate) first_pull_p99: f64,
    pub(crate) controller_peak_rss: u64,
    pub(crate) controller_cpu: f64,
    /// A NodeImageCache with its status, as JSON.
    pub(crate) record_bytes: usize,
}

impl Report {
    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_else(|error| error.to_string())
    }
}

/// The value below which that share of the values lies, by rank.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank among some thousand values"
    )]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |seconds: f64| format!("{:.2?}", Duration::from_secs_f64(seconds));
        writeln!(
            f,
            "{} nodes, {} images, pulls of {} s, {} at once; API server: {}",
            self.nodes, self.images, self.pull, self.parallelism, self.server
        )?;
        let rows = [
            (
                "rollout",
                format!(
                    "{} (pulls alone: {} s)",
                    seconds(self.rollout),
                    self.pulls_alone
                ),
            ),
            ("writes a node", format!("{:.2}", self.writes_per_node)),
            ("NodeImageCache", format!("{} bytes", self.record_bytes)),
            (
                "Ready to first pull",
                match self.first_pulls.len() {
                    0 => "not measured".to_owned(),
                    joins => format!(
                        "p50 {}, p99 {} ({joins} nodes)",
                        seconds(self.first_pull_p50),
                        seconds(self.first_pull_p99)
                    ),
                },
            ),
            (
                "controller",
                format!(
                    "{:.1} MiB peak RSS, {:.2} s of CPU",
                    mebibytes(self.controller_peak_rss),
                    self.controller_cpu
                ),
            ),
        ];
        for (name, value) in rows {
            writeln!(f, "  {name:<20} {value}")?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "a size for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
