//! The frame of every subcommand: errors and exit codes, the log, the client, and the servers of metrics and probes.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use fledged_core::tokio::ShutdownSignal;
use fledged_cri::CredentialProviderError;
use fledged_cri::oci::OpenError;
use fledged_cri::target::DetectError;
use fledged_kube::serve::{BindError, Routes, Server};
use fledged_webhook::WebhookError;
use futures_util::future::{BoxFuture, FutureExt};
use http::header::{HeaderValue, USER_AGENT};
use kube::config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tracing::error;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use super::flags::{CommonArgs, Level, LogFormat};
use fledged_operator::agent::AgentError;
use fledged_operator::controller::ControllerError;

/// Why the program ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProgramError {
    /// The value of a flag is invalid.
    #[error("{0}")]
    Usage(String),
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    #[error("cannot start the async runtime: {0}")]
    Runtime(io::Error),
    #[error("--kubeconfig: {path:?}: {source}")]
    Kubeconfig {
        path: String,
        source: Box<KubeconfigError>,
    },
    #[error("no cluster: pass --kubeconfig or run in a cluster: {0}")]
    NoCluster(Box<InferConfigError>),
    #[error("cannot create a client for {url}: {source}")]
    Client {
        url: String,
        source: Box<kube::Error>,
    },
    #[error(transparent)]
    Controller(#[from] ControllerError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("no --runtime is given: {0}")]
    NoRuntime(#[from] DetectError),
    #[error("--runtime: {0}")]
    OpenRuntime(#[from] OpenError),
    #[error("--image-credential-provider-config: {0}")]
    CredentialProviders(#[from] CredentialProviderError),
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the server of metrics or probes ended unexpectedly")]
    ServerEnded,
    #[error("cannot write the definitions: {0}")]
    Definitions(serde_saphyr::ser::Error),
    #[error("cannot locate the executable: {0}")]
    Executable(io::Error),
    #[error("cannot copy {from} to {to}: {source}", from = .from.display(), to = .to.display())]
    Copy {
        from: PathBuf,
        to: PathBuf,
        source: io::Error,
    },
    #[error("--termination-log: cannot write {path}: {source}", path = .path.display())]
    TerminationLog { path: PathBuf, source: io::Error },
}

/// Resolves at the first SIGINT or SIGTERM.
pub(super) type Stop = BoxFuture<'static, ()>;

pub(super) fn start<F>(
    mut runtime: Builder,
    common: &CommonArgs,
    command: impl FnOnce(Stop) -> F,
) -> Result<ExitCode, ProgramError>
where
    F: Future<Output = Result<(), ProgramError>>,
{
    init_log(common.stderrthreshold, common.log_format);
    fledged_cri::registry::ensure_tls_provider();
    let runtime = runtime.enable_all().build();
    let result = runtime.map_err(ProgramError::Runtime)?.block_on(async {
        let mut signals = ShutdownSignal::listen().map_err(ProgramError::Signals)?;
        let stop = async move {
            signals.recv().await;
        };
        command(stop.boxed()).await
    });
    match result {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error @ ProgramError::Usage(_)) => Err(error),
        // The log is initialized, so report the error there.
        Err(error) => {
            error!(%error, "fledged-operator failed");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Initializes the log, on stderr. Other crates log only warnings.
fn init_log(level: Level, format: LogFormat) {
    let level = match level {
        Level::Trace => LevelFilter::TRACE,
        Level::Debug => LevelFilter::DEBUG,
        Level::Info => LevelFilter::INFO,
        Level::Warning => LevelFilter::WARN,
        Level::Error => LevelFilter::ERROR,
    };
    // kube logs each failed attempt as an error. The callers log the failures that matter.
    let kube = match level {
        LevelFilter::TRACE | LevelFilter::DEBUG => LevelFilter::WARN,
        _ => LevelFilter::OFF,
    };
    let ours = ["fledged_core", "fledged_cri", "fledged_operator"];
    let targets = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets(ours.map(|name| (name, level)))
        .with_target("kube_client", kube);
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(false);
    let layer = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // Keep the subscriber of an embedding program.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(targets))
        .try_init();
}

/// Read timeout of a response. It is longer than a watch, which may be idle.
const READ_TIMEOUT: Duration = Duration::from_secs(300);
/// Limit for sending a request.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// A client for the cluster of the flags, else of the pod, else of the default kubeconfig.
pub(super) async fn connect(args: &CommonArgs) -> Result<Client, ProgramError> {
    let mut config = match (&args.kubeconfig, &args.master) {
        (Some(path), _) if !path.is_empty() => {
            let fail = |source| ProgramError::Kubeconfig {
                path: path.clone(),
                source: Box::new(source),
            };
            let file = Kubeconfig::read_from(path).map_err(fail)?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(file, &options).await;
            config.map_err(fail)?
        }
        (_, master) => match (Config::infer().await, master) {
            (Ok(config), _) => config,
            (Err(_), Some(url)) => Config::new(url.clone()),
            (Err(error), None) => return Err(ProgramError::NoCluster(Box::new(error))),
        },
    };
    if let Some(url) = &args.master {
        config.cluster_url = url.clone();
    }
    // The program retries by itself, with its own delays. A request that kube retries would hold its slot among the
    // concurrent writes.
    config.default_retry = false;
    // Identifies the program in audit logs and as the default field manager.
    let program = HeaderValue::from_static(concat!("fledged-operator/", env!("CARGO_PKG_VERSION")));
    config.headers.push((USER_AGENT, program));
    // A dead connection must not block a watch for ever.
    config.read_timeout = Some(READ_TIMEOUT);
    config.write_timeout = Some(WRITE_TIMEOUT);
    let url = config.cluster_url.to_string();
    Client::try_from(config).map_err(|source| ProgramError::Client {
        url,
        source: Box::new(source),
    })
}

/// Runs `work` while metrics and probes are served, by one server if they have the same address. The end of a server
/// is an error.
pub(super) async fn serving<E>(
    args: &CommonArgs,
    metrics: Routes,
    probes: Routes,
    work: impl Future<Output = Result<(), E>>,
) -> Result<(), ProgramError>
where
    ProgramError: From<E>,
{
    let metrics_at = &args.metrics_bind_address.0;
    let probes_at = &args.health_probe_bind_address.0;
    let probes = probes.with_probes();
    let places = if metrics_at == probes_at {
        vec![(probes_at, probes.merged(metrics))]
    } else {
        vec![(metrics_at, metrics), (probes_at, probes)]
    };
    let mut servers = JoinSet::new();
    for (address, routes) in places {
        if let Some(address) = address {
            let server = Server::bind(address, routes).await?;
            servers.spawn(server.run(std::future::pending()));
        }
    }
    tokio::select! {
        result = work => Ok(result?),
        Some(_) = servers.join_next() => Err(ProgramError::ServerEnded),
    }
}
