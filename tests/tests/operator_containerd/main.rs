//! The operator's own binary on real containerd and real registries.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod private;
mod program;
mod refresh;
