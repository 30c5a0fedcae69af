//! Reads the results of a node's Jobs from their pods, and records them in the memory.

use std::collections::BTreeSet;
use std::time::Duration;

use fledged_core::error::{ErrorClass, Failure, Reason};
use fledged_core::model::{GoDuration, ImageRef};
use fledged_core::port::{Removal, RemovalScope};
use jiff::Timestamp;

use super::super::job_object::{JobKey, JobKind};
use super::super::memory::{JobMemory, SlotState};
use super::super::observe::{JobEnd, ObservedJob};
use super::super::pod::{ObservedPod, Progress};
use super::super::removal_program::RemovalOutcomes;
use super::{Step, unknown};
use fledged_core::time::after;

/// How long a deleted Job may have a pod that is not observed yet: the watches are independent, and
/// the Job controller may act on a Job that was just deleted.
const UNSEEN_POD: Duration = Duration::from_secs(5);
/// How long a Job that has ended may have a pod that is not observed yet, because the watches are independent. It may
/// also have been deleted before this process began to observe pods.
const UNSEEN_END: Duration = Duration::from_secs(60);

/// A Job with its pod.
pub(super) struct Live<'a> {
    pub(super) job: &'a ObservedJob,
    pub(super) pod: Option<&'a ObservedPod>,
    /// Whether its pod may still pull or remove.
    acts: bool,
    /// Whether no further result can be read from the Job.
    over: bool,
    /// When the Job was created.
    pub(super) since: Timestamp,
    /// When its deadline passes.
    pub(super) expires: Timestamp,
}

impl Live<'_> {
    /// Describes the current wait, for messages.
    fn describe(&self) -> String {
        let JobKey { name, .. } = &self.job.key;
        let pod_trouble = self.pod.filter(|pod| !pod.has_begun());
        let pod_trouble = pod_trouble.and(self.job.pod_trouble.as_ref());
        match (self.pod, &self.job.trouble) {
            (Some(_), _) if let Some(trouble) = pod_trouble => trouble.message.clone(),
            (Some(pod), _) => pod.describe(),
            (None, Some(trouble)) => trouble.message.clone(),
            (None, None) if self.job.uid.is_some() => format!("Job {name} has no pod"),
            (None, None) => format!("Job {name} is not created yet"),
        }
    }

    /// The progress, with what keeps the pod from starting if it waits: no node takes it, or a volume fails.
    fn waiting_for(&self, progress: Progress) -> Progress {
        let trouble = || {
            let pod = self.pod.filter(|pod| !pod.has_begun())?;
            let unplaced = pod.unscheduled().map(unknown);
            unplaced.or_else(|| self.job.pod_trouble.clone())
        };
        match progress {
            Progress::Waiting => trouble().map_or(Progress::Waiting, Progress::Failing),
            progress => progress,
        }
    }

    /// The failure of all unfinished images at the Job's end.
    fn end_failure(&self) -> Failure {
        let name = &self.job.key.name;
        match &self.job.end {
            Some(JobEnd::Failed { reason, .. }) if reason == "DeadlineExceeded" => self.expiry(),
            Some(JobEnd::Failed { reason, message }) => unknown(format!(
                "Job {name} has ended without it: {reason}: {message}"
            )),
            Some(JobEnd::Complete) => unknown(format!("Job {name} is complete without it")),
            None => unknown(format!("the pod of Job {name} has ended without it")),
        }
    }

    fn expiry(&self) -> Failure {
        let whole = Duration::try_from(self.expires.duration_since(self.since));
        let text = format!(
            "not complete within its deadline of {}: {}",
            GoDuration(whole.unwrap_or(self.job.deadline)),
            self.describe()
        );
        Failure::new(Reason::DeadlineExceeded, text)
    }
}

impl<'a> Step<'a> {
    pub(super) fn live(&mut self, job: &'a ObservedJob) -> Live<'a> {
        let pods = self.observed.pods.iter().copied();
        let uid = job.uid.as_deref();
        let mut pods = pods.filter(|pod| {
            uid.is_some_and(|uid| pod.is_owned_by(&job.key.namespace, uid)) && pod.runs(job)
        });
        let pod = pods.next();
        let jobs = &mut self.memory.jobs;
        if jobs
            .get(&job.key)
            .is_some_and(|known| known.uid.is_some() && known.uid != job.uid)
        {
            jobs.remove(&job.key);
        }
        let known = jobs.entry(job.key.clone());
        let known = known.or_insert_with(|| JobMemory::new(job.uid.clone(), job.since));
        if known.uid != job.uid {
            // This process created it. The API server's clock may differ from that of this process.
            known.since = job.since.max(known.since).min(self.now);
        }
        known.uid.clone_from(&job.uid);
        let since = known.since;
        known.removes = job.removes().to_vec();
        known.pod_seen |= pod.is_some();
        known.followed |= job.end.is_none() && pod.is_none_or(|pod| !pod.has_ended());
        // A Job that ended before this process observed it, and whose pod is deleted, has an unknown result.
        let history = !known.followed && pod.is_none();
        known.accepted |= history || pod.is_some_and(ObservedPod::is_accepted);
        let mut unseen = !known.pod_seen && !history;
        if job.end.is_some() {
            let pod_by = after(*known.end_seen.get_or_insert(self.now), UNSEEN_END);
            unseen &= pod_by > self.now;
            self.wakes.extend(unseen.then_some(pod_by));
        }
        let expires = match known.accepted || job.kind() == JobKind::Remove {
            true => after(since, job.deadline),
            false => {
                let images = job.pulls().iter();
                let deadlines = images.filter_map(|slot| {
                    let known = self.memory.images.get(&slot.image)?;
                    Some(known.progress.spec.deadline)
                });
                let longest = deadlines.max().unwrap_or(job.deadline);
                after(since, longest.min(job.deadline))
            }
        };
        let (acts, over) = match (pod, &job.end) {
            (Some(pod), _) => (!pod.has_ended(), pod.has_ended()),
            (None, None) => (!job.refused, job.refused),
            (None, Some(JobEnd::Complete)) => (false, !unseen),
            (None, Some(JobEnd::Failed { .. })) => (unseen && expires > self.now, !unseen),
        };
        let live = Live {
            job,
            pod,
            acts,
            over,
            since,
            expires,
        };
        if live.acts {
            self.pulling
                .extend(job.pulls().iter().map(|slot| slot.image.clone()));
            self.removing.extend(job.removes().iter().cloned());
        }
        live
    }

    /// Drops deleted Jobs from the memory once their pods are deleted.
    pub(super) fn forget_gone_jobs(&mut self) {
        let there: BTreeSet<&JobKey> = self.observed.jobs.iter().map(|job| &job.key).collect();
        let gone = self.memory.jobs.keys().filter(|key| !there.contains(key));
        let gone: Vec<JobKey> = gone.cloned().collect();
        for key in gone {
            let Some(mut known) = self.memory.jobs.remove(&key) else {
                continue;
            };
            let uid = known.uid.as_deref();
            let pods = self.observed.pods.iter();
            let mut pods = pods.filter(|pod| {
                uid.is_some_and(|uid| pod.is_owned_by(&key.namespace, uid)) && !pod.has_ended()
            });
            let pod = pods.next();
            known.accepted |= pod.is_some_and(|pod| pod.is_accepted());
            let pod_by = after(known.since, UNSEEN_POD);
            let unseen = known.uid.is_some() && !known.pod_seen && pod_by > self.now;
            known.pod_seen |= pod.is_some();
            let acts = pod.is_some() || unseen;
            let open = |(image, state): (&ImageRef, &SlotState)| {
                (*state != SlotState::Pulled).then(|| image.clone())
            };
            let unfinished: Vec<ImageRef> = known.slots.iter().filter_map(open).collect();
            if !known.settled {
                known.settled = true;
                if !known.deleted {
                    self.fail_open(&mut known, &key);
                }
            }
            if acts {
                self.pulling.extend(unfinished);
                if !known.reported {
                    self.removing.extend(known.removes.iter().cloned());
                }
                if unseen {
                    self.wakes.push(pod_by);
                }
                self.memory.jobs.insert(key, known);
                continue;
            }
            for image in unfinished.iter().filter(|_| known.uid.is_some()) {
                if let Some(image) = self.memory.images.get_mut(image) {
                    image.maybe_pulled = Some(self.now);
                }
            }
            if known.accepted && !known.reported {
                for image in &known.removes {
                    self.memory.mark_removed(image, self.now, false);
                }
            }
        }
    }

    /// Handles a Job that another client has deleted.
    fn fail_open(&mut self, known: &mut JobMemory, key: &JobKey) {
        let failure = unknown(format!("Job {} was deleted", key.name));
        let slots = known
            .slots
            .iter_mut()
            .filter(|(_, state)| **state == SlotState::Open);
        let pulls = slots.map(|(image, state)| {
            *state = SlotState::Closed;
            image.clone()
        });
        let images: Vec<ImageRef> = pulls.collect();
        for image in &images {
            if self.is_missing(image) {
                self.memory.fail(image, &failure, false, self.now);
            }
        }
        for image in &known.removes {
            if self.is_to_remove(image) {
                self.memory.fail(image, &failure, false, self.now);
            }
        }
    }

    /// Records what a removal Job has done.
    pub(super) fn read_removal(&mut self, live: &Live<'_>) {
        let job = live.job;
        let Some(mut known) = self.memory.jobs.remove(&job.key) else {
            return;
        };
        // Of a Job that ended before this process observed it, only the results count.
        let seen = known.followed;
        if !known.settled {
            self.settle_removal(live, &mut known, seen);
        }
        if known.settled && !known.reported {
            // The results of the pod count even if the Job is no longer awaited.
            if let Some(Progress::Ended { message, at }) = live
                .pod
                .map(|pod| pod.removal_progress(&self.options.image))
            {
                self.record_outcomes(live, &mut known, &message, at, false);
            }
        }
        self.memory.jobs.insert(job.key.clone(), known);
    }

    fn settle_removal(&mut self, live: &Live<'_>, known: &mut JobMemory, seen: bool) {
        let job = live.job;
        let progress = match (live.pod, &job.trouble) {
            (Some(pod), _) => live.waiting_for(pod.removal_progress(&self.options.image)),
            (None, Some(trouble)) => Progress::Failing(trouble.clone()),
            (None, None) => Progress::Waiting,
        };
        let failure = match progress {
            Progress::Ended { message, at } => {
                return self.record_outcomes(live, known, &message, at, seen);
            }
            Progress::Failing(failure) => Some(failure),
            _ => None,
        };
        let expired = live.expires <= self.now;
        let ended = live.over || expired || (job.deleting && !known.deleted);
        if !ended {
            self.wakes.push(live.expires);
            self.removal_open |= failure.is_none();
            // One with another socket is replaced.
            if known.deleted || self.has_another_socket(live) {
                return;
            }
            for image in job.removes() {
                let state = (live.since, failure.clone());
                self.followed_removals.insert(image.clone(), state);
            }
            return;
        }
        known.settled = true;
        if known.accepted && !live.acts {
            known.reported = true;
            let at = job.ended_at.filter(|_| !seen).unwrap_or(self.now);
            for image in job.removes() {
                self.memory.mark_removed(image, at, false);
            }
        }
        if !seen || known.deleted {
            return;
        }
        let failure = match failure {
            Some(failure) if !expired => failure,
            None if job.deleting => unknown(format!("Job {} was deleted", job.key.name)),
            None if live.over => live.end_failure(),
            _ => live.expiry(),
        };
        for image in job.removes() {
            if self.is_to_remove(image) {
                self.memory.fail(image, &failure, expired, self.now);
            }
        }
    }

    /// Whether a removal Job has not begun and mounts another socket than a new one would: the options, or the
    /// runtime of the node, have changed since it was created.
    pub(super) fn has_another_socket(&self, live: &Live<'_>) -> bool {
        let node = self.observed.node;
        let now = node.socket(self.options.socket.as_deref());
        let differs = live
            .job
            .socket
            .as_ref()
            .is_some_and(|path| *path != now.path);
        // The runtime of a node that is not observed yet is unknown.
        node.ready
            && differs
            && live.job.end.is_none()
            && !live.pod.is_some_and(ObservedPod::has_begun)
    }

    fn record_outcomes(
        &mut self,
        live: &Live<'_>,
        known: &mut JobMemory,
        message: &str,
        at: Option<Timestamp>,
        seen: bool,
    ) {
        let job = live.job;
        let at = at.unwrap_or(self.now);
        known.settled = true;
        known.reported = true;
        let outcomes = RemovalOutcomes::parse(message).and_then(|outcomes| {
            let mut places = 0..job.removes().len();
            // A program that processes nothing would be started again and again, without a delay.
            match places.any(|place| outcomes.get(place).is_some()) {
                true => Ok(outcomes),
                false => Err("it has no result for any image".to_owned()),
            }
        });
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(problem) => {
                let name = &job.key.name;
                let text = format!("Job {name} ended with a message that can't be read: {problem}");
                for image in job.removes() {
                    self.memory.mark_removed(image, at, false);
                    if seen && self.is_to_remove(image) {
                        self.memory
                            .fail(image, &unknown(text.clone()), false, self.now);
                    }
                }
                return;
            }
        };
        let mut doubted = BTreeSet::new();
        for (position, image) in job.removes().iter().enumerate() {
            match outcomes.get(position) {
                Some(Ok(outcome @ (Removal::Removed | Removal::Absent))) => {
                    if outcome == Removal::Removed
                        && let Some(listed) = self.list.find(image)
                    {
                        let others = RemovalScope::Image.takes_along(image, listed);
                        doubted.extend(others.cloned());
                    }
                    self.memory.mark_removed(image, at, true);
                    self.memory.record_freed_space(self.now);
                }
                Some(Ok(Removal::InUse(by))) if self.is_to_remove(image) => {
                    if let Some(image) = self.memory.images.get_mut(image) {
                        image.refused(Reason::InUse, by, at);
                    }
                }
                Some(Err(failure)) if failure.reason.keeps_image() && self.is_to_remove(image) => {
                    if let Some(image) = self.memory.images.get_mut(image) {
                        image.refused(failure.reason, failure.message, at);
                    }
                }
                Some(Err(failure)) if seen && self.is_to_remove(image) => {
                    self.memory.fail(image, &failure, false, self.now);
                }
                _ => {}
            }
        }
        self.memory.doubt_others(&doubted, at);
    }

    /// Records what a pull Job has done.
    pub(super) fn read_pull(&mut self, live: &Live<'_>) {
        let job = live.job;
        let Some(mut known) = self.memory.jobs.remove(&job.key) else {
            return;
        };
        let expired = live.expires <= self.now;
        let lost = job.deleting && !known.deleted;
        for slot in job.pulls() {
            let image = &slot.image;
            let state = known.slots.get(image).copied();
            if state == Some(SlotState::Pulled) {
                continue;
            }
            let own = &self.options.image;
            let progress = match (live.pod, &job.trouble) {
                (Some(pod), _) => live.waiting_for(pod.pull_progress(slot, own)),
                (None, Some(trouble)) => Progress::Failing(trouble.clone()),
                (None, None) => Progress::Waiting,
            };
            if let Progress::Pulled { digest, at } = progress {
                known.slots.insert(image.clone(), SlotState::Pulled);
                let pull = (digest, at, slot.revision);
                let during = !self.removing.is_empty();
                let followed = state.is_some();
                self.memory
                    .record_pull(image, pull, followed, during, self.now);
                continue;
            }
            // A Job that ended before this process observed it is not a failed attempt.
            let ended = live.over || job.end.is_some() || job.deleting;
            let history = state.is_none() && ended && !job.refused;
            if state == Some(SlotState::Closed) || history || known.deleted {
                known.slots.insert(image.clone(), SlotState::Closed);
                continue;
            }
            known.slots.insert(image.clone(), SlotState::Open);
            if !self.is_missing(image) || !self.is_wanted_in(image, &job.key.namespace) {
                if live.over {
                    known.slots.insert(image.clone(), SlotState::Closed);
                }
                continue;
            }
            let failure = match progress {
                Progress::Failing(failure) => Some(job.explain(failure)),
                _ if lost => Some(unknown(format!("Job {} was deleted", job.key.name))),
                _ if live.over => Some(live.end_failure()),
                _ => None,
            };
            let last = live.over || lost;
            if self.follow_pull(image, live, failure, last, expired) {
                known.slots.insert(image.clone(), SlotState::Closed);
            }
        }
        self.memory.jobs.insert(job.key.clone(), known);
    }

    /// Follows a running pull. Returns whether it is cancelled.
    fn follow_pull(
        &mut self,
        image: &ImageRef,
        live: &Live<'_>,
        failure: Option<Failure>,
        last: bool,
        expired: bool,
    ) -> bool {
        let namespace = &live.job.key.namespace;
        if let Some(failure) = &failure
            && may_be_solved_elsewhere(failure)
            && let Some(known) = self.memory.images.get_mut(image)
        {
            let mut all = known.namespaces(&self.options.namespace).into_iter();
            if all.any(|other| other != *namespace && !known.refused_in.contains(&other)) {
                known.refused_in.insert(namespace.clone());
                known.progress.due = Some(self.now);
                return true;
            }
        }
        let failure = match failure {
            Some(failure) if !failure.class().is_transient() || last => failure,
            _ if expired => live.expiry(),
            failure => {
                self.pulls_open |= failure.is_none();
                self.wakes.push(live.expires);
                self.followed_pulls
                    .insert(image.clone(), (live.since, failure));
                return false;
            }
        };
        self.memory.fail(image, &failure, expired, self.now);
        true
    }
}

/// Whether the credentials, the quota or the policies of another namespace may solve it. Some registries
/// answer "not found" if credentials are missing.
fn may_be_solved_elsewhere(failure: &Failure) -> bool {
    let refused = matches!(
        failure.class(),
        ErrorClass::Unauthorized | ErrorClass::NotFound
    );
    refused || failure.reason == Reason::Unknown
}
