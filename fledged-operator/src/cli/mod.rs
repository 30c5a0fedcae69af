//! The program `fledged-operator`: flags, logs, and the wiring of the library.

mod flags;
mod program;
mod subcommands;

pub(crate) use program::main;
