//! One round on this node, from an assignment to its outcome.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use fledged_core::error::Reason;
use fledged_core::model::{Assignment, ImagePhase};
use fledged_core::warmer::{Inventory, WarmerConfig};
use jiff::Timestamp;

use super::CommandError;
use super::print::print;
use crate::args::OutputFormat;
use crate::exit::Exit;
use crate::output::{LiveProgress, Outcome, Terminal, pluralised};
use crate::plan::{plan, removes};
use crate::session::Session;
use fledged_core::tokio::ShutdownSignal;

/// Settles an assignment and prints what came of it. The exit code is 1 where an image failed.
pub(super) async fn settle(
    session: &Session,
    config: WarmerConfig,
    assignment: Assignment,
    format: OutputFormat,
    terminal: &Terminal,
) -> Result<Exit, CommandError> {
    let mut shutdown = ShutdownSignal::listen().map_err(CommandError::Signals)?;
    let progress = Arc::new(LiveProgress::with_bars(terminal, assignment.images.len()));
    let mut node = session.node_loop(config, Arc::clone(&progress));
    let start = Instant::now();
    let ended = tokio::select! {
        report = node.settle(assignment) => Ok(report),
        signal = shutdown.recv() => Err(signal),
    };
    progress.finish();
    match ended {
        Ok(report) => {
            let outcome = Outcome::new(&report, start.elapsed());
            show(&outcome, format)?;
            terminal.line(summary(&outcome));
            // What is not settled by now never will be; that is a failure too.
            let settled = outcome.images.iter().all(|i| i.phase.is_settled());
            Ok(if settled && outcome.summary.failed == 0 {
                Exit::Done
            } else {
                Exit::Failed
            })
        }
        Err(signal) => {
            let outcome = Outcome::new(&node.report(), start.elapsed());
            terminal.error(interrupted(&outcome));
            Ok(Exit::Signalled(signal))
        }
    }
}

/// Prints what settling an assignment would do.
pub(super) async fn foresee(
    session: &Session,
    assignment: Assignment,
    format: OutputFormat,
    terminal: &Terminal,
) -> Result<Exit, CommandError> {
    let start = Instant::now();
    let runtime = &session.runtime;
    let in_use = if removes(&assignment) {
        let in_use = runtime.in_use().await;
        in_use.map_err(CommandError::runtime("list images in use"))?
    } else {
        Vec::new()
    };
    let info = runtime.info().await;
    let info = info.map_err(CommandError::runtime("read the runtime's version"))?;
    let images = runtime.list().await;
    let images = images.map_err(CommandError::runtime("list images"))?;
    let inventory = Inventory::new(images, in_use, info.removal);
    let report = plan(assignment, inventory, Timestamp::now());
    let outcome = Outcome::new(&report, start.elapsed());
    show(&outcome, format)?;
    terminal.line(format_args!(
        "dry run, nothing was changed: {} would be pulled, {} removed, {} kept{}",
        outcome.count(ImagePhase::Pending),
        outcome.count(ImagePhase::Removing),
        outcome.images.len()
            - outcome.count(ImagePhase::Pending)
            - outcome.count(ImagePhase::Removing)
            - outcome.count(ImagePhase::Removed),
        match outcome.absent() {
            0 => String::new(),
            absent => format!(", {absent} not there"),
        },
    ));
    Ok(Exit::Done)
}

fn show(outcome: &Outcome, format: OutputFormat) -> Result<(), CommandError> {
    match format {
        OutputFormat::Table => print(&outcome.table()),
        OutputFormat::Json => print(
            &outcome
                .json()
                .map_err(|error| CommandError::Output(error.into()))?,
        ),
    }
}

fn summary(outcome: &Outcome) -> String {
    let mut parts = Vec::new();
    for (phase, words) in [
        (ImagePhase::Cached, "there"),
        (ImagePhase::Removed, "removed"),
        (ImagePhase::InUse, "kept"),
        (ImagePhase::Failed, "failed"),
    ] {
        // What was not there was never attempted to be removed.
        let absent = match phase {
            ImagePhase::Removed => outcome.absent(),
            _ => 0,
        };
        let count = outcome.count(phase) - absent;
        if count > 0 {
            let why = match phase {
                ImagePhase::InUse => reasons(outcome),
                _ => String::new(),
            };
            parts.push(format!("{count} {words}{why}"));
        }
        if absent > 0 {
            parts.push(format!("{absent} not there"));
        }
    }
    if parts.is_empty() {
        parts.push("nothing to do".to_owned());
    }
    format!(
        "{}: {}, {:.1} s",
        pluralised(outcome.images.len(), "image"),
        parts.join(", "),
        outcome.summary.seconds
    )
}

/// Why images were kept: ` (in use)`, ` (1 in use, 2 pinned)`.
fn reasons(outcome: &Outcome) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let kept = outcome.images.iter();
    for image in kept.filter(|image| image.phase == ImagePhase::InUse) {
        let reason = image.reason.as_deref().unwrap_or_default();
        let words = match reason {
            _ if reason == Reason::InUse.as_str() => "in use",
            _ if reason == Reason::SharedImage.as_str() => "shared with another name",
            _ if reason == Reason::Pinned.as_str() => "pinned",
            "" => "no reason given",
            other => other,
        };
        *counts.entry(words).or_default() += 1;
    }
    let words: Vec<String> = match counts.len() {
        1 => counts.keys().map(ToString::to_string).collect(),
        _ => counts
            .iter()
            .map(|(words, count)| format!("{count} {words}"))
            .collect(),
    };
    format!(" ({})", words.join(", "))
}

fn interrupted(outcome: &Outcome) -> String {
    let left: Vec<&str> = outcome
        .images
        .iter()
        .filter(|image| !matches!(image.phase, ImagePhase::Cached | ImagePhase::Removed))
        .map(|image| image.reference.as_str())
        .collect();
    format!(
        "interrupted; {} of {} left undone: {}",
        left.len(),
        pluralised(outcome.images.len(), "image"),
        left.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fledged_core::model::{ImageRef, ImageReport, NodeReport};

    use super::*;

    fn said(images: &[(ImagePhase, u32, Option<Reason>)]) -> String {
        let images = images
            .iter()
            .enumerate()
            .map(|(i, (phase, attempts, reason))| {
                let image = ImageRef::parse(&format!("app:{i}")).unwrap();
                let mut report = ImageReport::new(image, *phase);
                report.attempts = *attempts;
                report.reason = *reason;
                report
            });
        let report = NodeReport::new(0, images);
        summary(&Outcome::new(&report, Duration::ZERO))
    }

    #[test]
    fn a_summary_says_why_images_were_kept() {
        use ImagePhase::InUse;
        let (used, pinned) = (Some(Reason::InUse), Some(Reason::Pinned));
        assert_eq!(
            said(&[(InUse, 1, used), (InUse, 0, used)]),
            "2 images: 2 kept (in use), 0.0 s"
        );
        let shared = Some(Reason::SharedImage);
        assert_eq!(
            said(&[
                (InUse, 0, used),
                (InUse, 0, pinned),
                (InUse, 0, pinned),
                (InUse, 0, shared)
            ]),
            "4 images: 4 kept (1 in use, 2 pinned, 1 shared with another name), 0.0 s"
        );
    }

    #[test]
    fn what_was_not_there_is_not_called_removed() {
        use ImagePhase::Removed;
        assert_eq!(
            said(&[(Removed, 1, None), (Removed, 0, None), (Removed, 0, None)]),
            "3 images: 1 removed, 2 not there, 0.0 s"
        );
        assert_eq!(said(&[(Removed, 0, None)]), "1 image: 1 not there, 0.0 s");
    }
}
