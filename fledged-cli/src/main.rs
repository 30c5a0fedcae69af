//! The `fledged` command: pre-pulls the images of ImageCache manifests onto this machine, and shows and
//! controls the ImageCaches of a cluster.

mod args;
mod check;
mod command_result;
mod commands;
#[cfg(feature = "demo")]
mod demo;
mod doctor;
mod help;
mod invocation;
mod kube_names;
mod local;
mod manifest;
mod output;
#[cfg(feature = "cluster")]
mod remote;

use std::process::ExitCode;
use std::time::Duration;

use crate::command_result::Exit;
use crate::output::{Terminal, init_log};

/// Longest that a blocking call, for example on a file system that hangs, delays the end of the process.
const BLOCKING_MAX: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = invocation::parse();
    let terminal = Terminal::stderr();
    init_log(&terminal, cli.verbose);
    fledged_cri::registry::ensure_tls_provider();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal.error(format_args!("cannot start the async runtime: {error}"));
            return Exit::Failed.into();
        }
    };
    let exit = runtime
        .block_on(commands::run(cli, &terminal))
        .unwrap_or_else(|error| {
            terminal.error(&error);
            error.exit()
        });
    runtime.shutdown_timeout(BLOCKING_MAX);
    exit.into()
}
