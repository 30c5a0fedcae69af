//! Injects random faults into real parts, and prints figures.
//!
//! ```console
//! cargo run -p fledged-tests --bin campaign -- --faults 1000
//! ```

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use fledged_tests::arguments::{CheckedArgs, Given, number};
use fledged_tests::campaign::{NEEDED, Options, run};
use fledged_tests::leftovers::{exit_by_signal, on_signals};
use fledged_tests::{find_operator, require};
use tempfile::TempDir;

/// Injects faults into real containerd, docker-registry, an API server, the controller and agents.
#[derive(Debug, Parser)]
#[command(name = "campaign")]
struct Args {
    /// Ends after the round that injects this many faults.
    #[arg(long, default_value_t = 100, value_parser = number::<u64>(1..=u64::MAX))]
    faults: u64,
    /// Seed of the faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Starts no further round after this many seconds.
    #[arg(long, value_parser = number::<u64>(1..=u64::MAX))]
    budget: Option<u64>,
    /// Folder of history and logs, which must be empty or missing. By default a temporary folder, which is deleted if
    /// nothing fails.
    #[arg(long)]
    logs: Option<PathBuf>,
}

impl CheckedArgs for Args {
    fn check(&self, _given: &Given) -> Result<(), String> {
        let Some(folder) = &self.logs else {
            return Ok(());
        };
        let fail = |problem: &dyn Display| format!("--logs {}: {problem}", folder.display());
        std::fs::create_dir_all(folder).map_err(|error| fail(&error))?;
        let mut entries = std::fs::read_dir(folder).map_err(|error| fail(&error))?;
        // Logs are appended, and searched for panics.
        match entries.next() {
            None => Ok(()),
            Some(_) => Err(fail(&"the folder is not empty")),
        }
    }
}

fn main() -> ExitCode {
    let args = Args::from_command_line();
    match campaign(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("campaign: {error}");
            ExitCode::FAILURE
        }
    }
}

fn campaign(args: &Args) -> Result<ExitCode, String> {
    find_operator()?;
    if !require(&NEEDED) {
        return Err("this machine lacks what is needed".to_owned());
    }
    let folder = match &args.logs {
        Some(folder) => folder.clone(),
        None => TempDir::with_prefix("fledged-campaign-")
            .map_err(|error| format!("no temporary folder: {error}"))?
            .keep(),
    };
    let outcome = run(&Options {
        seed: args.seed,
        faults: args.faults,
        budget: args.budget.map(Duration::from_secs),
        folder: folder.clone(),
        verbose: true,
        stop: stop_on_signal().map_err(|error| error.to_string())?,
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
