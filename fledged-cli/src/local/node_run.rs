//! `fledged node run`: keeps the images of the manifests on this node until a signal.

use std::sync::Arc;
use std::time::Duration;

use fledged_core::error::Failure;
use fledged_core::model::{ImagePhase, ImageRef, ImageReport};
use fledged_core::port::PullProgress;
use fledged_core::runner::NodeObserver;
use fledged_core::tokio::ShutdownSignal;
use fledged_core::warmer::{NodeEvent, WarmerConfig};
use fledged_cri::target::RuntimeUri;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::local_node::{node_facts, warn_nothing_selected};
use super::node_apply::assignment_defaults;
use super::run_assignment::RunAssignment;
use super::runtime_session::RuntimeSession;
use crate::args::RunArgs;
use crate::command_result::{CommandError, Exit};
use crate::manifest::{self, Edit, Source};
use crate::output::{LiveProgress, Terminal, pluralised};

/// How long running operations may take to end after a signal. Together with the end of the async runtime,
/// this stays within the ten seconds that the help text promises.
const DRAIN: Duration = Duration::from_secs(8);
/// Capacity of the node loop's input queue.
const QUEUE: usize = 64;

pub(super) async fn run(args: RunArgs, terminal: &Terminal) -> Result<Exit, CommandError> {
    let sources = args.manifests.files;
    if sources.contains(&Source::Stdin) {
        return Err(CommandError::StdinFollowed);
    }
    let to_read = sources.clone();
    let texts = tokio::task::spawn_blocking(move || manifest::texts(&to_read)).await??;
    let manifests = manifest::parse(&texts)?;
    manifest::report_unused(&manifests, terminal);
    let registry = &args.registry;
    let has_credentials = registry.has_credentials();
    let node = node_facts(&args.node, registry.platform.as_ref())?;
    manifest::warn_unsupported(&manifests.caches, has_credentials, terminal);
    let mut assignment = RunAssignment::new(node.clone(), assignment_defaults(&args.pull));
    manifest::warn_cut_deadlines(&manifests.caches, assignment.longest_deadline(), terminal);
    let first = assignment.update(&manifests.caches);
    warn_nothing_selected(&first, &node, terminal);

    let mut shutdown = ShutdownSignal::listen().map_err(CommandError::Signals)?;
    let uri = args.runtime.runtime.as_ref();
    let session = tokio::select! {
        session = RuntimeSession::wait(uri, registry, &args.pull, terminal) => session?,
        _ = shutdown.recv() => return Ok(Exit::Done),
    };
    session.warn_unused(registry, args.pull.pull_via, terminal);
    let pulls_itself = session.pulls_itself(args.pull.pull_via);
    manifest::warn_unlimited(&manifests.caches, pulls_itself, terminal);
    manifest::warn_no_credentials(registry, terminal);
    let (removed, removals) = mpsc::unbounded_channel();
    let observer = Arc::new(RemovalObserver {
        progress: LiveProgress::lines(terminal),
        removed,
    });
    let mut config = WarmerConfig::default();
    config.max_parallel_pulls = args.pull.max_parallel_pulls;
    config.inventory_interval = args.inventory_interval;
    config.protected = args.protect.images();
    let mut node_loop = session.node_loop(config, observer);

    let (inputs, queue) = mpsc::channel(QUEUE);
    let (edits, edited) = mpsc::channel(1);
    let feeder = Feeder {
        assignment,
        inputs: inputs.clone(),
        terminal: terminal.clone(),
        has_credentials,
        pulls_itself: pulls_itself.cloned(),
    };
    // The tasks are aborted when the set is dropped.
    let mut tasks = JoinSet::new();
    tasks.spawn(manifest::follow_edits(sources, texts, edits));
    tasks.spawn(feeder.feed(NodeEvent::Assigned(first), edited, removals));
    tasks.spawn(refresh(args.image_cache_refresh_frequency, inputs));
    announce(
        terminal,
        "following the manifests",
        &sd_notify::NotifyState::Ready,
    );
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let inputs = stream::unfold(queue, |mut queue| async {
        queue.recv().await.map(|input| (input, queue))
    });
    let working = node_loop.run(inputs, async {
        let _ = stopped.await;
    });
    tokio::pin!(working);
    tokio::select! {
        _ = &mut working => {}
        // Without one of the tasks, edits would be ignored from here on.
        Some(ended) = tasks.join_next() => {
            let why = ended
                .err()
                .map_or_else(|| "the task ended".to_owned(), |error| error.to_string());
            return Err(CommandError::TaskEnded(why));
        }
        _ = shutdown.recv() => {
            announce(terminal, "shutting down", &sd_notify::NotifyState::Stopping);
            let _ = stop.send(());
            if tokio::time::timeout(DRAIN, &mut working).await.is_err() {
                terminal.warn("running operations did not end in time and were abandoned");
            }
        }
    }
    Ok(Exit::Done)
}

/// Reports a change of state on stderr, and to systemd if it started this process.
fn announce(terminal: &Terminal, text: &str, state: &sd_notify::NotifyState<'_>) {
    terminal.line(text);
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, "systemd notification failed");
    }
}

/// Turns edits and removals into assignments.
struct Feeder {
    assignment: RunAssignment,
    inputs: mpsc::Sender<NodeEvent>,
    terminal: Terminal,
    has_credentials: bool,
    /// The runtime, if pulls cannot be limited.
    pulls_itself: Option<RuntimeUri>,
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
                        next = self.assignment.drop_removed(images).map(NodeEvent::Assigned);
                    }
                    None => return,
                },
            }
        }
    }

    fn edited(&mut self, edit: Edit) -> Option<NodeEvent> {
        match edit {
            Ok(manifests) => {
                manifest::report_unused(&manifests, &self.terminal);
                manifest::warn_unsupported(&manifests.caches, self.has_credentials, &self.terminal);
                let pulls_itself = self.pulls_itself.as_ref();
                manifest::warn_unlimited(&manifests.caches, pulls_itself, &self.terminal);
                let longest = self.assignment.longest_deadline();
                manifest::warn_cut_deadlines(&manifests.caches, longest, &self.terminal);
                let assignment = self.assignment.update(&manifests.caches);
                self.terminal.line(format_args!(
                    "the manifests changed, {} for this node",
                    pluralised(self.assignment.present(), "image")
                ));
                Some(NodeEvent::Assigned(assignment))
            }
            Err(error) => {
                self.terminal.error(format_args!(
                    "{error}\nthe last valid manifests stay in effect"
                ));
                None
            }
        }
    }
}

/// Requests a refresh at that interval; zero disables it.
///
/// The interval varies by up to a tenth, so that nodes that were started together do not stay in step.
async fn refresh(interval: Duration, inputs: mpsc::Sender<NodeEvent>) {
    if interval.is_zero() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        if inputs.send(NodeEvent::RefreshRequested).await.is_err() {
            return;
        }
    }
}

/// Shows progress, and sends every image that is reported removed.
#[derive(Debug)]
struct RemovalObserver {
    progress: LiveProgress,
    removed: mpsc::UnboundedSender<ImageRef>,
}

impl NodeObserver for RemovalObserver {
    fn image_changed(&self, report: &ImageReport) {
        self.progress.image_changed(report);
        if report.phase == ImagePhase::Removed {
            // The receiver is closed only when the process is about to end.
            let _ = self.removed.send(report.image.clone());
        }
    }

    fn progress(&self, image: &ImageRef, progress: PullProgress) {
        self.progress.progress(image, progress);
    }

    fn runtime_failed(&self, operation: &str, failure: &Failure) {
        self.progress.runtime_failed(operation, failure);
    }
}
