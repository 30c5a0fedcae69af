//! A text at the bottom of a terminal that is drawn again and again.

use indicatif::{ProgressBar, ProgressStyle};

use super::Terminal;

/// What it is drawn with: the text alone.
const TEMPLATE: &str = "{msg}";

/// A text below everything that is written to a terminal; it is taken off when it is dropped.
#[derive(Debug)]
pub(crate) struct Pane {
    terminal: Terminal,
    bar: ProgressBar,
}

impl Pane {
    /// An empty one, if that is a terminal to draw on.
    pub(crate) fn open(terminal: &Terminal) -> Option<Self> {
        if !terminal.is_live() {
            return None;
        }
        let style = ProgressStyle::with_template(TEMPLATE);
        let bar = ProgressBar::new_spinner();
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        Some(Self {
            terminal: terminal.clone(),
            bar: terminal.bars().add(bar),
        })
    }

    /// Shows that text in place of the last.
    pub(crate) fn show(&self, text: String) {
        self.bar.set_message(text);
        self.bar.tick();
    }
}

impl Drop for Pane {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        self.terminal.bars().remove(&self.bar);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
