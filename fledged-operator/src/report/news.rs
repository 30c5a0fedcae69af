//! What differs from what was last written, and how much it matters.

use std::collections::BTreeMap;

use fledged_core::error::Reason;
use fledged_core::model::{ImagePhase, ImageRef, ImageReport};
use jiff::Timestamp;

use crate::crd::NodeImageStatus;

/// How soon somebody wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Importance {
    /// Nobody waits for it.
    Detail,
    /// An image got further.
    Progress,
    /// An image fails that did not, or for another reason than before.
    Failure,
}

/// Why an image fails, if it does.
pub(super) fn failing(report: &ImageReport) -> Option<Reason> {
    let fails = matches!(report.phase, ImagePhase::Failed | ImagePhase::BackingOff);
    report.reason.filter(|_| fails)
}

/// How much a state matters to whoever knows the written one; `None` where they are the same.
/// `known` is why the image failed when it was last written about, unless it succeeded since.
pub(super) fn importance(
    written: Option<&NodeImageStatus>,
    known: Option<Reason>,
    report: &ImageReport,
) -> Option<Importance> {
    if written == Some(&NodeImageStatus::from(report)) {
        return None;
    }
    let phase = written.map(|status| status.phase);
    let fails = failing(report);
    Some(if fails.is_some() && fails != known {
        Importance::Failure
    } else if phase == Some(report.phase) {
        Importance::Detail
    } else if known.is_some() && phase.is_some() && !report.phase.is_settled() {
        // Another attempt at what is known to fail.
        Importance::Detail
    } else {
        Importance::Progress
    })
}

/// The images that differ.
#[derive(Debug, Default)]
pub(super) struct News {
    images: BTreeMap<ImageRef, Importance>,
    /// Since when there is news of that importance.
    since: BTreeMap<Importance, (usize, Timestamp)>,
}

impl News {
    /// How much the state of one image matters now.
    pub(super) fn set(&mut self, image: &ImageRef, importance: Option<Importance>, now: Timestamp) {
        let before = match importance {
            Some(importance) => self.images.insert(image.clone(), importance),
            None => self.images.remove(image),
        };
        if before == importance {
            return;
        }
        if let Some(importance) = importance {
            self.since.entry(importance).or_insert((0, now)).0 += 1;
        }
        if let Some(before) = before
            && let Some((count, _)) = self.since.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.since.remove(&before);
            }
        }
    }

    /// Since when there is news of that importance.
    pub(super) fn since(&self, importance: Importance) -> Option<Timestamp> {
        self.since.get(&importance).map(|(_, since)| *since)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.images.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_report(phase: ImagePhase, reason: Option<Reason>) -> ImageReport {
        let mut report = ImageReport::new("app:1".parse().unwrap(), phase);
        report.reason = reason;
        report
    }

    #[test]
    fn what_matters_is_what_somebody_waits_for() {
        use ImagePhase::{BackingOff, Cached, Failed, Pending, Pulling};
        let (unauthorized, busy) = (Reason::Unauthorized, Reason::TooManyRequests);
        for (before, known, phase, reason, expected) in [
            (Some(Pending), None, Pulling, None, Importance::Progress),
            (None, None, Pending, None, Importance::Progress),
            (Some(Pulling), None, Cached, None, Importance::Progress),
            (Some(Cached), None, Pending, None, Importance::Progress),
            (Some(Pulling), None, Failed, Some(busy), Importance::Failure),
            (
                Some(BackingOff),
                Some(busy),
                Failed,
                Some(unauthorized),
                Importance::Failure,
            ),
            // Another round of the same: known until it succeeds, or gives up.
            (Some(Failed), Some(busy), Pulling, None, Importance::Detail),
            (
                Some(Pulling),
                Some(busy),
                BackingOff,
                Some(busy),
                Importance::Detail,
            ),
            (
                Some(BackingOff),
                Some(busy),
                Failed,
                Some(busy),
                Importance::Progress,
            ),
            (
                Some(Pulling),
                Some(busy),
                Cached,
                None,
                Importance::Progress,
            ),
        ] {
            let written = before.map(|phase| NodeImageStatus::from(&mk_report(phase, None)));
            let found = importance(written.as_ref(), known, &mk_report(phase, reason));
            assert_eq!(
                found,
                Some(expected),
                "{before:?} to {phase} for {reason:?}"
            );
        }
        let mut report = mk_report(Cached, None);
        let written = NodeImageStatus::from(&report);
        assert_eq!(importance(Some(&written), None, &report), None);
        report.attempts = 2;
        assert_eq!(
            importance(Some(&written), None, &report),
            Some(Importance::Detail)
        );
    }

    #[test]
    fn news_is_as_old_as_the_first_of_its_kind_and_gone_with_the_last() {
        let (one, two) = ("app:1".parse().unwrap(), "app:2".parse().unwrap());
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut news = News::default();
        news.set(&one, Some(Importance::Progress), at(1));
        news.set(&two, Some(Importance::Progress), at(2));
        assert_eq!(news.since(Importance::Progress), Some(at(1)));
        news.set(&one, Some(Importance::Failure), at(3));
        news.set(&two, None, at(4));
        assert_eq!(news.since(Importance::Progress), None);
        assert_eq!(news.since(Importance::Failure), Some(at(3)));
        news.set(&one, None, at(5));
        assert!(news.is_empty() && news.since(Importance::Failure).is_none());
    }
}
