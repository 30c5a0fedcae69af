//! The program `fledged-operator`; see the library for what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    fledged_operator::program::main()
}
