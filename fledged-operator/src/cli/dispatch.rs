//! From the command line to an exit code.

use std::process::ExitCode;

use fledged_core::tokio::ShutdownSignal;
use fledged_cri::oci::OpenError;
use fledged_cri::target::NoRuntimeFound;
use tracing::error;

use super::args::{Cli, Command, CommonArgs};
use super::connect::ConnectError;
use super::job::{self, JobError};
use super::{agent, controller, log, webhook};
use fledged_operator::agent::AgentError;
use fledged_operator::controller::ControllerError;
use fledged_operator::serve::BindError;
use fledged_operator::webhook::WebhookError;

/// Why the program ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProgramError {
    /// The value of a flag is invalid.
    #[error("{0}")]
    Usage(String),
    #[error("cannot catch signals: {0}")]
    Signals(std::io::Error),
    #[error("cannot start the async runtime: {0}")]
    Runtime(std::io::Error),
    #[error("cannot write the definitions: {0}")]
    Definitions(serde_saphyr::ser::Error),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Controller(#[from] ControllerError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("no --runtime is given and none was found: {0}")]
    NoRuntime(#[from] NoRuntimeFound),
    #[error("--runtime: {0}")]
    OpenRuntime(#[from] OpenError),
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the server of metrics or probes ended unexpectedly")]
    ServerEnded,
    #[error(transparent)]
    Job(#[from] JobError),
}

impl ProgramError {
    fn exit(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

/// Runs the program and returns its exit code.
#[must_use]
pub(crate) fn main() -> ExitCode {
    let cli = Cli::read(std::env::args_os());
    match run(cli.command) {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("fledged-operator: {error}");
            error.exit()
        }
    }
}

fn run(command: Command) -> Result<ExitCode, ProgramError> {
    match command {
        Command::Crds => {
            let yaml =
                fledged_operator::crd::definitions_yaml().map_err(ProgramError::Definitions)?;
            print!("{yaml}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Job(command) => {
            job::run(command)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Controller(args) => {
            // Several threads, so that writes continue while the planner plans.
            let runtime = tokio::runtime::Builder::new_multi_thread();
            let common = args.common.clone();
            start(runtime, &common, |shutdown| {
                controller::run(*args, shutdown)
            })
        }
        Command::Webhook(args) => {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let common = args.common.clone();
            start(runtime, &common, |shutdown| webhook::run(*args, shutdown))
        }
        Command::Agent(args) => {
            // One thread is enough for one node and needs less memory.
            let runtime = tokio::runtime::Builder::new_current_thread();
            let common = args.common.clone();
            start(runtime, &common, |shutdown| agent::run(*args, shutdown))
        }
    }
}

fn start<F>(
    mut runtime: tokio::runtime::Builder,
    common: &CommonArgs,
    program: impl FnOnce(ShutdownSignal) -> F,
) -> Result<ExitCode, ProgramError>
where
    F: Future<Output = Result<(), ProgramError>>,
{
    log::init(common.stderrthreshold, common.log_format);
    fledged_cri::registry::ensure_tls_provider();
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(ProgramError::Runtime)?;
    let result = runtime.block_on(async {
        let shutdown = ShutdownSignal::listen().map_err(ProgramError::Signals)?;
        program(shutdown).await
    });
    match result {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error @ ProgramError::Usage(_)) => Err(error),
        // The log is initialized, so report the error there.
        Err(error) => {
            error!(%error, "fledged-operator failed");
            Ok(error.exit())
        }
    }
}
