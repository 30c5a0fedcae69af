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

mod args;
mod fetching;
mod machine;
mod measure;
mod report;
mod scenario;
mod sweep;

use std::process::ExitCode;

use clap::ValueEnum;
use fledged_tests::arguments::CheckedArgs;
use fledged_tests::leftovers::{exit_by_signal, on_signals};
use fledged_tests::{Fault, FaultProxy, Registry, Rule, find_fledged, require};

use crate::args::{Args, Format};
use crate::fetching::Fetching;
use crate::machine::Machine;
use crate::report::{Comparison, Report};
use crate::scenario::{Place, Scenario};
use crate::sweep::Sweep;

fn main() -> ExitCode {
    let args = Args::from_command_line();
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
    let runs = args.runs();
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
