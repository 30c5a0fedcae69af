//! `fledged node apply` and `fledged node purge`: one round on this node, from assignment to result.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use fledged_core::error::Reason;
use fledged_core::model::{Assignment, AssignmentDefaults, ImagePhase};
use fledged_core::tokio::ShutdownSignal;
use fledged_core::warmer::{Inventory, WarmerConfig};
use jiff::Timestamp;

use super::dry_run;
use super::local_node::{node_facts, warn_nothing_selected};
use super::round_outcome::RoundOutcome;
use super::runtime_session::RuntimeSession;
use crate::args::{ApplyArgs, OutputFormat, PullArgs, PurgeArgs, RegistryArgs};
use crate::command_result::{CommandError, Exit, json, print};
use crate::manifest;
use crate::output::{LiveProgress, Terminal, pluralised};

pub(super) async fn apply(args: ApplyArgs, terminal: &Terminal) -> Result<Exit, CommandError> {
    let manifests = manifest::load(args.manifests.files, terminal).await?;
    let registry = &args.registry;
    let node = node_facts(&args.node, registry.platform.as_ref())?;
    let has_credentials = registry.has_credentials();
    manifest::warn_unsupported(&manifests.caches, has_credentials, terminal);
    let defaults = assignment_defaults(&args.pull);
    manifest::warn_cut_deadlines(&manifests.caches, defaults.longest_deadline(), terminal);
    let assignment = Assignment::for_node(&node, &manifests.caches, defaults);
    warn_nothing_selected(&assignment, &node, terminal);
    let uri = args.runtime.runtime.as_ref();
    let session = RuntimeSession::open(uri, registry, Some(&args.pull)).await?;
    session.warn_unused(registry, args.pull.pull_via, terminal);
    let pulls_itself = session.pulls_itself(args.pull.pull_via);
    manifest::warn_unlimited(&manifests.caches, pulls_itself, terminal);
    manifest::warn_no_credentials(registry, terminal);
    let mut config = WarmerConfig::default();
    config.max_parallel_pulls = args.pull.max_parallel_pulls;
    let round = Round {
        session,
        assignment,
        format: args.output.output,
        terminal,
    };
    if args.dry_run {
        return round.dry_run(config).await;
    }
    round.settle(config).await
}

pub(super) async fn purge(args: PurgeArgs, terminal: &Terminal) -> Result<Exit, CommandError> {
    let manifests = manifest::load(args.manifests.files, terminal).await?;
    let node = node_facts(&args.node, args.platform.as_ref())?;
    // A removal sends no request to a registry.
    let registry = RegistryArgs {
        platform: args.platform,
        ..RegistryArgs::unused()
    };
    let defaults = AssignmentDefaults::default();
    let selected = Assignment::for_node(&node, &manifests.caches, defaults);
    warn_nothing_selected(&selected, &node, terminal);
    let round = Round {
        session: RuntimeSession::open(args.runtime.runtime.as_ref(), &registry, None).await?,
        assignment: selected.into_absent(),
        format: args.output.output,
        terminal,
    };
    let mut config = WarmerConfig::default();
    config.protected = args.protect.images();
    if args.dry_run {
        return round.dry_run(config).await;
    }
    round.settle(config).await
}

/// The defaults for entries that set no policy and no deadline.
pub(super) fn assignment_defaults(args: &PullArgs) -> AssignmentDefaults {
    AssignmentDefaults::default()
        .with_pull_policy(args.image_pull_policy)
        .with_deadline(args.deadline)
}

/// One round of pulls and removals.
struct Round<'a> {
    session: RuntimeSession,
    assignment: Assignment,
    format: OutputFormat,
    terminal: &'a Terminal,
}

impl Round<'_> {
    /// Runs the assignment and prints the result. The exit code is 1 if an image failed.
    async fn settle(self, config: WarmerConfig) -> Result<Exit, CommandError> {
        let terminal = self.terminal;
        let mut shutdown = ShutdownSignal::listen().map_err(CommandError::Signals)?;
        let progress = LiveProgress::with_bars(terminal, self.assignment.images.len());
        let progress = Arc::new(progress);
        let mut node = self.session.node_loop(config, Arc::clone(&progress));
        let start = Instant::now();
        let ended = tokio::select! {
            report = node.settle(self.assignment) => Ok(report),
            signal = shutdown.recv() => Err(signal),
        };
        progress.finish();
        match ended {
            Ok(report) => {
                let client = self.session.registry_client();
                let outcome =
                    RoundOutcome::new(&report, start.elapsed()).with_hints(&report, client);
                show(&outcome, self.format)?;
                terminal.line(summary(&outcome));
                // An image that is not settled when the round has ended is a failure too.
                let settled = outcome.images.iter().all(|i| i.phase.is_settled());
                Ok(if settled && outcome.summary.failed == 0 {
                    Exit::Done
                } else {
                    Exit::Failed
                })
            }
            Err(signal) => {
                let outcome = RoundOutcome::new(&node.report(), start.elapsed());
                terminal.error(interrupted(&outcome));
                Ok(Exit::Signalled(signal))
            }
        }
    }

    /// Prints what the assignment would do.
    async fn dry_run(self, config: WarmerConfig) -> Result<Exit, CommandError> {
        let start = Instant::now();
        let runtime = &self.session.runtime;
        let in_use = if dry_run::has_removals(&self.assignment) {
            runtime
                .in_use()
                .await
                .map_err(CommandError::runtime("list images in use"))?
        } else {
            Vec::new()
        };
        let info = runtime
            .info()
            .await
            .map_err(CommandError::runtime("read the runtime's version"))?;
        let images = runtime
            .list()
            .await
            .map_err(CommandError::runtime("list images"))?;
        let inventory = Inventory::new(images, in_use, info.removal);
        let report = dry_run::preview(self.assignment, inventory, config, Timestamp::now());
        let outcome = RoundOutcome::of_dry_run(&report, start.elapsed());
        show(&outcome, self.format)?;
        let pulled = outcome.count(ImagePhase::Pending);
        let removed = outcome.count(ImagePhase::Removing);
        let kept = outcome.images.len() - pulled - removed - outcome.count(ImagePhase::Removed);
        let absent = match outcome.absent() {
            0 => String::new(),
            absent => format!(", {absent} not present"),
        };
        self.terminal.line(format_args!(
            "dry run, nothing was changed: {pulled} would be pulled, {removed} would be removed, {kept} kept{absent}"
        ));
        Ok(Exit::Done)
    }
}

fn show(outcome: &RoundOutcome, format: OutputFormat) -> Result<(), CommandError> {
    match format {
        OutputFormat::Table => print(&outcome.table()),
        OutputFormat::Json => print(&json(outcome)?),
    }
}

fn summary(outcome: &RoundOutcome) -> String {
    let absent = outcome.absent();
    let kept = format!("kept{}", kept_reasons(outcome));
    let parts: Vec<String> = [
        (outcome.count(ImagePhase::Cached), "present"),
        (outcome.count(ImagePhase::Removed) - absent, "removed"),
        (absent, "not present"),
        (outcome.count(ImagePhase::InUse), kept.as_str()),
        (outcome.count(ImagePhase::Failed), "failed"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, words)| format!("{count} {words}"))
    .collect();
    let parts = if parts.is_empty() {
        "nothing to do".to_owned()
    } else {
        parts.join(", ")
    };
    format!(
        "{}: {parts}, {:.1} s",
        pluralised(outcome.images.len(), "image"),
        outcome.summary.seconds
    )
}

/// Why images were kept: ` (in use)`, ` (1 in use, 2 pinned)`.
fn kept_reasons(outcome: &RoundOutcome) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for image in &outcome.images {
        if image.phase != ImagePhase::InUse {
            continue;
        }
        let words = match image.reason.as_deref().unwrap_or_default() {
            reason if reason == Reason::InUse.as_str() => "in use",
            reason if reason == Reason::SharedImage.as_str() => "shared with another name",
            reason if reason == Reason::Pinned.as_str() => "pinned",
            reason if reason == Reason::Protected.as_str() => "protected",
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

fn interrupted(outcome: &RoundOutcome) -> String {
    let left: Vec<&str> = outcome
        .images
        .iter()
        .filter(|image| !matches!(image.phase, ImagePhase::Cached | ImagePhase::Removed))
        .map(|image| image.reference.as_str())
        .collect();
    format!(
        "interrupted; {} of {} not completed: {}",
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

    fn summary_of(images: &[(ImagePhase, u32, Option<Reason>)]) -> String {
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
        summary(&RoundOutcome::new(&report, Duration::ZERO))
    }

    #[test]
    fn the_summary_counts_kept_images_by_reason() {
        use ImagePhase::InUse;
        let (used, pinned) = (Some(Reason::InUse), Some(Reason::Pinned));
        assert_eq!(
            summary_of(&[(InUse, 1, used), (InUse, 0, used)]),
            "2 images: 2 kept (in use), 0.0 s"
        );
        let shared = Some(Reason::SharedImage);
        assert_eq!(
            summary_of(&[
                (InUse, 0, used),
                (InUse, 0, pinned),
                (InUse, 0, pinned),
                (InUse, 0, shared)
            ]),
            "4 images: 4 kept (1 in use, 2 pinned, 1 shared with another name), 0.0 s"
        );
    }

    #[test]
    fn an_absent_image_does_not_count_as_removed() {
        use ImagePhase::Removed;
        assert_eq!(
            summary_of(&[(Removed, 1, None), (Removed, 0, None), (Removed, 0, None)]),
            "3 images: 1 removed, 2 not present, 0.0 s"
        );
        assert_eq!(
            summary_of(&[(Removed, 0, None)]),
            "1 image: 1 not present, 0.0 s"
        );
    }
}
