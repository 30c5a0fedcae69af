//! The report, as a table or JSON.

use std::fmt;

use serde::Serialize;

use crate::args::Args;
use crate::bench::Bench;
use crate::controller_metrics::Latency;
use crate::phase::{Phase, Requests};

/// Largest number of warnings in the table.
const WARNINGS: usize = 10;

/// All measurements.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    server: String,
    cores: usize,
    nodes: usize,
    caches: usize,
    images: usize,
    parallelism: usize,
    /// Seconds.
    pull: f64,
    max_concurrent_nodes: String,
    /// Size of a NodeImageCache with its status, as JSON.
    record_bytes: usize,
    /// Warnings in the logs of the controller and of the agent process.
    warnings: Vec<String>,
    phases: Vec<Phase>,
}

impl Report {
    pub(crate) fn new(bench: &Bench, args: &Args, record_bytes: usize, phases: Vec<Phase>) -> Self {
        Self {
            server: bench.server.clone(),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            nodes: args.nodes(),
            caches: args.caches(),
            images: args.images(),
            parallelism: args.parallelism.get(),
            pull: args.pull.as_secs_f64(),
            max_concurrent_nodes: args.max_concurrent_nodes.to_string(),
            record_bytes,
            warnings: bench.warnings(),
            phases,
        }
    }

    /// The limits that are exceeded, each with its phase.
    pub(crate) fn exceeded(&self) -> Vec<String> {
        self.phases.iter().flat_map(Phase::exceeded).collect()
    }

    /// # Errors
    ///
    /// Never, with these types.
    pub(crate) fn json(&self) -> Result<String, String> {
        serde_json::to_string_pretty(self).map_err(|error| error.to_string())
    }
}

/// Returns the value below which `share` of the values lie, by rank.
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
        .unwrap_or_default()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} nodes, {} caches of {} images, pulls of {} s, {} at once; NodeImageCache of {} bytes; {} cores\nAPI server: {}\n",
            self.nodes,
            self.caches,
            self.images,
            self.pull,
            self.parallelism,
            self.record_bytes,
            self.cores,
            self.server
        )?;
        writeln!(
            f,
            "{:<34} {:>9} {:>6} {:>11} {:>9} {:>9} | CPU s {:>10} {:>7} {:>7}",
            "phase",
            "seconds",
            "pulls",
            "writes/node",
            "revisions",
            "KB sent",
            "controller",
            "server",
            "agents"
        )?;
        for phase in &self.phases {
            phase.line(f)?;
        }
        let peak = self.phases.iter().map(|phase| phase.controller.peak_rss);
        writeln!(
            f,
            "\ncontroller: {:.1} MiB peak RSS",
            mebibytes(peak.max().unwrap_or_default())
        )?;
        for phase in &self.phases {
            phase.details(f)?;
        }
        let warnings = self.warnings.len();
        if warnings > 0 {
            writeln!(f, "\n{warnings} warnings, of which the last are:")?;
        }
        let last = warnings.saturating_sub(WARNINGS);
        for line in self.warnings.iter().skip(last) {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
impl Phase {
    fn line(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let floor = self.floor.map_or("-".to_owned(), |s| format!("{s}"));
        writeln!(
            f,
            "{:<34} {:>9.2} {floor:>6} {:>11.2} {:>9} {:>9.0} | {:>16.2} {:>7.2} {:>7.2}",
            self.name,
            self.seconds,
            self.record_writes as f64 / self.nodes as f64,
            self.revisions,
            self.sent / 1e3,
            self.controller.cpu,
            self.server.cpu,
            self.agents_cpu
        )
    }

    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{}: controller {:.1} MiB RSS and {:.2} % of a core, API server {:.0} MiB; agents received {:.0} KB",
            self.name,
            mebibytes(self.controller.rss),
            self.controller.cpu / self.seconds * 100.0,
            self.server.rss / f64::from(1 << 20),
            self.agents_received as f64 / 1e3
        )?;
        if let Some(done) = self.done {
            writeln!(
                f,
                "  done after {done:.2} s, status complete after {:.2} s",
                self.seconds
            )?;
        }
        let Latency {
            plans,
            p50,
            p99,
            max,
        } = self.latency;
        writeln!(
            f,
            "  controller {:.1} MiB peak RSS; {plans} plans, from event to plan at most {} in the median, {} p99, {} max; \
             at most {} writes waited",
            mebibytes(self.controller.peak_rss),
            milliseconds(p50),
            milliseconds(p99),
            milliseconds(max),
            self.most_waiting,
        )?;
        for bound in &self.bounds {
            writeln!(f, "  limit: {bound}")?;
        }
        for limit in &self.limits {
            writeln!(f, "  limit: {limit}")?;
        }
        for (name, value) in &self.figures {
            let unit = match () {
                () if name.starts_with("perSecond") => format!("{value:.1}"),
                () if name.ends_with("Rss") => format!("{:.1} MiB", value / f64::from(1 << 20)),
                () if name.ends_with("Percent") => format!("{value:.2} %"),
                () if name.starts_with("requests") => format!("{value}"),
                () => format!("{:.1} ms", value * 1e3),
            };
            writeln!(f, "  {name} {unit}")?;
        }
        writeln!(
            f,
            "  {:<32} {:>9} {:>10} {:>9} {:>9}",
            "requests", "all", "controller", "agents", "bench"
        )?;
        for requests in &self.requests {
            requests.line(f)?;
        }
        // The controller does not count writes to its Lease.
        let writes = self
            .requests
            .iter()
            .filter(|r| r.is_write && r.resource != "leases");
        writeln!(
            f,
            "  the controller itself counts {} writes; its column has {}, the other agent's statuses included",
            self.controller_writes,
            writes.map(|r| r.controller).sum::<u64>()
        )
    }
}

impl Requests {
    fn line(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {:<32} {:>9} {:>10} {:>9} {:>9}",
            format!("{} {}", self.verb, self.resource),
            self.all,
            self.controller,
            self.agents,
            self.bench
        )
    }
}

fn milliseconds(seconds: f64) -> String {
    match seconds.is_finite() {
        true => format!("{} ms", seconds * 1e3),
        false => "more than 10 s".to_owned(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a size for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_rank() {
        let values = [3.0, 1.0, 2.0, 4.0];
        for (share, wanted) in [(0.5, 2.0), (0.99, 4.0), (1.0, 4.0), (0.0, 1.0)] {
            assert!((percentile(&values, share) - wanted).abs() < f64::EPSILON);
        }
        assert!(percentile(&[], 0.5).abs() < f64::EPSILON);
    }
}
