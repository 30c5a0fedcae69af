//! The progress of one pull, in bytes.

use std::sync::{Mutex, PoisonError};

use fledged_core::model::ByteSize;
use fledged_core::port::{ProgressSink, PullProgress};

/// Sums up the progress of one pull's downloads and reports it.
#[derive(Debug)]
pub(crate) struct Meter {
    sink: ProgressSink,
    /// Done and total bytes.
    counts: Mutex<(u64, u64)>,
}

impl Meter {
    pub(crate) fn new(sink: ProgressSink) -> Self {
        Self {
            sink,
            counts: Mutex::new((0, 0)),
        }
    }

    /// Adds bytes that will be fetched.
    pub(crate) fn expect(&self, bytes: u64) {
        self.change(|(done, total)| (done, total.saturating_add(bytes)));
    }

    /// Subtracts bytes that another pull has fetched.
    pub(crate) fn forgo(&self, bytes: u64) {
        self.change(|(done, total)| (done, total.saturating_sub(bytes)));
    }

    /// Counts received bytes.
    pub(crate) fn advance(&self, bytes: u64) {
        self.change(|(done, total)| (done.saturating_add(bytes).min(total), total));
    }

    fn change(&self, f: impl FnOnce((u64, u64)) -> (u64, u64)) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts = f(*counts);
        let (done, total) = *counts;
        // Reported under the lock, so that reports stay in order.
        self.sink
            .report(PullProgress::new(ByteSize::new(done), ByteSize::new(total)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn counts_the_bytes_of_this_pull() {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let sink = {
            let reports = Arc::clone(&reports);
            ProgressSink::new(move |p: PullProgress| {
                reports
                    .lock()
                    .unwrap()
                    .push((p.done.bytes(), p.total.unwrap().bytes()));
            })
        };
        let meter = Meter::new(sink);
        meter.expect(100);
        meter.expect(50);
        meter.advance(60);
        meter.forgo(50);
        meter.advance(70);
        assert_eq!(
            *reports.lock().unwrap(),
            [(0, 100), (0, 150), (60, 150), (60, 100), (100, 100)]
        );
    }
}
