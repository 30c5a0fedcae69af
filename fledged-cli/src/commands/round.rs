//! One round on this node, from an assignment to its outcome.

use std::sync::Arc;
use std::time::Instant;

use fledged_core::model::{Assignment, ImagePhase};
use fledged_core::node::{Inventory, WarmerConfig};
use jiff::Timestamp;

use super::CommandError;
use super::print::print;
use crate::args::OutputFormat;
use crate::exit::Exit;
use crate::output::{LiveProgress, Outcome, Terminal, pluralised};
use crate::plan::{plan, removes};
use crate::session::Session;
use crate::signals::Shutdown;

/// Settles an assignment and prints what came of it. The exit code is 1 where an image failed.
pub(super) async fn settle(
    session: &Session,
    config: WarmerConfig,
    assignment: Assignment,
    format: OutputFormat,
    terminal: &Terminal,
) -> Result<Exit, CommandError> {
    let mut shutdown = Shutdown::catch().map_err(CommandError::Signals)?;
    let progress = Arc::new(LiveProgress::with_bars(terminal, assignment.images.len()));
    let mut node = session.node_loop(config, Arc::clone(&progress));
    let start = Instant::now();
    let ended = tokio::select! {
        report = node.settle(assignment) => Ok(report),
        signal = shutdown.requested() => Err(signal),
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
        runtime.in_use().await?
    } else {
        Vec::new()
    };
    let removal = runtime.info().await?.removal;
    let inventory = Inventory::new(runtime.list().await?, in_use, removal);
    let report = plan(assignment, inventory, Timestamp::now());
    let outcome = Outcome::new(&report, start.elapsed());
    show(&outcome, format)?;
    terminal.line(format_args!(
        "dry run, nothing was changed: {} would be pulled, {} removed, {} kept",
        outcome.count(ImagePhase::Pending),
        outcome.count(ImagePhase::Removing),
        outcome.images.len()
            - outcome.count(ImagePhase::Pending)
            - outcome.count(ImagePhase::Removing)
            - outcome.count(ImagePhase::Removed),
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
        (ImagePhase::InUse, "kept because it is in use"),
        (ImagePhase::Failed, "failed"),
    ] {
        let count = outcome.count(phase);
        if count > 0 {
            parts.push(format!("{count} {words}"));
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
