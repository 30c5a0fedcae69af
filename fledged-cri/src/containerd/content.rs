//! containerd's content store: what it has, and writing into it under a lease.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{Digest, ImageRef};
use futures_util::stream;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use super::proto::content::content_client::ContentClient;
use super::proto::content::{
    InfoRequest, ListStatusesRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use super::proto::leases::leases_client::LeasesClient;
use super::proto::leases::{CreateRequest, DeleteRequest, ListRequest};
use super::proto::snapshots::StatSnapshotRequest;
use super::proto::snapshots::snapshots_client::SnapshotsClient;
use crate::cri::failure_of_status;
use crate::registry::sha256;

/// The namespace of the images of the CRI plugin.
const NAMESPACE: &str = "k8s.io";
/// How long content that no image needs yet is kept, since its pull began.
const LEASE_HOURS: i64 = 24;
/// Limit on each call that reads or changes only metadata.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Writes that containerd has not acknowledged yet. A second one overlaps with hashing the first.
const WRITES_AHEAD: usize = 2;

/// containerd's content store, with a lease for what one pull writes.
///
/// containerd drops the lease and what only it keeps when it expires, a day after it was made.
#[derive(Debug)]
pub(super) struct Content {
    channel: Channel,
    socket: PathBuf,
    /// The ID of the lease.
    id: String,
    /// The ID without the time.
    lease_prefix: String,
    namespace: MetadataValue<Ascii>,
    lease: MetadataValue<Ascii>,
}

impl Content {
    /// The content store, for an image. The lease is not made yet.
    pub(super) fn new(channel: Channel, socket: &Path, image: &ImageRef) -> Result<Self, Failure> {
        let hash = sha256(image.as_str().as_bytes());
        let hash: String = hash.chars().skip("sha256:".len()).take(16).collect();
        let lease_prefix = format!("fledged-{hash}-");
        let id = format!("{lease_prefix}{}", Timestamp::now().as_nanosecond());
        let invalid = |error: tonic::metadata::errors::InvalidMetadataValue| {
            Failure::new(Reason::Unknown, error.to_string())
        };
        Ok(Self {
            lease: id.parse().map_err(invalid)?,
            id,
            namespace: MetadataValue::from_static(NAMESPACE),
            socket: socket.to_owned(),
            lease_prefix,
            channel,
        })
    }

    /// Makes the lease.
    ///
    /// # Errors
    ///
    /// [`Reason::RuntimeUnsupported`] if the server is not containerd.
    pub(super) async fn lease(&self) -> Result<(), Failure> {
        let expires = Timestamp::now() + SignedDuration::from_hours(LEASE_HOURS);
        let expires = ("containerd.io/gc.expire".to_owned(), expires.to_string());
        let request = CreateRequest {
            id: self.id.clone(),
            labels: [expires].into(),
        };
        let mut leases = LeasesClient::new(self.channel.clone());
        self.call(leases.create(self.with_namespace(request)))
            .await?;
        Ok(())
    }

    /// Deletes the lease. Content of earlier pulls of the image is kept by their leases.
    pub(super) async fn release_own(&self) -> Result<(), Failure> {
        self.delete_lease(self.id.clone()).await
    }

    /// Deletes the leases of all pulls of the image. containerd then deletes what nothing else keeps.
    pub(super) async fn release_all(&self) -> Result<(), Failure> {
        let mut leases = LeasesClient::new(self.channel.clone());
        let list = leases.list(self.with_namespace(ListRequest {}));
        let list = self.call(list).await?.leases;
        let ours = list
            .into_iter()
            .filter(|lease| lease.id.starts_with(&self.lease_prefix));
        for lease in ours {
            self.delete_lease(lease.id).await?;
        }
        Ok(())
    }

    async fn delete_lease(&self, id: String) -> Result<(), Failure> {
        let request = self.with_namespace(DeleteRequest { id });
        let mut leases = LeasesClient::new(self.channel.clone());
        match self.call(leases.delete(request)).await {
            Err(failure) if failure.reason != Reason::ImageNotFound => Err(failure),
            _ => Ok(()),
        }
    }

    /// Whether the store has that content.
    pub(super) async fn has(&self, digest: &Digest) -> Result<bool, Failure> {
        let request = InfoRequest {
            digest: digest.to_string(),
        };
        let mut client = ContentClient::new(self.channel.clone());
        self.found(client.info(self.with_namespace(request))).await
    }

    /// The lengths of all unfinished content, that of other clients included.
    pub(super) async fn unfinished(&self) -> Result<BTreeMap<String, u64>, Failure> {
        let mut client = ContentClient::new(self.channel.clone());
        let request = self.with_namespace(ListStatusesRequest::default());
        let listed = self.call(client.list_statuses(request)).await?;
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
        let mut client = SnapshotsClient::new(self.channel.clone());
        self.found(client.stat(self.with_namespace(request))).await
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
                ingest.commit().await
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
        let (requests, mut receiver) = mpsc::channel(WRITES_AHEAD);
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: format!("{kind}-{digest}"),
            total: i64::try_from(size).unwrap_or(i64::MAX),
            expected: digest.to_string(),
            ..WriteContentRequest::default()
        };
        let sent = stream::once(async { first });
        let further = stream::poll_fn(move |context| receiver.poll_recv(context));
        let mut client = ContentClient::new(self.channel.clone());
        let request = self.with_namespace(futures_util::StreamExt::chain(sent, further));
        let opened = async {
            let mut answers = client.write(request).await?.into_inner();
            let first = answers.message().await?;
            Ok((answers, first.unwrap_or_default()))
        };
        match opened.await {
            Ok((answers, first)) => Ok(Opened::Ingest(Box::new(Ingest {
                socket: self.socket.clone(),
                requests,
                answers,
                unanswered: 0,
                offset: u64::try_from(first.offset).unwrap_or_default(),
                digest: first.digest,
            }))),
            Err(status) => self.not_opened(&status),
        }
    }

    fn not_opened(&self, status: &Status) -> Result<Opened, Failure> {
        match status.code() {
            Code::AlreadyExists => Ok(Opened::Present),
            Code::Unavailable if status.message().contains("locked") => Ok(Opened::Locked),
            _ => Err(failure_of_status(status, &self.socket, &[])),
        }
    }

    fn with_namespace<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("containerd-namespace", self.namespace.clone());
        metadata.insert("containerd-lease", self.lease.clone());
        request
    }

    async fn found<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<bool, Failure> {
        match self.call(call).await {
            Ok(_) => Ok(true),
            Err(failure) if failure.reason == Reason::ImageNotFound => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    async fn call<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        let limited = tokio::time::timeout(CALL_TIMEOUT, call).await;
        let status = match limited {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) if status.code() == Code::NotFound => {
                return Err(Failure::new(Reason::ImageNotFound, status.message()));
            }
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("containerd did not answer in time"),
        };
        Err(failure_of_status(&status, &self.socket, &[]))
    }
}

/// The outcome of opening unfinished content.
#[derive(Debug)]
pub(super) enum Opened {
    /// It can be written to, and no other client can meanwhile.
    Ingest(Box<Ingest>),
    /// The content is complete already.
    Present,
    /// Another client writes to it.
    Locked,
}

/// Unfinished content that is open. Dropping it closes it; containerd keeps what has been written.
#[derive(Debug)]
pub(super) struct Ingest {
    socket: PathBuf,
    requests: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    unanswered: usize,
    offset: u64,
    digest: String,
}

impl Ingest {
    /// How many bytes it has, those of earlier pulls included.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends bytes. They may not be written yet when this returns.
    pub(super) async fn write(&mut self, data: Bytes) -> Result<(), Failure> {
        if data.is_empty() {
            return Ok(());
        }
        let length = data.len() as u64;
        self.send(WriteAction::Write, data).await?;
        self.offset += length;
        while self.unanswered >= WRITES_AHEAD {
            self.answer().await?;
        }
        Ok(())
    }

    /// The digest of everything that has been written.
    pub(super) async fn digest(&mut self) -> Result<&str, Failure> {
        while self.unanswered > 0 {
            self.answer().await?;
        }
        Ok(&self.digest)
    }

    /// Deletes what has been written.
    pub(super) async fn truncate(&mut self) -> Result<(), Failure> {
        if self.offset > 0 {
            self.offset = 0;
            self.send(WriteAction::Write, Bytes::new()).await?;
            self.digest().await?;
        }
        Ok(())
    }

    /// Ends it: the content is complete. containerd verifies its length and digest.
    pub(super) async fn commit(mut self) -> Result<(), Failure> {
        self.digest().await?;
        self.send(WriteAction::Commit, Bytes::new()).await?;
        match self.answers.message().await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(failure_of_status(&status, &self.socket, &[])),
        }
    }

    /// Closes it. Afterwards, another client can continue it.
    pub(super) async fn close(mut self) -> Result<(), Failure> {
        self.digest().await?;
        drop(self.requests);
        let ended = self.answers.message().await;
        match ended {
            Ok(_) => Ok(()),
            Err(status) => Err(failure_of_status(&status, &self.socket, &[])),
        }
    }

    async fn send(&mut self, action: WriteAction, data: Bytes) -> Result<(), Failure> {
        let request = WriteContentRequest {
            action: action.into(),
            offset: i64::try_from(self.offset).unwrap_or(i64::MAX),
            data,
            ..WriteContentRequest::default()
        };
        self.unanswered += 1;
        if self.requests.send(request).await.is_err() {
            // The stream has ended; the answer says why.
            return self.answer().await;
        }
        Ok(())
    }

    /// Waits for the next answer of containerd. Without a write to answer, only the end of the stream comes.
    pub(super) async fn answer(&mut self) -> Result<(), Failure> {
        let answer = self.answers.message().await;
        match answer.map_err(|status| failure_of_status(&status, &self.socket, &[]))? {
            Some(answer) => {
                self.unanswered = self.unanswered.saturating_sub(1);
                self.digest = answer.digest;
                Ok(())
            }
            None => Err(Failure::new(
                Reason::RuntimeUnavailable,
                "containerd ended a write to its content store",
            )),
        }
    }
}
