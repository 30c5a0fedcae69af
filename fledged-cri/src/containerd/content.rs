//! containerd's content store: what it has, and writing into it under the lease of a pull.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use fledged_core::error::Failure;
use fledged_core::model::{Digest, ImageRef};

use super::calls::Calls;
use super::ingest::{self, Ingest, Name, Opened};
use super::lease::{Collect, ImageLeases, Lease};
use super::proto::content::content_client::ContentClient;
use super::proto::content::{InfoRequest, ListStatusesRequest};
use super::proto::snapshots::StatSnapshotRequest;
use super::proto::snapshots::snapshots_client::SnapshotsClient;
use crate::cri::Client;

/// containerd's content store, with a lease for what one pull writes.
#[derive(Debug)]
pub(super) struct Content {
    calls: Calls,
    lease: Lease,
}

impl Content {
    /// The content store, for a pull of an image. What only its lease keeps is deleted that long after the last
    /// renewal.
    ///
    /// # Errors
    ///
    /// [`Reason::RuntimeUnsupported`] if the server is not containerd.
    pub(super) async fn open_for(
        client: &Client,
        image: &ImageRef,
        lasting: Duration,
    ) -> Result<Self, Failure> {
        let calls = Calls::new(client);
        let leases = ImageLeases::new(calls.clone(), image);
        let lease = Lease::create(leases, lasting).await?;
        Ok(Self { calls, lease })
    }

    /// Renews the lease until it is dropped.
    pub(super) async fn keep(&self) -> Infallible {
        self.lease.keep().await
    }

    /// Deletes the lease, if it keeps nothing that earlier pulls have fetched.
    pub(super) async fn release_own(&self) -> Result<(), Failure> {
        if self.lease.inherits() {
            return Ok(());
        }
        self.lease.delete(Collect::Later).await
    }

    /// Deletes the lease, and those of other pulls of the image that have ended.
    pub(super) async fn release_all(&self, collect: Collect) -> Result<(), Failure> {
        self.lease.delete_with_unused(collect).await
    }

    /// Whether the store has that content.
    pub(super) async fn has(&self, digest: &Digest) -> Result<bool, Failure> {
        let request = InfoRequest {
            digest: digest.to_string(),
        };
        let mut client = ContentClient::new(self.calls.channel());
        let info = client.info(Calls::request(request));
        self.calls.found(info).await
    }

    /// The lengths of all unfinished content, that of other clients included.
    pub(super) async fn unfinished(&self) -> Result<BTreeMap<String, u64>, Failure> {
        let mut client = ContentClient::new(self.calls.channel());
        let request = Calls::request(ListStatusesRequest::default());
        let listed = self.calls.answer(client.list_statuses(request)).await?;
        let lengths = listed.statuses.into_iter();
        let lengths = lengths.map(|status| {
            let length = u64::try_from(status.offset).unwrap_or_default();
            (status.r#ref, length)
        });
        Ok(lengths.collect())
    }

    /// Whether the layers with that chain ID are unpacked.
    pub(super) async fn has_snapshot(
        &self,
        snapshotter: &str,
        chain_id: &str,
    ) -> Result<bool, Failure> {
        let request = StatSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: chain_id.to_owned(),
        };
        let mut client = SnapshotsClient::new(self.calls.channel());
        let stat = client.stat(Calls::request(request));
        self.calls.found(stat).await
    }

    /// Stores a small document, of the kind that containerd's name for it begins with, unless it is there
    /// already or another client writes it.
    pub(super) async fn put(
        &self,
        kind: &str,
        digest: &Digest,
        document: Bytes,
    ) -> Result<(), Failure> {
        let size = document.len() as u64;
        match self.open(kind, digest, size).await? {
            Opened::Present | Opened::Locked => Ok(()),
            Opened::Ingest(mut ingest) => {
                ingest.truncate().await?;
                ingest.write(document).await?;
                self.commit(*ingest).await
            }
        }
    }

    /// Opens unfinished content to write to it. containerd keeps it when it is closed.
    pub(super) async fn open(
        &self,
        kind: &str,
        digest: &Digest,
        size: u64,
    ) -> Result<Opened, Failure> {
        let name = Name {
            reference: format!("{kind}-{digest}"),
            digest: digest.to_string(),
            size,
        };
        let _exists = self.lease.existing().await;
        ingest::open(&self.calls, self.lease.header(), name).await
    }

    /// Ends a write: the content is complete. containerd verifies its length and digest.
    pub(super) async fn commit(&self, ingest: Ingest) -> Result<(), Failure> {
        let _exists = self.lease.existing().await;
        ingest.commit().await
    }
}
