//! Runs the command of the command line, and maps its result to an exit code.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory as _;
use fledged_core::error::Failure;
use serde::Serialize;

use crate::args::{Cli, Command, CompletionsArgs, ManArgs};
use crate::check;
#[cfg(feature = "demo")]
use crate::demo::{self, DemoError};
use crate::local::{self, SessionError, UnusableHostName};
use crate::manifest::ManifestError;
use crate::output::Terminal;
#[cfg(feature = "cluster")]
use crate::remote::{self, ClusterError};

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: success.
    Done,
    /// 1: the answer is no, at least one image failed, or the runtime or cluster does not answer.
    Failed,
    /// 2: the arguments or a file are invalid; nothing was changed.
    BadInput,
    /// 128 + the number of the signal that interrupted it: 130 for SIGINT, 143 for SIGTERM.
    Signalled(u8),
}

impl Exit {
    /// The exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::BadInput => 2,
            Self::Signalled(signal) => 128_u8.saturating_add(signal),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// A manifest is invalid.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The host name is not a valid node name.
    #[error(transparent)]
    HostName(#[from] UnusableHostName),
    /// The runtime, its registries or the credentials cannot be used.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// An operation of the runtime failed.
    #[error("cannot {operation}: {source}")]
    Runtime {
        /// The operation, for example "list images".
        operation: &'static str,
        /// The cause.
        source: Failure,
    },
    /// `node run -f -`.
    #[error("node run follows edits of files, so it cannot read stdin; name a file with -f")]
    StdinFollowed,
    /// Standard output cannot be written.
    #[error("cannot write the result: {0}")]
    Output(#[source] io::Error),
    /// The manual pages cannot be written.
    #[error("cannot write the manual pages to --directory {}: {source}", .directory.display())]
    ManualPages {
        /// Value of `--directory`.
        directory: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The signal handlers cannot be installed.
    #[error("cannot catch SIGINT and SIGTERM: {0}")]
    Signals(#[source] io::Error),
    /// The demo failed.
    #[cfg(feature = "demo")]
    #[error(transparent)]
    Demo(Box<DemoError>),
    /// A task of `node run` ended although it runs until the process ends.
    #[error("node run stopped following the manifests: {0}")]
    TaskEnded(String),
    /// A request to the cluster failed.
    #[cfg(feature = "cluster")]
    #[error(transparent)]
    Cluster(Box<ClusterError>),
    /// A blocking task was cancelled or panicked.
    #[error("a background task failed: {0}")]
    BlockingTask(#[from] tokio::task::JoinError),
}

#[cfg(feature = "cluster")]
impl From<ClusterError> for CommandError {
    fn from(error: ClusterError) -> Self {
        Self::Cluster(Box::new(error))
    }
}

#[cfg(feature = "demo")]
impl From<DemoError> for CommandError {
    fn from(error: DemoError) -> Self {
        Self::Demo(Box::new(error))
    }
}

impl CommandError {
    /// Maps a failure of the runtime to [`CommandError::Runtime`].
    pub(crate) fn runtime(operation: &'static str) -> impl FnOnce(Failure) -> Self {
        move |source| Self::Runtime { operation, source }
    }

    /// How the process ends with this error.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Manifest(_) | Self::HostName(_) | Self::StdinFollowed => Exit::BadInput,
            #[cfg(feature = "cluster")]
            Self::Cluster(error) => error.exit(),
            #[cfg(feature = "demo")]
            Self::Demo(error) => error.exit(),
            Self::Session(error) if error.is_bad_input() => Exit::BadInput,
            Self::Session(_)
            | Self::Runtime { .. }
            | Self::Output(_)
            | Self::ManualPages { .. }
            | Self::Signals(_)
            | Self::TaskEnded(_)
            | Self::BlockingTask(_) => Exit::Failed,
        }
    }
}

/// Runs the command.
///
/// # Errors
///
/// [`CommandError`]; [`CommandError::exit`] is the exit code.
pub(crate) async fn run(cli: Cli, terminal: &Terminal) -> Result<Exit, CommandError> {
    match cli.command {
        #[cfg(feature = "cluster")]
        Command::Cluster(command) => remote::run(command, terminal).await,
        Command::Node(command) => local::run(command, terminal).await,
        Command::Check(args) => check::check(args, terminal).await,
        #[cfg(feature = "demo")]
        Command::Demo(args) => Ok(demo::run(args, terminal).await?),
        Command::Completions(args) => completions(&args),
        Command::Man(args) => man(&args),
    }
}

/// `fledged completions`.
fn completions(args: &CompletionsArgs) -> Result<Exit, CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "fledged", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// `fledged man`.
fn man(args: &ManArgs) -> Result<Exit, CommandError> {
    let command = Cli::command();
    match &args.directory {
        Some(directory) => {
            fs::create_dir_all(directory)
                .and_then(|()| clap_mangen::generate_to(command, directory))
                .map_err(|source| CommandError::ManualPages {
                    directory: directory.clone(),
                    source,
                })?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command)
                .render(&mut page)
                .map_err(CommandError::Output)?;
            print(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(Exit::Done)
}

/// Writes a result to stdout. A reader that closes the pipe (`| head`) is not an error.
pub(crate) fn print(text: &str) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CommandError::Output(error)),
        _ => Ok(()),
    }
}

/// A result as indented JSON, with a line feed at the end.
pub(crate) fn json<V: Serialize>(view: &V) -> Result<String, CommandError> {
    serde_json::to_string_pretty(view)
        .map(|text| text + "\n")
        .map_err(|error| CommandError::Output(error.into()))
}
