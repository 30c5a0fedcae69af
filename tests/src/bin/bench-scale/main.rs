//! Measures time and requests of rollouts to many nodes. See the README beside this file.
//!
//! `cargo build --release -p fledged-operator --features binary && cargo run --release -p fledged-tests --bin bench-scale`

mod args;
mod bench;
mod client;
mod controller_metrics;
mod limits;
mod loads;
mod meter;
mod meter_body;
mod phase;
mod phases;
mod process;
mod prometheus;
mod report;
mod server;
mod snapshot;

use std::process::ExitCode;

use fledged_core::tokio::ShutdownSignal;
use fledged_tests::arguments::CheckedArgs;

use crate::args::{Args, Format};
use crate::report::Report;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::from_command_line();
    let outcome = match &args.serve {
        Some(kubeconfig) => server::serve(kubeconfig).await,
        None => measure(&args).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-scale: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: &Args) -> Result<(), String> {
    if cfg!(debug_assertions) {
        eprintln!("bench-scale: this is not a release build; its figures mean nothing");
    }
    let mut shutdown = ShutdownSignal::listen().map_err(|error| error.to_string())?;
    // A signal also drops the bench, which stops all processes.
    tokio::select! {
        result = reports(args) => result,
        number = shutdown.recv() => Err(format!("ended by signal {number}")),
    }
}

/// Prints a report of the phases, or of each load.
async fn reports(args: &Args) -> Result<(), String> {
    let loads = args.loads();
    if loads.is_empty() {
        return print(args, &phases::run(args).await?);
    }
    let mut exceeded = Vec::new();
    for (load, args) in loads {
        eprintln!("bench-scale: load {load:?}");
        let report = loads::run(load, &args).await?;
        print(&args, &report)?;
        let of_load = report.exceeded().into_iter();
        exceeded.extend(of_load.map(|limit| format!("\n  load {load:?}: {limit}")));
    }
    match exceeded.is_empty() {
        true => Ok(()),
        false => Err(format!("limits are exceeded:{}", exceeded.concat())),
    }
}

fn print(args: &Args, report: &Report) -> Result<(), String> {
    match args.output {
        Format::Table => println!("{report}"),
        Format::Json => println!("{}", report.json()?),
    }
    Ok(())
}
