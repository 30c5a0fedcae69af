//! Standard error, shared by progress bars, lines and the log.

use std::fmt::Display;
use std::io::{self, Write as _};

use console::Style;
use indicatif::{MultiProgress, ProgressDrawTarget};

use crate::printable::printable;

/// Standard error as everything writes to it; clones share it.
///
/// Lines are written above the progress bars, if there are any.
#[derive(Debug, Clone)]
pub struct Terminal {
    bars: MultiProgress,
    live: bool,
}

impl Terminal {
    /// The process's own standard error.
    #[must_use]
    pub fn stderr() -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        // Not on every terminal can bars be drawn (TERM=dumb): who draws them decides, so that
        // there is never a terminal with neither bars nor lines.
        let live = !bars.is_hidden();
        Self { bars, live }
    }

    /// Whether it is a terminal that bars can be drawn on.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// The bars drawn on it.
    pub(super) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Writes one line. What would steer the terminal is escaped, here and in the two below.
    pub fn line(&self, text: impl Display) {
        self.labelled("", &text);
    }

    /// Writes one line that tells of something that may be a mistake.
    pub fn warn(&self, text: impl Display) {
        let label = Style::new().for_stderr().yellow().bold();
        self.labelled(&format!("{} ", label.apply_to("warning:")), &text);
    }

    /// Writes one line that tells why the process can't do what it was asked for.
    pub fn error(&self, text: impl Display) {
        let label = Style::new().for_stderr().red().bold();
        self.labelled(&format!("{} ", label.apply_to("error:")), &text);
    }

    /// Our own label may have colours.
    fn labelled(&self, label: &str, text: &impl Display) {
        let text = text.to_string();
        self.write(format!("{label}{}\n", printable(&text)).as_bytes());
    }

    /// Writes bytes; a standard error that is gone is nobody's concern.
    pub(super) fn write(&self, bytes: &[u8]) {
        self.bars.suspend(|| {
            let mut stderr = io::stderr().lock();
            let _ = stderr.write_all(bytes).and_then(|()| stderr.flush());
        });
    }
}
