//! `fledged node run`.

use std::sync::Arc;
use std::time::Duration;

use fledged_core::model::ImageRef;
use fledged_core::warmer::NodeEvent;
use fledged_core::warmer::WarmerConfig;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::apply::defaults;
use super::{CommandError, input};
use crate::args::RunArgs;
use crate::desired::Desired;
use crate::exit::Exit;
use crate::follow::{self, Edit};
use crate::manifest::{self, Source};
use crate::node::facts;
use crate::output::{LiveProgress, RemovalWatch, Terminal};
use crate::session::Session;
use fledged_core::tokio::ShutdownSignal;

/// How long what is under way may take to end after a signal. Together with the runtime's own
/// shutdown it stays within the ten seconds that `node run` promises.
const DRAIN: Duration = Duration::from_secs(8);
/// Edits and removals that may wait for the loop.
const QUEUE: usize = 64;

pub(super) async fn run(args: RunArgs, terminal: &Terminal) -> Result<Exit, CommandError> {
    let sources = args.manifests.files;
    if sources.contains(&Source::Stdin) {
        return Err(CommandError::StdinFollowed);
    }
    let reading = sources.clone();
    let texts = tokio::task::spawn_blocking(move || follow::read(&reading)).await??;
    let manifests = manifest::parse(&texts)?;
    input::warn_unread(&manifests, terminal);
    let registry = &args.registry;
    let has_credentials = registry.registry_config.is_some();
    let node = facts(&args.node, registry.platform.as_ref())?;
    input::warn_unhonoured(&manifests.caches, has_credentials, terminal);
    let mut desired = Desired::new(node.clone(), defaults(&args.pull));
    let first = desired.edited(&manifests.caches);
    input::warn_nothing(&first, &node, terminal);

    let mut shutdown = ShutdownSignal::listen().map_err(CommandError::Signals)?;
    let session = tokio::select! {
        session = Session::wait(args.runtime.runtime.as_ref(), registry, terminal) => session?,
        _ = shutdown.recv() => return Ok(Exit::Done),
    };
    session.warn_unused(registry, terminal);
    input::warn_no_credentials(registry, terminal);
    let (removed, removals) = mpsc::unbounded_channel();
    let progress = LiveProgress::lines(terminal);
    let observer = Arc::new(RemovalWatch::new(progress, removed));
    let mut config = WarmerConfig::default();
    config.max_parallel_pulls = args.pull.max_parallel_pulls;
    config.inventory_interval = args.inventory_interval;
    let mut node_loop = session.node_loop(config, observer);

    let (inputs, queue) = mpsc::channel(QUEUE);
    let (edits, edited) = mpsc::channel(1);
    let feeder = Feeder {
        desired,
        inputs: inputs.clone(),
        terminal: terminal.clone(),
        has_credentials,
    };
    // Aborted when dropped.
    let mut tasks = JoinSet::new();
    tasks.spawn(follow::follow(sources, texts, edits));
    tasks.spawn(feeder.feed(NodeEvent::Assigned(first), edited, removals));
    tasks.spawn(refresh(args.image_cache_refresh_frequency, inputs));
    announce(
        terminal,
        "following the manifests",
        &sd_notify::NotifyState::Ready,
    );
    let (ending, ended) = tokio::sync::oneshot::channel();
    let inputs = stream::unfold(queue, |mut queue| async {
        queue.recv().await.map(|input| (input, queue))
    });
    let working = node_loop.run(inputs, async {
        let _ = ended.await;
    });
    tokio::pin!(working);
    tokio::select! {
        _ = &mut working => {}
        // None of them ends by itself: without one, edits would be lost from here on, unseen.
        Some(ended) = tasks.join_next() => {
            let why = ended.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
            return Err(CommandError::TaskEnded(why));
        }
        _ = shutdown.recv() => {
            announce(terminal, "shutting down", &sd_notify::NotifyState::Stopping);
            let _ = ending.send(());
            if tokio::time::timeout(DRAIN, &mut working).await.is_err() {
                terminal.warn("what was under way did not end in time and was abandoned");
            }
        }
    }
    Ok(Exit::Done)
}

/// Tells whoever reads stderr, and systemd where it asked to be told.
fn announce(terminal: &Terminal, text: &str, state: &sd_notify::NotifyState<'_>) {
    terminal.line(text);
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}

/// Turns edits and removals into assignments.
struct Feeder {
    desired: Desired,
    inputs: mpsc::Sender<NodeEvent>,
    terminal: Terminal,
    has_credentials: bool,
}

impl Feeder {
    async fn feed(
        mut self,
        first: NodeEvent,
        mut edits: mpsc::Receiver<Edit>,
        mut removals: mpsc::UnboundedReceiver<ImageRef>,
    ) {
        let mut next = Some(first);
        loop {
            if let Some(input) = next.take()
                && self.inputs.send(input).await.is_err()
            {
                return;
            }
            tokio::select! {
                edit = edits.recv() => match edit {
                    Some(edit) => next = self.edited(edit),
                    None => return,
                },
                removed = removals.recv() => match removed {
                    Some(removed) => {
                        let mut images = vec![removed];
                        while let Ok(more) = removals.try_recv() {
                            images.push(more);
                        }
                        next = self.desired.removed(images).map(NodeEvent::Assigned);
                    }
                    None => return,
                },
            }
        }
    }

    fn edited(&mut self, edit: Edit) -> Option<NodeEvent> {
        match edit {
            Ok(manifests) => {
                input::warn_unread(&manifests, &self.terminal);
                input::warn_unhonoured(&manifests.caches, self.has_credentials, &self.terminal);
                let assignment = self.desired.edited(&manifests.caches);
                self.terminal.line(format_args!(
                    "the manifests changed, {} for this node",
                    crate::output::pluralised(self.desired.present(), "image")
                ));
                Some(NodeEvent::Assigned(assignment))
            }
            Err(error) => {
                self.terminal.error(format_args!(
                    "{error}\nthe last good manifests stay in force"
                ));
                None
            }
        }
    }
}

/// Asks for a refresh now and then; never, if that is not wanted.
///
/// Up to a tenth earlier or later each time, so that nodes that were started together do not ask
/// their registry together for ever.
async fn refresh(frequency: Duration, inputs: mpsc::Sender<NodeEvent>) {
    if frequency.is_zero() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(frequency.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        if inputs.send(NodeEvent::RefreshRequested).await.is_err() {
            return;
        }
    }
}
