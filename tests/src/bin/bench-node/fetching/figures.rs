//! The figures of rows.

use std::fmt;
use std::time::Duration;

use fledged_core::model::ByteSize;
use serde::Serialize;

use crate::measure::Sample;
use crate::report::{Summary, summary};

/// The time over which a rate is measured.
const WINDOW: Duration = Duration::from_secs(2);
/// The time after the first byte that does not count: the kernel receives ahead.
const AHEAD: Duration = Duration::from_secs(1);

/// The figures of one run.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figures {
    #[serde(flatten)]
    pub(super) sample: Sample,
    /// Bytes of layers that the registry sent beyond their size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fetched_twice: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rates: Option<Rates>,
}

impl From<Sample> for Figures {
    fn from(sample: Sample) -> Self {
        Self {
            sample,
            fetched_twice: None,
            rates: None,
        }
    }
}

/// The lowest and the highest rate over two seconds, in bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rates {
    lowest: u64,
    highest: u64,
}

impl Rates {
    /// The rates of a pull: the bytes that the registry had sent at each time, in order. `None` if it was too short.
    pub(super) fn of(sent: &[(Duration, u64)]) -> Option<Self> {
        let last = sent.last()?.1;
        let begin = sent.iter().find(|(_, bytes)| *bytes > 0)?.0 + AHEAD;
        let end = sent.iter().find(|(_, bytes)| *bytes == last)?.0;
        let counted = sent.iter().filter(|(at, _)| (begin..=end).contains(at));
        let rates = counted.filter_map(|(at, before)| {
            let (until, after) = sent.iter().find(|(until, _)| *until >= *at + WINDOW)?;
            let millis = u64::try_from((*until - *at).as_millis()).ok()?;
            (*until <= end).then(|| (after - before) * 1_000 / millis.max(1))
        });
        let rates: Vec<u64> = rates.collect();
        Some(Self {
            lowest: *rates.iter().min()?,
            highest: *rates.iter().max()?,
        })
    }
}

/// The runs of one puller.
#[derive(Debug, Serialize)]
pub(crate) struct FetchSide {
    pub(super) name: String,
    pub(super) runs: Vec<Figures>,
}

impl FetchSide {
    fn summary(&self) -> Summary {
        let samples: Vec<Sample> = self.runs.iter().map(|run| run.sample).collect();
        summary(&samples)
    }
}

/// What was measured for one kind of work.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FetchRow {
    pub(super) name: String,
    pub(super) sides: Vec<FetchSide>,
    /// Whether the first side is what the times of the others are compared with.
    pub(super) has_baseline: bool,
}

impl FetchRow {
    /// A row with these sides, and no runs.
    pub(super) fn new(name: impl Into<String>, sides: impl IntoIterator<Item = String>) -> Self {
        let sides = sides.into_iter().map(|name| FetchSide {
            name,
            runs: Vec::new(),
        });
        Self {
            name: name.into(),
            sides: sides.collect(),
            has_baseline: false,
        }
    }
}

impl fmt::Display for FetchRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.name)?;
        let width = self.sides.iter().map(|side| side.name.len()).max();
        let width = width.unwrap_or_default();
        let baseline = self.sides.first().filter(|_| self.has_baseline);
        for (number, side) in self.sides.iter().enumerate() {
            write!(f, "  {:width$}  {}", side.name, side.summary())?;
            if let Some(baseline) = baseline.filter(|_| number > 0) {
                let times = side.summary().median_seconds() / baseline.summary().median_seconds();
                write!(f, "  {times:.2} times as long")?;
            }
            let twice = side.runs.iter().filter_map(|run| run.fetched_twice);
            if let Some(most) = twice.max() {
                write!(f, "  fetched twice: {} at most", ByteSize::new(most))?;
            }
            let rates = || side.runs.iter().filter_map(|run| run.rates);
            let lowest = rates().map(|rates| rates.lowest).min();
            let highest = rates().map(|rates| rates.highest).max();
            if let (Some(lowest), Some(highest)) = (lowest, highest) {
                let (lowest, highest) = (ByteSize::new(lowest), ByteSize::new(highest));
                write!(f, "  over any 2 s: {lowest}/s to {highest}/s")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_two_seconds_after_the_first() {
        let at = |tenths: u64| Duration::from_millis(100 * tenths);
        // Nothing for a second, then much at once, then 100 bytes a second for five, and its end.
        let sent = (0..80).map(|tenths: u64| {
            let bytes = match tenths {
                ..10 => 0,
                10..60 => 500 + (tenths - 10) * 10,
                _ => 1_000,
            };
            (at(tenths), bytes)
        });
        let sent: Vec<_> = sent.collect();
        let rates = Rates::of(&sent);
        assert_eq!(
            rates,
            Some(Rates {
                lowest: 100,
                highest: 100
            })
        );
        assert_eq!(Rates::of(&sent[..35]), None, "too short");
        assert_eq!(Rates::of(&[]), None);
    }
}
