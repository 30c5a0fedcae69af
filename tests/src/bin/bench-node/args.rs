//! The command line arguments.

use std::num::NonZeroUsize;

use clap::builder::TypedValueParser;
use clap::{Parser, ValueEnum};
use fledged_tests::arguments::{CheckedArgs, Given, number};

use crate::fetching::Work;
use crate::scenario::Place;
use crate::sweep::{IMAGES_MAX, count};

/// Compares `fledged node apply` with `ctr images pull` and `skopeo copy`, cold each time.
#[derive(Debug, Parser)]
#[command(name = "bench-node")]
pub(crate) struct Args {
    /// Size of the one large image, in MB.
    #[arg(long, value_name = "MB", default_value_t = 512, value_parser = number::<usize>(1..=20_000))]
    pub(crate) image_mb: usize,
    /// Layers of the one large image.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = number::<usize>(1..=127))]
    pub(crate) image_layers: usize,
    /// Number of smaller images.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = number::<usize>(1..=1_000))]
    pub(crate) images: usize,
    /// Size of each smaller image, in MB; all share a base of half that size.
    #[arg(
        long,
        visible_alias = "layer-mb",
        value_name = "MB",
        default_value_t = 50,
        value_parser = number::<usize>(1..=20_000)
    )]
    pub(crate) each_mb: usize,
    /// Limit each connection to the registry to this rate, in MB/s, as distant registries do.
    #[arg(long, value_name = "MB", value_parser = number::<u64>(1..=100_000))]
    pub(crate) connection_mb: Option<u64>,
    /// Runs of each tool in each comparison; 5 by default, 3 with --sweep and --fetching.
    #[arg(long, value_name = "N", value_parser = number::<usize>(1..=1_000))]
    runs: Option<usize>,
    /// Passed to fledged; without it, fledged uses its default.
    #[arg(long, value_name = "N", value_parser = number::<usize>(1..=1_000))]
    pub(crate) max_parallel_pulls: Option<usize>,
    /// Only these comparisons.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<Place>,
    /// Instead of the comparisons, pull images of several sizes into containerd with several numbers of concurrent
    /// pulls, compared with `ctr images pull` and the kubelet's calls.
    #[arg(long)]
    pub(crate) sweep: bool,
    /// Image sizes of a sweep, in MB: up to eight images of each size, and at most 3 GB together.
    #[arg(
        long,
        value_name = "MB",
        value_delimiter = ',',
        default_value = "1,10,100,1000",
        value_parser = number::<usize>(1..=20_000)
    )]
    pub(crate) sizes: Vec<usize>,
    /// Concurrent pulls in a sweep. For sizes with fewer images, a larger number is left out.
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "1,3,8",
        value_parser = number::<usize>(1..=IMAGES_MAX as u64).try_map(NonZeroUsize::try_from)
    )]
    pub(crate) at_once: Vec<NonZeroUsize>,
    /// Instead of the comparisons, compare who fetches the layers for containerd: fledged, containerd for fledged, or ctr.
    #[arg(long)]
    pub(crate) fetching: bool,
    /// Only these rows of --fetching.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) rows: Vec<Work>,
    /// Sizes of --fetching, in percent; with 1, it takes a minute or two.
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = number::<u64>(1..=1_000))]
    pub(crate) scale: u64,
    /// How to print the figures.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table.
    Table,
    /// JSON with every run.
    Json,
}

impl Args {
    /// Runs of each tool.
    pub(crate) fn runs(&self) -> usize {
        let default = match self.sweep || self.fetching {
            true => 3,
            false => 5,
        };
        self.runs.unwrap_or(default)
    }
}

impl CheckedArgs for Args {
    fn check(&self, given: &Given) -> Result<(), String> {
        let of_comparisons = [
            "image_mb",
            "image_layers",
            "images",
            "each_mb",
            "connection_mb",
            "max_parallel_pulls",
            "only",
        ];
        if !self.fetching {
            given.refuse(&["rows", "scale"], "without --fetching")?;
        }
        if self.fetching {
            given.refuse(&["sweep"], "with --fetching")?;
            given.refuse(&of_comparisons, "with --fetching")?;
        }
        if !self.sweep {
            return given.refuse(&["sizes", "at_once"], "without --sweep");
        }
        given.refuse(&of_comparisons, "with --sweep")?;
        let least = self.at_once.iter().map(|at_once| at_once.get()).min();
        let least = least.unwrap_or_default();
        let too_large = self.sizes.iter().find(|size| count(**size) < least);
        too_large.map_or(Ok(()), |size| {
            Err(format!(
                "{}: more than the {} images of {size} MB",
                given.words("at_once"),
                count(*size)
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Args, String> {
        let parsed = Args::from_checked(["bench-node"].iter().chain(words));
        parsed.map_err(|error| error.to_string())
    }

    #[test]
    fn a_sweep_has_fewer_runs() {
        assert_eq!(parse(&[]).unwrap().runs(), 5);
        assert_eq!(parse(&["--fetching", "--scale=1"]).unwrap().runs(), 3);
        assert_eq!(parse(&["--sweep"]).unwrap().runs(), 3);
        assert_eq!(parse(&["--sweep", "--runs=1"]).unwrap().runs(), 1);
    }

    #[test]
    fn an_argument_without_effect_is_refused() {
        for words in [
            vec!["--scale=1"],
            vec!["--rows=rate"],
            vec!["--fetching", "--sweep"],
            vec!["--fetching", "--images=3"],
            vec!["--fetching", "--at-once=3"],
        ] {
            assert!(parse(&words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn each_size_of_a_sweep_has_a_number_of_concurrent_pulls() {
        assert!(parse(&["--sweep", "--sizes=1000", "--at-once=3,8"]).is_ok());
        let error = parse(&["--sweep", "--sizes=1,1000", "--at-once=4,8"]).unwrap_err();
        let wanted = "--at-once 4,8: more than the 3 images of 1000 MB";
        assert!(error.contains(wanted), "{error}");
    }
}
