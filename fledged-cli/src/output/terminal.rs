//! Standard error, shared by messages, the log and everything that is redrawn.

use std::fmt::Display;
use std::io::{self, Write};

use console::Style;
use indicatif::{MultiProgress, ProgressDrawTarget};
#[cfg(feature = "cluster")]
use indicatif::{ProgressBar, ProgressStyle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::printable;

/// Standard error; clones share it. Lines are written above the progress bars.
#[derive(Debug, Clone)]
pub(crate) struct Terminal {
    bars: MultiProgress,
    live: bool,
}

impl Terminal {
    /// The standard error of this process.
    pub(crate) fn stderr() -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        // indicatif decides whether bars can be drawn (not with TERM=dumb), so that every terminal gets
        // either bars or lines.
        let live = !bars.is_hidden();
        Self { bars, live }
    }

    /// Whether bars can be drawn.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// The bars drawn on it.
    pub(super) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Writes a line, with control characters escaped.
    pub(crate) fn line(&self, text: impl Display) {
        self.labelled("", &text);
    }

    /// Writes a warning, with control characters escaped.
    pub(crate) fn warn(&self, text: impl Display) {
        let label = Style::new().for_stderr().yellow().bold();
        self.labelled(&format!("{} ", label.apply_to("warning:")), &text);
    }

    /// Writes an error, with control characters escaped.
    pub(crate) fn error(&self, text: impl Display) {
        let label = Style::new().for_stderr().red().bold();
        self.labelled(&format!("{} ", label.apply_to("error:")), &text);
    }

    /// Runs `write`, which writes to stdout, while nothing is drawn.
    #[cfg(feature = "cluster")]
    pub(crate) fn above<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bars.suspend(write)
    }

    fn labelled(&self, label: &str, text: &impl Display) {
        let text = text.to_string();
        self.write_bytes(format!("{label}{}\n", printable(&text)).as_bytes());
    }

    /// Errors are ignored: there is no other place to report them.
    fn write_bytes(&self, bytes: &[u8]) {
        self.bars.suspend(|| {
            let mut stderr = io::stderr().lock();
            let _ = stderr.write_all(bytes).and_then(|()| stderr.flush());
        });
    }
}

/// Starts the log: warnings; with `-v` events, with `-vv` details, with `-vvv` everything of this project.
/// Has no effect if a log exists already.
pub(crate) fn init_log(terminal: &Terminal, verbose: u8) {
    let filter = match verbose {
        // The progress output already shows what the node loop warns about, and a failed request is
        // reported by the command that made it.
        0 => "warn,fledged_core::runner=error,kube_client=off",
        1 => "warn,fledged=info,fledged_core=info,fledged_cri=info,fledged_operator=warn",
        2 => "info,fledged=debug,fledged_core=debug,fledged_cri=debug,fledged_operator=info",
        _ => "debug,fledged=trace,fledged_core=trace,fledged_cri=trace,fledged_operator=debug",
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
        self.0.write_bytes(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Shows the message alone.
#[cfg(feature = "cluster")]
const PANE_TEMPLATE: &str = "{msg}";

/// A text at the bottom of the terminal that can be replaced; removed when dropped.
#[cfg(feature = "cluster")]
#[derive(Debug)]
pub(crate) struct Pane {
    terminal: Terminal,
    bar: ProgressBar,
}

#[cfg(feature = "cluster")]
impl Pane {
    /// An empty pane; `None` if nothing can be redrawn.
    pub(crate) fn open(terminal: &Terminal) -> Option<Self> {
        if !terminal.is_live() {
            return None;
        }
        let style = ProgressStyle::with_template(PANE_TEMPLATE);
        let bar = ProgressBar::new_spinner();
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        Some(Self {
            terminal: terminal.clone(),
            bar: terminal.bars().add(bar),
        })
    }

    /// Replaces the text.
    pub(crate) fn show(&self, text: String) {
        self.bar.set_message(text);
        self.bar.tick();
    }
}

#[cfg(feature = "cluster")]
impl Drop for Pane {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        self.terminal.bars().remove(&self.bar);
    }
}

#[cfg(all(test, feature = "cluster"))]
mod tests {
    use super::*;

    #[test]
    fn the_pane_template_is_valid() {
        assert!(ProgressStyle::with_template(PANE_TEMPLATE).is_ok());
    }
}
