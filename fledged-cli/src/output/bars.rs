//! Progress bars: one for the whole, one line an active pull.

use std::collections::BTreeMap;
use std::time::Duration;

use fledged_core::model::ImageRef;
use fledged_core::port::PullProgress;
use indicatif::{ProgressBar, ProgressStyle};

use super::Terminal;

/// How often bars without news are drawn again: fast enough for a spinner to look alive.
const TICK: Duration = Duration::from_millis(120);

/// The bars of one command.
#[derive(Debug)]
pub(super) struct Bars {
    terminal: Terminal,
    whole: ProgressBar,
    pulls: BTreeMap<ImageRef, ProgressBar>,
}

impl Bars {
    /// A bar for that many images.
    pub(super) fn new(terminal: &Terminal, total: usize) -> Self {
        let whole = terminal.bars().add(
            ProgressBar::new(u64::try_from(total).unwrap_or(u64::MAX))
                .with_style(style("{bar:30.green} {pos}/{len} images, {elapsed}")),
        );
        whole.enable_steady_tick(TICK);
        Self {
            terminal: terminal.clone(),
            whole,
            pulls: BTreeMap::new(),
        }
    }

    /// How many images are done, of how many.
    pub(super) fn whole(&self, done: usize, total: usize) {
        self.whole
            .set_length(u64::try_from(total).unwrap_or(u64::MAX));
        self.whole
            .set_position(u64::try_from(done).unwrap_or(u64::MAX));
    }

    /// A pull has begun.
    pub(super) fn begin(&mut self, image: &ImageRef) {
        if self.pulls.contains_key(image) {
            return;
        }
        let bar = self.terminal.bars().insert_before(
            &self.whole,
            ProgressBar::new_spinner()
                .with_style(style("  {spinner} {prefix} {wide_msg}"))
                .with_prefix(image.original().to_owned()),
        );
        bar.enable_steady_tick(TICK);
        self.pulls.insert(image.clone(), bar);
    }

    /// A pull has got that far.
    pub(super) fn progress(&self, image: &ImageRef, progress: PullProgress) {
        if let Some(bar) = self.pulls.get(image) {
            bar.set_message(match progress.total {
                Some(total) => format!("{} of {total}", progress.done),
                None => progress.done.to_string(),
            });
        }
    }

    /// A pull has ended, however.
    pub(super) fn end(&mut self, image: &ImageRef) {
        if let Some(bar) = self.pulls.remove(image) {
            bar.finish_and_clear();
            self.terminal.bars().remove(&bar);
        }
    }

    /// Takes everything off the terminal.
    pub(super) fn clear(&mut self) {
        for (_, bar) in std::mem::take(&mut self.pulls) {
            bar.finish_and_clear();
        }
        self.whole.finish_and_clear();
    }
}

/// A style from a template that is known to be valid; the plain style would only look worse.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_valid() {
        for template in [
            "{bar:30.green} {pos}/{len} images, {elapsed}",
            "  {spinner} {prefix} {wide_msg}",
        ] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
