//! `fledged wait`.

use fledged_core::model::GoDuration;
use fledged_operator::crd::ReadCache;

use super::args::{Goal, WaitArgs};
use super::connect::connect;
use super::document::render;
use super::error::ClusterError;
use super::follow::Followed;
use super::overview::CacheOverview;
use super::progress::{is_cached, is_purged, missing};
use crate::commands::{CommandError, print};
use crate::exit::Exit;
use crate::output::Terminal;

pub(super) async fn wait(args: WaitArgs, terminal: &Terminal) -> Result<Exit, CommandError> {
    let connection = connect(&args.connection).await?;
    let reached = |cache: &ReadCache| match args.goal {
        Goal::Cached => is_cached(cache),
        Goal::Purged => is_purged(cache),
    };
    let judge = |cache: Option<&ReadCache>| match cache {
        Some(cache) => reached(cache).then(|| Some(CacheOverview::new(cache))),
        None => Some(None),
    };
    let followed = connection.follow(&args.name, args.timeout, judge).await?;
    match followed {
        Followed::Judged(Some(view)) => {
            let goal = args.goal;
            let text = render(args.output.output, &view, |view| {
                let said = view.message.as_deref().unwrap_or_default();
                let said = crate::printable::on_one_line(said).into_owned();
                format!(
                    "ImageCache {}/{} is {goal}: {said}\n",
                    view.namespace, view.name
                )
            })?;
            print(&text)?;
            Ok(Exit::Done)
        }
        Followed::Judged(None) => {
            let gone = ClusterError::Gone {
                namespace: connection.namespace,
                name: args.name,
            };
            Err(gone.into())
        }
        Followed::TimedOut { last, problem } => {
            let id = last.id();
            terminal.error(format_args!(
                "ImageCache {id} is not {} after {}: {}",
                args.goal,
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
