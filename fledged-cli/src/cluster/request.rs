//! `fledged refresh` and `fledged purge`.

use fledged_core::model::GoDuration;
use fledged_operator::crd::{PURGE_ANNOTATION, REFRESH_ANNOTATION, ReadCache};
use kube::api::{Patch, PatchParams};
use serde::Serialize;
use serde_json::json;

use super::args::RequestArgs;
use super::connect::{Connection, connect};
use super::document::render;
use super::error::ClusterError;
use super::follow::Followed;
use super::overview::CacheOverview;
use super::progress::{is_asked, missing};
use crate::commands::{CommandError, print};
use crate::exit::Exit;
use crate::output::Terminal;
use crate::printable::printable;

/// Who sets the annotations.
const FIELD_MANAGER: &str = "fledged-cli";

/// What is asked of a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Asked {
    Refresh,
    Purge,
}

impl Asked {
    fn annotation(self) -> &'static str {
        match self {
            Self::Refresh => REFRESH_ANNOTATION,
            Self::Purge => PURGE_ANNOTATION,
        }
    }

    /// `status.reason` of the action.
    fn action(self) -> &'static str {
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

/// What `-o json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    asked: Asked,
    /// Whether the action has ended; null where nobody waited for it.
    ended: Option<bool>,
    image_cache: CacheOverview,
}

pub(super) async fn request(
    asked: Asked,
    args: RequestArgs,
    terminal: &Terminal,
) -> Result<Exit, CommandError> {
    let connection = connect(&args.connection).await?;
    let cache = connection.cache(&args.name).await?;
    connection.annotate(&args.name, asked.annotation()).await?;
    let format = args.output.output;
    let show = |ended: Option<bool>, cache: CacheOverview| {
        let answer = Answer {
            asked,
            ended,
            image_cache: cache,
        };
        render(format, &answer, sentence).and_then(|text| print(&text))
    };
    if !args.wait {
        show(None, CacheOverview::new(&cache))?;
        return Ok(Exit::Done);
    }
    let judge = |cache: Option<&ReadCache>| match cache {
        // It is taken away once the action has ended and that is recorded.
        Some(cache) if is_asked(cache, asked.annotation()) => None,
        cache => Some(cache.map(CacheOverview::new)),
    };
    match connection.follow(&args.name, args.timeout, judge).await? {
        Followed::Judged(Some(view)) => {
            let exit = judged(asked, &view, terminal);
            show(Some(true), view)?;
            Ok(exit)
        }
        Followed::Judged(None) => {
            let gone = ClusterError::Gone {
                namespace: connection.namespace,
                name: args.name,
            };
            Err(gone.into())
        }
        Followed::TimedOut { last, problem } => {
            show(Some(false), CacheOverview::new(&last))?;
            terminal.error(format_args!(
                "the {} of ImageCache {} has not ended after {}: {}",
                asked.word(),
                last.id(),
                GoDuration(args.timeout),
                missing(&last)
            ));
            if let Some(problem) = problem {
                terminal.error(format_args!("the watch was interrupted: {problem}"));
            }
            Ok(Exit::Failed)
        }
    }
}

/// The exit code of an action that has ended, with a word on stderr where it is not the one that was asked
/// for.
fn judged(asked: Asked, view: &CacheOverview, terminal: &Terminal) -> Exit {
    let action = view.action.as_deref().unwrap_or("nothing");
    if action != asked.action() {
        terminal.error(format_args!(
            "the {} was overtaken by {action}",
            asked.word()
        ));
        return Exit::Failed;
    }
    match view.status.as_deref() {
        Some("Succeeded" | "NoImagesPulledOrDeleted") => Exit::Done,
        _ => Exit::Failed,
    }
}

fn sentence(answer: &Answer) -> String {
    let (asked, cache) = (answer.asked.word(), &answer.image_cache);
    let name = format!("ImageCache {}/{}", cache.namespace, cache.name);
    let said = match answer.ended {
        None => format!("{name}: {asked} asked for"),
        Some(false) => format!("{name}: {asked} asked for, and not ended yet"),
        Some(true) => format!(
            "{name}: {} {}: {}",
            cache.action.as_deref().unwrap_or_default(),
            cache.status.as_deref().unwrap_or_default(),
            cache.message.as_deref().unwrap_or_default()
        ),
    };
    format!("{}\n", printable(&said))
}

impl Connection {
    async fn annotate(&self, name: &str, annotation: &str) -> Result<(), ClusterError> {
        let patch = Patch::Merge(json!({ "metadata": { "annotations": { annotation: "" } } }));
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let caches = self.caches();
        let patched = caches.patch_metadata(name, &params, &patch).await;
        patched
            .map(drop)
            .map_err(|error| self.failed(self.about("patch", Some(name)), &error))
    }
}
