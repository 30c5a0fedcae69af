//! `fledged demo`: an API server, a registry, a controller and nodes with agents, all in this process.

mod background;
mod demo_caches;
mod demo_cluster;
mod demo_node;
mod demo_registry;
mod screen;
mod steps;

use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fledged_apiserver::StartError;
use fledged_core::error::Failure;
use fledged_core::model::ParseImageRefError;
use fledged_core::tokio::ShutdownSignal;
use fledged_kube::crd::InstallError;
use fledged_kube::request_error::with_causes;
use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use self::demo_caches::DemoCaches;
use self::demo_cluster::DemoCluster;
use self::steps::Summary;
use crate::args::DemoArgs;
use crate::command_result::{CommandError, Exit};
use crate::local::SessionError;
use crate::output::{Terminal, pluralised};
use crate::remote::ClusterError;

/// Attempts to remove the demo's directory. A file system call of an abandoned pull can still create files in
/// it after its node has stopped.
const REMOVAL_ATTEMPTS: usize = 40;
/// Interval between the attempts.
const REMOVAL_INTERVAL: Duration = Duration::from_millis(50);

/// When the demo ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// After the last step.
    AtOnce,
    /// When the user presses Enter.
    OnEnter,
    /// At a signal.
    OnSignal,
}

impl End {
    fn new(args: &DemoArgs) -> Self {
        let is_interactive = io::stdin().is_terminal() && io::stdout().is_terminal();
        if args.keep {
            Self::OnSignal
        } else if is_interactive && !args.no_wait {
            Self::OnEnter
        } else {
            Self::AtOnce
        }
    }
}

/// Runs the demo, and removes all its files however it ends.
///
/// # Errors
///
/// [`DemoError`].
pub(crate) async fn run(args: DemoArgs, terminal: &Terminal) -> Result<Exit, DemoError> {
    let end = End::new(&args);
    let caches = DemoCaches::read(args.files, terminal).await?;
    let mut signals = Signals::catch()?;
    let folder = DemoFolder::create()?;
    let mut cluster = None;
    let steps = run_steps(
        usize::from(args.nodes),
        caches,
        folder.path(),
        terminal,
        &mut cluster,
    );
    let mut result = tokio::select! {
        result = steps => result.map(|()| Exit::Done),
        signal = signals.requested() => {
            terminal.error("interrupted; removing all files");
            Ok(Exit::Signalled(signal))
        }
    };
    if let (Ok(Exit::Done), Some(cluster)) = (&result, &cluster)
        && end != End::AtOnce
    {
        result = tokio::select! {
            stayed = stay_up(cluster, end) => stayed.map(|()| Exit::Done),
            _ = signals.requested() => Ok(Exit::Done),
        };
    }
    if let Some(cluster) = cluster {
        // A second signal skips the orderly shutdown.
        tokio::select! {
            () = cluster.close() => {}
            _ = signals.requested() => {}
        }
    }
    let removed = folder.remove().await;
    let exit = result?;
    removed.map(|()| exit)
}

async fn run_steps(
    nodes: usize,
    caches: DemoCaches,
    folder: &Path,
    terminal: &Terminal,
    place: &mut Option<DemoCluster>,
) -> Result<(), DemoError> {
    let start = Instant::now();
    let cluster = place.insert(DemoCluster::open(caches, nodes, folder, terminal).await?);
    steps::start(cluster, nodes).await?;
    let mut summary = Summary::default();
    steps::rollout(cluster, &mut summary).await?;
    steps::join(cluster, &mut summary).await?;
    steps::repair(cluster, &mut summary).await?;
    steps::purge(cluster, &mut summary).await?;
    let joined = if summary.joined {
        "1 new node warmed"
    } else {
        "1 new node without images"
    };
    cluster.screen.step(&format!(
        "Done in {:.1} s: {} on {}, {joined}, {} repaired, {} purged.",
        start.elapsed().as_secs_f64(),
        pluralised(summary.images, "image"),
        pluralised(nodes, "node"),
        pluralised(summary.repaired, "image"),
        pluralised(summary.purged, "node"),
    ))
}

/// Pulls the images again, and waits for Enter; for ever if a signal ends the demo.
async fn stay_up(cluster: &DemoCluster, end: End) -> Result<(), DemoError> {
    steps::restore(cluster, end == End::OnEnter).await?;
    match end {
        End::OnEnter => tokio::select! {
            () = entered() => Ok(()),
            failed = cluster.failed() => Err(failed),
        },
        _ => Err(cluster.failed().await),
    }
}

/// SIGINT, SIGTERM and SIGHUP. A closed terminal must not leave files behind.
struct Signals {
    shutdown: ShutdownSignal,
    hangup: Signal,
}

impl Signals {
    fn catch() -> Result<Self, DemoError> {
        let hangup = signal(SignalKind::hangup());
        Ok(Self {
            shutdown: ShutdownSignal::listen().map_err(DemoError::Signals)?,
            hangup: hangup.map_err(DemoError::Signals)?,
        })
    }

    /// The number of the next signal.
    async fn requested(&mut self) -> u8 {
        let hangup = SignalKind::hangup().as_raw_value();
        tokio::select! {
            number = self.shutdown.recv() => number,
            _ = self.hangup.recv() => u8::try_from(hangup).unwrap_or_default(),
        }
    }
}

/// Completes when the user presses Enter; never if stdin is not a terminal.
async fn entered() {
    if !io::stdin().is_terminal() {
        return std::future::pending().await;
    }
    let (sender, receiver) = oneshot::channel();
    // A thread of its own: the async runtime would wait at its end for a blocking task.
    std::thread::spawn(move || {
        let _ = io::stdin().lock().read_line(&mut String::new());
        let _ = sender.send(());
    });
    let _ = receiver.await;
}

/// The directory with all files of the demo, removed when it is dropped.
#[derive(Debug)]
struct DemoFolder(TempDir);

impl DemoFolder {
    /// Creates a directory for this user alone below `$TMPDIR`.
    fn create() -> Result<Self, DemoError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("fledged-demo-");
        builder.permissions(fs::Permissions::from_mode(0o700));
        builder
            .tempdir()
            .map(Self)
            .map_err(|source| DemoError::Folder {
                path: std::env::temp_dir(),
                source,
            })
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Removes the directory, and again if a late file system call has created it once more.
    async fn remove(self) -> Result<(), DemoError> {
        let path: PathBuf = self.0.keep();
        for attempt in 1.. {
            match tokio::fs::remove_dir_all(&path).await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) if attempt == REMOVAL_ATTEMPTS => {
                    return Err(DemoError::File { path, source });
                }
                Err(_) => {}
            }
            tokio::time::sleep(REMOVAL_INTERVAL).await;
            if attempt == REMOVAL_ATTEMPTS || !path.exists() {
                break;
            }
        }
        Ok(())
    }
}

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// A manifest is invalid, or standard output is closed.
    #[error(transparent)]
    Command(#[from] Box<CommandError>),
    /// The demo's registry cannot serve an image of the manifests.
    #[error("{cache}: the demo's registry cannot serve the image {image:?}: {source}")]
    Unserved {
        /// `FILE: ImageCache namespace/name`.
        cache: String,
        /// The image as written.
        image: String,
        /// What is wrong with the image's name in the demo's registry.
        #[source]
        source: ParseImageRefError,
    },
    /// No entry of the manifests selects a node.
    #[error("nothing to show: no entry selects a node of the demo:{}", .unmatched.iter().map(|text| format!("\n  {text}")).collect::<String>())]
    NothingSelected {
        /// The selector of each entry.
        unmatched: Vec<String>,
    },
    /// The signal handlers cannot be installed.
    #[error("cannot catch SIGINT, SIGTERM and SIGHUP: {0}")]
    Signals(#[source] io::Error),
    /// The temporary directory cannot be created.
    #[error(
        "cannot create a directory for the demo in {}: {source}; set $TMPDIR to use another place",
        .path.display()
    )]
    Folder {
        /// The parent directory.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// A file of the demo cannot be read or written.
    #[error("cannot use {}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// The registry cannot listen on a loopback port.
    #[error("cannot start the demo's registry on a loopback port: {0}")]
    Registry(#[source] io::Error),
    /// The API server cannot be started.
    #[error("cannot start the demo's API server: {}", with_causes(.0))]
    Server(#[from] StartError),
    /// The custom resources cannot be installed.
    #[error("cannot install the custom resources in the demo's API server: {0}")]
    Install(#[from] InstallError),
    /// A node's OCI layout cannot be opened.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// An operation of a node's OCI layout failed.
    #[error("cannot {operation}: {source}")]
    Runtime {
        /// The operation, for example "list images".
        operation: &'static str,
        /// The cause.
        source: Failure,
    },
    /// The API server does not answer.
    #[error(transparent)]
    Cluster(#[from] Box<ClusterError>),
    /// The API server refused a request.
    #[error("cannot {what}: {}", with_causes(.source))]
    Refused {
        /// The request.
        what: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// A command of the demo failed.
    #[error("`{line}` ended with exit code {}", .exit.code())]
    CommandFailed {
        /// The command line.
        line: String,
        /// How the command ended.
        exit: Exit,
    },
    /// The controller or an agent ended unexpectedly.
    #[error("the demo was aborted: {0}")]
    TaskEnded(String),
    /// A step did not complete in time.
    #[error("the demo timed out: {step} took longer than {seconds} s; last state: {state}")]
    TimedOut {
        /// The step.
        step: &'static str,
        /// The time limit.
        seconds: u64,
        /// The state of the cluster at the time limit.
        state: String,
    },
    /// A step failed.
    #[error("the demo failed: {step}: {problem}")]
    Failed {
        /// The step.
        step: &'static str,
        /// The cause.
        problem: String,
    },
}

impl From<DemoError> for CommandError {
    fn from(error: DemoError) -> Self {
        Self::part(error.exit(), error)
    }
}

impl DemoError {
    /// Maps a failure of an OCI layout to [`DemoError::Runtime`].
    fn runtime(operation: &'static str) -> impl FnOnce(Failure) -> Self {
        move |source| Self::Runtime { operation, source }
    }

    /// How the process ends with this error.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Command(error) => error.exit(),
            Self::Unserved { .. } | Self::NothingSelected { .. } => Exit::BadInput,
            _ => Exit::Failed,
        }
    }

    /// Maps an error of the API server to [`DemoError::Refused`].
    fn refused(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Refused {
            what,
            source: Box::new(source),
        }
    }
}

impl From<ClusterError> for DemoError {
    fn from(error: ClusterError) -> Self {
        Self::Cluster(Box::new(error))
    }
}

impl From<CommandError> for DemoError {
    fn from(error: CommandError) -> Self {
        Self::Command(Box::new(error))
    }
}
