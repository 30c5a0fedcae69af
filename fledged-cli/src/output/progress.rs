//! Progress of pulls and removals: bars on a terminal, lines elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ImagePhase, ImageRef, ImageReport};
use fledged_core::port::PullProgress;
use fledged_core::runner::NodeObserver;
use indicatif::{ProgressBar, ProgressState as BarState, ProgressStyle};
use jiff::Timestamp;

use super::{Terminal, pulled_bytes, took};

/// Interval between warnings about the same failure of the runtime.
const WARN_INTERVAL: Duration = Duration::from_secs(60);
/// Interval at which bars are redrawn; short enough for a smooth spinner.
const TICK: Duration = Duration::from_millis(120);

const TOTAL_TEMPLATE: &str = "{bar:30.green} {pos}/{len} images, {elapsed}";
/// Of a pull whose total is not known: the message is the image, perhaps with bytes.
const PULL_TEMPLATE: &str = "  {spinner} {wide_msg}";
/// Of a pull whose total is known. The name is last: where it does not fit, its end is left out.
const BYTES_TEMPLATE: &str = "  {spinner} {bar:16.green} {bytes:46}  {wide_msg}";
/// Time after which a rate is shown.
const FIRST_RATE: Duration = Duration::from_secs(1);

/// Shows the progress of a node loop.
#[derive(Debug)]
pub(crate) struct LiveProgress {
    terminal: Terminal,
    state: Mutex<ProgressState>,
}

#[derive(Debug)]
struct ProgressState {
    bars: Option<Bars>,
    total: usize,
    phases: BTreeMap<ImageRef, ImagePhase>,
    /// The last warning about the runtime, and its time.
    last_warning: Option<(Reason, Instant)>,
}

impl LiveProgress {
    /// Shows `total` images with bars if the terminal can draw them, otherwise with lines.
    pub(crate) fn with_bars(terminal: &Terminal, total: usize) -> Self {
        let bars = (terminal.is_live() && total > 0).then(|| Bars::new(terminal, total));
        Self::new(terminal, bars, total)
    }

    /// Shows lines only, for a process that keeps running.
    pub(crate) fn lines(terminal: &Terminal) -> Self {
        Self::new(terminal, None, 0)
    }

    fn new(terminal: &Terminal, bars: Option<Bars>, total: usize) -> Self {
        Self {
            terminal: terminal.clone(),
            state: Mutex::new(ProgressState {
                bars,
                total,
                phases: BTreeMap::new(),
                last_warning: None,
            }),
        }
    }

    /// Removes the bars; later changes are shown as lines.
    pub(crate) fn finish(&self) {
        if let Some(mut bars) = self.state().bars.take() {
            bars.clear();
        }
    }

    /// The state is consistent after every statement, so a poisoned lock can be used.
    fn state(&self) -> MutexGuard<'_, ProgressState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeObserver for LiveProgress {
    fn image_changed(&self, report: &ImageReport) {
        let mut state = self.state();
        let before = state.phases.insert(report.image.clone(), report.phase);
        if before == Some(report.phase) {
            return;
        }
        let settled = state.phases.values().filter(|p| p.is_settled()).count();
        let total = state.total;
        let mut line = line(report, before, Timestamp::now());
        if let Some(bars) = &mut state.bars {
            bars.set_total(settled.min(total), total);
            if report.phase == ImagePhase::Pulling {
                bars.begin(&report.image);
            } else {
                bars.end(&report.image);
            }
            // The bars already show successful pulls.
            if report.phase == ImagePhase::Cached {
                line = None;
            }
        }
        drop(state);
        if report.phase == ImagePhase::Cached && report.attempts == 0 {
            tracing::info!(image = %report.image, "image present");
        }
        if let Some(text) = line {
            self.terminal.line(text);
        }
    }

    fn progress(&self, image: &ImageRef, progress: PullProgress) {
        if let Some(bars) = &self.state().bars {
            bars.set_progress(image, progress);
        }
    }

    fn runtime_failed(&self, operation: &str, failure: &Failure) {
        let mut state = self.state();
        let warned = state
            .last_warning
            .is_some_and(|(reason, at)| reason == failure.reason && at.elapsed() < WARN_INTERVAL);
        if warned {
            tracing::debug!(operation, %failure, "runtime still failing");
            return;
        }
        state.last_warning = Some((failure.reason, Instant::now()));
        drop(state);
        self.terminal.warn(format_args!(
            "cannot read the {operation} of the runtime, retrying: {}: {failure}",
            failure.reason
        ));
    }
}

/// The bars of one command: one for all images, and a line for each running pull.
#[derive(Debug)]
struct Bars {
    terminal: Terminal,
    total: ProgressBar,
    pulls: BTreeMap<ImageRef, ProgressBar>,
}

impl Bars {
    fn new(terminal: &Terminal, total: usize) -> Self {
        let total = terminal.bars().add(
            ProgressBar::new(u64::try_from(total).unwrap_or(u64::MAX))
                .with_style(style(TOTAL_TEMPLATE)),
        );
        total.enable_steady_tick(TICK);
        Self {
            terminal: terminal.clone(),
            total,
            pulls: BTreeMap::new(),
        }
    }

    fn set_total(&self, done: usize, total: usize) {
        self.total
            .set_length(u64::try_from(total).unwrap_or(u64::MAX));
        self.total
            .set_position(u64::try_from(done).unwrap_or(u64::MAX));
    }

    fn begin(&mut self, image: &ImageRef) {
        if self.pulls.contains_key(image) {
            return;
        }
        let bar = self.terminal.bars().insert_before(
            &self.total,
            ProgressBar::new_spinner()
                .with_style(style(PULL_TEMPLATE))
                .with_message(image.original().to_owned()),
        );
        bar.enable_steady_tick(TICK);
        self.pulls.insert(image.clone(), bar);
    }

    fn set_progress(&self, image: &ImageRef, progress: PullProgress) {
        if let Some(bar) = self.pulls.get(image) {
            show_bytes(bar, image, progress);
        }
    }

    fn end(&mut self, image: &ImageRef) {
        if let Some(bar) = self.pulls.remove(image) {
            bar.finish_and_clear();
            self.terminal.bars().remove(&bar);
        }
    }

    fn clear(&mut self) {
        for (_, bar) in std::mem::take(&mut self.pulls) {
            bar.finish_and_clear();
        }
        self.total.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    // A test checks the templates; an invalid one would only look worse.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Shows the bytes of a pull, with a bar if the total is known.
fn show_bytes(bar: &ProgressBar, image: &ImageRef, progress: PullProgress) {
    let name = image.original();
    let Some(total) = progress.total else {
        bar.set_message(format!("{name} {}", progress.done));
        return;
    };
    if bar.length().is_none() {
        bar.set_style(style(BYTES_TEMPLATE).with_key("bytes", write_bytes));
        bar.set_message(name.to_owned());
    }
    bar.set_length(total.bytes());
    bar.set_position(progress.done.bytes());
}

/// Writes bytes, rate and remaining time of a pull.
fn write_bytes(bar: &BarState, text: &mut dyn std::fmt::Write) {
    let (done, total) = (bar.pos(), bar.len().unwrap_or_default());
    let has_rate = bar.elapsed() >= FIRST_RATE && done > 0;
    let rate = has_rate.then(|| whole(bar.per_sec()));
    let seconds = bar.eta().as_secs();
    let left = (has_rate && seconds > 0).then_some(seconds);
    // A terminal that cannot be written to is no reason to stop.
    let _ = text.write_str(&pulled_bytes(done, Some(total), rate, left));
}

/// The whole part of a number; 0 if it is negative or too large.
fn whole(number: f64) -> u64 {
    Duration::try_from_secs_f64(number).map_or(0, |seconds| seconds.as_secs())
}

/// The line for a change of phase; `None` if the change needs no line.
fn line(report: &ImageReport, before: Option<ImagePhase>, now: Timestamp) -> Option<String> {
    let image = &report.image;
    let why = || match (report.reason, &report.message) {
        (Some(reason), Some(message)) => format!("{reason}: {message}"),
        (Some(reason), None) => reason.to_string(),
        (None, Some(message)) => message.clone(),
        (None, None) => "no reason given".to_owned(),
    };
    let next = || {
        let next = report.next_attempt_at?;
        Duration::try_from(next.duration_since(now)).ok()
    };
    match report.phase {
        ImagePhase::Cached if report.attempts > 0 => {
            let details: Vec<String> = report
                .size
                .map(|size| size.to_string())
                .into_iter()
                .chain(took(report).map(|time| format!("{:.1} s", time.as_secs_f64())))
                .collect();
            let mut text = format!("pulled {image}");
            if !details.is_empty() {
                let _ = write!(text, " ({})", details.join(", "));
            }
            if let Some(unused) = &report.message {
                let _ = write!(text, "; not used: {unused}");
            }
            Some(text)
        }
        ImagePhase::BackingOff => Some(match next() {
            Some(delay) => format!(
                "retrying {image} in {:.1} s: {}",
                delay.as_secs_f64(),
                why()
            ),
            None => format!("retrying {image}: {}", why()),
        }),
        ImagePhase::Failed => Some(format!("failed {image}: {}", why())),
        // An image that was not present has no attempts.
        ImagePhase::Removed if report.attempts > 0 => Some(format!("removed {image}")),
        ImagePhase::InUse => Some(format!("kept {image}: {}", why())),
        ImagePhase::Pending | ImagePhase::Pulling if before == Some(ImagePhase::Cached) => {
            // A mutable tag that is pulled again is still present and has a size.
            (report.reason == Some(Reason::Evicted) || report.size.is_none()).then(|| {
                let when = next()
                    .filter(|delay| *delay > Duration::from_secs(1))
                    .map(|delay| format!(" in {} s", delay.as_secs()));
                format!(
                    "lost {image}: no longer in the runtime, pulling it again{}",
                    when.unwrap_or_default()
                )
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fledged_core::model::ByteSize;
    use indicatif::{InMemoryTerm, ProgressDrawTarget};

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn report(phase: ImagePhase) -> ImageReport {
        let mut report = ImageReport::new(ImageRef::parse("app:v1").unwrap(), phase);
        report.attempts = 1;
        report.started_at = Some(now());
        report.finished_at = Some("2026-01-01T00:00:01.2Z".parse().unwrap());
        report
    }

    #[test]
    fn templates_are_valid() {
        for template in [TOTAL_TEMPLATE, PULL_TEMPLATE, BYTES_TEMPLATE] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn a_running_pull_is_shown_with_a_bar_rate_and_remaining_time() {
        let screen = InMemoryTerm::new(3, 100);
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        let bar = ProgressBar::with_draw_target(None, target);
        let image = ImageRef::parse("registry.test/app:v1").unwrap();
        let mib = |count: u64| ByteSize::new(count << 20);
        bar.set_style(style(PULL_TEMPLATE));
        show_bytes(&bar, &image, PullProgress::new(mib(3), None));
        bar.tick();
        let shown = screen.contents();
        assert!(shown.ends_with("registry.test/app:v1 3.0 MiB"), "{shown}");
        show_bytes(&bar, &image, PullProgress::new(mib(20), mib(80)));
        bar.tick();
        let shown = screen.contents();
        assert!(shown.contains("20.0 MiB of 80.0 MiB"), "{shown}");
        assert!(shown.contains("████"), "{shown}");
        assert!(shown.ends_with("  registry.test/app:v1"), "{shown}");
    }

    #[test]
    fn a_pull_is_shown_with_size_and_time() {
        let mut pulled = report(ImagePhase::Cached);
        pulled.size = Some(ByteSize::new(12_902_728));
        assert_eq!(
            line(&pulled, Some(ImagePhase::Pulling), now()).as_deref(),
            Some("pulled app:v1 (12.3 MiB, 1.2 s)")
        );
    }

    #[test]
    fn a_present_image_is_not_shown() {
        let mut present = report(ImagePhase::Cached);
        present.attempts = 0;
        assert_eq!(line(&present, None, now()), None);
    }

    #[test]
    fn failures_are_shown_with_reason_and_message() {
        let mut failed = report(ImagePhase::Failed);
        failed.reason = Some(Reason::ImageNotFound);
        failed.message = Some("manifest unknown".to_owned());
        assert_eq!(
            line(&failed, None, now()).as_deref(),
            Some("failed app:v1: ImageNotFound: manifest unknown")
        );
        let mut retried = failed;
        retried.phase = ImagePhase::BackingOff;
        retried.next_attempt_at = Some("2026-01-01T00:00:02Z".parse().unwrap());
        assert_eq!(
            line(&retried, None, now()).as_deref(),
            Some("retrying app:v1 in 2.0 s: ImageNotFound: manifest unknown")
        );
    }

    #[test]
    fn a_lost_image_is_shown() {
        let mut again = report(ImagePhase::Pulling);
        let text = line(&again, Some(ImagePhase::Cached), now());
        assert!(text.is_some_and(|t| t.starts_with("lost app:v1")));
        again.size = Some(ByteSize::new(1));
        assert_eq!(line(&again, Some(ImagePhase::Cached), now()), None);
        let mut later = report(ImagePhase::Pending);
        later.reason = Some(Reason::Evicted);
        later.next_attempt_at = Some("2026-01-01T00:01:00Z".parse().unwrap());
        let text = line(&later, Some(ImagePhase::Cached), now());
        assert!(text.is_some_and(|t| t.ends_with("pulling it again in 60 s")));
    }
}
