//! From a command line to a command for a cluster.

use super::args::ClusterCommand;
use super::request::Asked;
use super::{get, plan, request, status, wait, why};
use crate::commands::CommandError;
use crate::exit::Exit;
use crate::output::Terminal;

pub(crate) async fn dispatch(
    command: ClusterCommand,
    terminal: &Terminal,
) -> Result<Exit, CommandError> {
    match command {
        ClusterCommand::Get(args) => get::get(args, terminal).await,
        ClusterCommand::Status(args) => status::status(args).await,
        ClusterCommand::Wait(args) => wait::wait(args, terminal).await,
        ClusterCommand::Refresh(args) => request::request(Asked::Refresh, args, terminal).await,
        ClusterCommand::Purge(args) => request::request(Asked::Purge, args, terminal).await,
        ClusterCommand::Why(args) => why::why(args).await,
        ClusterCommand::Plan(args) => plan::plan(args, terminal).await,
    }
}
