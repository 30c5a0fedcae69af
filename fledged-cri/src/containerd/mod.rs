//! Pulls for containerd in which fledged fetches the layers, over several connections and resumable, into
//! containerd's content store.
//!
//! containerd still pulls the image through CRI. It uses layers that are stored and waits for layers that are
//! being written, because fledged gives unfinished content the same names as containerd. containerd fetches the
//! layers that fledged does not.

mod calls;
mod content;
mod fetcher;
mod ingest;
mod layers;
mod lease;
mod priority;
mod registry_settings;
mod settings;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::ImageRef;

use crate::cri::Client;

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

/// Deletes what pulls of the image that have ended early have fetched, also those of other processes.
///
/// # Errors
///
/// containerd refuses it. A runtime without containerd's services has nothing to delete.
pub(crate) async fn discard_unfinished(client: &Client, image: &ImageRef) -> Result<(), Failure> {
    let leases = lease::ImageLeases::new(calls::Calls::new(client), image);
    match leases.delete_unused().await {
        Err(failure) if failure.reason != Reason::RuntimeUnsupported => Err(failure),
        _ => Ok(()),
    }
}
