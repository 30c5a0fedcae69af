//! Runtimes that serve the Kubernetes Container Runtime Interface, version 1: containerd, CRI-O,
//! cri-dockerd.

mod client;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod grpc_status;
mod images;
mod runtime;

#[cfg(feature = "oci")]
pub(crate) use client::Client;
#[cfg(feature = "oci")]
pub(crate) use grpc_status::failure_of_status;
pub use runtime::CriRuntime;

/// The messages and clients of `proto/cri.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "generated from proto/cri.proto, which documents the fields"
)]
mod proto {
    tonic::include_proto!("runtime.v1");

    /// Leaves the credentials out.
    impl std::fmt::Debug for AuthConfig {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("AuthConfig")
                .field("server_address", &self.server_address)
                .finish_non_exhaustive()
        }
    }
}
