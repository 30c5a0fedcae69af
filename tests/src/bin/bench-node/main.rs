//! Measures how fast `fledged node apply` pulls images to a node, compared with other tools.
//!
//! `cargo build --release -p fledged-cli && cargo run --release -p fledged-tests --bin bench-node`
//!
//! With `--sweep`, it pulls images of several sizes with several numbers of concurrent pulls, compared with `ctr` and
//! the kubelet's calls. With `--fetching`, it compares who fetches the layers, also when a process is killed, beside the
//! pull of a pod, and with a limited rate. `README.md` beside this file has results.
//!
//! Every run is cold (a fresh containerd or folder). The compared tools take turns, so that other load on
//! the machine affects all of them. Figures are printed; no time is asserted.

mod fetching;
mod machine;
mod measure;
mod report;
mod scenario;
mod sweep;

use std::num::NonZeroUsize;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use fledged_tests::leftovers::{exit_by_signal, on_signals};
use fledged_tests::{Fault, FaultProxy, Registry, Rule, find_fledged, require};

use crate::fetching::{Fetching, Work};
use crate::machine::Machine;
use crate::report::{Comparison, Report};
use crate::scenario::{Place, Scenario};
use crate::sweep::Sweep;

/// Compares `fledged node apply` with `ctr images pull` and `skopeo copy`, cold each time.
#[derive(Debug, Parser)]
#[command(name = "bench-node")]
struct Args {
    /// Size of the one large image, in MB.
    #[arg(long, value_name = "MB", default_value_t = 512)]
    image_mb: usize,
    /// Layers of the one large image.
    #[arg(long, value_name = "N", default_value_t = 8)]
    image_layers: usize,
    /// Number of smaller images.
    #[arg(long, value_name = "N", default_value_t = 10)]
    images: usize,
    /// Size of each smaller image, in MB; all share a base of half that size.
    #[arg(
        long,
        visible_alias = "layer-mb",
        value_name = "MB",
        default_value_t = 50
    )]
    each_mb: usize,
    /// Limit each connection to the registry to this rate, in MB/s, as distant registries do.
    #[arg(long, value_name = "MB", conflicts_with = "sweep")]
    connection_mb: Option<u64>,
    /// Runs of each tool in each comparison; 5 by default, 3 with --sweep and --fetching.
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Passed to fledged; without it, fledged uses its default.
    #[arg(long, value_name = "N")]
    max_parallel_pulls: Option<usize>,
    /// Only these comparisons.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Place>,
    /// Instead of the comparisons, pull images of several sizes into containerd with several numbers of concurrent
    /// pulls, compared with `ctr images pull` and the kubelet's calls.
    #[arg(long, conflicts_with_all = ["only", "max_parallel_pulls"])]
    sweep: bool,
    /// Image sizes of a sweep, in MB: up to eight images of each size, and at most 3 GB together.
    #[arg(
        long,
        value_name = "MB",
        value_delimiter = ',',
        default_value = "1,10,100,1000",
        requires = "sweep"
    )]
    sizes: Vec<usize>,
    /// Concurrent pulls in a sweep.
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "1,3,8",
        requires = "sweep"
    )]
    at_once: Vec<NonZeroUsize>,
    /// Instead of the comparisons, compare who fetches the layers for containerd: fledged, containerd for fledged, or ctr.
    #[arg(
        long,
        conflicts_with_all = ["only", "max_parallel_pulls", "sweep", "connection_mb"]
    )]
    fetching: bool,
    /// Only these rows of --fetching.
    #[arg(long, value_enum, value_delimiter = ',', requires = "fetching")]
    rows: Vec<Work>,
    /// Sizes of --fetching, in percent; with 1, it takes a minute or two.
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(1..=1_000),
        requires = "fetching"
    )]
    scale: u64,
    /// How to print the figures.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table.
    Table,
    /// JSON with every run.
    Json,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(report) if args.output == Format::Json => match report.json() {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => failed(&error.to_string()),
        },
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &str) -> ExitCode {
    eprintln!("bench-node: {error}");
    ExitCode::FAILURE
}

fn run(args: &Args) -> Result<Report, String> {
    let fledged = find_fledged()?;
    // Without it, a signal leaves containerd and its mounts behind.
    on_signals(|number| exit_by_signal(number)).map_err(|error| error.to_string())?;
    let is_long = args.sweep || args.fetching;
    let runs = args.runs.unwrap_or(if is_long { 3 } else { 5 });
    if runs == 0 || args.images == 0 || args.image_layers == 0 {
        return Err("--runs, --images and --image-layers must be at least 1".to_owned());
    }
    if cfg!(debug_assertions) {
        eprintln!("bench-node: this is not a release build; its figures mean nothing");
    }
    let mut report = Report {
        machine: Machine::inspect(&std::env::temp_dir()),
        fledged: fledged.display().to_string(),
        comparisons: Vec::new(),
        sweep: Vec::new(),
        fetching: Vec::new(),
    };
    if args.fetching {
        if !require(Place::Containerd.programs()) {
            return Err("nothing can be compared on this machine".to_owned());
        }
        let fetching = Fetching {
            fledged: &fledged,
            runs,
            scale: args.scale,
            rows: &args.rows,
        };
        report.fetching = fetching.run()?;
        return Ok(report);
    }
    if args.sweep {
        if !require(Place::Containerd.programs()) {
            return Err("nothing can be compared on this machine".to_owned());
        }
        let sweep = Sweep {
            fledged: &fledged,
            sizes: &args.sizes,
            at_once: &args.at_once,
            runs,
        };
        report.sweep = sweep.run()?;
        return Ok(report);
    }
    let wanted = |place: Place| args.only.is_empty() || args.only.contains(&place);
    let places: Vec<Place> = Place::value_variants()
        .iter()
        .copied()
        .filter(|place| wanted(*place) && require(place.programs()))
        .collect();
    if places.is_empty() {
        return Err("nothing can be compared on this machine".to_owned());
    }
    let registry = Registry::start();
    let mut sets = [
        scenario::one_image(&registry, args.image_mb, args.image_layers),
        scenario::many_images(&registry, args.images, args.each_mb),
    ];
    let proxy = args.connection_mb.map(|megabytes| {
        let proxy = FaultProxy::start(registry.addr());
        let bytes_per_second = megabytes.saturating_mul(1_000_000);
        let slow = Rule::new(Fault::Throttle { bytes_per_second });
        proxy.add(slow.path("/blobs/").always());
        for set in &mut sets {
            set.name = format!("{}, {megabytes} MB/s a connection,", set.name);
            for reference in &mut set.references {
                *reference = reference.replace(registry.addr(), proxy.addr());
            }
        }
        proxy
    });
    for place in places {
        for images in &sets {
            let scenario = Scenario {
                place,
                images,
                fledged: &fledged,
                max_parallel_pulls: args.max_parallel_pulls,
            };
            report.comparisons.push(compare(&scenario, runs)?);
        }
    }
    drop(proxy);
    Ok(report)
}

/// Runs both tools in turn (A B A B), so that other load affects both.
fn compare(scenario: &Scenario<'_>, runs: usize) -> Result<Comparison, String> {
    let mut comparison = Comparison::new(scenario.name(), scenario.place.rival());
    for run in 1..=runs {
        let ours = scenario.run_fledged()?;
        let theirs = scenario.run_rival()?;
        eprintln!(
            "{}: run {run} of {runs}: fledged {:.2} s, {} {:.2} s",
            comparison.name, ours.seconds, comparison.rival.name, theirs.seconds
        );
        comparison.fledged.runs.push(ours);
        comparison.rival.runs.push(theirs);
    }
    Ok(comparison)
}
