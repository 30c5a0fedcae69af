//! Progress of one pull over all its blobs.

use std::sync::{Mutex, PoisonError};

use fledged_core::model::ByteSize;
use fledged_core::port::{ProgressSink, PullProgress};

/// Adds up what the downloads of one pull do, and tells the sink.
#[derive(Debug)]
pub(crate) struct Meter {
    sink: ProgressSink,
    /// Done and total, in bytes.
    counts: Mutex<(u64, u64)>,
}

impl Meter {
    pub(crate) fn new(sink: ProgressSink) -> Self {
        Self {
            sink,
            counts: Mutex::new((0, 0)),
        }
    }

    /// So many bytes are to be fetched.
    pub(crate) fn expect(&self, bytes: u64) {
        self.change(|(done, total)| (done, total.saturating_add(bytes)));
    }

    /// So many bytes need not be fetched after all: another pull did.
    pub(crate) fn forgo(&self, bytes: u64) {
        self.change(|(done, total)| (done, total.saturating_sub(bytes)));
    }

    /// So many bytes have come.
    pub(crate) fn advance(&self, bytes: u64) {
        self.change(|(done, total)| (done.saturating_add(bytes).min(total), total));
    }

    fn change(&self, f: impl FnOnce((u64, u64)) -> (u64, u64)) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts = f(*counts);
        let (done, total) = *counts;
        // Told under the lock, so that no report overtakes a later one.
        self.sink
            .report(PullProgress::new(ByteSize::new(done), ByteSize::new(total)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn counts_what_this_pull_fetches() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = {
            let told = Arc::clone(&told);
            ProgressSink::new(move |p: PullProgress| {
                told.lock()
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
            *told.lock().unwrap(),
            [(0, 100), (0, 150), (60, 150), (60, 100), (100, 100)]
        );
    }
}
