//! `kubectl fledged`: replaces itself by `fledged`, under the name of the kubectl plugin.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// The name that `fledged` is started with; its help then shows `kubectl fledged`.
const PLUGIN: &str = "kubectl-fledged";

fn main() -> ExitCode {
    let error = exec();
    let _ = writeln!(
        io::stderr(),
        "error: cannot start fledged, neither from the folder of {PLUGIN} nor from $PATH: {error}; \
         install it with: cargo install --locked --path fledged-cli"
    );
    ExitCode::FAILURE
}

/// Runs `fledged` from the folder of this program, or from `$PATH`. Returns only on failure.
fn exec() -> io::Error {
    let program = std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name("fledged"))
        .filter(|file| file.is_file())
        .unwrap_or_else(|| PathBuf::from("fledged"));
    Command::new(program)
        .arg0(OsStr::new(PLUGIN))
        .args(std::env::args_os().skip(1))
        .exec()
}
