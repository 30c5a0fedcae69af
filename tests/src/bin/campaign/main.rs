//! Injects random faults into real parts, and prints figures.
//!
//! ```console
//! cargo run -p fledged-tests --bin campaign -- --faults 1000
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use fledged_tests::campaign::{NEEDED, Options, run};
use fledged_tests::require;

/// Injects faults into real containerd, docker-registry, an API server, the controller and agents.
#[derive(Parser)]
struct Args {
    /// Ends after the round that injects this many faults.
    #[arg(long, default_value_t = 100)]
    faults: u64,
    /// Seed of the faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Starts no further round after this many seconds.
    #[arg(long)]
    budget: Option<u64>,
    /// Folder of history and logs. By default a temporary folder, which is deleted if nothing fails.
    #[arg(long)]
    logs: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if !require(&NEEDED) {
        return ExitCode::FAILURE;
    }
    let temporary = std::env::temp_dir().join(format!("fledged-campaign-{}", std::process::id()));
    let folder = args.logs.clone().unwrap_or(temporary);
    let outcome = run(&Options {
        seed: args.seed,
        faults: args.faults,
        budget: args.budget.map(Duration::from_secs),
        folder: folder.clone(),
        verbose: true,
    });
    print!("{outcome}");
    if outcome.failures().is_empty() {
        if args.logs.is_none() {
            let _ = std::fs::remove_dir_all(folder);
        }
        return ExitCode::SUCCESS;
    }
    for failure in outcome.failures() {
        println!("FAILED: {failure}");
    }
    println!(
        "seed {}; history and logs are in {}",
        args.seed,
        folder.display()
    );
    ExitCode::FAILURE
}
