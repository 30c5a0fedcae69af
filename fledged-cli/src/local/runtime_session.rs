//! A container runtime with its registries and credentials, opened from the arguments. Only this module
//! knows the backends.

use std::io;
#[cfg(feature = "demo")]
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
#[cfg(feature = "demo")]
use fledged_core::port::Anonymous;
use fledged_core::port::{Clock, Credentials, ImageRuntime};
use fledged_core::runner::{NodeLoop, NodeObserver};
use fledged_core::tokio::TokioClock;
use fledged_core::warmer::{Warmer, WarmerConfig};
use fledged_cri::credentials::{
    CredentialProviderError, CredentialProviders, DockerConfig, DockerConfigError, UnionCredentials,
};
use fledged_cri::oci::{LayoutError, OciLayoutOptions};
use fledged_cri::registry::{Platform, RegistryOptions, hosts_dirs_of_this_machine};
use fledged_cri::target::{DetectError, RuntimeUri};
use fledged_cri::{FetcherOptions, OpenError, OpenOptions, PressureLimits};

use super::registry_hint::Client;
use crate::args::{PullArgs, PullVia, RegistryArgs};
use crate::command_result::{CommandError, Exit};
use crate::output::Terminal;

/// Longest time for a runtime to report its version; a busy machine may need some seconds.
const INFO_MAX: Duration = Duration::from_secs(20);
/// Interval at which `node run` tries a runtime that does not answer.
const RETRY: Duration = Duration::from_secs(2);

/// Why a session cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// `--runtime` was not given, and no runtime answers or several do.
    #[error(transparent)]
    NotDetected(#[from] DetectError),
    /// The directory cannot be used as an OCI layout.
    #[error("cannot use {uri}: {source}")]
    Open {
        /// The runtime.
        uri: RuntimeUri,
        /// The cause.
        #[source]
        source: OpenError,
    },
    /// The directory of an OCI layout does not exist, so there is nothing to list.
    #[error("cannot use {uri}: there is no directory {}", .path.display())]
    NoDirectory {
        /// The runtime.
        uri: RuntimeUri,
        /// The directory.
        path: PathBuf,
    },
    /// The runtime does not answer, or its answer is invalid.
    #[error("cannot use the runtime at {uri}: cannot read its version: {source}")]
    NoAnswer {
        /// The runtime.
        uri: RuntimeUri,
        /// The cause.
        #[source]
        source: Failure,
    },
    /// The runtime pulls by itself, so that the rate of pulls cannot be limited.
    #[error(
        "cannot use --max-pull-rate with {uri}, which pulls by itself: only oci: and, with --pull-via auto, containerd can be limited"
    )]
    Unlimited {
        /// The runtime.
        uri: RuntimeUri,
    },
    /// The registry credentials cannot be read.
    #[error("cannot use --registry-config {}: {source}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: DockerConfigError,
    },
    /// The credential providers cannot be used.
    #[error("cannot use --image-credential-provider-config: {0}")]
    CredentialProviders(#[source] CredentialProviderError),
    /// The registry client cannot be set up.
    #[error("cannot set up the access to registries: {0}")]
    Registries(#[source] Failure),
}

impl From<SessionError> for CommandError {
    fn from(error: SessionError) -> Self {
        let exit = if error.is_bad_input() {
            Exit::BadInput
        } else {
            Exit::Failed
        };
        Self::part(exit, error)
    }
}

impl SessionError {
    /// Whether an argument or a file is the cause (exit code 2), and not the state of the machine (exit code 1).
    ///
    /// A value that can never be right, such as a file where a directory must be, is the cause. A socket or a
    /// directory that does not exist is not: it may exist later, and `node run` waits for it.
    pub(crate) fn is_bad_input(&self) -> bool {
        match self {
            Self::Credentials { .. } | Self::CredentialProviders(_) | Self::Unlimited { .. } => {
                true
            }
            Self::Registries(failure) => failure.reason == Reason::RegistryMisconfigured,
            // Waiting does not end it; the user has to choose.
            Self::NotDetected(DetectError::Ambiguous { .. }) => true,
            Self::Open {
                source: OpenError::Layout(error),
                ..
            } => match error {
                LayoutError::Io { source, .. } => is_invalid_path(source),
                _ => true,
            },
            _ => false,
        }
    }
}

/// Whether the path is invalid, for example a file where a directory is expected.
fn is_invalid_path(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotADirectory
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::InvalidInput
    )
}

/// A runtime, and what is needed to pull with it.
pub(crate) struct RuntimeSession {
    /// The runtime.
    pub(crate) runtime: Arc<dyn ImageRuntime>,
    uri: RuntimeUri,
    credentials: Arc<dyn Credentials>,
    clock: Arc<dyn Clock>,
}

impl RuntimeSession {
    /// Opens that runtime, or the one that is detected, and checks that it answers.
    ///
    /// # Errors
    ///
    /// [`SessionError`].
    pub(crate) async fn open(
        uri: Option<&RuntimeUri>,
        registry: &RegistryArgs,
        pull: Option<&PullArgs>,
    ) -> Result<Self, SessionError> {
        let credentials = credentials(registry)?;
        let uri = match uri {
            Some(uri) => uri.clone(),
            None => RuntimeUri::detect().await?,
        };
        if let Some(pull) = pull
            && pull.max_pull_rate.is_some()
            && !fetches(&uri, pull.pull_via)
        {
            return Err(SessionError::Unlimited { uri });
        }
        let runtime = open_runtime(&uri, open_options(registry, pull))?;
        let session = Self {
            runtime,
            uri,
            credentials,
            clock: Arc::new(TokioClock::new()),
        };
        session.check_answer().await?;
        Ok(session)
    }

    /// As [`open`](Self::open), but the directory of an OCI layout has to exist. A command that only lists would
    /// otherwise take a misspelt path for an empty store.
    ///
    /// # Errors
    ///
    /// [`SessionError`].
    pub(crate) async fn open_existing(
        uri: Option<&RuntimeUri>,
        registry: &RegistryArgs,
    ) -> Result<Self, SessionError> {
        let session = Self::open(uri, registry, None).await?;
        match &session.uri {
            RuntimeUri::Oci(path) if !path.is_dir() => Err(SessionError::NoDirectory {
                uri: session.uri.clone(),
                path: path.clone(),
            }),
            _ => Ok(session),
        }
    }

    /// As [`open`](Self::open), but waits for a runtime that does not answer. Warns once for each cause.
    ///
    /// # Errors
    ///
    /// [`SessionError`] for invalid input.
    pub(crate) async fn wait(
        uri: Option<&RuntimeUri>,
        registry: &RegistryArgs,
        pull: &PullArgs,
        terminal: &Terminal,
    ) -> Result<Self, SessionError> {
        let mut last_warning = String::new();
        loop {
            match Self::open(uri, registry, Some(pull)).await {
                Err(error) if !error.is_bad_input() => {
                    let text = error.to_string();
                    if text != last_warning {
                        terminal.warn(format_args!("{text}; waiting for it"));
                        last_warning = text;
                    }
                }
                ended => return ended,
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Opens an OCI layout in that directory; `insecure` are registries to reach by plain HTTP.
    ///
    /// # Errors
    ///
    /// [`SessionError`] when the directory cannot be used.
    #[cfg(feature = "demo")]
    pub(crate) fn layout(folder: &Path, insecure: Vec<String>) -> Result<Self, SessionError> {
        let uri = RuntimeUri::Oci(folder.to_owned());
        let mut options = OpenOptions::default();
        options.layout.registry.insecure = insecure;
        Ok(Self {
            runtime: open_runtime(&uri, options)?,
            uri,
            credentials: Arc::new(Anonymous),
            clock: Arc::new(TokioClock::new()),
        })
    }

    /// Warns about options that have no effect with this runtime.
    pub(crate) fn warn_unused(
        &self,
        registry: &RegistryArgs,
        pull_via: PullVia,
        terminal: &Terminal,
    ) {
        for warning in unused_options(&self.uri, registry, pull_via) {
            terminal.warn(format_args!("{warning}"));
        }
    }

    /// The runtime, if it pulls by itself, so that pulls cannot be limited.
    pub(crate) fn pulls_itself(&self, pull_via: PullVia) -> Option<&RuntimeUri> {
        Some(&self.uri).filter(|uri| !fetches(uri, pull_via))
    }

    /// Who connects to the registries.
    pub(crate) fn registry_client(&self) -> Client {
        Client::of(&self.uri)
    }

    /// A node loop on this runtime.
    pub(crate) fn node_loop(
        &self,
        config: WarmerConfig,
        observer: Arc<impl NodeObserver + 'static>,
    ) -> NodeLoop {
        NodeLoop::new(
            // The seed is for jitter; any value will do.
            Warmer::new(config, fastrand::u64(..)),
            Arc::clone(&self.runtime),
            Arc::clone(&self.clock),
        )
        .with_credentials(Arc::clone(&self.credentials))
        .with_observer(observer)
    }

    async fn check_answer(&self) -> Result<(), SessionError> {
        let answer = tokio::time::timeout(INFO_MAX, self.runtime.info())
            .await
            .unwrap_or_else(|_| {
                let text = format!("it did not answer within {} s", INFO_MAX.as_secs());
                Err(Failure::new(Reason::RuntimeUnavailable, text))
            });
        match answer {
            Ok(info) => {
                tracing::info!(uri = %self.uri, name = info.name, version = info.version, api = info.api_version, "runtime connected");
                Ok(())
            }
            Err(source) => Err(SessionError::NoAnswer {
                uri: self.uri.clone(),
                source,
            }),
        }
    }
}

/// Whether fledged fetches the layers for this runtime.
fn fetches(uri: &RuntimeUri, pull_via: PullVia) -> bool {
    match uri {
        RuntimeUri::Oci(_) => true,
        RuntimeUri::Cri(_) => pull_via == PullVia::Auto,
        _ => false,
    }
}

/// A warning for each option that has no effect with the runtime.
fn unused_options(uri: &RuntimeUri, registry: &RegistryArgs, pull_via: PullVia) -> Vec<String> {
    if matches!(uri, RuntimeUri::Oci(_)) {
        return Vec::new();
    }
    let options = [
        ("--platform", registry.platform.is_some()),
        ("--registry-ca", !registry.registry_authorities.is_empty()),
        (
            "--registry-hosts-dir",
            registry.registry_hosts_dir.is_some(),
        ),
        ("--plain-http", !registry.plain_http_registries.is_empty()),
        (
            "--insecure-registry",
            !registry.insecure_registries.is_empty(),
        ),
    ];
    let fetches = fetches(uri, pull_via);
    let unused = options
        .iter()
        .filter(|(option, given)| *given && !(fetches && *option != "--platform"));
    let warnings = unused.map(|(option, _)| {
        let scope = if *option == "--platform" {
            "oci: and check"
        } else {
            "oci:, check and --pull-via auto"
        };
        format!("{option} only applies to {scope}; {uri} uses its own configuration")
    });
    warnings.collect()
}

fn open_runtime(
    uri: &RuntimeUri,
    options: OpenOptions,
) -> Result<Arc<dyn ImageRuntime>, SessionError> {
    fledged_cri::open(uri, options).map_err(|source| SessionError::Open {
        uri: uri.clone(),
        source,
    })
}

/// The sources of registry credentials, in the kubelet's order: a docker configuration, then credential-provider
/// plugins.
///
/// # Errors
///
/// [`SessionError::Credentials`], [`SessionError::CredentialProviders`].
pub(crate) fn credentials(registry: &RegistryArgs) -> Result<Arc<dyn Credentials>, SessionError> {
    let mut sources: Vec<Arc<dyn Credentials>> = Vec::new();
    if let Some(path) = &registry.registry_config {
        let config = DockerConfig::open_with_helpers(path);
        let config = config.map_err(|source| SessionError::Credentials {
            path: path.clone(),
            source,
        })?;
        sources.push(Arc::new(config));
    } else if let Some(path) = registry.docker_config() {
        // No option names this file, so an invalid one is only a warning, as with docker.
        match DockerConfig::open_with_helpers(&path) {
            Ok(config) => sources.push(Arc::new(config)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "docker's registry configuration ignored");
            }
        }
    }
    if let (Some(config), Some(plugins)) = (
        &registry.image_credential_provider_config,
        &registry.image_credential_provider_bin_dir,
    ) {
        let providers = CredentialProviders::open(config, plugins);
        sources.push(Arc::new(
            providers.map_err(SessionError::CredentialProviders)?,
        ));
    }
    Ok(Arc::new(UnionCredentials::new(sources)))
}

/// The platform to pull for; this machine's by default.
pub(crate) fn platform(registry: &RegistryArgs) -> Platform {
    registry.platform.clone().unwrap_or_else(Platform::host)
}

/// The options of the registry client.
pub(crate) fn registry_options(registry: &RegistryArgs) -> RegistryOptions {
    let mut options = RegistryOptions::default();
    options
        .plain_http
        .clone_from(&registry.plain_http_registries);
    options.insecure.clone_from(&registry.insecure_registries);
    options
        .authorities
        .clone_from(&registry.registry_authorities);
    options.hosts_dirs = match &registry.registry_hosts_dir {
        None => hosts_dirs_of_this_machine(),
        Some(dirs) => std::env::split_paths(dirs)
            .filter(|dir| !dir.as_os_str().is_empty())
            .collect(),
    };
    options
}

/// The options of the runtime; without those of pulls, it is not to pull.
fn open_options(registry: &RegistryArgs, pull: Option<&PullArgs>) -> OpenOptions {
    let mut options = OpenOptions::default();
    options.layout = OciLayoutOptions::default()
        .with_platform(platform(registry))
        .with_registry(registry_options(registry));
    if let Some(pull) = pull {
        let (io, memory) = (pull.max_io_pressure, pull.max_memory_pressure);
        let pressure = PressureLimits::new(io.percent(), memory.percent());
        options.layout.max_connections = pull.max_connections;
        options.layout.max_pull_rate = pull.max_pull_rate;
        options.layout.pressure = pressure.clone();
        options.fetcher = match pull.pull_via {
            PullVia::Auto => {
                let mut fetcher = FetcherOptions::default();
                fetcher.registry = registry_options(registry);
                if registry.registry_hosts_dir.is_some() {
                    fetcher.config_dirs.clear();
                }
                fetcher.max_connections = pull.max_connections;
                fetcher.max_pull_rate = pull.max_pull_rate;
                fetcher.pressure = pressure;
                Some(fetcher)
            }
            PullVia::Runtime => None,
        };
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_without_effect_depend_on_the_runtime() {
        let mut registry = RegistryArgs::default();
        registry.plain_http_registries.push("r.lan".to_owned());
        registry.platform = Some(Platform::host());
        for (uri, pull_via, expected) in [
            ("oci:/images", PullVia::Runtime, vec![]),
            (
                "unix:///c.sock",
                PullVia::Runtime,
                vec!["--platform", "--plain-http"],
            ),
            ("unix:///c.sock", PullVia::Auto, vec!["--platform"]),
            (
                "docker:///d.sock",
                PullVia::Auto,
                vec!["--platform", "--plain-http"],
            ),
        ] {
            let warnings = unused_options(&uri.parse().unwrap(), &registry, pull_via);
            let options: Vec<&str> = warnings
                .iter()
                .filter_map(|warning| warning.split(' ').next())
                .collect();
            assert_eq!(options, expected, "{uri}");
        }
    }
}
