//! The task that writes a node's status.

use std::sync::Arc;
use std::time::Duration;

use fledged_core::port::Clock;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, OptionFuture};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::delays::Delays;
use super::pace::after;
use super::reporter::{Heard, Reporter, StatusWrite};
use super::status::{StatusApi, WriteError};

/// How long the last state is tried to be written; a pod has 30 s to end.
const LAST_WORD: Duration = Duration::from_secs(5);

/// Carries out what the [`Reporter`] decides.
pub(crate) struct Writer {
    pub(crate) api: StatusApi,
    pub(crate) reporter: Reporter,
    pub(crate) delays: Delays,
    pub(crate) clock: Arc<dyn Clock>,
    /// Counts how writes went, by a word.
    pub(crate) count: Box<dyn Fn(&'static str) + Send>,
}

type Writing = Option<BoxFuture<'static, Result<usize, WriteError>>>;

impl Writer {
    /// Writes what it hears until nobody is left to tell anything, and then the last state.
    pub(crate) async fn run(mut self, mut heard: mpsc::UnboundedReceiver<Heard>) {
        let mut writing: Writing = None;
        loop {
            if let Some(write) = self.reporter.poll(self.clock.now()) {
                writing = Some(self.write(write));
            }
            let pause = self.pause();
            let clock = Arc::clone(&self.clock);
            let timer: OptionFuture<_> = pause.map(|pause| clock.sleep(pause)).into();
            tokio::select! {
                event = heard.recv() => match event {
                    Some(event) => self.reporter.apply(event, self.clock.now()),
                    None => break,
                },
                Some(result) = OptionFuture::from(writing.as_mut()) => {
                    writing = None;
                    self.ended(result);
                }
                Some(()) = timer => {}
            }
        }
        let clock = Arc::clone(&self.clock);
        tokio::select! {
            () = self.last_word(writing) => {}
            () = clock.sleep(LAST_WORD) => warn!("the last state could not be written in time"),
        }
    }

    /// Ends what is under way, and writes what is left, until it is written.
    async fn last_word(&mut self, mut writing: Writing) {
        loop {
            if let Some(result) = OptionFuture::from(writing.take()).await {
                self.ended(result);
            }
            if let Some(pause) = self.pause()
                && self.reporter.is_waiting_to_retry()
            {
                self.clock.sleep(pause).await;
            }
            match self.reporter.rest() {
                Some(write) => writing = Some(self.write(write)),
                None => break,
            }
        }
    }

    fn write(&self, write: StatusWrite) -> BoxFuture<'static, Result<usize, WriteError>> {
        debug!(
            generation = write.status.observed_generation,
            cached = write.status.cached,
            failed = write.status.failed,
            "writing status"
        );
        let api = self.api.clone();
        async move { api.write(write).await }.boxed()
    }

    fn ended(&mut self, result: Result<usize, WriteError>) {
        let now = self.clock.now();
        let heard = match result {
            Ok(bytes) => {
                self.delays.reset();
                (self.count)("Succeeded");
                Heard::Written(bytes)
            }
            Err(error) => {
                (self.count)(error.result());
                self.refused(&error, now)
            }
        };
        self.reporter.apply(heard, now);
    }

    fn refused(&mut self, error: &WriteError, now: Timestamp) -> Heard {
        warn!(%error, "status not written");
        match error {
            WriteError::Gone { .. } => Heard::Gone,
            WriteError::TooLarge { .. } => Heard::TooLarge(after(now, self.delays.next(None))),
            WriteError::Failed { retry_after, .. } => {
                Heard::Failed(after(now, self.delays.next(*retry_after)))
            }
        }
    }

    fn pause(&self) -> Option<Duration> {
        let wakeup = self.reporter.next_wakeup()?;
        let pause = wakeup.duration_since(self.clock.now());
        Some(Duration::try_from(pause).unwrap_or_default())
    }
}
