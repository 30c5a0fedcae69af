//! How the process was called: its name, its arguments and its environment.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::builder::Resettable;
use clap::{Arg, Command, CommandFactory as _, FromArgMatches as _};

use crate::args::Cli;

/// The program's own name.
const NAME: &str = "fledged";
/// The file that kubectl starts for `kubectl fledged`.
const PLUGIN: &str = "kubectl-fledged";
/// What the user types to run the plugin.
const PLUGIN_NAME: &str = "kubectl fledged";

/// Parses the arguments and the environment of this process; exits with a message if they are invalid.
pub(crate) fn parse() -> Cli {
    let command = with_environment(Cli::command(), |name| std::env::var_os(name));
    let mut command = with_name(command, program());
    let matches = command.get_matches_mut();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
}

/// What the user types to run this program: `fledged`, or `kubectl fledged`.
pub(crate) fn program() -> &'static str {
    program_of(std::env::args_os().next())
}

fn program_of(argument: Option<OsString>) -> &'static str {
    let file = argument.as_deref().map(Path::new).and_then(Path::file_stem);
    if file == Some(OsStr::new(PLUGIN)) {
        PLUGIN_NAME
    } else {
        NAME
    }
}

/// The command with that program name in its usage lines and examples.
fn with_name(command: Command, program: &'static str) -> Command {
    if program == NAME {
        return command;
    }
    with_examples(command, program).bin_name(program)
}

fn with_examples(command: Command, program: &'static str) -> Command {
    let help = command.get_after_help().map(ToString::to_string);
    let command = match help {
        Some(text) => {
            let own = format!("  {NAME} ");
            command.after_help(text.replace(&own, &format!("  {program} ")))
        }
        None => command,
    };
    command.mut_subcommands(|command| with_examples(command, program))
}

/// The command, with variables that are set to an empty text treated as unset.
///
/// An environment file with `FLEDGED_PLATFORM=` selects the default, as `${FLEDGED_PLATFORM:-…}` does in a
/// shell; clap would parse the empty text as a value.
fn with_environment(
    command: Command,
    variable: impl Fn(&OsStr) -> Option<OsString> + Copy,
) -> Command {
    command
        .mut_args(|arg| without_empty_items(arg, variable))
        .mut_subcommands(|command| with_environment(command, variable))
}

fn without_empty_items(arg: Arg, variable: impl Fn(&OsStr) -> Option<OsString>) -> Arg {
    let Some(text) = arg.get_env().and_then(variable) else {
        return arg;
    };
    let Some(text) = text.to_str() else {
        return arg;
    };
    let items: Vec<&str> = match arg.get_value_delimiter() {
        Some(delimiter) => text.split(delimiter).map(str::trim).collect(),
        None => vec![text.trim()],
    };
    if items.iter().all(|item| !item.is_empty()) {
        return arg;
    }
    // In a list such as `a=b,` the other items count. They replace the variable as default values.
    let items: Vec<String> = items
        .into_iter()
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect();
    let arg = arg.env(Resettable::Reset);
    if items.is_empty() {
        arg
    } else {
        arg.default_values(items).hide_default_value(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_is_recognised_by_its_file_name() {
        for (file, program) in [
            ("/usr/local/bin/kubectl-fledged", "kubectl fledged"),
            ("kubectl-fledged.exe", "kubectl fledged"),
            ("fledged", "fledged"),
            ("./target/debug/fledged", "fledged"),
        ] {
            assert_eq!(program_of(Some(file.into())), program);
        }
        assert_eq!(program_of(None), "fledged");
    }

    #[test]
    fn usage_and_examples_show_the_plugin_name() {
        let mut command = with_name(Cli::command(), PLUGIN_NAME);
        let help = command.render_long_help().to_string();
        assert!(help.contains("Usage: kubectl fledged"), "{help}");
        assert!(help.contains("\n  kubectl fledged node apply"), "{help}");
        assert!(!help.contains("\n  fledged "), "{help}");
        command.debug_assert();
    }

    #[test]
    fn empty_variables_leave_the_command_valid() {
        for value in ["", ",", "a=b,", "x"] {
            with_environment(Cli::command(), |_| Some(value.into())).debug_assert();
        }
        Cli::command().debug_assert();
    }
}
