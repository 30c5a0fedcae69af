//! `kubectl fledged`: starts `fledged` under the name that kubectl calls it by.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// By this name `fledged` knows how it was called, and says so in its help.
const PLUGIN: &str = "kubectl-fledged";

fn main() -> ExitCode {
    let error = start();
    let _ = writeln!(
        io::stderr(),
        "error: cannot start fledged, neither from the folder of {PLUGIN} nor from $PATH: {error}; \
         install it with: cargo install --locked --path fledged-cli"
    );
    ExitCode::FAILURE
}

/// Becomes `fledged`, the one beside this file if there is one; comes back only with an error.
fn start() -> io::Error {
    let beside = std::env::current_exe().ok();
    let beside = beside.map(|file| file.with_file_name("fledged"));
    let program = beside
        .filter(|file| file.is_file())
        .unwrap_or_else(|| PathBuf::from("fledged"));
    Command::new(program)
        .arg0(OsStr::new(PLUGIN))
        .args(std::env::args_os().skip(1))
        .exec()
}
