//! The attempts at one assigned image: rounds, back-off, evictions, and the report of them.

use std::time::Duration;

use jiff::Timestamp;

use super::hold::Hold;
use crate::backoff::Backoff;
use crate::error::{Failure, Reason};
use crate::model::{
    AssignedImage, ByteSize, DesiredState, GoDuration, ImagePhase, ImagePullPolicy, ImageReport,
};
use crate::time::{after, between};

/// Bytes that a pull has to receive within a deadline to get another one.
const EXTENSION_BYTES: ByteSize = ByteSize::new(1 << 20);

/// Largest number of deadlines that one round gets in addition. It bounds how long a slow registry keeps
/// a slot from other images.
const EXTENSIONS_MAX: u32 = 12;

/// The attempts at one assigned image, and what is reported of it.
///
/// A round is a series of attempts within the image's deadline. It begins with
/// [`begin`](Self::begin) and ends when the image is present or absent as assigned, when an attempt
/// fails for good, or when the deadline passes. The rules hold for any way to reach a runtime: the
/// [`Warmer`](super::Warmer) applies them next to a runtime, a controller that creates Jobs applies them
/// from afar.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ImageProgress {
    /// The image as assigned.
    pub spec: AssignedImage,
    /// What is reported of it, except `next_attempt_at`; see [`snapshot`](Self::snapshot).
    pub report: ImageReport,
    /// When the next attempt is due; `None` if none is needed, or one is running.
    pub due: Option<Timestamp>,
    /// Start of the current round.
    pub round: Option<Timestamp>,
    /// Number of deadlines that the current round got in addition, because its pull received bytes.
    pub extensions: u32,
    /// Bytes that the running pull has received.
    received: ByteSize,
    /// Those of `received` that have extended the round.
    counted: ByteSize,
    /// The message of the last failed attempt of the current round.
    last_failure: Option<String>,
    /// Whether an attempt of the current round has received wrong content.
    mismatched: bool,
    /// Number of failed rounds in a row.
    pub failed_rounds: u32,
    /// Number of times in a row that the image disappeared soon after it was cached.
    pub evictions: u32,
    /// When the image was cached.
    pub cached_at: Option<Timestamp>,
    /// Whether its credentials have changed since the last attempt began.
    pub changed_credentials: bool,
}

/// What a new assignment changes for an image that was assigned before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Update {
    /// Nothing that calls for an attempt.
    Unchanged,
    /// The image had failed, and what changed may solve that: an attempt is due.
    Mended,
    /// The revision is newer: the image is to be checked again.
    Renewed,
}

impl ImageProgress {
    /// No attempt was made.
    #[must_use]
    pub fn new(spec: AssignedImage) -> Self {
        let mut progress = Self {
            report: ImageReport::new(spec.image.clone(), ImagePhase::Pending),
            spec,
            due: None,
            round: None,
            extensions: 0,
            received: ByteSize::ZERO,
            counted: ByteSize::ZERO,
            last_failure: None,
            mismatched: false,
            failed_rounds: 0,
            evictions: 0,
            cached_at: None,
            changed_credentials: false,
        };
        progress.reset_phase();
        progress
    }

    /// Whether the image is to be present.
    #[must_use]
    pub fn wants_present(&self) -> bool {
        self.spec.state == DesiredState::Present
    }

    /// Whether the assigned revision is satisfied.
    #[must_use]
    pub fn is_satisfied(&self) -> bool {
        let satisfied = self.report.revision;
        satisfied.is_some_and(|satisfied| satisfied >= self.spec.revision)
    }

    /// Whether a pull is needed although the image is present.
    #[must_use]
    pub fn wants_fresh(&self) -> bool {
        self.spec.pull_policy == ImagePullPolicy::Always && !self.is_satisfied()
    }

    /// When the current round has to be over.
    #[must_use]
    pub fn round_ends(&self) -> Option<Timestamp> {
        let whole = self.spec.deadline.saturating_mul(self.extensions + 1);
        Some(after(self.round?, whole))
    }

    /// The running pull has received this number of bytes. A pull that received at least 1 MiB by its
    /// deadline gets another deadline, up to twelve times.
    pub fn progressed(&mut self, received: ByteSize) {
        self.received = received;
    }

    /// The deadline of the round has passed during a pull: whether the pull goes on, because it received
    /// bytes.
    pub(super) fn extend_round(&mut self) -> bool {
        let new = self.received.saturating_sub(self.counted);
        if new < EXTENSION_BYTES || self.extensions >= EXTENSIONS_MAX {
            return false;
        }
        self.counted = self.received;
        let passed = self.spec.deadline.saturating_mul(self.extensions + 1);
        self.extensions += 1;
        // A change of the report shows that the node is alive.
        let mut message = format!(
            "still pulling after {}: {} received",
            GoDuration(passed),
            self.received
        );
        if let Some(last) = &self.last_failure {
            message = format!("{message}; the attempt before failed: {last}");
        }
        self.report.message = Some(message);
        true
    }

    /// Sets the reported reason and message.
    pub fn explain(&mut self, reason: Reason, message: String) {
        self.report.reason = Some(reason);
        self.report.message = Some(message);
    }

    /// Clears the reported reason and message.
    pub fn clear_reason(&mut self) {
        self.report.reason = None;
        self.report.message = None;
    }

    /// Clears the reported reason, and sets the phase of an image that has no attempt yet.
    pub fn reset_phase(&mut self) {
        self.clear_reason();
        self.report.phase = match self.spec.state {
            DesiredState::Present => ImagePhase::Pending,
            DesiredState::Absent => ImagePhase::Removing,
        };
    }

    /// An attempt starts.
    pub fn begin(&mut self, phase: ImagePhase, now: Timestamp) {
        if self.round.is_none() {
            self.report.attempts = 0;
            self.extensions = 0;
            self.last_failure = None;
            self.mismatched = false;
            self.start_round(now);
            // The reason why an image is pulled again stays in the report during the pull.
            if self.report.reason != Some(Reason::Evicted) {
                self.clear_reason();
            }
        }
        self.received = ByteSize::ZERO;
        self.counted = ByteSize::ZERO;
        self.report.attempts = self.report.attempts.saturating_add(1);
        self.report.phase = phase;
        self.due = None;
        self.changed_credentials = false;
    }

    /// Dates the current round.
    pub fn start_round(&mut self, at: Timestamp) {
        self.round = Some(at);
        self.report.started_at = Some(at);
        self.report.finished_at = None;
    }

    /// An attempt failed: the next one is due later in the round, or the round ends. `present`: an earlier
    /// copy of the image is present.
    pub fn failed(
        &mut self,
        failure: &Failure,
        present: bool,
        now: Timestamp,
        backoff: &Backoff,
        rng: &mut fastrand::Rng,
    ) {
        let message = self.message_for(failure, present);
        self.last_failure = Some(message.clone());
        self.explain(failure.reason, message);
        // Wrong content is fetched once more, because a connection may have damaged it. After that, it is the registry's.
        let is_mismatch = failure.reason == Reason::DigestMismatch;
        let is_wrong_again = is_mismatch && self.mismatched;
        self.mismatched |= is_mismatch;
        if failure.class().is_transient() && !is_wrong_again {
            let delay = backoff.within_round(failure, self.report.attempts, rng);
            let due = after(now, delay);
            if self.round_ends().is_some_and(|end| due < end) {
                self.report.phase = ImagePhase::BackingOff;
                self.due = Some(due);
                return;
            }
        }
        self.end_round(failure, now, backoff, rng);
    }

    /// The round ends without success; the next one is due later, or now if credentials have changed.
    pub fn end_round(
        &mut self,
        failure: &Failure,
        now: Timestamp,
        backoff: &Backoff,
        rng: &mut fastrand::Rng,
    ) {
        self.failed_rounds = self.failed_rounds.saturating_add(1);
        self.report.phase = ImagePhase::Failed;
        self.report.finished_at = Some(now);
        self.round = None;
        let delay = backoff.between_rounds(failure, self.failed_rounds, rng);
        let delay = if self.changed_credentials {
            Duration::ZERO
        } else {
            delay
        };
        self.due =
            Some(after(now, delay)).filter(|_| !crate::planted::is("failed-round-not-retried"));
    }

    /// The failure of a round whose deadline has passed during an attempt. Its message keeps the failure
    /// of the attempt before.
    #[must_use]
    pub fn deadline_exceeded(&self) -> Failure {
        let mut text = format!(
            "not complete within its deadline of {}, at attempt {}",
            GoDuration(self.spec.deadline),
            self.report.attempts
        );
        if self.extensions > 0 {
            let times = match self.extensions {
                1 => "once".to_owned(),
                times => format!("{times} times"),
            };
            text = format!(
                "{text}; extended {times} while bytes arrived, {} received",
                self.received
            );
        }
        if let Some(last) = &self.last_failure {
            text = format!("{text}; the attempt before failed: {last}");
        }
        Failure::new(Reason::DeadlineExceeded, text)
    }

    /// The message of a failure. `present`: an earlier copy of the image is present.
    #[must_use]
    pub fn message_for(&self, failure: &Failure, present: bool) -> String {
        if present && self.wants_present() {
            format!("an earlier copy is present, but it could not be refreshed: {failure}")
        } else {
            failure.message.clone()
        }
    }

    /// The image fails without an attempt, until the hold on more than itself ends.
    pub fn blocked(&mut self, hold: &Hold, now: Timestamp) {
        if (self.report.phase, self.report.reason) != (ImagePhase::Failed, Some(hold.reason)) {
            self.explain(hold.reason, hold.message.clone());
            self.ended_unattempted(now);
        }
        self.report.phase = ImagePhase::Failed;
        self.round = None;
        self.due = Some(hold.until);
    }

    /// The image is present, and its refresh does not begin until the hold on more than itself ends.
    pub fn refresh_held(&mut self, hold: &Hold) {
        self.report.phase = ImagePhase::Cached;
        if self.report.reason != Some(hold.reason) {
            let message = format!("the image is present; its refresh is {}", hold.message);
            self.explain(hold.reason, message);
        }
        self.round = None;
        self.due = Some(hold.until);
    }

    /// The round is over. Without an attempt, those of an earlier round are not reported.
    pub fn ended_unattempted(&mut self, now: Timestamp) {
        if self.round.is_none() {
            self.report.attempts = 0;
            self.report.started_at = None;
        }
        self.report.finished_at = Some(now);
    }

    /// The image is present and as fresh as assigned: the round ends.
    pub fn cached(&mut self, now: Timestamp) {
        if self.round.is_none() {
            // Found, not pulled.
            self.report.attempts = 0;
            self.report.started_at = None;
        }
        self.report.finished_at = self.round.map(|_| now);
        self.cached_at = Some(now);
        self.still_cached();
    }

    /// The image is still present and as fresh as assigned.
    pub fn still_cached(&mut self) {
        self.report.phase = ImagePhase::Cached;
        self.report.revision = self.report.revision.max(Some(self.spec.revision));
        self.settled();
    }

    /// The image is absent, as assigned.
    pub fn removed(&mut self, at: Timestamp) {
        self.report.phase = ImagePhase::Removed;
        self.report.revision = Some(self.spec.revision);
        self.report.finished_at = Some(at);
        self.report.digest = None;
        self.report.size = None;
        self.report.via = None;
        self.settled();
    }

    /// Nothing is left to do.
    fn settled(&mut self) {
        self.clear_reason();
        self.due = None;
        self.round = None;
        self.failed_rounds = 0;
    }

    /// The image is not removed, for this reason.
    pub fn kept(&mut self, reason: Reason, message: String) {
        self.report.phase = ImagePhase::InUse;
        self.explain(reason, message);
        self.due = None;
        self.round = None;
    }

    /// The image has disappeared. It is pulled again at once, and later each time that it disappears
    /// within `window` after it was cached.
    pub fn evicted(
        &mut self,
        now: Timestamp,
        window: Duration,
        backoff: &Backoff,
        rng: &mut fastrand::Rng,
    ) {
        let lived = self.cached_at.map(|at| between(at, now));
        self.evictions = match lived {
            Some(lived) if lived < window => self.evictions.saturating_add(1),
            _ => 0,
        };
        // A new revision does not wait.
        let repeated = if self.is_satisfied() {
            self.evictions
        } else {
            0
        };
        self.round = None;
        self.report.attempts = 0;
        self.report.started_at = None;
        if repeated > 1 {
            // What removed it will remove it again.
            let delay = backoff.spread(backoff.evicted.delay(repeated - 1), rng);
            self.due = Some(after(now, delay));
            self.report.phase = ImagePhase::Failed;
            self.report.finished_at = Some(now);
            let message = format!(
                "it was removed by something else {repeated} times in a row soon after it was cached; \
                 is there room for it?"
            );
            self.explain(Reason::Evicted, message);
        } else {
            self.due = Some(now);
            self.report.phase = ImagePhase::Pending;
            self.report.finished_at = None;
            let message = "it was present and was removed by something else".to_owned();
            self.explain(Reason::Evicted, message);
        }
    }

    /// The same image is assigned again, with the same state and perhaps other details.
    pub fn update(&mut self, spec: AssignedImage) -> Update {
        let renewed =
            self.spec.revision < spec.revision && !crate::planted::is("refresh-not-pulled");
        let credentials = self.spec.pull_secrets != spec.pull_secrets
            || self.spec.service_accounts != spec.service_accounts;
        let mended = credentials
            || self.spec.pull_policy != spec.pull_policy
            || self.spec.deadline != spec.deadline;
        // The reference may be spelled differently.
        self.report.image = spec.image.clone();
        self.spec = spec;
        self.changed_credentials |= credentials;
        if credentials && self.report.is_cached_without_credentials() {
            self.clear_reason();
        }
        if renewed {
            return Update::Renewed;
        }
        if mended && self.report.phase == ImagePhase::Failed {
            self.failed_rounds = 0;
            return Update::Mended;
        }
        Update::Unchanged
    }

    /// The report as of now.
    #[must_use]
    pub fn snapshot(&self) -> ImageReport {
        let mut report = self.report.clone();
        report.next_attempt_at = match (report.phase, report.reason) {
            // A reading makes it due, whenever there is room.
            (_, Some(Reason::ImageFsAboveThreshold)) => None,
            (ImagePhase::BackingOff | ImagePhase::Failed, _) => self.due,
            _ => None,
        };
        report
    }
}
