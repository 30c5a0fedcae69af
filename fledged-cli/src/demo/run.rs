//! The demo from its beginning to its end.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::Instant;

use super::acts;
use super::args::DemoArgs;
use super::caches::DemoCaches;
use super::folder::Folder;
use super::signals::{Signals, entered};
use super::stage::Stage;
use super::{DemoError, acts::Tally};
use crate::exit::Exit;
use crate::output::{Terminal, pluralised};

/// When it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// After the last act.
    AtOnce,
    /// When somebody at the terminal has seen enough.
    WhenEntered,
    /// At a signal.
    WhenSignalled,
}

impl End {
    fn new(args: &DemoArgs) -> Self {
        let watched = io::stdin().is_terminal() && io::stdout().is_terminal();
        match (args.keep, watched && !args.no_wait) {
            (true, _) => Self::WhenSignalled,
            (false, true) => Self::WhenEntered,
            (false, false) => Self::AtOnce,
        }
    }
}

/// Shows the demo. Nothing is left behind, however it ends.
///
/// # Errors
///
/// [`DemoError`].
pub async fn run(args: DemoArgs, terminal: &Terminal) -> Result<Exit, DemoError> {
    let end = End::new(&args);
    let caches = DemoCaches::read(args.files, terminal).await?;
    let mut signals = Signals::catch()?;
    let folder = Folder::create()?;
    let mut stage = None;
    let showing = show(
        usize::from(args.nodes),
        caches,
        folder.path(),
        terminal,
        &mut stage,
    );
    let mut shown = tokio::select! {
        shown = showing => shown.map(|()| Exit::Done),
        signal = signals.requested() => {
            terminal.error("interrupted; removing everything");
            Ok(Exit::Signalled(signal))
        }
    };
    if let (Ok(Exit::Done), Some(stage)) = (&shown, &stage)
        && end != End::AtOnce
    {
        shown = tokio::select! {
            stayed = stay(stage, end) => stayed.map(|()| Exit::Done),
            _ = signals.requested() => Ok(Exit::Done),
        };
    }
    if let Some(stage) = stage {
        // Whoever asks twice does not want to wait.
        tokio::select! {
            () = stage.close() => {}
            _ = signals.requested() => {}
        }
    }
    let removed = folder.remove().await;
    let exit = shown?;
    removed.map(|()| exit)
}

async fn show(
    nodes: usize,
    caches: DemoCaches,
    folder: &Path,
    terminal: &Terminal,
    place: &mut Option<Stage>,
) -> Result<(), DemoError> {
    let start = Instant::now();
    let stage = place.insert(Stage::open(caches, nodes, folder, terminal).await?);
    acts::cluster(stage, nodes).await?;
    let mut tally = Tally::default();
    acts::rollout(stage, &mut tally).await?;
    acts::join(stage, &mut tally).await?;
    acts::repair(stage, &mut tally).await?;
    acts::purge(stage, &mut tally).await?;
    let Tally {
        images,
        joined,
        repaired,
        emptied,
    } = tally;
    let images = pluralised(images, "image");
    let joined = match joined {
        true => "a node that joined was warmed",
        false => "a node joined",
    };
    stage.screen.act(&format!(
        "Done: {images} put on {}, {joined}, {} repaired, {} purged, in {:.1} s.",
        pluralised(nodes, "node"),
        pluralised(repaired, "image"),
        pluralised(emptied, "node"),
        start.elapsed().as_secs_f64()
    ))
}

/// Puts the images back, so that there is something to look at, and waits.
async fn stay(stage: &Stage, end: End) -> Result<(), DemoError> {
    acts::stay(stage, end == End::WhenEntered).await?;
    match end {
        End::WhenEntered => tokio::select! {
            () = entered() => Ok(()),
            broken = stage.broken() => Err(broken),
        },
        _ => Err(stage.broken().await),
    }
}
