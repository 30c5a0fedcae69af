//! The program `fledged-operator`: flags, logs, and the wiring of the library.

mod agent;
mod args;
mod connect;
mod controller;
mod dispatch;
mod job;
mod job_args;
mod listen;
mod log;
mod webhook;

pub(crate) use dispatch::main;
