//! Images for containerd whose layers fledged fetches itself, over several connections and resumable, into
//! containerd's content store.
//!
//! containerd pulls the image as ever, through CRI. It finds the content that is already there and waits for what
//! is being written, because both use the same names for unfinished content. What fledged does not fetch,
//! containerd fetches.

mod content;
mod fetcher;
mod layers;
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
