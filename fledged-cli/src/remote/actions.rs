//! `fledged wait`, `fledged refresh` and `fledged purge`: actions on one ImageCache, and waiting for them.

use std::collections::BTreeSet;

use fledged_core::model::GoDuration;
use fledged_core::planner::RemovedCounts;
use fledged_kube::crd::{PURGE_ANNOTATION, REFRESH_ANNOTATION, ReadCache};
use serde::Serialize;

use super::kubeconfig::{ClusterError, Connection, connect};
use super::overview::{
    CacheOverview, failing, has_annotation, is_cached, is_invalid, is_purged, missing, status_of,
    stays_purged,
};
use super::queries::{Followed, WaitLimit};
use super::render;
use crate::args::{Goal, RequestArgs, WaitArgs};
use crate::command_result::{CommandError, Exit, print};
use crate::output::{Terminal, on_one_line, printable};

/// How a wait ended before its timeout.
enum Waited {
    /// The condition is met.
    Met(Box<CacheOverview>),
    /// Only an edit, or a refresh of a cache that is purged, changes that it is not met.
    Never(Box<ReadCache>, &'static str),
    /// The ImageCache does not exist any more.
    Deleted,
}

/// `fledged wait`.
pub(super) async fn wait(args: WaitArgs, terminal: &Terminal) -> Result<Exit, CommandError> {
    let limit = WaitLimit::new(args.timeout);
    let connection = connect(&args.connection).await?;
    let is_met = |cache: &ReadCache| match args.goal {
        Goal::Cached => is_cached(cache),
        Goal::Purged => is_purged(cache),
    };
    let mut named = BTreeSet::new();
    let judge = |cache: Option<&ReadCache>| match cache {
        None => Some(Waited::Deleted),
        Some(cache) if is_met(cache) => Some(Waited::Met(Box::new(CacheOverview::new(cache)))),
        Some(cache) => {
            if let Some(cause) = obstacle(cache, args.goal) {
                return Some(Waited::Never(Box::new(cache.clone()), cause));
            }
            let failing = failing(cache);
            // Each image once for each reason, however often it is retried.
            if !failing.is_subset(&named) {
                terminal.warn(format_args!(
                    "ImageCache {} is not {}, waiting for retries: {}",
                    cache.id(),
                    args.goal,
                    missing(cache)
                ));
                named.extend(failing);
            }
            None
        }
    };
    match connection.follow(&args.name, limit, judge).await? {
        Followed::Done(Waited::Met(view)) => {
            let goal = args.goal;
            let text = render(args.output.output, &*view, |view| {
                let message = view.message.as_deref().unwrap_or_default();
                format!(
                    "ImageCache {}/{} is {goal}: {}\n",
                    view.namespace,
                    view.name,
                    on_one_line(message)
                )
            })?;
            print(&text)?;
            Ok(Exit::Done)
        }
        Followed::Done(Waited::Never(cache, cause)) => {
            terminal.error(format_args!(
                "ImageCache {} is not {}, and {cause}: {}",
                cache.id(),
                args.goal,
                missing(&cache)
            ));
            Ok(Exit::Failed)
        }
        Followed::Done(Waited::Deleted) => Err(deleted(connection, args.name)),
        Followed::TimedOut { last, problem } => {
            terminal.error(format_args!(
                "ImageCache {} is not {} after {}: {}",
                last.id(),
                args.goal,
                GoDuration(args.timeout),
                missing(&last)
            ));
            report_interruption(problem, terminal);
            Ok(Exit::Failed)
        }
    }
}

/// Why the condition is not met, however long the wait. Failed pulls are no such cause: they are retried.
fn obstacle(cache: &ReadCache, goal: Goal) -> Option<&'static str> {
    if is_invalid(cache) {
        return Some("only an edit changes that");
    }
    match goal {
        Goal::Cached if cache.metadata.deletion_timestamp.is_some() => Some("it is being deleted"),
        Goal::Cached if stays_purged(cache) => Some("only a refresh or an edit changes that"),
        _ => None,
    }
}

/// `fledged refresh`.
pub(super) async fn refresh(args: RequestArgs, terminal: &Terminal) -> Result<Exit, CommandError> {
    request(Action::Refresh, args, terminal).await
}

/// `fledged purge`.
pub(super) async fn purge(args: RequestArgs, terminal: &Terminal) -> Result<Exit, CommandError> {
    request(Action::Purge, args, terminal).await
}

/// An action that an annotation requests from the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Action {
    Refresh,
    Purge,
}

impl Action {
    fn annotation(self) -> &'static str {
        match self {
            Self::Refresh => REFRESH_ANNOTATION,
            Self::Purge => PURGE_ANNOTATION,
        }
    }

    /// The `status.reason` of the action.
    fn status_reason(self) -> &'static str {
        match self {
            Self::Refresh => "ImageCacheRefresh",
            Self::Purge => "ImageCachePurge",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Refresh => "refresh",
            Self::Purge => "purge",
        }
    }
}

/// The result, as `-o json` prints it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestResult {
    /// The requested action.
    asked: Action,
    /// Whether the action has completed; null without `--wait`.
    ended: Option<bool>,
    /// What a purge that has completed has removed; null otherwise.
    removed: Option<RemovedCounts>,
    image_cache: CacheOverview,
}

async fn request(
    action: Action,
    args: RequestArgs,
    terminal: &Terminal,
) -> Result<Exit, CommandError> {
    let limit = WaitLimit::new(args.timeout);
    let connection = connect(&args.connection).await?;
    let cache = connection.within(limit, connection.cache(&args.name));
    let cache = cache.await?;
    let annotated = connection.annotate(&args.name, action.annotation());
    connection.within(limit, annotated).await?;
    let format = args.output.output;
    let show = |ended: Option<bool>, cache: &ReadCache| {
        let purged = action == Action::Purge && ended == Some(true);
        let removed = || status_of(cache).and_then(|status| status.removed);
        let result = RequestResult {
            asked: action,
            ended,
            removed: purged.then(|| removed().unwrap_or_default()),
            image_cache: CacheOverview::new(cache),
        };
        render(format, &result, sentence).and_then(|text| print(&text))
    };
    if !args.wait {
        show(None, &cache)?;
        return Ok(Exit::Done);
    }
    // The controller removes the annotation once the status has the result of the action.
    let judge = |cache: Option<&ReadCache>| match cache {
        Some(cache) if has_annotation(cache, action.annotation()) => None,
        cache => Some(cache.cloned()),
    };
    match connection.follow(&args.name, limit, judge).await? {
        Followed::Done(Some(cache)) => {
            let exit = completed(action, &CacheOverview::new(&cache), terminal);
            show(Some(true), &cache)?;
            Ok(exit)
        }
        Followed::Done(None) => Err(deleted(connection, args.name)),
        Followed::TimedOut { last, problem } => {
            show(Some(false), &last)?;
            terminal.error(format_args!(
                "the {} of ImageCache {} has not completed after {}: {}",
                action.word(),
                last.id(),
                GoDuration(args.timeout),
                missing(&last)
            ));
            report_interruption(problem, terminal);
            Ok(Exit::Failed)
        }
    }
}

/// The exit code of a completed action. Reports on stderr if another action took its place.
fn completed(action: Action, view: &CacheOverview, terminal: &Terminal) -> Exit {
    let last = view.action.as_deref().unwrap_or("no action");
    if last != action.status_reason() {
        terminal.error(format_args!(
            "the {} was superseded by {last}",
            action.word()
        ));
        return Exit::Failed;
    }
    match view.status.as_deref() {
        Some("Succeeded" | "NoImagesPulledOrDeleted") => Exit::Done,
        _ => Exit::Failed,
    }
}

fn sentence(result: &RequestResult) -> String {
    let (action, cache) = (result.asked.word(), &result.image_cache);
    let name = format!("ImageCache {}/{}", cache.namespace, cache.name);
    let text = match result.ended {
        None => format!("{name}: {action} requested"),
        Some(false) => format!("{name}: {action} requested, not completed"),
        Some(true) => format!(
            "{name}: {} {}: {}",
            cache.action.as_deref().unwrap_or_default(),
            cache.status.as_deref().unwrap_or_default(),
            cache.message.as_deref().unwrap_or_default()
        ),
    };
    format!("{}\n", printable(&text))
}

fn deleted(connection: Connection, name: String) -> CommandError {
    let namespace = connection.namespace;
    ClusterError::Gone { namespace, name }.into()
}

fn report_interruption(problem: Option<String>, terminal: &Terminal) {
    if let Some(problem) = problem {
        terminal.error(format_args!("the watch was interrupted: {problem}"));
    }
}
