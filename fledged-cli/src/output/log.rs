//! The log, on stderr above the progress bars.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::Terminal;

/// Turns the log on: warnings, with `-v` what is done, with `-vv` details, with `-vvv` everything
/// of this project's crates. Does nothing when a log is already there.
pub fn init(terminal: &Terminal, verbose: u8) {
    let filter = match verbose {
        // What the driver warns of is shown by the progress already.
        // A request that fails is told of by whoever made it.
        0 => "warn,fledged_core::runner=error,kube_client=off",
        1 => "warn,fledged_cli=info,fledged_core=info,fledged_cri=info",
        2 => "info,fledged_cli=debug,fledged_core=debug,fledged_cri=debug",
        _ => "debug,fledged_cli=trace,fledged_core=trace,fledged_cri=trace",
    };
    let _ = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_ansi(console::colors_enabled_stderr())
        .with_target(verbose > 1)
        .with_writer(LogWriter(terminal.clone()))
        .try_init();
}

#[derive(Clone)]
struct LogWriter(Terminal);

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
