//! Measures time and requests of rollouts to many nodes. See the README beside this file.
//!
//! `cargo build --release -p fledged-operator --features binary && cargo run --release -p fledged-tests --bin bench-scale`

mod args;
mod bench;
mod client;
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

use clap::Parser;
use fledged_core::tokio::ShutdownSignal;

use crate::args::{Args, Format};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
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
    let report = tokio::select! {
        report = phases::run(args) => report?,
        number = shutdown.recv() => return Err(format!("ended by signal {number}")),
    };
    match args.output {
        Format::Table => println!("{report}"),
        Format::Json => println!("{}", report.json()?),
    }
    Ok(())
}
