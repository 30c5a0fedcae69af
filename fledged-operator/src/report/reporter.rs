//! What to write of a node's state, and when: a machine without I/O.

use std::collections::BTreeMap;

use fledged_core::error::Reason;
use fledged_core::model::{ImageRef, ImageReport, NodeReport};
use jiff::Timestamp;

use super::news::{Importance, News, failing, importance};
use super::pace::{ANSWER, Pace, after};
use super::shrink::Shrink;
use crate::crd::{NodeImageCacheStatus, NodeImageStatus};

/// The object that an assignment came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its UID, which tells it from a later one of the same name.
    pub(crate) uid: String,
    /// What its status said then.
    pub(crate) found: Option<NodeReport>,
}

/// Something that the reporter is told.
#[derive(Debug, Clone)]
pub(crate) enum Heard {
    /// The node took an assignment, or is assigned nothing any more.
    Assigned(Option<Source>, NodeReport),
    /// An image's state changed.
    Changed(ImageReport),
    /// The object was read anew.
    Read(Source),
    /// What was to be written was, in so many bytes.
    Written(usize),
    /// It was not; to be tried again then.
    Failed(Timestamp),
    /// It is more than the API takes; to be tried again then, with less.
    TooLarge(Timestamp),
    /// There is no such object any more.
    Gone,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StatusWrite {
    /// Which object.
    pub(crate) uid: String,
    /// What its status is to say.
    pub(super) status: NodeImageCacheStatus,
}

/// What the API is known to hold.
#[derive(Debug, Default, PartialEq)]
struct Written {
    generation: Option<u64>,
    images: BTreeMap<ImageRef, NodeImageStatus>,
}

impl Written {
    fn from_report(report: &NodeReport) -> Self {
        let images = report.images.iter();
        Self {
            generation: Some(report.observed_generation),
            images: images
                .map(|image| (image.image.clone(), image.into()))
                .collect(),
        }
    }
}

/// A write under way.
#[derive(Debug)]
struct UnderWay {
    uid: String,
    report: NodeReport,
    failure: bool,
    settled: bool,
}

/// Decides what is written, and when.
///
/// Pure: after every [`apply`](Self::apply) and at every [`next_wakeup`](Self::next_wakeup), call
/// [`poll`](Self::poll), and answer what it says to write.
#[derive(Debug)]
pub(crate) struct Reporter {
    pace: Pace,
    shrink: Shrink,
    object: Option<String>,
    /// Whether the object was not there when it was last written to.
    gone: bool,
    generation: u64,
    order: Vec<ImageRef>,
    images: BTreeMap<ImageRef, ImageReport>,
    unsettled: usize,
    settled_at: Option<Timestamp>,
    /// When the assignment is to be answered, until it is.
    answer_at: Option<Timestamp>,
    written: Written,
    /// Why images failed when they were last written about.
    known: BTreeMap<ImageRef, Reason>,
    news: News,
    under_way: Option<UnderWay>,
    retry_at: Option<Timestamp>,
}

impl Reporter {
    /// A reporter that has nothing to write to. The seed is that of the delays' jitter.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            pace: Pace::new(seed),
            shrink: Shrink::default(),
            object: None,
            gone: false,
            generation: 0,
            order: Vec::new(),
            images: BTreeMap::new(),
            unsettled: 0,
            settled_at: None,
            answer_at: None,
            written: Written::default(),
            known: BTreeMap::new(),
            news: News::default(),
            under_way: None,
            retry_at: None,
        }
    }

    /// Takes note of something that happened at `now`.
    pub(super) fn apply(&mut self, heard: Heard, now: Timestamp) {
        match heard {
            Heard::Assigned(source, report) => self.assigned(source, report, now),
            Heard::Changed(report) => self.changed(report, now),
            Heard::Read(source) => self.read(&source, now),
            Heard::Written(bytes) => self.has_written(bytes, now),
            Heard::Failed(at) => self.retry(at),
            Heard::TooLarge(at) => {
                self.shrink = self.shrink.further();
                self.retry(at);
            }
            Heard::Gone => {
                let write = self.under_way.take();
                self.gone |= write.map(|write| write.uid) == self.object;
            }
        }
    }

    /// The write that is due, if one is. It counts as under way until it is answered.
    pub(super) fn poll(&mut self, now: Timestamp) -> Option<StatusWrite> {
        self.next_wakeup().filter(|due| *due <= now)?;
        self.begin()
    }

    /// What is not written yet, due or not.
    pub(super) fn rest(&mut self) -> Option<StatusWrite> {
        let outstanding = self.answer_at.is_some() || !self.news.is_empty();
        match outstanding && self.is_open() {
            true => self.begin(),
            false => None,
        }
    }

    /// Whether the last write failed.
    pub(super) fn is_waiting_to_retry(&self) -> bool {
        self.retry_at.is_some()
    }

    /// When [`poll`](Self::poll) is to be called next if nothing happens before.
    pub(super) fn next_wakeup(&self) -> Option<Timestamp> {
        if !self.is_open() {
            return None;
        }
        let settled = self.settled_at.map(|at| self.pace.debounced(at));
        let answer = self.answer_at.map(|at| settled.unwrap_or(at));
        let progress = self.news.since(Importance::Progress);
        let progress = progress.map(|at| settled.unwrap_or_else(|| self.pace.progress(at)));
        let failure = self.news.since(Importance::Failure);
        let detail = self.news.since(Importance::Detail);
        let due = [
            answer,
            progress,
            failure.map(|at| self.pace.failure(at)),
            detail.map(|at| self.pace.detail(at)),
        ];
        let due = self.pace.any(due.into_iter().flatten().min()?);
        Some(self.retry_at.map_or(due, |retry| due.max(retry)))
    }

    /// Whether there is something to write to, and nothing is being written.
    fn is_open(&self) -> bool {
        self.object.is_some() && !self.gone && self.under_way.is_none()
    }

    fn assigned(&mut self, source: Option<Source>, report: NodeReport, now: Timestamp) {
        self.pace.assigned();
        self.shrink = Shrink::default();
        self.retry_at = None;
        self.gone = false;
        self.answer_at = None;
        let uid = source.as_ref().map(|source| source.uid.clone());
        if self.object != uid {
            self.object = uid;
            self.believe(source.and_then(|source| source.found));
        }
        self.generation = report.observed_generation;
        self.order = report.images.iter().map(|r| r.image.clone()).collect();
        let images = report.images.into_iter();
        self.images = images.map(|r| (r.image.clone(), r)).collect();
        let images = &self.images;
        self.known
            .retain(|image, reason| images.get(image).and_then(failing) == Some(*reason));
        self.compare(now);
    }

    fn changed(&mut self, report: ImageReport, now: Timestamp) {
        let Some(entry) = self.images.get_mut(&report.image) else {
            return;
        };
        match (entry.phase.is_settled(), report.phase.is_settled()) {
            (true, false) => self.unsettled += 1,
            (false, true) => self.unsettled -= 1,
            _ => {}
        }
        *entry = report;
        let image = entry.image.clone();
        self.note_settled(now);
        self.judge(&image, now);
    }

    /// The API may have been set back, or somebody else may have written.
    fn read(&mut self, source: &Source, now: Timestamp) {
        // What was made smaller is expected to differ.
        let comparable = self.under_way.is_none() && self.shrink == Shrink::default();
        if self.object.as_ref() != Some(&source.uid) || !comparable {
            return;
        }
        self.gone = false;
        let found = source.found.as_ref();
        if found.map(Written::from_report).unwrap_or_default() != self.written {
            self.believe(source.found.clone());
            self.compare(now);
        }
    }

    fn has_written(&mut self, bytes: usize, now: Timestamp) {
        let Some(write) = self.under_way.take() else {
            return;
        };
        self.retry_at = None;
        self.pace.written(bytes, write.settled, write.failure, now);
        if self.object.as_ref() == Some(&write.uid) {
            self.remember(&write.report);
            self.compare(now);
        }
    }

    fn retry(&mut self, at: Timestamp) {
        self.under_way = None;
        self.retry_at = Some(at);
    }

    fn begin(&mut self) -> Option<StatusWrite> {
        let uid = self.object.clone()?;
        let images = self.order.iter().filter_map(|image| self.images.get(image));
        let report = NodeReport::new(self.generation, images.cloned());
        let mut status = NodeImageCacheStatus::from_report(&report);
        self.shrink.apply(&mut status);
        self.under_way = Some(UnderWay {
            uid: uid.clone(),
            report,
            failure: self.news.since(Importance::Failure).is_some(),
            settled: self.unsettled == 0,
        });
        Some(StatusWrite { uid, status })
    }

    /// Takes what an object says for what was written to it.
    fn believe(&mut self, found: Option<NodeReport>) {
        self.written = Written::default();
        self.known.clear();
        if let Some(found) = found {
            self.remember(&found);
        }
    }

    fn remember(&mut self, report: &NodeReport) {
        for image in &report.images {
            if let Some(reason) = failing(image) {
                self.known.insert(image.image.clone(), reason);
            } else if image.phase.is_settled() {
                self.known.remove(&image.image);
            }
        }
        self.written = Written::from_report(report);
    }

    /// Compares everything with what is written.
    fn compare(&mut self, now: Timestamp) {
        let unsettled = self.images.values().filter(|r| !r.phase.is_settled());
        self.unsettled = unsettled.count();
        self.note_settled(now);
        let answered = self.written.generation == Some(self.generation)
            && self.written.images.keys().eq(self.images.keys());
        self.answer_at = match (answered, self.answer_at) {
            (true, _) => None,
            (false, Some(at)) => Some(at),
            (false, None) => Some(after(now, self.pace.spread(ANSWER))),
        };
        self.news = News::default();
        let images: Vec<ImageRef> = self.images.keys().cloned().collect();
        for image in images {
            self.judge(&image, now);
        }
    }

    fn note_settled(&mut self, now: Timestamp) {
        self.settled_at = match self.unsettled {
            0 => self.settled_at.or(Some(now)),
            _ => None,
        };
    }

    fn judge(&mut self, image: &ImageRef, now: Timestamp) {
        let Some(report) = self.images.get(image) else {
            return;
        };
        let known = self.known.get(image).copied();
        let importance = importance(self.written.images.get(image), known, report);
        self.news.set(image, importance, now);
    }
}
