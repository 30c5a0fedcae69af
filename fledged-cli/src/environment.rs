//! Settings from the environment: what is set to nothing is not set.
//!
//! An environment file with `FLEDGED_PLATFORM=` in it means the default, as it does for a shell's
//! `${FLEDGED_PLATFORM:-…}`; clap would take the empty text for a value.

use std::ffi::{OsStr, OsString};

use clap::builder::Resettable;
use clap::{Arg, Command, CommandFactory as _, FromArgMatches as _};

use crate::args::Cli;
use crate::invocation;

/// The command line and the environment of this process; ends it where they are not valid.
#[must_use]
pub fn parse() -> Cli {
    let command = command(|name| std::env::var_os(name));
    let mut command = invocation::named(command, invocation::program());
    let matches = command.get_matches_mut();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
}

/// The command, without the variables that say nothing.
fn command(variable: impl Fn(&OsStr) -> Option<OsString> + Copy) -> Command {
    adjusted(Cli::command(), variable)
}

fn adjusted(command: Command, variable: impl Fn(&OsStr) -> Option<OsString> + Copy) -> Command {
    command
        .mut_args(|arg| setting(arg, variable))
        .mut_subcommands(|command| adjusted(command, variable))
}

fn setting(arg: Arg, variable: impl Fn(&OsStr) -> Option<OsString>) -> Arg {
    let Some(text) = arg.get_env().and_then(variable) else {
        return arg;
    };
    let Some(text) = text.to_str() else {
        return arg;
    };
    let parts: Vec<&str> = match arg.get_value_delimiter() {
        Some(delimiter) => text.split(delimiter).map(str::trim).collect(),
        None => vec![text.trim()],
    };
    if parts.iter().all(|part| !part.is_empty()) {
        return arg;
    }
    // A list with an empty item, `a=b,` for instance: the others count, in the variable's place.
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect();
    let arg = arg.env(Resettable::Reset);
    if parts.is_empty() {
        arg
    } else {
        arg.default_values(parts).hide_default_value(true)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_stays_consistent() {
        for value in ["", ",", "a=b,", "x"] {
            command(|_| Some(value.into())).debug_assert();
        }
        Cli::command().debug_assert();
    }
}
