//! The task that writes the status of a NodeImageCache, at the times that a [`Reporter`] decides.

use std::sync::Arc;
use std::time::Duration;

use fledged_core::backoff::RetryDelays;
use fledged_core::model::NodeReport;
use fledged_core::port::Clock;
use fledged_core::reporter::{Reporter, ReporterEvent};
use fledged_core::time::after;
use fledged_kube::crd::{NodeImageCacheStatus, as_recorded};
use fledged_kube::request_error::retry_after;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, OptionFuture};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::node_status::{Shrink, StatusApi, WriteError};

/// Limit on the final write; a pod has 30 s to end.
const FINAL_FLUSH: Duration = Duration::from_secs(5);

/// Writes what the [`Reporter`] decides.
pub(crate) struct Writer {
    api: StatusApi,
    reporter: Reporter,
    delays: RetryDelays,
    clock: Arc<dyn Clock>,
    /// Counts writes by result.
    count: Box<dyn Fn(&'static str) + Send>,
    shrink: Shrink,
    /// The record and the generation that `shrink` applies to.
    shrink_for: Option<(Option<String>, u64)>,
}

type Writing = Option<BoxFuture<'static, Result<usize, WriteError>>>;

impl Writer {
    /// A writer with its own [`Reporter`]. `delays` are those between attempts.
    pub(crate) fn new(
        api: StatusApi,
        seed: u64,
        delays: RetryDelays,
        clock: Arc<dyn Clock>,
        count: impl Fn(&'static str) + Send + 'static,
    ) -> Self {
        Self {
            api,
            reporter: Reporter::new(seed),
            delays,
            clock,
            count: Box::new(count),
            shrink: Shrink::default(),
            shrink_for: None,
        }
    }

    /// Writes what the events ask for until their senders are gone, and then the last state.
    pub(crate) async fn run(mut self, mut events: mpsc::UnboundedReceiver<ReporterEvent>) {
        let mut writing: Writing = None;
        loop {
            if let Some(report) = self.reporter.poll(self.clock.now()) {
                writing = Some(self.write(&report));
            }
            let pause = self.pause();
            let clock = Arc::clone(&self.clock);
            let timer: OptionFuture<_> = pause.map(|pause| clock.sleep(pause)).into();
            tokio::select! {
                biased;
                Some(result) = OptionFuture::from(writing.as_mut()) => {
                    writing = None;
                    self.ended(result);
                }
                event = events.recv() => match event {
                    Some(event) => self.apply(event),
                    None => break,
                },
                Some(()) = timer => {}
            }
        }
        let clock = Arc::clone(&self.clock);
        tokio::select! {
            biased;
            () = self.final_flush(writing) => {}
            () = clock.sleep(FINAL_FLUSH) => warn!("final status not written in time"),
        }
    }

    /// Waits for the write under way, and writes what is left until it succeeds.
    async fn final_flush(&mut self, mut writing: Writing) {
        loop {
            if let Some(result) = OptionFuture::from(writing.take()).await {
                self.ended(result);
            }
            if let Some(pause) = self.pause()
                && self.reporter.is_waiting_to_retry()
            {
                self.clock.sleep(pause).await;
            }
            match self.reporter.final_flush() {
                Some(report) => writing = Some(self.write(&report)),
                None => break,
            }
        }
    }

    fn apply(&mut self, event: ReporterEvent) {
        let event = match event {
            ReporterEvent::Observed(report) => ReporterEvent::Observed(as_recorded(report)),
            // A status that was shortened differs from the report anyway.
            ReporterEvent::RecordRead { record, .. } if self.is_shortened(&record) => return,
            event => event,
        };
        self.reporter.apply(event, self.clock.now());
    }

    fn is_shortened(&self, record: &str) -> bool {
        let written = self.shrink_for.as_ref();
        let written = written.and_then(|(record, _)| record.as_deref());
        self.shrink != Shrink::default() && written == Some(record)
    }

    fn write(&mut self, report: &NodeReport) -> BoxFuture<'static, Result<usize, WriteError>> {
        let assignment = (report.record.clone(), report.observed_generation);
        if self.shrink_for.as_ref() != Some(&assignment) {
            self.shrink = Shrink::default();
            self.shrink_for = Some(assignment);
        }
        let mut status = NodeImageCacheStatus::from_report(report);
        self.shrink.apply(&mut status);
        debug!(
            generation = status.observed_generation,
            cached = status.cached,
            failed = status.failed,
            "writing status"
        );
        let (api, uid) = (self.api.clone(), report.record.clone());
        async move { api.write(uid, status).await }.boxed()
    }

    fn ended(&mut self, result: Result<usize, WriteError>) {
        let event = match result {
            Ok(bytes) => {
                self.delays.reset();
                (self.count)("Succeeded");
                ReporterEvent::Written { bytes }
            }
            Err(_) if fledged_core::planted::is("failed-report-taken-for-written") => {
                ReporterEvent::Written { bytes: 0 }
            }
            Err(error) => {
                (self.count)(error.result());
                warn!(node = %self.api.node, %error, "status not written");
                self.failed(&error)
            }
        };
        self.reporter.apply(event, self.clock.now());
    }

    fn failed(&mut self, error: &WriteError) -> ReporterEvent {
        let asked = match error {
            WriteError::Gone(_) => return ReporterEvent::RecordGone,
            WriteError::TooLarge { .. } => {
                self.shrink = self.shrink.further();
                None
            }
            WriteError::Failed(error) => retry_after(error),
        };
        ReporterEvent::Failed {
            retry_at: after(self.clock.now(), self.delays.next(asked)),
        }
    }

    fn pause(&self) -> Option<Duration> {
        let wakeup = self.reporter.next_wakeup()?;
        let pause = wakeup.duration_since(self.clock.now());
        Some(Duration::try_from(pause).unwrap_or_default())
    }
}
