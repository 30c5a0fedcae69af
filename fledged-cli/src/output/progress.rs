//! What happens to the images, as it happens: bars on a terminal, lines anywhere else.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ImagePhase, ImageRef, ImageReport};
use fledged_core::port::PullProgress;
use fledged_core::runner::NodeObserver;
use jiff::Timestamp;

use super::Terminal;
use super::bars::Bars;
use super::outcome::took;

/// How often it is said that the runtime still fails: enough to notice, too little to fill a log.
const SAID_AGAIN: Duration = Duration::from_secs(60);

/// Shows a node's images on the way to where they belong.
#[derive(Debug)]
pub struct LiveProgress {
    terminal: Terminal,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bars: Option<Bars>,
    total: usize,
    phases: BTreeMap<ImageRef, ImagePhase>,
    /// What was last said of a runtime that fails, and when.
    failing: Option<(Reason, Instant)>,
}

impl LiveProgress {
    /// Shows `total` images with bars, if that is a terminal.
    #[must_use]
    pub fn with_bars(terminal: &Terminal, total: usize) -> Self {
        let bars = (terminal.is_live() && total > 0).then(|| Bars::new(terminal, total));
        Self::new(terminal, bars, total)
    }

    /// Shows lines only: for a process that stays.
    #[must_use]
    pub fn lines(terminal: &Terminal) -> Self {
        Self::new(terminal, None, 0)
    }

    fn new(terminal: &Terminal, bars: Option<Bars>, total: usize) -> Self {
        Self {
            terminal: terminal.clone(),
            state: Mutex::new(State {
                bars,
                total,
                phases: BTreeMap::new(),
                failing: None,
            }),
        }
    }

    /// Takes the bars off the terminal; nothing is shown after that but lines.
    pub fn finish(&self) {
        if let Some(mut bars) = self.state().bars.take() {
            bars.clear();
        }
    }

    /// A panic elsewhere leaves the state whole: it is only written in single steps.
    fn state(&self) -> MutexGuard<'_, State> {
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
        let mut told = line(report, before, Timestamp::now());
        if let Some(bars) = &mut state.bars {
            bars.whole(settled.min(total), total);
            if report.phase == ImagePhase::Pulling {
                bars.begin(&report.image);
            } else {
                bars.end(&report.image);
            }
            // The bars tell of what goes well.
            if report.phase == ImagePhase::Cached {
                told = None;
            }
        }
        drop(state);
        if report.phase == ImagePhase::Cached && report.attempts == 0 {
            tracing::info!(image = %report.image, "present");
        }
        if let Some(text) = told {
            self.terminal.line(text);
        }
    }

    fn progress(&self, image: &ImageRef, progress: PullProgress) {
        if let Some(bars) = &self.state().bars {
            bars.progress(image, progress);
        }
    }

    fn runtime_failed(&self, operation: &str, failure: &Failure) {
        let mut state = self.state();
        let said = state
            .failing
            .is_some_and(|(reason, at)| reason == failure.reason && at.elapsed() < SAID_AGAIN);
        if said {
            tracing::debug!(operation, %failure, "still failing");
            return;
        }
        state.failing = Some((failure.reason, Instant::now()));
        drop(state);
        self.terminal.warn(format_args!(
            "the runtime's {operation} can't be read, trying again: {}: {failure}",
            failure.reason
        ));
    }
}

/// The line that tells of a change, for those worth one.
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
            Some(if details.is_empty() {
                format!("pulled {image}")
            } else {
                format!("pulled {image} ({})", details.join(", "))
            })
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
        // What was not there has no attempt.
        ImagePhase::Removed if report.attempts > 0 => Some(format!("removed {image}")),
        ImagePhase::InUse => Some(format!("kept {image}: {}", why())),
        ImagePhase::Pending | ImagePhase::Pulling if before == Some(ImagePhase::Cached) => {
            // One that is pulled again because it may have moved is still there, with its size.
            (report.reason == Some(Reason::Evicted) || report.size.is_none()).then(|| {
                let when = next()
                    .filter(|delay| *delay > Duration::from_secs(1))
                    .map(|delay| format!(" in {} s", delay.as_secs()));
                format!(
                    "lost {image}: it is gone from the runtime, pulling it again{}",
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
    fn a_pull_is_told_with_size_and_time() {
        let mut pulled = report(ImagePhase::Cached);
        pulled.size = Some(ByteSize::new(12_902_728));
        assert_eq!(
            line(&pulled, Some(ImagePhase::Pulling), now()).as_deref(),
            Some("pulled app:v1 (12.3 MiB, 1.2 s)")
        );
    }

    #[test]
    fn what_was_there_already_is_not_told() {
        let mut there = report(ImagePhase::Cached);
        there.attempts = 0;
        assert_eq!(line(&there, None, now()), None);
    }

    #[test]
    fn trouble_is_told_with_reason_and_message() {
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
    fn a_loss_is_told() {
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
