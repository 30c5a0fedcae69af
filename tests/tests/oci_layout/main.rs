//! The OCI layout runtime against a real registry, with faults, kills and other readers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod faults;
mod folder;
mod kill;
mod presence;
mod pull;
mod readers;
mod support;
mod writer;
