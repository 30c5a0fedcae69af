//! `fledged completions`.

use clap::CommandFactory as _;

use super::CommandError;
use super::print::print;
use crate::args::{Cli, CompletionsArgs};
use crate::exit::Exit;

pub(super) fn completions(args: &CompletionsArgs) -> Result<Exit, CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "fledged", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
