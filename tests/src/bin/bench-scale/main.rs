//! How fast, and with how many writes, a cache gets onto many nodes.
//!
//! `cargo build --release -p fledged-operator && cargo run --release -p fledged-tests --bin bench-scale`
//!
//! The controller is the real one, in a process of its own; agents are real too, in this process, on
//! runtimes in memory, each with its own watch. The API server is the embedded one, which shares this
//! process, or that of a kubeconfig. Figures are printed; nothing is asserted on time.

mod counts;
mod phases;
mod report;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use fledged_core::model::GoDuration;

/// Rolls a cache out to nodes without kubelets, then lets nodes join one by one.
#[derive(Debug, Parser)]
#[command(name = "bench-scale")]
struct Args {
    /// Nodes that are there when the cache is applied.
    #[arg(long, value_name = "N", default_value = "20")]
    nodes: NonZeroUsize,
    /// Images of the cache.
    #[arg(long, value_name = "M", default_value = "20")]
    images: NonZeroUsize,
    /// Nodes that turn Ready one by one afterwards.
    #[arg(long, value_name = "N", default_value_t = 20)]
    joins: usize,
    /// How long one pull takes.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pull: Duration,
    /// Pulls at once on each node.
    #[arg(long, value_name = "N", default_value = "3")]
    parallelism: NonZeroUsize,
    /// Nodes that pull at once; all of them by default.
    #[arg(long, value_name = "N|N%", default_value = "100%")]
    max_concurrent_nodes: String,
    /// The cluster to measure on; it has to be one for tests, and nobody else's.
    #[arg(long, value_name = "FILE", conflicts_with = "embedded")]
    kubeconfig: Option<PathBuf>,
    /// On the embedded API server; the default.
    #[arg(long)]
    embedded: bool,
    /// How to print the figures.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = text.parse::<GoDuration>();
    duration.map(|d| d.0).map_err(|error| error.to_string())
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if cfg!(debug_assertions) {
        eprintln!("bench-scale: this is not a release build; its figures mean nothing");
    }
    match phases::run(&args).await {
        Ok(report) => {
            match args.output {
                Format::Table => println!("{report}"),
                Format::Json => println!("{}", report.json()),
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench-scale: {error}");
            ExitCode::FAILURE
        }
    }
}
