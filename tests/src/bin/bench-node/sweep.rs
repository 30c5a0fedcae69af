//! A sweep over image sizes and numbers of concurrent pulls into containerd.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;

use fledged_tests::Registry;
use serde::Serialize;

use crate::measure::Sample;
use crate::report::{Side, Summary};
use crate::scenario::{ImageSet, Place, Scenario, equal_images};

/// Largest number of images of one size.
pub(crate) const IMAGES_MAX: usize = 8;
/// Largest total size of the images of one size, in MB: three images of a gigabyte.
const TOGETHER_MB: usize = 3_000;

/// The parameters of a sweep.
#[derive(Debug)]
pub(crate) struct Sweep<'a> {
    pub(crate) fledged: &'a Path,
    /// In MB.
    pub(crate) sizes: &'a [usize],
    pub(crate) at_once: &'a [NonZeroUsize],
    pub(crate) runs: usize,
}

/// A tool that pulls images into containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Puller {
    /// `fledged node apply --max-parallel-pulls N`.
    Fledged(NonZeroUsize),
    /// `ctr images pull`, one after another.
    Ctr,
    /// The kubelet's CRI calls, N concurrently.
    Kubelet(NonZeroUsize),
}

impl fmt::Display for Puller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fledged(at_once) => write!(f, "fledged, {at_once} at once"),
            Self::Ctr => f.write_str("ctr images pull, one after another"),
            Self::Kubelet(at_once) if at_once.get() == 1 => {
                f.write_str("kubelet, its serial default")
            }
            Self::Kubelet(at_once) => write!(f, "kubelet, maxParallelImagePulls={at_once}"),
        }
    }
}

/// The figures of all tools for images of one size.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    megabytes: usize,
    images: usize,
    sides: Vec<Side>,
    summaries: Vec<Summary>,
}

impl Sweep<'_> {
    /// Measures all sizes.
    ///
    /// # Errors
    ///
    /// When a tool cannot pull.
    pub(crate) fn run(&self) -> Result<Vec<Row>, String> {
        self.sizes.iter().map(|size| self.row(*size)).collect()
    }

    /// Runs the tools in turn (A B C A B C), so that other load affects all of them.
    fn row(&self, megabytes: usize) -> Result<Row, String> {
        // A new registry for each size, so that the page cache holds nothing of the previous size.
        let registry = Registry::start();
        let images = equal_images(&registry, count(megabytes), megabytes);
        let pullers = self.pullers(images.references.len());
        let mut sides: Vec<Side> = pullers
            .iter()
            .map(|puller| Side {
                name: puller.to_string(),
                runs: Vec::new(),
            })
            .collect();
        for run in 1..=self.runs {
            for (puller, side) in pullers.iter().zip(&mut sides) {
                let sample = self.pull(*puller, &images)?;
                eprintln!(
                    "{}: run {run} of {}: {puller} {:.2} s",
                    images.name, self.runs, sample.seconds
                );
                side.runs.push(sample);
            }
        }
        Ok(Row {
            name: images.name,
            megabytes,
            images: images.references.len(),
            summaries: sides.iter().map(Side::summary).collect(),
            sides,
        })
    }

    /// Returns each tool once, with at most as many concurrent pulls as images.
    fn pullers(&self, images: usize) -> Vec<Puller> {
        let at_once = self.at_once.iter().copied();
        let at_once = at_once.filter(|n| n.get() <= images.max(1));
        let mut pullers = vec![Puller::Ctr, Puller::Kubelet(NonZeroUsize::MIN)];
        for n in at_once {
            for puller in [Puller::Fledged(n), Puller::Kubelet(n)] {
                if !pullers.contains(&puller) {
                    pullers.push(puller);
                }
            }
        }
        pullers
    }

    fn pull(&self, puller: Puller, images: &ImageSet) -> Result<Sample, String> {
        let scenario = |limit: Option<NonZeroUsize>| Scenario {
            place: Place::Containerd,
            images,
            fledged: self.fledged,
            max_parallel_pulls: limit.map(NonZeroUsize::get),
        };
        match puller {
            Puller::Fledged(at_once) => scenario(Some(at_once)).run_fledged(),
            Puller::Ctr => scenario(None).run_rival(),
            Puller::Kubelet(at_once) => scenario(None).run_kubelet(at_once),
        }
    }
}

/// Number of images of a size.
pub(crate) fn count(megabytes: usize) -> usize {
    (TOGETHER_MB / megabytes.max(1)).clamp(1, IMAGES_MAX)
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.name)?;
        let width = self.sides.iter().map(|side| side.name.len()).max();
        for (side, summary) in self.sides.iter().zip(&self.summaries) {
            writeln!(
                f,
                "  {:width$}  {summary}",
                side.name,
                width = width.unwrap_or(0)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_images_are_fewer() {
        assert_eq!([1, 10, 100, 1_000].map(count), [8, 8, 8, 3]);
        assert_eq!([0, 9_000].map(count), [8, 1]);
    }

    #[test]
    fn each_tool_is_listed_once_with_limited_concurrency() {
        let number = |n| NonZeroUsize::new(n).unwrap();
        let at_once = [1, 3, 8].map(number);
        let sweep = Sweep {
            fledged: Path::new("fledged"),
            sizes: &[],
            at_once: &at_once,
            runs: 1,
        };
        let names: Vec<String> = sweep.pullers(3).iter().map(Puller::to_string).collect();
        assert_eq!(
            names,
            [
                "ctr images pull, one after another",
                "kubelet, its serial default",
                "fledged, 1 at once",
                "fledged, 3 at once",
                "kubelet, maxParallelImagePulls=3",
            ]
        );
    }
}
