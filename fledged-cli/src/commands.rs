//! Runs the command of the command line.

use std::fs;

use clap::CommandFactory as _;

use crate::args::{Cli, Command, CompletionsArgs, ManArgs, NodeCommand};
use crate::check;
use crate::command_result::{CommandError, Exit, print};
#[cfg(feature = "demo")]
use crate::demo;
use crate::local;
use crate::output::Terminal;
#[cfg(feature = "cluster")]
use crate::remote;

/// Runs the command.
///
/// # Errors
///
/// [`CommandError`]; [`CommandError::exit`] is the exit code.
pub(crate) async fn run(cli: Cli, terminal: &Terminal) -> Result<Exit, CommandError> {
    match cli.command {
        #[cfg(feature = "cluster")]
        Command::Cluster(command) => remote::run(command, terminal).await,
        Command::Node(NodeCommand::Local(command)) => local::run(*command, terminal).await,
        #[cfg(feature = "cluster")]
        Command::Node(NodeCommand::Status(args)) => remote::node_status(args, terminal).await,
        Command::Check(args) => check::check(*args, terminal).await,
        #[cfg(feature = "demo")]
        Command::Demo(args) => Ok(demo::run(args, terminal).await?),
        Command::Completions(args) => completions(&args),
        Command::Man(args) => man(&args),
    }
}

/// `fledged completions`.
fn completions(args: &CompletionsArgs) -> Result<Exit, CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "fledged", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// `fledged man`.
fn man(args: &ManArgs) -> Result<Exit, CommandError> {
    let command = Cli::command();
    match &args.directory {
        Some(directory) => {
            fs::create_dir_all(directory)
                .and_then(|()| clap_mangen::generate_to(command, directory))
                .map_err(|source| CommandError::ManualPages {
                    directory: directory.clone(),
                    source,
                })?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command)
                .render(&mut page)
                .map_err(CommandError::Output)?;
            print(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(Exit::Done)
}
