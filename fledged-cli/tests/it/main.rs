//! The integration tests of `fledged`: each runs the built program.
#![cfg(feature = "demo")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod credentials;
mod demo;
// The registry that the images are pulled from; its unit tests run here too.
#[path = "../../src/demo/demo_registry.rs"]
mod demo_registry;
mod node_apply;
mod node_run;
mod support;
mod terminal;
mod usage;
