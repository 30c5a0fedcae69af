//! `fledged node`: the images of ImageCache manifests on this machine, without a cluster.

mod dry_run;
mod local_node;
mod node_apply;
mod node_doctor;
mod node_list;
mod node_run;
mod registry_hint;
mod round_outcome;
mod run_assignment;
mod runtime_session;

pub(crate) use registry_hint::{Client, registry_hint};
#[cfg(feature = "demo")]
pub(crate) use runtime_session::RuntimeSession;
pub(crate) use runtime_session::{SessionError, credentials, platform, registry_options};

use crate::args::LocalCommand;
use crate::command_result::{CommandError, Exit};
use crate::output::Terminal;

/// Runs a command for this machine.
pub(crate) async fn run(command: LocalCommand, terminal: &Terminal) -> Result<Exit, CommandError> {
    match command {
        LocalCommand::Apply(args) => node_apply::apply(args, terminal).await,
        LocalCommand::Doctor(args) => node_doctor::doctor(args).await,
        LocalCommand::List(args) => node_list::list(args).await,
        LocalCommand::Purge(args) => node_apply::purge(args, terminal).await,
        LocalCommand::Run(args) => node_run::run(args, terminal).await,
    }
}
