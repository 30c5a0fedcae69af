//! Injects random faults into real parts, and prints figures.
//!
//! ```console
//! cargo run -p fledged-tests --bin campaign -- --faults 1000
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use fledged_tests::campaign::{NEEDED, Options, run};
use fledged_tests::leftovers::{exit_by_signal, on_signals};
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

fn main() -> std::io::Result<ExitCode> {
    let args = Args::parse();
    if !require(&NEEDED) {
        return Ok(ExitCode::FAILURE);
    }
    let temporary = std::env::temp_dir().join(format!("fledged-campaign-{}", std::process::id()));
    let folder = args.logs.clone().unwrap_or(temporary);
    let outcome = run(&Options {
        seed: args.seed,
        faults: args.faults,
        budget: args.budget.map(Duration::from_secs),
        folder: folder.clone(),
        verbose: true,
        stop: stop_on_signal()?,
    });
    print!("{outcome}");
    if outcome.is_stopped() {
        println!(
            "stopped by a signal; history and logs are in {}",
            folder.display()
        );
        return Ok(ExitCode::FAILURE);
    }
    if outcome.failures().is_empty() {
        if args.logs.is_none() {
            let _ = std::fs::remove_dir_all(folder);
        }
        return Ok(ExitCode::SUCCESS);
    }
    for failure in outcome.failures() {
        println!("FAILED: {failure}");
    }
    println!(
        "seed {}; history and logs are in {}",
        args.seed,
        folder.display()
    );
    Ok(ExitCode::FAILURE)
}

/// Returns what the first SIGINT or SIGTERM sets. The second one does not wait for the end of the round's work.
fn stop_on_signal() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let stops = Arc::clone(&stop);
    on_signals(move |number| {
        if stops.swap(true, Ordering::SeqCst) {
            exit_by_signal(number);
        }
        eprintln!("ending; a second signal kills all processes at once");
    })?;
    Ok(stop)
}
