//! Pulls for containerd in which fledged fetches the layers, over several connections and resumable, into
//! containerd's content store.
//!
//! containerd still pulls the image through CRI. It uses layers that are stored and waits for layers that are
//! being written, because fledged gives unfinished content the same names as containerd. containerd fetches the
//! layers that fledged does not.

mod content;
mod fetcher;
mod layers;
mod priority;
mod registry_settings;
mod settings;

pub(crate) use fetcher::Fetcher;
pub use fetcher::FetcherOptions;

/// The messages and clients of containerd's services.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "generated from proto/, which documents the fields"
)]
mod proto {
    pub(super) mod content {
        tonic::include_proto!("containerd.services.content.v1");
    }
    pub(super) mod leases {
        tonic::include_proto!("containerd.services.leases.v1");
    }
    pub(super) mod snapshots {
        tonic::include_proto!("containerd.services.snapshots.v1");
    }
}
