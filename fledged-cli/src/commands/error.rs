//! Why a command could not do its work.

use std::io;
use std::path::PathBuf;

use fledged_core::error::Failure;

#[cfg(feature = "cluster")]
use crate::cluster::ClusterError;
#[cfg(feature = "demo")]
use crate::demo::DemoError;
use crate::exit::Exit;
use crate::manifest::ManifestError;
use crate::node::UnusableHostName;
use crate::session::SessionError;

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// A manifest is not usable.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The node has no name.
    #[error(transparent)]
    HostName(#[from] UnusableHostName),
    /// There is no session with a runtime or its registries.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The runtime failed.
    #[error("cannot {operation}: {source}")]
    Runtime {
        /// The operation, as in "list images".
        operation: &'static str,
        /// Why.
        source: Failure,
    },
    /// `node run` was given stdin.
    #[error("node run follows edits of files, and stdin can't be edited; name a file with -f")]
    StdinFollowed,
    /// Standard output can't be written to.
    #[error("cannot write the result: {0}")]
    Output(#[source] io::Error),
    /// The manual pages can't be written.
    #[error("cannot write the manual pages into --directory {}: {source}", .directory.display())]
    ManualPages {
        /// Where they were to be.
        directory: PathBuf,
        /// The operating system's own words.
        source: io::Error,
    },
    /// The signals can't be caught.
    #[error("cannot catch SIGINT and SIGTERM: {0}")]
    Signals(#[source] io::Error),
    /// The demo broke.
    #[cfg(feature = "demo")]
    #[error(transparent)]
    Demo(Box<DemoError>),
    /// A part of `node run` ended although it must not.
    #[error("a part of node run that follows the manifests has failed: {0}")]
    TaskEnded(String),
    /// The cluster was not asked, or did not do it.
    #[cfg(feature = "cluster")]
    #[error(transparent)]
    Cluster(Box<ClusterError>),
    /// A reading task was cancelled or panicked.
    #[error("reading the manifests was broken off: {0}")]
    Reading(#[from] tokio::task::JoinError),
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
    /// Wraps a failure of the runtime with the operation, as in "list images".
    pub(crate) fn runtime(operation: &'static str) -> impl FnOnce(Failure) -> Self {
        move |source| Self::Runtime { operation, source }
    }

    /// How the process ends with it.
    #[must_use]
    pub fn exit(&self) -> Exit {
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
            | Self::Reading(_) => Exit::Failed,
        }
    }
}
