//! Unfinished content that is being written.

use std::path::PathBuf;

use bytes::Bytes;
use fledged_core::error::{Failure, Reason};
use futures_util::stream;
use tokio::sync::mpsc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Status, Streaming};

use super::calls::Calls;
use super::proto::content::content_client::ContentClient;
use super::proto::content::{WriteAction, WriteContentRequest, WriteContentResponse};
use crate::cri::failure_of_status;

/// Writes that containerd has not acknowledged yet. A second one overlaps with hashing the first.
const WRITES_AHEAD: usize = 2;

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

/// Which unfinished content is opened.
#[derive(Debug, Default)]
pub(super) struct Name {
    /// containerd's name for it.
    pub(super) reference: String,
    /// The digest of the complete content. Empty: unknown.
    pub(super) digest: String,
    /// The length of the complete content. Zero: unknown.
    pub(super) size: u64,
}

/// Opens unfinished content to write to it, under a lease. containerd keeps it when it is closed. Takes as long as
/// containerd needs to hash what is there.
pub(super) async fn open(
    calls: &Calls,
    lease: MetadataValue<Ascii>,
    name: Name,
) -> Result<Opened, Failure> {
    let (requests, mut receiver) = mpsc::channel(WRITES_AHEAD);
    let first = WriteContentRequest {
        action: WriteAction::Stat.into(),
        r#ref: name.reference,
        total: i64::try_from(name.size).unwrap_or(i64::MAX),
        expected: name.digest,
        ..WriteContentRequest::default()
    };
    let sent = stream::once(async { first });
    let further = stream::poll_fn(move |context| receiver.poll_recv(context));
    let mut client = ContentClient::new(calls.channel());
    let request = Calls::request_under(lease, futures_util::StreamExt::chain(sent, further));
    let opened = async {
        let mut answers = client.write(request).await?.into_inner();
        let first = answers.message().await?;
        Ok((answers, first.unwrap_or_default()))
    };
    match opened.await {
        Ok((answers, first)) => Ok(Opened::Ingest(Box::new(Ingest {
            socket: calls.socket().to_owned(),
            requests,
            answers,
            unanswered: 0,
            offset: u64::try_from(first.offset).unwrap_or_default(),
            digest: first.digest,
        }))),
        Err(status) => not_opened(calls, &status),
    }
}

fn not_opened(calls: &Calls, status: &Status) -> Result<Opened, Failure> {
    match status.code() {
        Code::AlreadyExists => Ok(Opened::Present),
        Code::Unavailable if status.message().contains("locked") => Ok(Opened::Locked),
        _ => Err(calls.failure(status)),
    }
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
