//! The integration tests of fledged-cli, one module an area.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[cfg(feature = "demo")]
mod cli_apply;
#[cfg(feature = "demo")]
mod cli_demo;
#[cfg(feature = "demo")]
mod cli_run;
#[cfg(feature = "demo")]
mod cli_terminal;
#[cfg(feature = "demo")]
mod cli_usage;
mod manifest;
#[cfg(feature = "demo")]
mod support;
