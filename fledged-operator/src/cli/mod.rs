//! The program `fledged-operator`: flags, logs, and the wiring of the library.

mod args;
mod commands;
mod program;

pub(crate) use program::main;
