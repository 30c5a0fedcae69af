//! The report, as a table or JSON.

use std::fmt;

use fledged_core::model::ByteSize;
use serde::Serialize;

use crate::fetching::FetchRow;
use crate::machine::Machine;
use crate::measure::Sample;
use crate::sweep::Row;

/// All measurements.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) fledged: String,
    pub(crate) comparisons: Vec<Comparison>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) sweep: Vec<Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) fetching: Vec<FetchRow>,
}

/// The runs of both tools in one comparison.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) name: String,
    pub(crate) fledged: Side,
    pub(crate) rival: Side,
}

/// All runs of one tool.
#[derive(Debug, Serialize)]
pub(crate) struct Side {
    pub(crate) name: String,
    pub(crate) runs: Vec<Sample>,
}

/// The summary of one tool's runs.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    median_seconds: f64,
    min_seconds: f64,
    max_seconds: f64,
    peak_rss_bytes: Option<u64>,
    #[serde(skip)]
    runs: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "median {:.2} s  (min {:.2}, max {:.2}, {} runs)",
            self.median_seconds, self.min_seconds, self.max_seconds, self.runs
        )?;
        match self.peak_rss_bytes {
            Some(bytes) => write!(f, "  peak RSS {}", ByteSize::new(bytes)),
            None => Ok(()),
        }
    }
}

impl Comparison {
    pub(crate) fn new(name: String, rival: &str) -> Self {
        let side = |name: &str| Side {
            name: name.to_owned(),
            runs: Vec::new(),
        };
        Self {
            name,
            fledged: side("fledged"),
            rival: side(rival),
        }
    }

    /// The ratio of the medians: below 1, fledged is faster.
    fn ratio(&self) -> f64 {
        self.fledged.summary().median_seconds / self.rival.summary().median_seconds
    }
}

impl Side {
    pub(crate) fn summary(&self) -> Summary {
        summary(&self.runs)
    }
}

impl Summary {
    pub(crate) fn median_seconds(&self) -> f64 {
        self.median_seconds
    }
}

/// Summarises some runs.
pub(crate) fn summary(runs: &[Sample]) -> Summary {
    let mut seconds: Vec<f64> = runs.iter().map(|run| run.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    Summary {
        median_seconds: median(&seconds),
        min_seconds: seconds.first().copied().unwrap_or_default(),
        max_seconds: seconds.last().copied().unwrap_or_default(),
        peak_rss_bytes: runs.iter().filter_map(|run| run.peak_rss).max(),
        runs: runs.len(),
    }
}

/// Returns the median of sorted numbers; the mean of the middle two if their count is even.
fn median(sorted: &[f64]) -> f64 {
    let upper = sorted.len() / 2;
    let lower = sorted.len().saturating_sub(1) / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    f64::midpoint(at(lower), at(upper))
}

impl Report {
    /// Returns the report as JSON with every run.
    ///
    /// # Errors
    ///
    /// Never, with these types.
    pub(crate) fn json(&self) -> Result<String, serde_json::Error> {
        let mut value = serde_json::to_value(self)?;
        let entries = value
            .get_mut("comparisons")
            .and_then(serde_json::Value::as_array_mut)
            .into_iter()
            .flatten();
        for (entry, comparison) in entries.zip(&self.comparisons) {
            let Some(entry) = entry.as_object_mut() else {
                continue;
            };
            let ratio = serde_json::to_value(comparison.ratio())?;
            entry.insert("ratioOfMedians".to_owned(), ratio);
            for (key, side) in [
                ("fledged", &comparison.fledged),
                ("rival", &comparison.rival),
            ] {
                if let Some(side_entry) = entry.get_mut(key).and_then(|s| s.as_object_mut()) {
                    side_entry.insert("summary".to_owned(), serde_json::to_value(side.summary())?);
                }
            }
        }
        serde_json::to_string_pretty(&value)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            f,
            "{} cores ({}), {} of memory, Linux {}; {} on {}",
            machine.cores,
            machine.cpu,
            ByteSize::new(machine.memory_bytes),
            machine.kernel,
            machine.folder,
            machine.disk
        )?;
        for version in &machine.versions {
            writeln!(f, "{version}")?;
        }
        writeln!(f, "{}", self.fledged)?;
        for comparison in &self.comparisons {
            writeln!(f, "\n{}", comparison.name)?;
            let width = comparison.rival.name.len().max("fledged".len());
            for side in [&comparison.fledged, &comparison.rival] {
                writeln!(f, "  {:width$}  {}", side.name, side.summary())?;
            }
            let ratio = comparison.ratio();
            write!(f, "  ratio of medians {ratio:.2}")?;
            if ratio < 1.0 {
                writeln!(f, ": fledged is {:.2} times as fast", 1.0 / ratio)?;
            } else {
                writeln!(f, ": fledged takes {ratio:.2} times as long")?;
            }
        }
        for row in &self.sweep {
            write!(f, "\n{row}")?;
        }
        for row in &self.fetching {
            write!(f, "\n{row}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert!(median(&[]).abs() < f64::EPSILON);
        assert!((median(&[1.0, 2.0, 9.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[1.0, 2.0, 4.0, 9.0]) - 3.0).abs() < f64::EPSILON);
    }
}
