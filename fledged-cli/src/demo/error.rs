//! Why the demo could not be shown.

use std::io;
use std::path::PathBuf;

use fledged_apiserver::StartError;
use fledged_core::error::Failure;
use fledged_core::model::ParseImageRefError;
use fledged_operator::api::error::with_causes;
use fledged_operator::crd::InstallError;

use crate::cluster::ClusterError;
use crate::commands::CommandError;
use crate::exit::Exit;
use crate::session::SessionError;

/// Why the demo could not be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// A manifest is not usable, or standard output is gone.
    #[error(transparent)]
    Command(#[from] Box<CommandError>),
    /// An image of the manifests can't be served.
    #[error("{cache}: the image {image:?} can't be served by the demo's registry: {source}")]
    Unserved {
        /// `FILE: ImageCache namespace/name`.
        cache: String,
        /// As it was written.
        image: String,
        /// What is wrong with the name it would have.
        #[source]
        source: ParseImageRefError,
    },
    /// No node is meant by anything in the manifests.
    #[error("there is nothing to show: none of the demo's nodes is meant by any entry:{}", .unmet.iter().map(|text| format!("\n  {text}")).collect::<String>())]
    NothingMeant {
        /// What each entry wants.
        unmet: Vec<String>,
    },
    /// The signals can't be caught.
    #[error("cannot catch SIGINT, SIGTERM and SIGHUP: {0}")]
    Signals(#[source] io::Error),
    /// There is no temporary folder to be had.
    #[error(
        "cannot create a folder for the demo in {}: {source}; $TMPDIR can name another place",
        .path.display()
    )]
    Folder {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the demo's own can't be written or read.
    #[error("cannot use {}: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no loopback port to be had.
    #[error("cannot start the demo's registry on a loopback port: {0}")]
    Registry(#[source] io::Error),
    /// The API server can't be started.
    #[error("cannot start the demo's API server: {}", with_causes(.0))]
    Server(#[from] StartError),
    /// The custom resources can't be installed.
    #[error("the demo's API server is of no use: {0}")]
    Install(#[from] InstallError),
    /// A node's layout can't be opened.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A node's layout failed.
    #[error("cannot {operation}: {source}")]
    Runtime {
        /// The operation, as in "list images".
        operation: &'static str,
        /// Why.
        source: Failure,
    },
    /// The demo's API server can't be asked.
    #[error(transparent)]
    Cluster(#[from] Box<ClusterError>),
    /// The demo's API server refused.
    #[error("cannot {what}: {}", with_causes(.source))]
    Refused {
        /// What was asked of it.
        what: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// A command that was shown did not end well.
    #[error("`{line}` ended with exit code {}", .exit.code())]
    Ended {
        /// As it was shown.
        line: String,
        /// How it ended.
        exit: Exit,
    },
    /// The controller or an agent ended by itself.
    #[error("the demo broke off: {0}")]
    Broken(String),
    /// An act did not come to its end.
    #[error("the demo hung: {act} took longer than {seconds} s; seen last: {seen}")]
    Hung {
        /// Which act.
        act: &'static str,
        /// How long was waited for it.
        seconds: u64,
        /// How things stood then.
        seen: String,
    },
    /// An act ended otherwise than it must.
    #[error("the demo failed: {act}: {seen}")]
    Failed {
        /// Which act.
        act: &'static str,
        /// What was seen.
        seen: String,
    },
}

impl DemoError {
    /// Wraps a failure of a node's layout with the operation, as in "list images".
    pub(super) fn runtime(operation: &'static str) -> impl FnOnce(Failure) -> Self {
        move |source| Self::Runtime { operation, source }
    }

    /// How the process ends with it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Command(error) => error.exit(),
            Self::Unserved { .. } | Self::NothingMeant { .. } => Exit::BadInput,
            _ => Exit::Failed,
        }
    }

    /// What the API server's refusal of something is.
    pub(super) fn refused(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
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
