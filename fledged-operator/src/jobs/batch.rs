//! The Jobs of one node: which there are, what they are to come to, and who waits for it. A machine
//! without I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ImageRef, NodeName};
use jiff::Timestamp;

use super::job::{Kind, ReadJob};
use super::live_job::{LiveJob, Told};
use super::names::job_name;
use super::options::{JobOptions, Retention};
use super::pod::{Goal, ReadPod};
use super::slot::Slot;
use super::wanted::{Command, Reached, Want};
use crate::report::after;

/// How long a Job is kept for an image that fails in passing: the longest that a warmer waits before
/// it tries again, and half as much.
pub(super) const LINGER: Duration = Duration::from_secs(45);
/// Beyond all deadlines: a Job ends then whatever happens.
const BACKSTOP: Duration = Duration::from_secs(120);

/// All Jobs of one node.
#[derive(Debug)]
pub(super) struct NodeJobs {
    node: NodeName,
    ours: ImageRef,
    debounce: Duration,
    images_per_job: usize,
    pub(super) retention: Retention,
    rng: fastrand::Rng,
    pub(super) ready: bool,
    /// Images that no Job may pull for now.
    blocked: BTreeSet<ImageRef>,
    pub(super) waiting: Vec<Want>,
    batch_at: Option<Timestamp>,
    pub(super) jobs: BTreeMap<String, LiveJob>,
    pub(super) commands: Vec<Command>,
}

impl NodeJobs {
    /// No Jobs. The seed is that of the names.
    pub(super) fn new(node: NodeName, options: &JobOptions, seed: u64) -> Self {
        Self {
            node,
            ours: options.image.clone(),
            debounce: options.debounce,
            images_per_job: options.images_per_job.get(),
            retention: options.retention,
            rng: fastrand::Rng::with_seed(seed),
            ready: false,
            blocked: BTreeSet::new(),
            waiting: Vec::new(),
            batch_at: None,
            jobs: BTreeMap::new(),
            commands: Vec::new(),
        }
    }

    /// Whether the node runs pods. Without, no Job is created: its pods would pile up there.
    pub(super) fn ready(&mut self, ready: bool) {
        self.ready = ready;
    }

    /// Images that no Job may pull for now.
    pub(super) fn block(&mut self, images: BTreeSet<ImageRef>) {
        self.blocked = images;
    }

    /// Takes over a Job that somebody else has created; it is deleted if nobody wants it until then.
    pub(super) fn adopt(
        &mut self,
        job: &ReadJob,
        pod: Option<Arc<ReadPod>>,
        until: Timestamp,
        now: Timestamp,
    ) {
        let (Some(name), Some(kind)) = (job.metadata.name.clone(), job.kind()) else {
            return;
        };
        let live = LiveJob::adopted(job, kind, pod, until, now);
        self.jobs.insert(name, live);
    }

    /// Somebody wants something: from a Job that is at it already, or from the next one.
    pub(super) fn want(&mut self, want: Want, now: Timestamp) {
        let container = want.container();
        let ours = &self.ours;
        let fits = |job: &&mut LiveJob| {
            job.namespace == want.namespace && job.kind == want.kind() && job.is_open()
        };
        for job in self.jobs.values_mut().filter(|job| fits(job)) {
            let pod = job.pod.as_deref();
            if let Some(slot) = job.slots.get_mut(&container)
                && slot.may_reach(pod, &container, &want.goal, ours)
            {
                slot.attach(want, now);
                return;
            }
        }
        self.waiting.push(want);
        let at = after(now, self.debounce);
        self.batch_at = Some(self.batch_at.map_or(at, |before| before.min(at)));
    }

    /// A caller does not wait any more.
    pub(super) fn drop_want(&mut self, id: u64, now: Timestamp) {
        self.waiting.retain(|want| want.id != id);
        for slot in self
            .jobs
            .values_mut()
            .flat_map(|job| job.slots.values_mut())
        {
            if slot.waits_for(id) {
                slot.leave(now);
            }
        }
    }

    /// A Job was created.
    pub(super) fn created(&mut self, name: &str, now: Timestamp) {
        if let Some(job) = self.jobs.get_mut(name) {
            job.created(now);
        }
    }

    /// What keeps a Job, or its pod, from being created, as far as is known.
    pub(super) fn troubled(&mut self, name: &str, trouble: Failure, now: Timestamp) {
        if let Some(job) = self.jobs.get_mut(name).filter(|job| job.pod.is_none()) {
            job.trouble = Some(trouble);
            self.evaluate(name, now);
        }
    }

    /// A Job was refused and is not tried again.
    pub(super) fn refused(&mut self, name: &str, failure: &Failure) {
        let Some(job) = self.remove(name) else {
            return;
        };
        for want in job.slots.into_values().filter_map(Slot::into_want) {
            self.answer(want.id, Some(name), Err(failure.clone()));
        }
    }

    /// A pod of a Job, as it is now.
    pub(super) fn pod(&mut self, pod: Arc<ReadPod>, now: Timestamp) {
        let Some(name) = pod.job().map(str::to_owned) else {
            return;
        };
        let Some(job) = self.jobs.get_mut(&name).filter(|job| job.owns(&pod)) else {
            return;
        };
        if job.set_pod(pod) {
            self.stretch(&name);
        }
        self.evaluate(&name, now);
    }

    /// A pod is gone.
    pub(super) fn pod_gone(&mut self, pod: &ReadPod) {
        let Some(name) = pod.job() else { return };
        if let Some(job) = self.jobs.get_mut(name)
            && let Some(known) = &job.pod
            && known.metadata.uid == pod.metadata.uid
        {
            job.pod = None;
            if job.gone {
                self.remove(name);
            }
        }
    }

    /// A Job, as it is now; whether it is known.
    pub(super) fn job(&mut self, job: &ReadJob, now: Timestamp) -> bool {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let live = self.jobs.get_mut(name);
        live.map(|live| live.update(job, now)).is_some()
    }

    /// A Job is gone.
    pub(super) fn job_gone(&mut self, name: &str, now: Timestamp) {
        let failure = Failure::new(Reason::Unknown, format!("its Job {name} was deleted"));
        let acts =
            |job: &&mut LiveJob| job.pod.is_some() || job.pod_by().is_some_and(|by| by > now);
        let Some(job) = self.jobs.get_mut(name).filter(acts) else {
            return self.refused(name, &failure);
        };
        // Its pod may still pull, or remove.
        job.gone = true;
        job.leaving = true;
        let wants: Vec<u64> = job.slots.values_mut().filter_map(Slot::give_up).collect();
        for id in wants {
            self.answer(id, Some(name), Err(failure.clone()));
        }
    }

    /// Every Job that may still act, to be deleted because its node is let go. One that has done all that
    /// it was for ends by itself, soon.
    pub(super) fn let_go(&mut self) -> Vec<Command> {
        self.commands.clear();
        let jobs = std::mem::take(&mut self.jobs).into_iter();
        let jobs = jobs.filter(|(_, job)| {
            let over = job.ended.is_some() || job.is_done();
            let kept = self.retention == Retention::Retain && over;
            !job.leaving && !kept
        });
        jobs.map(|(name, job)| Command::Delete {
            name,
            namespace: job.namespace,
        })
        .collect()
    }

    /// The Jobs that remove, and whether each may still be doing so.
    pub(super) fn removals(&self) -> impl Iterator<Item = (&str, bool)> {
        let removals = self.jobs.iter().filter(|(_, job)| job.kind == Kind::Remove);
        removals.map(|(name, job)| (name.as_str(), job.may_act()))
    }

    /// What to do now. After it, nothing is due before [`next_wakeup`](Self::next_wakeup).
    pub(super) fn poll(&mut self, now: Timestamp) -> Vec<Command> {
        let due = |job: &LiveJob| !job.leaving && job.wakeups().any(|at| at <= now);
        let due = self.jobs.iter().filter(|(_, job)| due(job));
        let due: Vec<String> = due.map(|(name, _)| name.clone()).collect();
        for name in &due {
            self.evaluate(name, now);
        }
        self.expire(now);
        self.forget_gone(now);
        self.batch(now);
        self.sweep(now);
        std::mem::take(&mut self.commands)
    }

    /// When [`poll`](Self::poll) is to be called if nothing happens before.
    pub(super) fn next_wakeup(&self) -> Option<Timestamp> {
        let can_batch = self.ready && self.waiting.iter().any(|want| !self.is_blocked(want));
        let batch = self.batch_at.filter(|_| can_batch);
        let ends = self.waiting.iter().map(|want| want.ends);
        let gone = self.jobs.values().filter(|job| job.gone);
        let gone = gone.filter_map(LiveJob::pod_by);
        let jobs = self.jobs.values().filter(|job| !job.leaving);
        let jobs = jobs.flat_map(LiveJob::wakeups);
        batch.into_iter().chain(ends).chain(gone).chain(jobs).min()
    }

    /// Forgets a Job of which nothing is left, and tells what it may have had pulled without a word.
    pub(super) fn remove(&mut self, name: &str) -> Option<LiveJob> {
        let job = self.jobs.remove(name)?;
        let goals = job.slots.values().filter_map(Slot::goal);
        let images: Vec<ImageRef> = goals.filter_map(Goal::image).cloned().collect();
        if !images.is_empty() {
            self.commands.push(Command::Over { images });
        }
        Some(job)
    }

    pub(super) fn answer(&mut self, id: u64, job: Option<&str>, result: Result<Reached, Failure>) {
        let job = job.map(str::to_owned);
        self.commands.push(Command::Answer { id, job, result });
    }

    /// Whether something has to end first: the removal of an image that is wanted again, or pulls that
    /// were given up, which may yet bring what is to be removed.
    pub(super) fn is_blocked(&self, want: &Want) -> bool {
        match want.image() {
            Some(image) => self.blocked.contains(image),
            None => self.jobs.values().any(LiveJob::may_bring_unwanted),
        }
    }

    /// Holds what is waited for against what is known of a Job.
    fn evaluate(&mut self, name: &str, now: Timestamp) {
        let job = self.jobs.get_mut(name).filter(|job| !job.leaving);
        let told = job.map(|job| job.judge(name, &self.ours, now));
        for told in told.unwrap_or_default() {
            match told {
                Told::Answer(id, result) => self.answer(id, Some(name), result),
                Told::Unclaimed(image, reached) => self.commands.push(Command::Unclaimed {
                    job: name.to_owned(),
                    image,
                    reached,
                }),
            }
        }
    }

    /// Makes Jobs of what waits, as few as can be.
    fn batch(&mut self, now: Timestamp) {
        if !self.ready || self.batch_at.is_none_or(|at| at > now) {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        let (blocked, waiting): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|want| self.is_blocked(want));
        // What is blocked is looked at again whenever something happens.
        self.batch_at = (!blocked.is_empty()).then_some(now);
        self.waiting = blocked;
        let mut groups: BTreeMap<(Kind, String), Vec<Want>> = BTreeMap::new();
        for want in waiting {
            let group = groups.entry((want.kind(), want.namespace.clone()));
            group.or_default().push(want);
        }
        for ((kind, namespace), mut wants) in groups {
            while !wants.is_empty() {
                let rest = wants.split_off(wants.len().min(self.images_per_job));
                self.create(kind, namespace.clone(), wants, now);
                wants = rest;
            }
        }
    }

    fn create(&mut self, kind: Kind, namespace: String, wants: Vec<Want>, now: Timestamp) {
        let name = job_name(kind.as_str(), &self.node, self.rng.u32(..));
        let deadlines = wants.iter().map(|want| want.deadline);
        let longest = deadlines.clone().max().unwrap_or_default();
        let limit = deadlines.fold(longest + BACKSTOP, Duration::saturating_add);
        self.commands.push(Command::Create {
            name: name.clone(),
            namespace: namespace.clone(),
            kind,
            images: wants.iter().filter_map(|w| w.image().cloned()).collect(),
            limit,
        });
        let mut job = LiveJob::new(namespace, kind, now);
        for want in wants {
            let container = want.container();
            match job.slots.get_mut(&container) {
                // Two that want the same: whoever came last is answered.
                Some(slot) => slot.attach(want, now),
                None => {
                    job.slots.insert(container, Slot::new(want, now));
                }
            }
        }
        self.jobs.insert(name, job);
    }

    /// The kubelet pulls one image after another, and tells of none before it has tried all of them:
    /// what is in one pod shares the sum of the deadlines.
    fn stretch(&mut self, name: &str) {
        let Some(job) = self.jobs.get_mut(name) else {
            return;
        };
        let mut slots: Vec<&mut Slot> = job.slots.values_mut().filter(|s| s.waits()).collect();
        let times = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        let stretched = slots.iter_mut().filter_map(|slot| slot.stretch(times));
        let images: Vec<ImageRef> = stretched.collect();
        if !images.is_empty() {
            self.commands.push(Command::Stretch { images, times });
        }
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "giving_up_tests.rs"]
mod giving_up_tests;
