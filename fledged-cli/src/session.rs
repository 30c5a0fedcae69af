//! From the arguments to a runtime, its registries, and the loop over them. The only place that
//! knows the backends.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use fledged_core::port::{Anonymous, Clock, Credentials, ImageRuntime};
use fledged_core::runner::{NodeLoop, NodeObserver};
use fledged_core::tokio::TokioClock;
use fledged_core::warmer::{Warmer, WarmerConfig};
use fledged_cri::credentials::{DockerConfig, DockerConfigError};
use fledged_cri::oci::{LayoutError, OciLayoutOptions, OpenError};
use fledged_cri::registry::{Platform, RegistryOptions};
use fledged_cri::target::{NoRuntimeFound, RuntimeUri};

use crate::args::RegistryArgs;
use crate::output::Terminal;

/// How long a runtime may take to say its name before it counts as not answering. A local one
/// answers at once; a busy machine gets some patience.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// How often a runtime that does not answer is tried again by `node run`.
const RETRY: Duration = Duration::from_secs(2);

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// No runtime was named, and none was found.
    #[error(transparent)]
    NotFound(#[from] NoRuntimeFound),
    /// The folder can't be used as an OCI layout.
    #[error("cannot use {uri}: {source}")]
    Open {
        /// As it was named.
        uri: RuntimeUri,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// The runtime does not answer, or not as it must.
    #[error("the runtime at {uri} can't be used: cannot read its version: {source}")]
    NoAnswer {
        /// As it was named or found.
        uri: RuntimeUri,
        /// Why.
        #[source]
        source: Failure,
    },
    /// The registry credentials can't be read.
    #[error("cannot use --registry-config {}: {source}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: DockerConfigError,
    },
    /// There is no way to registries.
    #[error("cannot reach any registry: {0}")]
    Registries(#[source] Failure),
}

impl SessionError {
    /// Whether the arguments or a file are to blame, not the machine.
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Credentials { .. } => true,
            Self::Open {
                source: OpenError::Layout(error),
                ..
            } => match error {
                LayoutError::Io { source, .. } => can_not_be_a_folder(source),
                _ => true,
            },
            _ => false,
        }
    }
}

/// Whether the path itself is to blame: a file where a folder is to be, or no path at all.
fn can_not_be_a_folder(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotADirectory
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::InvalidInput
    )
}

/// A runtime, and what is needed to pull with it.
pub struct Session {
    /// The runtime.
    pub runtime: Arc<dyn ImageRuntime>,
    uri: RuntimeUri,
    credentials: Arc<dyn Credentials>,
    clock: Arc<dyn Clock>,
}

impl Session {
    /// The runtime that was named, or the first live one; it has answered.
    ///
    /// # Errors
    ///
    /// [`SessionError`].
    pub async fn open(
        uri: Option<&RuntimeUri>,
        registry: &RegistryArgs,
    ) -> Result<Self, SessionError> {
        let credentials = credentials(registry)?;
        let uri = match uri {
            Some(uri) => uri.clone(),
            None => RuntimeUri::detect().await?,
        };
        let runtime = open_runtime(&uri, options(registry))?;
        let session = Self {
            runtime,
            uri,
            credentials,
            clock: Arc::new(TokioClock::new()),
        };
        session.greet().await?;
        Ok(session)
    }

    /// As [`open`](Self::open), but waits for a runtime that is not there or does not answer, and
    /// says so once.
    ///
    /// # Errors
    ///
    /// [`SessionError`] for bad input, which no waiting mends.
    pub async fn wait(
        uri: Option<&RuntimeUri>,
        registry: &RegistryArgs,
        terminal: &Terminal,
    ) -> Result<Self, SessionError> {
        let mut told = String::new();
        loop {
            match Self::open(uri, registry).await {
                Err(error) if !error.is_bad_input() => {
                    let text = error.to_string();
                    if text != told {
                        terminal.warn(format_args!("{text}; waiting for it"));
                        told = text;
                    }
                }
                ended => return ended,
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// An OCI layout in that folder, fed by registries that speak plain HTTP.
    ///
    /// # Errors
    ///
    /// [`SessionError`] when the folder can't be used.
    pub fn layout(folder: &Path, insecure: Vec<String>) -> Result<Self, SessionError> {
        let uri = RuntimeUri::Oci(folder.to_owned());
        let mut options = OciLayoutOptions::default();
        options.registry.insecure = insecure;
        Ok(Self {
            runtime: open_runtime(&uri, options)?,
            uri,
            credentials: Arc::new(Anonymous),
            clock: Arc::new(TokioClock::new()),
        })
    }

    /// Says which options count for nothing with this runtime.
    pub fn warn_unused(&self, registry: &RegistryArgs, terminal: &Terminal) {
        if matches!(self.uri, RuntimeUri::Oci(_)) {
            return;
        }
        let unused = [
            ("--platform", registry.platform.is_some()),
            (
                "--insecure-registry",
                !registry.insecure_registries.is_empty(),
            ),
        ];
        for (option, _) in unused.iter().filter(|(_, given)| *given) {
            terminal.warn(format_args!(
                "{option} counts for oci: and check only; {} pulls by its own configuration",
                self.uri
            ));
        }
    }

    /// A loop that drives the runtime.
    #[must_use]
    pub fn node_loop(
        &self,
        config: WarmerConfig,
        observer: Arc<impl NodeObserver + 'static>,
    ) -> NodeLoop {
        NodeLoop::new(
            // Jitter is for nodes not to act in step; any seed does.
            Warmer::new(config, fastrand::u64(..)),
            Arc::clone(&self.runtime),
            Arc::clone(&self.clock),
        )
        .with_credentials(Arc::clone(&self.credentials))
        .with_observer(observer)
    }

    async fn greet(&self) -> Result<(), SessionError> {
        let answer = tokio::time::timeout(ANSWER_MAX, self.runtime.info())
            .await
            .unwrap_or_else(|_| {
                let text = format!("it did not answer within {} s", ANSWER_MAX.as_secs());
                Err(Failure::new(Reason::RuntimeUnavailable, text))
            });
        match answer {
            Ok(info) => {
                tracing::info!(uri = %self.uri, name = info.name, version = info.version, api = info.api_version, "runtime");
                Ok(())
            }
            Err(source) => Err(SessionError::NoAnswer {
                uri: self.uri.clone(),
                source,
            }),
        }
    }
}

fn open_runtime(
    uri: &RuntimeUri,
    options: OciLayoutOptions,
) -> Result<Arc<dyn ImageRuntime>, SessionError> {
    fledged_cri::open(uri, options).map_err(|source| SessionError::Open {
        uri: uri.clone(),
        source,
    })
}

/// Where credentials come from.
///
/// # Errors
///
/// [`SessionError::Credentials`].
pub(crate) fn credentials(registry: &RegistryArgs) -> Result<Arc<dyn Credentials>, SessionError> {
    Ok(match &registry.registry_config {
        None => Arc::new(Anonymous),
        Some(path) => {
            let config = DockerConfig::open(path);
            Arc::new(config.map_err(|source| SessionError::Credentials {
                path: path.clone(),
                source,
            })?)
        }
    })
}

/// For which platform, this machine's by default.
pub(crate) fn platform(registry: &RegistryArgs) -> Platform {
    registry.platform.clone().unwrap_or_else(Platform::host)
}

/// How registries are reached.
pub(crate) fn registry_options(registry: &RegistryArgs) -> RegistryOptions {
    RegistryOptions::default().with_insecure(registry.insecure_registries.iter().cloned())
}

fn options(registry: &RegistryArgs) -> OciLayoutOptions {
    OciLayoutOptions::default()
        .with_platform(platform(registry))
        .with_registry(registry_options(registry))
}
