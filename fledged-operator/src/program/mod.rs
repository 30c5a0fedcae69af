//! The program `fledged-operator`: flags, logs, and the wiring of the library.

mod args;
mod connect;
mod controller;
mod dispatch;
mod log;

pub use dispatch::main;
