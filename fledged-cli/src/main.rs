//! The `fledged` command; see the library for what it does.

use std::process::ExitCode;
use std::time::Duration;

use fledged_cli::environment;
use fledged_cli::exit::Exit;
use fledged_cli::output::{Terminal, init_log};

fn main() -> ExitCode {
    let cli = environment::parse();
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
        .block_on(fledged_cli::commands::dispatch(cli, &terminal))
        .unwrap_or_else(|error| {
            terminal.error(&error);
            error.exit()
        });
    // A file system that hangs must not keep the process from ending.
    runtime.shutdown_timeout(Duration::from_millis(500));
    exit.into()
}
