//! Downloads of blobs over several connections: parts are requested ahead and handed over in order.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use fledged_core::error::{Failure, Reason};
#[cfg(feature = "cri")]
use fledged_core::model::ByteSize;
use reqwest::Response;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::client::failure_of_transport;
use super::connections::{Connection, Downloads};
use super::manifest::Blob;

/// Bytes of the buffers that parts are copied to. Those of the HTTP client are kept in full as long as any byte of them is.
const BLOCK: usize = 256 * 1024;
/// How often a request is repeated, for each part.
const RETRIES: u32 = 3;
/// The delay before the first repetition; each further one is twice as long.
const RETRY_DELAY: Duration = Duration::from_millis(100);

impl Downloads {
    /// The content of a blob from `offset` on. Nothing is requested yet.
    pub(crate) fn blob(&self, blob: &Blob, offset: u64) -> BlobDownload {
        BlobDownload {
            shared: self.clone(),
            blob: blob.clone(),
            at: offset,
            retries: RETRIES,
            source: Source::Idle,
        }
    }
}

/// The beginning of a blob, and how fast it came.
#[cfg(feature = "cri")]
pub(crate) struct FirstPart {
    pub(crate) chunks: Vec<Bytes>,
    /// Bytes a second over one connection, since the first of them.
    pub(crate) rate: ByteSize,
}

#[cfg(feature = "cri")]
impl Downloads {
    /// Receives one part of a blob from `offset` on, over one connection. `None` if the registry does not serve ranges, or
    /// less than a part is left.
    pub(crate) async fn first_part(
        &self,
        blob: &Blob,
        offset: u64,
    ) -> Result<Option<FirstPart>, Failure> {
        let range = range_of_part(self, blob, offset);
        if range.end - range.start < self.part() || !blob.urls.is_empty() {
            return Ok(None);
        }
        let _connection = self.connect().await?;
        let Some(mut answer) = self.session.blob_part(blob, &range).await? else {
            return Ok(None);
        };
        let mut left = range.end - range.start;
        let mut chunks: Vec<Bytes> = Vec::new();
        let mut began = Instant::now();
        let mut timed = 0;
        while left > 0 {
            let mut chunk = next_chunk(&mut answer, blob, self.connections.stalled_after).await?;
            truncate(&mut chunk, left);
            let length = chunk.len() as u64;
            if chunks.is_empty() {
                began = Instant::now();
            } else {
                timed += length;
            }
            left -= length;
            pause(self.received(length)).await;
            chunks.push(chunk);
        }
        self.meter.expect(range.end - range.start);
        self.meter.advance(range.end - range.start);
        let micros = began.elapsed().as_micros().max(1);
        let rate = u128::from(timed) * 1_000_000 / micros;
        Ok(Some(FirstPart {
            chunks,
            rate: ByteSize::new(u64::try_from(rate).unwrap_or(u64::MAX)),
        }))
    }
}

/// The content of a blob, not verified.
///
/// A blob of more than one part comes over as many connections as are free, if the registry serves ranges.
/// Otherwise it comes with one request.
pub(crate) struct BlobDownload {
    shared: Downloads,
    blob: Blob,
    /// Offset of the next byte to hand over.
    at: u64,
    retries: u32,
    source: Source,
}

/// Where the next bytes come from.
enum Source {
    /// Nothing is requested.
    Idle,
    /// In order, without gaps.
    Parts(VecDeque<Part>),
    /// The whole blob, after `skip` bytes.
    Whole {
        response: Response,
        skip: u64,
        /// When more may be received.
        paused_until: Option<Instant>,
        _connection: Connection,
    },
}

/// A part that is being downloaded.
struct Part {
    end: u64,
    /// Bounded by the length of the part. Ends early if the registry does not serve ranges.
    chunks: UnboundedReceiver<Result<Bytes, Failure>>,
    _task: AbortOnDropHandle<()>,
    _connection: Connection,
}

impl BlobDownload {
    /// How many connections are free.
    #[cfg(test)]
    pub(super) fn free_connections(&self) -> usize {
        self.shared.connections.permits.available_permits()
    }

    /// The next bytes, or `None` after the last.
    ///
    /// # Errors
    ///
    /// The failure of a request after its repetitions. A failure with a delay, and one that a repetition
    /// does not mend, is returned at once. [`Reason::DigestMismatch`] if the registry states another length
    /// than the descriptor.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while self.at < self.blob.size {
            match self.step().await {
                Ok(Some(chunk)) => {
                    self.at += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Ok(None) => {}
                Err(failure) => {
                    self.source = Source::Idle;
                    pause_before_retry(&mut self.retries, failure).await?;
                }
            }
        }
        self.source = Source::Idle;
        Ok(None)
    }

    /// The next bytes, or `None` if the source has changed.
    async fn step(&mut self) -> Result<Option<Bytes>, Failure> {
        match &mut self.source {
            Source::Idle => {
                self.source = self.open().await?;
                Ok(None)
            }
            Source::Whole {
                response,
                skip,
                paused_until,
                ..
            } => {
                // Not after the chunk: it would be lost if this future were dropped.
                pause(*paused_until).await;
                let Some(mut chunk) = response.chunk().await.map_err(broken)? else {
                    return Err(ended(&self.blob));
                };
                *paused_until = self.shared.received(chunk.len() as u64);
                let skipped = (chunk.len() as u64).min(*skip);
                *skip -= skipped;
                chunk.advance(usize::try_from(skipped).unwrap_or(usize::MAX));
                truncate(&mut chunk, self.blob.size - self.at);
                self.shared.meter.advance(chunk.len() as u64);
                Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
            }
            Source::Parts(parts) => {
                let mut end = parts.back().map_or(self.at, |part| part.end);
                while end < self.blob.size {
                    let connection = if parts.is_empty() {
                        self.shared.connect().await?
                    } else if let Some(connection) = self.shared.try_connect() {
                        connection
                    } else {
                        break;
                    };
                    let part = start_part(&self.shared, &self.blob, end, None, connection);
                    end = part.end;
                    parts.push_back(part);
                }
                let Some(first) = parts.front_mut() else {
                    self.source = Source::Idle;
                    return Ok(None);
                };
                match first.chunks.recv().await {
                    Some(Ok(chunk)) => Ok(Some(chunk)),
                    Some(Err(failure)) => {
                        self.retries = 0;
                        Err(failure)
                    }
                    None if self.at < first.end => {
                        self.source = Source::Idle;
                        Ok(None)
                    }
                    None => {
                        parts.pop_front();
                        Ok(None)
                    }
                }
            }
        }
    }

    /// Requests the first part, or the whole blob.
    async fn open(&self) -> Result<Source, Failure> {
        let session = &self.shared.session;
        let connection = self.shared.connect().await?;
        let in_parts = self.at > 0 || self.blob.size > self.shared.part();
        if in_parts && self.blob.urls.is_empty() && session.serves_ranges() {
            let range = range_of_part(&self.shared, &self.blob, self.at);
            if let Some(answer) = session.blob_part(&self.blob, &range).await? {
                let first = start_part(&self.shared, &self.blob, self.at, Some(answer), connection);
                return Ok(Source::Parts(VecDeque::from([first])));
            }
        }
        let response = session.blob(&self.blob).await?;
        if let Some(length) = response.content_length()
            && length != self.blob.size
        {
            return Err(Failure::new(
                Reason::DigestMismatch,
                format!(
                    "blob {} comes with {length} bytes, its descriptor has {}",
                    self.blob.digest, self.blob.size
                ),
            ));
        }
        Ok(Source::Whole {
            response,
            skip: self.at,
            paused_until: None,
            _connection: connection,
        })
    }
}

fn range_of_part(shared: &Downloads, blob: &Blob, start: u64) -> Range<u64> {
    start..blob.size.min(start.saturating_add(shared.part()))
}

/// Starts the download of the part at `start`; `answer` is the answer to its request, if that was sent.
fn start_part(
    shared: &Downloads,
    blob: &Blob,
    start: u64,
    answer: Option<Response>,
    connection: Connection,
) -> Part {
    let range = range_of_part(shared, blob, start);
    let end = range.end;
    let (sender, chunks) = mpsc::unbounded_channel();
    let (shared, blob) = (shared.clone(), blob.clone());
    let task = tokio::spawn(async move {
        if let Err(failure) = read_part(&shared, &blob, range, answer, &sender).await {
            // Received by nothing if the download was dropped.
            let _ = sender.send(Err(failure));
        }
    });
    Part {
        end,
        chunks,
        _task: AbortOnDropHandle::new(task),
        _connection: connection,
    }
}

/// Sends the chunks of a part. A repeated request continues behind the last received byte.
async fn read_part(
    shared: &Downloads,
    blob: &Blob,
    mut range: Range<u64>,
    mut answer: Option<Response>,
    chunks: &UnboundedSender<Result<Bytes, Failure>>,
) -> Result<(), Failure> {
    let mut retries = RETRIES;
    while !range.is_empty() {
        let answered = match answer.take() {
            Some(answer) => Ok(Some(answer)),
            None => shared.session.blob_part(blob, &range).await,
        };
        let read = match answered {
            Ok(Some(answer)) => {
                let patience = shared.connections.stalled_after * 2_u32.pow(RETRIES - retries);
                read_answer(shared, blob, &mut range, answer, patience, chunks).await
            }
            Ok(None) => return Ok(()),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = read {
            pause_before_retry(&mut retries, failure).await?;
        }
    }
    Ok(())
}

/// Sends the chunks of one answer, and moves the start of the range with them. `patience`: the longest wait for one.
async fn read_answer(
    shared: &Downloads,
    blob: &Blob,
    range: &mut Range<u64>,
    mut answer: Response,
    patience: Duration,
    chunks: &UnboundedSender<Result<Bytes, Failure>>,
) -> Result<(), Failure> {
    // Filled by several chunks, each of which is handed over at once.
    let mut block = BytesMut::new();
    while !range.is_empty() {
        let mut chunk = next_chunk(&mut answer, blob, patience).await?;
        let paused_until = shared.received(chunk.len() as u64);
        truncate(&mut chunk, range.end - range.start);
        range.start += chunk.len() as u64;
        shared.meter.advance(chunk.len() as u64);
        while !chunk.is_empty() {
            if block.capacity() == 0 {
                block = BytesMut::with_capacity(BLOCK);
            }
            block.extend_from_slice(&chunk.split_to(chunk.len().min(block.capacity())));
            // An error: the download was dropped, which aborts this task.
            let _ = chunks.send(Ok(block.split().freeze()));
        }
        pause(paused_until).await;
    }
    Ok(())
}

/// The next bytes of an answer, which has not ended. `patience`: the longest wait for one.
async fn next_chunk(
    answer: &mut Response,
    blob: &Blob,
    patience: Duration,
) -> Result<Bytes, Failure> {
    let received = timeout(patience, answer.chunk()).await;
    let received = received.map_err(|_| stalled(blob, patience))?;
    received.map_err(broken)?.ok_or_else(|| ended(blob))
}

/// Waits before a request is repeated, or returns the failure if it is not to be repeated.
async fn pause_before_retry(retries: &mut u32, failure: Failure) -> Result<(), Failure> {
    let is_transient = matches!(
        failure.reason,
        Reason::ConnectionFailed | Reason::RegistryError
    );
    if *retries == 0 || !is_transient || failure.retry_after.is_some() {
        return Err(failure);
    }
    tracing::debug!(%failure, "request for a blob repeated");
    tokio::time::sleep(RETRY_DELAY * 2_u32.pow(RETRIES - *retries)).await;
    *retries -= 1;
    Ok(())
}

async fn pause(until: Option<Instant>) {
    if let Some(until) = until {
        tokio::time::sleep_until(until).await;
    }
}

fn truncate(chunk: &mut Bytes, longest: u64) {
    chunk.truncate(usize::try_from(longest).unwrap_or(usize::MAX));
}

fn broken(error: reqwest::Error) -> Failure {
    failure_of_transport("reading a blob failed", error)
}

fn stalled(blob: &Blob, patience: Duration) -> Failure {
    Failure::new(
        Reason::ConnectionFailed,
        format!(
            "the registry sent no byte of blob {} for {patience:?}",
            blob.digest
        ),
    )
}

fn ended(blob: &Blob) -> Failure {
    Failure::new(
        Reason::ConnectionFailed,
        format!("the content of blob {} ended too early", blob.digest),
    )
}
