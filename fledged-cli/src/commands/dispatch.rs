//! From the arguments to the command.

use crate::args::{Cli, Command, NodeCommand};
use crate::commands::CommandError;
use crate::exit::Exit;
use crate::output::Terminal;

use super::{apply, check, completions, list, man, purge, run};

/// Does what the arguments say.
///
/// # Errors
///
/// [`CommandError`], whose [`exit`](CommandError::exit) is the exit code.
pub async fn dispatch(cli: Cli, terminal: &Terminal) -> Result<Exit, CommandError> {
    match cli.command {
        #[cfg(feature = "cluster")]
        Command::Cluster(command) => crate::cluster::dispatch(command, terminal).await,
        Command::Node(NodeCommand::Apply(args)) => apply::apply(args, terminal).await,
        Command::Node(NodeCommand::List(args)) => list::list(args).await,
        Command::Node(NodeCommand::Purge(args)) => purge::purge(args, terminal).await,
        Command::Node(NodeCommand::Run(args)) => run::run(args, terminal).await,
        Command::Check(args) => check::check(args, terminal).await,
        #[cfg(feature = "demo")]
        Command::Demo(args) => Ok(crate::demo::run(args, terminal).await?),
        Command::Completions(args) => completions::completions(&args),
        Command::Man(args) => man::man(&args),
    }
}
