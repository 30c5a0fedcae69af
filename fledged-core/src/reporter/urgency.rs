//! The differences between the observed and the written state, and their urgency.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::error::Reason;
use crate::model::{ImagePhase, ImageRef, ImageReport};

/// The urgency of writing a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// A detail that no user waits for, such as another attempt at a failing image.
    Detail,
    /// Progress of an image.
    Progress,
    /// A new failure, or another reason of a failure.
    Failure,
}

/// The reason of a failing image; `None` if it does not fail.
pub(super) fn failure_reason(report: &ImageReport) -> Option<Reason> {
    let fails = matches!(report.phase, ImagePhase::Failed | ImagePhase::BackingOff);
    report.reason.filter(|_| fails)
}

/// The urgency of writing `report` over `written`; `None` if they are equal. `written_failure` is the
/// reason of the last written failure, unless the image has succeeded since.
pub(super) fn urgency(
    written: Option<&ImageReport>,
    written_failure: Option<Reason>,
    report: &ImageReport,
) -> Option<Urgency> {
    if written == Some(report) {
        return None;
    }
    let phase = written.map(|written| written.phase);
    let failure = failure_reason(report);
    Some(if failure.is_some() && failure != written_failure {
        Urgency::Failure
    } else if phase == Some(report.phase) {
        Urgency::Detail
    } else if written_failure.is_some() && phase.is_some() && !report.phase.is_settled() {
        // Another attempt at an image that is known to fail.
        Urgency::Detail
    } else {
        Urgency::Progress
    })
}

/// The images whose state is not written yet.
#[derive(Debug, Default)]
pub(super) struct PendingChanges {
    images: BTreeMap<ImageRef, Urgency>,
    /// How many there are of each urgency, and since when there is one.
    since: BTreeMap<Urgency, (usize, Timestamp)>,
}

impl PendingChanges {
    /// Sets how urgent it is to write one image, from `now` on.
    pub(super) fn set(&mut self, image: &ImageRef, urgency: Option<Urgency>, now: Timestamp) {
        let before = match urgency {
            Some(urgency) => self.images.insert(image.clone(), urgency),
            None => self.images.remove(image),
        };
        if before == urgency {
            return;
        }
        if let Some(urgency) = urgency {
            self.since.entry(urgency).or_insert((0, now)).0 += 1;
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

    /// Takes over since when there are changes, for each urgency that both have.
    pub(super) fn keep_since(&mut self, before: &Self) {
        for (urgency, (_, since)) in &mut self.since {
            *since = before
                .since(*urgency)
                .map_or(*since, |before| before.min(*since));
        }
    }

    /// Since when there are changes of that urgency.
    pub(super) fn since(&self, urgency: Urgency) -> Option<Timestamp> {
        self.since.get(&urgency).map(|(_, since)| *since)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.images.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_report(phase: ImagePhase, reason: Option<Reason>) -> ImageReport {
        ImageReport::new("app:1".parse().unwrap(), phase).with_reason(reason)
    }

    #[test]
    fn urgency_by_written_and_observed_phase() {
        use ImagePhase::{BackingOff, Cached, Failed, Pending, Pulling};
        let (unauthorized, busy) = (Reason::Unauthorized, Reason::TooManyRequests);
        for (before, written_failure, phase, reason, expected) in [
            (Some(Pending), None, Pulling, None, Urgency::Progress),
            (None, None, Pending, None, Urgency::Progress),
            (Some(Pulling), None, Cached, None, Urgency::Progress),
            (Some(Cached), None, Pending, None, Urgency::Progress),
            (Some(Pulling), None, Failed, Some(busy), Urgency::Failure),
            (
                Some(BackingOff),
                Some(busy),
                Failed,
                Some(unauthorized),
                Urgency::Failure,
            ),
            // Another failed round with the same reason is a detail.
            (Some(Failed), Some(busy), Pulling, None, Urgency::Detail),
            (
                Some(Pulling),
                Some(busy),
                BackingOff,
                Some(busy),
                Urgency::Detail,
            ),
            (
                Some(BackingOff),
                Some(busy),
                Failed,
                Some(busy),
                Urgency::Progress,
            ),
            (Some(Pulling), Some(busy), Cached, None, Urgency::Progress),
        ] {
            let written = before.map(|phase| mk_report(phase, None));
            let found = urgency(written.as_ref(), written_failure, &mk_report(phase, reason));
            let case = format!("{before:?} to {phase} for {reason:?}");
            assert_eq!(found, Some(expected), "{case}");
        }
        let written = mk_report(Cached, None);
        assert_eq!(urgency(Some(&written), None, &written), None);
        let attempted = written.clone().with_attempts(2);
        let found = urgency(Some(&written), None, &attempted);
        assert_eq!(found, Some(Urgency::Detail));
    }

    #[test]
    fn pending_changes_are_as_old_as_the_first_of_their_urgency() {
        let (one, two) = ("app:1".parse().unwrap(), "app:2".parse().unwrap());
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut pending = PendingChanges::default();
        pending.set(&one, Some(Urgency::Progress), at(1));
        pending.set(&two, Some(Urgency::Progress), at(2));
        assert_eq!(pending.since(Urgency::Progress), Some(at(1)));
        pending.set(&one, Some(Urgency::Failure), at(3));
        pending.set(&two, None, at(4));
        assert_eq!(pending.since(Urgency::Progress), None);
        assert_eq!(pending.since(Urgency::Failure), Some(at(3)));
        pending.set(&one, None, at(5));
        assert!(pending.is_empty() && pending.since(Urgency::Failure).is_none());
    }
}
