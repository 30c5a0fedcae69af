//! One container of a Job, and who waits for it.

use std::time::Duration;

use fledged_core::error::Failure;
use fledged_core::model::ImageRef;
use jiff::Timestamp;

use super::batch::LINGER;
use super::pod::{Goal, ReadPod, Verdict};
use super::wanted::{Reached, Want, passes};
use crate::report::after;

/// How long a caller that comes back is left waiting while the kubelet says nothing new: what it says
/// is told again then, before a report that is older than half a minute would be taken back.
const PATIENCE: Duration = Duration::from_secs(20);

/// What one container is to come to.
#[derive(Debug)]
pub(super) struct Slot {
    /// What it is to come to, once somebody has said so.
    goal: Option<Goal>,
    want: Option<Want>,
    attached: Timestamp,
    /// Whether it has come to it.
    reached: bool,
    /// Whether whoever wanted it wants it no more.
    dropped: bool,
    /// Whether the failure that was last seen was that of an attempt; `None` before any.
    failed: Option<bool>,
    /// Until when it is of interest though nobody waits.
    linger: Timestamp,
}

impl Slot {
    pub(super) fn new(want: Want, now: Timestamp) -> Self {
        Self {
            goal: Some(want.goal.clone()),
            want: Some(want),
            attached: now,
            reached: false,
            dropped: false,
            failed: None,
            linger: Timestamp::MIN,
        }
    }

    /// One that nobody has waited for yet.
    pub(super) fn adopted(linger: Timestamp) -> Self {
        Self {
            goal: None,
            want: None,
            attached: Timestamp::MIN,
            reached: false,
            dropped: false,
            failed: None,
            linger,
        }
    }

    pub(super) fn goal(&self) -> Option<&Goal> {
        self.goal.as_ref().filter(|_| !self.reached)
    }

    /// Whether it has come to what it was for.
    pub(super) fn has_reached(&self) -> bool {
        self.reached
    }

    /// Whether it is still to come to that: what it came to before somebody asked is no answer.
    pub(super) fn may_reach(
        &self,
        pod: Option<&ReadPod>,
        container: &str,
        goal: &Goal,
        ours: &ImageRef,
    ) -> bool {
        let verdict = pod.map(|pod| pod.verdict(container, goal, ours));
        let open = matches!(
            verdict,
            None | Some(Verdict::Open | Verdict::Failing { .. })
        );
        !self.reached && open
    }

    /// Whether it may come to something that nobody wants.
    pub(super) fn is_dropped(&self) -> bool {
        self.dropped && !self.reached
    }

    /// The same, where nobody has said yet whether it is wanted.
    pub(super) fn may_be_unwanted(&self) -> bool {
        self.is_dropped() || self.goal.is_none()
    }

    pub(super) fn attach(&mut self, want: Want, now: Timestamp) {
        self.goal = Some(want.goal.clone());
        self.want = Some(want);
        self.attached = now;
        self.dropped = false;
    }

    pub(super) fn waits(&self) -> bool {
        self.want.is_some()
    }

    pub(super) fn waits_for(&self, id: u64) -> bool {
        self.want.as_ref().is_some_and(|want| want.id == id)
    }

    /// Whoever waits, who does not any more.
    pub(super) fn give_up(&mut self) -> Option<u64> {
        self.want.take().map(|want| want.id)
    }

    pub(super) fn into_want(self) -> Option<Want> {
        self.want
    }

    /// Nobody wants it any more.
    pub(super) fn leave(&mut self, now: Timestamp) {
        self.want = None;
        self.dropped = true;
        self.linger = self.linger.min(now);
    }

    /// Whatever nobody waits for is of no interest any more.
    pub(super) fn forget(&mut self) {
        self.linger = Timestamp::MIN;
    }

    pub(super) fn is_of_interest(&self, now: Timestamp) -> bool {
        self.want.is_some() || (!self.reached && self.linger > now)
    }

    pub(super) fn next_wakeup(&self) -> Option<Timestamp> {
        if self.reached {
            return None;
        }
        let Some(want) = &self.want else {
            return (self.linger > Timestamp::MIN).then_some(self.linger);
        };
        let again = self.failed.map(|_| after(self.attached, PATIENCE));
        Some(again.map_or(want.ends, |again| again.min(want.ends)))
    }

    /// Takes note of how far it has got, and whether that is its last word; what is to be told, and to
    /// whom, if anybody waits.
    pub(super) fn judge(
        &mut self,
        verdict: Verdict,
        last: bool,
        now: Timestamp,
    ) -> Option<(Option<u64>, Result<Reached, Failure>)> {
        let result = match verdict {
            Verdict::Open => {
                self.failed = None;
                return None;
            }
            Verdict::Begun(digest) => Ok(Reached::Pulled(digest)),
            Verdict::Ended(message) => Ok(Reached::Removed(message)),
            Verdict::Failing { failure, attempt } => {
                // Told once, and again when another attempt has failed.
                let news = match self.failed {
                    None => true,
                    Some(before) => attempt && !before,
                };
                self.failed = Some(attempt);
                if !last && !news && now < after(self.attached, PATIENCE) {
                    return None;
                }
                Err(failure)
            }
        };
        self.reached = result.is_ok();
        let Some(want) = self.want.take() else {
            // Whoever waited may come back for it.
            return result.is_ok().then_some((None, result));
        };
        self.linger = match &result {
            Err(failure) if passes(failure) => after(now, LINGER),
            _ => Timestamp::MIN,
        };
        Some((Some(want.id), result))
    }

    /// Gives up where that is due.
    pub(super) fn expire(
        &mut self,
        now: Timestamp,
        late: impl Fn(&Want) -> Failure,
    ) -> Option<(u64, Failure)> {
        let want = self.want.take_if(|want| want.ends <= now)?;
        self.linger = Timestamp::MIN;
        Some((want.id, late(&want)))
    }

    /// Gives it that many deadlines, if it has fewer; the image that it pulls.
    pub(super) fn stretch(&mut self, times: u32) -> Option<ImageRef> {
        let want = self.want.as_mut().filter(|want| want.times < times)?;
        let more = times - want.times;
        want.ends = after(want.ends, want.deadline.saturating_mul(more));
        want.times = times;
        want.image().cloned()
    }
}
