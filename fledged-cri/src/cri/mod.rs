//! Runtimes that speak the Kubernetes Container Runtime Interface, version 1: containerd, CRI-O,
//! cri-dockerd.

mod auth;
mod client;
mod image;
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "generated from proto/cri.proto, which says what the fields mean"
)]
mod proto;
mod runtime;
mod status;
mod usage;

pub use runtime::CriRuntime;
