//! The program `fledged-operator`: flags, logs, and the wiring of the library.

mod flags;
mod program;
mod subcommands;

use std::process::ExitCode;

use tokio::runtime::Builder;

use self::flags::{Cli, Command};
use self::program::{ProgramError, start};

/// Runs the program and returns its exit code.
#[must_use]
pub(crate) fn main() -> ExitCode {
    run(Cli::read(std::env::args_os()).command).unwrap_or_else(|error| {
        eprintln!("fledged-operator: {error}");
        match error {
            ProgramError::Usage(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    })
}

fn run(command: Command) -> Result<ExitCode, ProgramError> {
    match command {
        Command::Crds => {
            let yaml = fledged_kube::crd::definitions_yaml();
            print!("{}", yaml.map_err(ProgramError::Definitions)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Job(command) => subcommands::job(command).map(|()| ExitCode::SUCCESS),
        Command::Controller(args) => {
            // Several threads, so that writes continue while the planner plans.
            let runtime = Builder::new_multi_thread();
            start(runtime, &args.common, |stop| {
                subcommands::controller(&args, stop)
            })
        }
        Command::Webhook(args) => {
            let runtime = Builder::new_current_thread();
            start(runtime, &args.common, |stop| {
                subcommands::webhook(&args, stop)
            })
        }
        Command::Agent(args) => {
            // One thread is enough for one node and needs less memory.
            let runtime = Builder::new_current_thread();
            start(runtime, &args.common, |stop| {
                subcommands::agent(&args, stop)
            })
        }
    }
}
