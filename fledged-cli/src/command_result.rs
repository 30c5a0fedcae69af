//! How a command ends: the exit code, the error, the result on stdout.

use std::error::Error;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use fledged_core::error::Failure;
use serde::Serialize;

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
    /// A part of the program failed, which decides how the process ends.
    #[error("{source}")]
    Part {
        /// How the process ends.
        exit: Exit,
        /// The failure.
        source: Box<dyn Error + Send + Sync>,
    },
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
    /// A task of `node run` ended although it runs until the process ends.
    #[error("node run stopped following the manifests: {0}")]
    TaskEnded(String),
    /// A blocking task was cancelled or panicked.
    #[error("a background task failed: {0}")]
    BlockingTask(#[from] tokio::task::JoinError),
}

impl CommandError {
    /// A part of the program failed.
    pub(crate) fn part(exit: Exit, source: impl Error + Send + Sync + 'static) -> Self {
        Self::Part {
            exit,
            source: Box::new(source),
        }
    }

    /// Maps a failure of the runtime to [`CommandError::Runtime`].
    pub(crate) fn runtime(operation: &'static str) -> impl FnOnce(Failure) -> Self {
        move |source| Self::Runtime { operation, source }
    }

    /// How the process ends with this error.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Part { exit, .. } => *exit,
            Self::StdinFollowed => Exit::BadInput,
            Self::Runtime { .. }
            | Self::Output(_)
            | Self::ManualPages { .. }
            | Self::Signals(_)
            | Self::TaskEnded(_)
            | Self::BlockingTask(_) => Exit::Failed,
        }
    }
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
