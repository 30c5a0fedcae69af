//! A reporter on a virtual clock, and an API that takes everything.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests use it"
)]

use std::time::Duration;

use fledged_core::error::Reason;
use fledged_core::model::{ImagePhase, ImageReport, NodeReport};
use jiff::Timestamp;

use super::pace::after;
use super::reporter::{Heard, Reporter, Source};
use crate::crd::NodeImageCacheStatus;

/// A reporter, a virtual clock, and an API that takes everything.
pub(super) struct Rig {
    pub(super) reporter: Reporter,
    pub(super) now: Timestamp,
    pub(super) bytes: usize,
    /// Milliseconds since the start, and what was written.
    pub(super) writes: Vec<(u64, NodeImageCacheStatus)>,
}

pub(super) fn mk_image(number: usize, phase: ImagePhase) -> ImageReport {
    ImageReport::new(format!("r.example/app:{number}").parse().unwrap(), phase)
}

pub(super) fn mk_failing(
    number: usize,
    phase: ImagePhase,
    reason: Reason,
    attempts: u32,
) -> ImageReport {
    let mut image = mk_image(number, phase);
    image.reason = Some(reason);
    image.attempts = attempts;
    image
}

pub(super) fn mk_report(generation: u64, images: Vec<ImageReport>) -> NodeReport {
    NodeReport::new(generation, images)
}

pub(super) fn mk_source(uid: &str, found: Option<NodeReport>) -> Option<Source> {
    Some(Source {
        uid: uid.to_owned(),
        found,
    })
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with_seed(7)
    }

    pub(super) fn with_seed(seed: u64) -> Self {
        Self {
            reporter: Reporter::new(seed),
            now: Timestamp::UNIX_EPOCH,
            bytes: 5_000,
            writes: Vec::new(),
        }
    }

    pub(super) fn hear(&mut self, heard: Heard) {
        self.reporter.apply(heard, self.now);
    }

    pub(super) fn assign(&mut self, report: NodeReport) {
        self.hear(Heard::Assigned(mk_source("uid-1", None), report));
    }

    pub(super) fn change(&mut self, image: ImageReport) {
        self.hear(Heard::Changed(image));
    }

    /// Lets time pass, with every write that becomes due.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = after(self.now, time);
        while let Some(due) = self.reporter.next_wakeup().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            if let Some(write) = self.reporter.poll(self.now) {
                let at = self.now.as_millisecond();
                self.writes.push((at.try_into().unwrap(), write.status));
                self.hear(Heard::Written(self.bytes));
            }
        }
        self.now = until;
    }

    pub(super) fn pass_seconds(&mut self, seconds: f64) {
        self.pass(Duration::from_secs_f64(seconds));
    }

    pub(super) fn last(&self) -> &NodeImageCacheStatus {
        &self.writes.last().unwrap().1
    }

    pub(super) fn gaps(&self) -> Vec<u64> {
        let times = self.writes.windows(2);
        times.map(|pair| pair[1].0 - pair[0].0).collect()
    }
}
