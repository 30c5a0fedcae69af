//! `fledged` at a terminal, on a cluster with a controller and agents.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod demo;
mod errors;
mod get;
mod plan;
mod plugin;
mod request;
mod status;
mod support;
mod wait;
mod why;
