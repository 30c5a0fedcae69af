//! By which name the program was called.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::Command;

/// The program's own name.
const NAME: &str = "fledged";
/// The file that kubectl starts for `kubectl fledged`.
const PLUGIN: &str = "kubectl-fledged";
/// What is typed then.
const PLUGIN_NAME: &str = "kubectl fledged";

/// What is typed to run this process: `fledged`, or `kubectl fledged`.
#[must_use]
pub fn program() -> &'static str {
    called(std::env::args_os().next())
}

fn called(program: Option<OsString>) -> &'static str {
    let file = program.as_deref().map(Path::new).and_then(Path::file_stem);
    match file == Some(OsStr::new(PLUGIN)) {
        true => PLUGIN_NAME,
        false => NAME,
    }
}

/// The command as that program shows it, in usage lines and in examples.
pub(crate) fn named(command: Command, program: &'static str) -> Command {
    if program == NAME {
        return command;
    }
    examples(command, program).bin_name(program)
}

fn examples(command: Command, program: &'static str) -> Command {
    let help = command.get_after_help().map(ToString::to_string);
    let command = match help {
        Some(text) => {
            let own = format!("  {NAME} ");
            let text = text.replace(&own, &format!("  {program} "));
            command.after_help(text)
        }
        None => command,
    };
    command.mut_subcommands(|command| examples(command, program))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn a_plugin_is_told_by_its_file() {
        for (file, program) in [
            ("/usr/local/bin/kubectl-fledged", "kubectl fledged"),
            ("kubectl-fledged.exe", "kubectl fledged"),
            ("fledged", "fledged"),
            ("./target/debug/fledged", "fledged"),
        ] {
            assert_eq!(called(Some(file.into())), program);
        }
        assert_eq!(called(None), "fledged");
    }

    #[test]
    fn usage_and_examples_have_the_name_that_is_typed() {
        let mut command = named(Cli::command(), PLUGIN_NAME);
        let help = command.render_long_help().to_string();
        assert!(help.contains("Usage: kubectl fledged"), "{help}");
        assert!(help.contains("\n  kubectl fledged demo"), "{help}");
        assert!(!help.contains("\n  fledged "), "{help}");
        command.debug_assert();
    }
}
