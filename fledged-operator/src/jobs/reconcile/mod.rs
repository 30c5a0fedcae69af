//! Decides about the Jobs of one node and about the report on its images.
//!
//! [`reconcile`] is a pure function of the assignment, the observed objects and the memory of the node. It runs
//! whenever one of these changes, and at the time that it returns; running it again without a change does
//! nothing. A restart needs no special case: an empty memory is filled from the last written status, and
//! existing Jobs are observed like any others.
//!
//! - A pull Job takes all images of a namespace that are missing. Its round begins at its
//!   `creationTimestamp`. It has `activeDeadlineSeconds`, the sum of the images' deadlines because a kubelet
//!   pulls the images of a pod one after another, but no more than one deadline until a kubelet has
//!   accepted its pod.
//! - After a failure that other credentials may solve, the next namespace is tried. A transient failure is left
//!   to the kubelet's own retries until the deadline. Everything else ends the round.
//! - Removals and pulls exclude each other: a runtime removes an image with all its names. A removal also
//!   waits for the pods of cancelled pull Jobs, which may still pull the image.

mod outcomes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fledged_core::backoff::Schedule;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{
    Assignment, GoDuration, ImagePhase, ImagePullPolicy, ImageRef, NodeName, NodeReport, ObjectName,
};
use fledged_core::port::RemovalScope;
use jiff::Timestamp;
use outcomes::Live;

use super::job_object::{JobKey, JobKind, JobPlan, PullImage, PullPlan, RemovalPlan, job_name};
use super::memory::{ImageList, JobMemory, NodeMemory, SlotState};
use super::observe::{ObservedJob, ObservedNode, PullSlot};
use super::options::{JobOptions, Retention};
use super::pod::ObservedPod;
use fledged_core::time::after;

/// Delays before the reason for a missing pod is looked up, after the Job's creation and repeatedly.
const ASK: Schedule = Schedule::seconds(5, 60);

/// The observed state of a node and its Jobs.
pub(super) struct Observed<'a> {
    pub(super) name: &'a NodeName,
    pub(super) node: &'a ObservedNode,
    /// The Jobs of this driver on the node, including those that are being created.
    pub(super) jobs: &'a [ObservedJob],
    pub(super) pods: &'a [&'a ObservedPod],
    /// Whether the API server does not serve image volumes.
    pub(super) no_image_volumes: bool,
}

/// A request about a Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum JobAction {
    Create(JobPlan),
    /// With the UID, unless the Job is still being created.
    Delete(JobKey, Option<String>),
    /// Look up why the Job has no pod.
    Explain(JobKey),
    /// Look up why the pod of this name does not start.
    ExplainPod(JobKey, String),
}

/// The result of one reconciliation.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) actions: Vec<JobAction>,
    pub(super) report: NodeReport,
    /// When to reconcile again if nothing changes before.
    pub(super) wake_at: Option<Timestamp>,
}

/// Decides about the Jobs of one node and about the report on its images.
pub(super) fn reconcile(
    options: &JobOptions,
    assignment: &Assignment,
    observed: &Observed<'_>,
    memory: &mut NodeMemory,
    now: Timestamp,
) -> Plan {
    let list = ImageList::new(observed.node, options);
    memory.disk_pressure = observed.node.disk_pressure;
    memory.assign(assignment, now);
    memory.drop_covered(&list);
    let mut step = Step {
        options,
        observed,
        list,
        memory,
        now,
        actions: Vec::new(),
        wakes: Vec::new(),
        followed_pulls: BTreeMap::new(),
        followed_removals: BTreeMap::new(),
        pulling: BTreeSet::new(),
        removing: BTreeSet::new(),
        pulls_open: false,
        removal_open: false,
    };
    step.forget_gone_jobs();
    let jobs: Vec<Live<'_>> = observed.jobs.iter().map(|job| step.live(job)).collect();
    for live in jobs
        .iter()
        .filter(|live| live.job.kind() == JobKind::Remove)
    {
        step.read_removal(live);
    }
    for live in jobs.iter().filter(|live| live.job.kind() == JobKind::Pull) {
        step.read_pull(live);
    }
    step.memory.drop_covered(&step.list);
    let removals = step.evaluate_absent(assignment);
    let pulls = step.evaluate_present(assignment, !removals.is_empty());
    step.create(assignment, removals, pulls);
    for live in &jobs {
        step.tidy_up(live);
    }
    step.finish(assignment)
}

/// One reconciliation.
struct Step<'a> {
    options: &'a JobOptions,
    observed: &'a Observed<'a>,
    list: ImageList<'a>,
    memory: &'a mut NodeMemory,
    now: Timestamp,
    actions: Vec<JobAction>,
    wakes: Vec<Timestamp>,
    /// Images that a Job works on, with the start and the current failure.
    followed_pulls: BTreeMap<ImageRef, (Timestamp, Option<Failure>)>,
    followed_removals: BTreeMap<ImageRef, (Timestamp, Option<Failure>)>,
    /// Images that a pod may still pull.
    pulling: BTreeSet<ImageRef>,
    /// Images that a pod may still remove.
    removing: BTreeSet<ImageRef>,
    /// Whether a pull is running that has not failed so far.
    pulls_open: bool,
    /// Whether a removal is running that has not failed so far.
    removal_open: bool,
}

impl<'a> Step<'a> {
    /// Whether a pull of the image is needed.
    fn is_missing(&self, image: &ImageRef) -> bool {
        let known = self.memory.images.get(image).filter(|m| m.wants_present());
        known.is_some_and(|m| {
            m.progress.wants_fresh() || self.memory.find_present(image, &self.list).is_none()
        })
    }

    fn is_to_remove(&self, image: &ImageRef) -> bool {
        let known = self.memory.images.get(image);
        known.is_some_and(|m| !m.wants_present() && !m.is_removed())
    }

    fn is_wanted_in(&self, image: &ImageRef, namespace: &str) -> bool {
        let known = self.memory.images.get(image);
        known.is_some_and(|m| m.is_wanted_in(namespace, &self.options.namespace))
    }

    /// Decides about the images that should be absent. Returns those that need a removal Job.
    fn evaluate_absent(&mut self, assignment: &Assignment) -> Vec<ImageRef> {
        let mut due = Vec::new();
        for image in assigned(assignment) {
            let Some(known) = self.memory.images.get(image).filter(|m| !m.wants_present()) else {
                continue;
            };
            let quiet = !self.pulling.contains(image);
            let settled = known.evidence.is_none() && known.maybe_pulled.is_none() && quiet;
            if known.is_removed() && settled {
                continue;
            }
            let followed = self.followed_removals.get(image).cloned();
            let absent = quiet && self.memory.is_absent(image, &self.list);
            let at = self
                .memory
                .removals
                .get(image)
                .map_or(self.now, |mark| mark.at);
            let protected = self.options.protected.why_kept(image);
            let protected = protected.map(|why| (Reason::Protected, why));
            let obstacle = protected.or_else(|| {
                let why = self.obstacle(image)?;
                Some((Reason::SharedImage, why))
            });
            let listed = self.list.find(image);
            let Some(known) = self.memory.images.get_mut(image) else {
                continue;
            };
            if let Some(listed) = listed {
                known.progress.report.digest.clone_from(&listed.digest);
                known.progress.report.size = Some(listed.size);
            }
            if absent {
                known.removed(at);
            } else if let Some((since, failure)) = followed {
                known.follow(ImagePhase::Removing, since, failure.as_ref());
            } else if let Some((reason, message)) = obstacle {
                known.kept(reason, message);
            } else if known.refused {
                // The runtime keeps it even if no container uses it.
            } else if let Some(until) = known.in_use_until.filter(|until| *until > self.now) {
                self.wakes.push(until);
            } else if let Some(at) = known.progress.due.filter(|at| *at > self.now) {
                self.wakes.push(at);
            } else {
                known.in_use_until = None;
                if known.progress.report.phase != ImagePhase::BackingOff && !known.is_kept_so_far()
                {
                    known.progress.report.phase = ImagePhase::Removing;
                    known.progress.clear_reason();
                }
                due.push(image.clone());
            }
        }
        let blocked = self.pulls_open || !self.removing.is_empty();
        due.retain(|image| {
            let blocked = blocked || self.pulling.contains(image);
            !self.expire_wait(image, blocked)
        });
        due
    }

    /// Why the image may not be removed: the runtime would also remove another name that is desired or that is
    /// not assigned. A digest of the same repository is removed with its tag.
    fn obstacle(&self, image: &ImageRef) -> Option<String> {
        let listed = self.list.find(image)?;
        let state = |name: &ImageRef| self.memory.images.get(name).map(|m| m.wants_present());
        let shared = |how: &str, name: &ImageRef| {
            format!("the same image is {how} {name}, which the runtime would remove with it")
        };
        let mut others = RemovalScope::Image.takes_along(image, listed);
        if let Some(name) = others.find(|name| state(name) == Some(true)) {
            return Some(shared("wanted as", name));
        }
        let came_along = |name: &ImageRef| {
            let mut names = listed.references.iter();
            let doomed =
                |other: &ImageRef| state(other) == Some(false) && other.name() == name.name();
            name.digest().is_some() && names.any(doomed)
        };
        let mut others = RemovalScope::Image.takes_along(image, listed);
        let stranger = others.find(|name| state(name).is_none() && !came_along(name));
        stranger.map(|name| shared("also named", name))
    }

    /// Fails an image that other Jobs have blocked for its whole deadline. Returns whether it failed.
    fn expire_wait(&mut self, image: &ImageRef, blocked: bool) -> bool {
        let Some(known) = self.memory.images.get_mut(image) else {
            return false;
        };
        if !blocked || !self.observed.node.ready {
            known.blocked_since = None;
            return false;
        }
        let since = *known.blocked_since.get_or_insert(self.now);
        let until = after(since, known.progress.spec.deadline);
        if until > self.now {
            self.wakes.push(until);
            return false;
        }
        let text = format!(
            "not complete within its deadline of {}: another Job that has to end first has not",
            GoDuration(known.progress.spec.deadline)
        );
        let failure = Failure::new(Reason::DeadlineExceeded, text);
        self.memory.fail(image, &failure, true, self.now);
        true
    }

    /// Decides about the images that should be present. Returns those that need a pull Job.
    fn evaluate_present(&mut self, assignment: &Assignment, removals: bool) -> Vec<ImageRef> {
        let mut due = Vec::new();
        for image in assigned(assignment) {
            let found = match self.removing.contains(image) {
                true => None,
                false => self.memory.find_present(image, &self.list),
            };
            let removed = self.removing.contains(image) || self.memory.removals.contains_key(image);
            let followed = self.followed_pulls.get(image).cloned();
            let Some(known) = self
                .memory
                .images
                .get_mut(image)
                .filter(|m| m.wants_present())
            else {
                continue;
            };
            let was_present = match known.progress.report.phase {
                ImagePhase::Cached => true,
                ImagePhase::Failed => known.progress.report.size.is_some(),
                _ => false,
            };
            known.progress.report.digest = found.as_ref().and_then(|(digest, _)| digest.clone());
            known.progress.report.size = found.as_ref().map(|(_, size)| *size);
            if found.is_none() {
                known.progress.report.via = None;
            }
            if found.is_some() && !known.progress.wants_fresh() {
                known.cached(self.now);
                continue;
            }
            if found.is_none() && was_present && !removed {
                self.memory.record_eviction(image, self.now);
            }
            let Some(known) = self.memory.images.get_mut(image) else {
                continue;
            };
            if let Some((since, failure)) = followed {
                known.follow(ImagePhase::Pulling, since, failure.as_ref());
                continue;
            }
            if let Some(at) = known.progress.due.filter(|at| *at > self.now) {
                self.wakes.push(at);
                continue;
            }
            if let Some(until) = self.memory.fail_for_disk(image, self.now) {
                self.wakes.push(until);
                continue;
            }
            due.push(image.clone());
        }
        let blocked = removals || self.removal_open;
        due.retain(|image| {
            let blocked = blocked || self.removing.contains(image);
            if self.expire_wait(image, blocked) {
                return false;
            }
            if let Some(known) = self.memory.images.get_mut(image)
                && !matches!(known.progress.report.phase, ImagePhase::BackingOff)
            {
                known.progress.report.phase = ImagePhase::Pending;
                if known.progress.report.reason != Some(Reason::Evicted) {
                    known.progress.clear_reason();
                }
            }
            !blocked
        });
        due
    }

    /// Creates the Jobs that are missing.
    fn create(&mut self, assignment: &Assignment, removals: Vec<ImageRef>, pulls: Vec<ImageRef>) {
        let blocked = self.pulls_open || !self.removing.is_empty();
        let removals: Vec<ImageRef> = removals
            .into_iter()
            .filter(|image| !blocked && !self.pulling.contains(image))
            .collect();
        if !self.observed.node.ready || (removals.is_empty() && pulls.is_empty()) {
            self.memory.missing_since = None;
            return;
        }
        let since = *self.memory.missing_since.get_or_insert(self.now);
        let at = after(since, self.options.debounce);
        if at > self.now {
            self.wakes.push(at);
            return;
        }
        self.memory.missing_since = None;
        if !removals.is_empty() {
            self.create_removal(assignment, removals);
        }
        self.create_pulls(pulls);
    }

    fn create_removal(&mut self, assignment: &Assignment, due: Vec<ImageRef>) {
        let mut images: Vec<ImageRef> = Vec::new();
        for image in due {
            if images.contains(&image) {
                continue;
            }
            let names = self.names_to_remove_with(image);
            if !images.is_empty() && images.len() + names.len() > self.options.images_per_job.get()
            {
                break;
            }
            images.extend(names);
        }
        let names: BTreeSet<&str> = images.iter().map(ImageRef::name).collect();
        let keep = assigned(assignment).filter(|image| names.contains(image.name()));
        let keep = keep.filter(|image| {
            let known = self.memory.images.get(*image);
            known.is_some_and(|m| m.wants_present())
        });
        let keep = keep.cloned().collect();
        let deadlines = images
            .iter()
            .filter_map(|image| self.memory.images.get(image));
        let deadline = deadlines
            .map(|m| m.progress.spec.deadline)
            .max()
            .unwrap_or_default();
        let key = self.new_key(JobKind::Remove, self.options.namespace.clone());
        self.begin(&key, ImagePhase::Removing, &images);
        self.actions
            .push(JobAction::Create(JobPlan::Remove(RemovalPlan {
                key,
                node: self.observed.name.clone(),
                images,
                keep,
                socket: self.observed.node.socket(self.options.socket.as_deref()),
                deadline,
            })));
    }

    /// The image and the other names of its content that are to be removed. One Job has all of them: it keeps an image
    /// that has a name which the Job does not remove.
    fn names_to_remove_with(&self, image: ImageRef) -> Vec<ImageRef> {
        let listed = self.list.find(&image);
        let others = listed.map(|listed| RemovalScope::Image.takes_along(&image, listed));
        let others = others.into_iter().flatten().filter(|name| {
            let known = self.memory.images.get(*name);
            known.is_some_and(|m| !m.wants_present() && !m.is_removed() && !m.refused)
                && !self.pulling.contains(*name)
                && self.options.protected.why_kept(name).is_none()
        });
        let others: Vec<ImageRef> = others.cloned().collect();
        std::iter::once(image).chain(others).collect()
    }

    fn create_pulls(&mut self, images: Vec<ImageRef>) {
        let mut groups: BTreeMap<String, Vec<ImageRef>> = BTreeMap::new();
        for image in images {
            let Some(known) = self.memory.images.get_mut(&image) else {
                continue;
            };
            let all = known.namespaces(&self.options.namespace);
            // The namespaces that have not refused it may no longer want it: then the others try again.
            if all.iter().all(|name| known.refused_in.contains(name)) {
                known.refused_in.clear();
            }
            let mut open = all.into_iter();
            let open = open.find(|name| !known.refused_in.contains(name));
            if let Some(namespace) = open {
                groups.entry(namespace).or_default().push(image);
            }
        }
        // After a full disk, one pull probes whether there is room again.
        let probing = self.memory.disk.is_probing();
        let running = self.followed_pulls.values();
        let running = running.filter(|(_, failure)| failure.is_none());
        let last = running.map(|(since, _)| *since).max();
        let next = self.memory.disk.next_start(last);
        if let Some(at) = next.filter(|at| *at > self.now) {
            self.wakes.push(at);
            return;
        }
        for (namespace, mut images) in groups {
            images.sort_by_key(|image| {
                let known = self.memory.images.get(image);
                known.map(|m| {
                    (
                        std::cmp::Reverse(m.progress.spec.priority),
                        m.progress.failed_rounds,
                    )
                })
            });
            if probing {
                images.truncate(1);
            }
            for images in images.chunks(self.options.images_per_job.get()) {
                let plan = self.pull_plan(&namespace, images);
                self.begin(&plan.key, ImagePhase::Pulling, images);
                self.actions.push(JobAction::Create(JobPlan::Pull(plan)));
            }
            if probing {
                return;
            }
        }
    }

    fn pull_plan(&mut self, namespace: &str, images: &[ImageRef]) -> PullPlan {
        let key = self.new_key(JobKind::Pull, namespace.to_owned());
        let mut plan = PullPlan {
            key,
            node: self.observed.name.clone(),
            method: self
                .observed
                .node
                .method(self.options.pull_method, self.observed.no_image_volumes),
            images: Vec::new(),
            secrets: Vec::new(),
            accounts: Vec::new(),
            caches: Vec::new(),
            cache: None,
            deadline: Duration::ZERO,
        };
        let here = |name: &&ObjectName| name.namespace == namespace;
        let mut caches = BTreeMap::new();
        for image in images {
            let Some(known) = self.memory.images.get(image) else {
                continue;
            };
            let spec = &known.progress.spec;
            let present = self.memory.find_present(image, &self.list).is_some();
            plan.images.push(PullImage {
                image: image.clone(),
                always: present || spec.pull_policy == ImagePullPolicy::Always,
                revision: spec.revision,
            });
            plan.deadline = plan.deadline.saturating_add(spec.deadline);
            for secret in spec.pull_secrets.iter().filter(here) {
                if !plan.secrets.contains(&secret.name) {
                    plan.secrets.push(secret.name.clone());
                }
            }
            plan.accounts
                .extend(spec.service_accounts.iter().filter(here).cloned());
            for id in spec.wanted_by.iter().filter(|id| id.namespace == namespace) {
                *caches.entry(id.clone()).or_insert(0) += 1;
            }
        }
        plan.accounts.sort();
        plan.accounts.dedup();
        // The cache that lists most of the images; of several, the first by name.
        let most = caches.iter().rev().max_by_key(|(_, count)| **count);
        plan.cache = most.map(|(id, _)| id.name.clone());
        plan.caches = caches.into_keys().collect();
        plan
    }

    fn new_key(&mut self, kind: JobKind, namespace: String) -> JobKey {
        JobKey {
            namespace,
            name: job_name(kind, self.observed.name, self.memory.rng.u32(..)),
        }
    }

    /// Records a Job that is about to be created.
    fn begin(&mut self, key: &JobKey, phase: ImagePhase, images: &[ImageRef]) {
        let mut known = JobMemory::new(None, self.now);
        known.followed = true;
        for image in images {
            if phase == ImagePhase::Pulling {
                known.slots.insert(image.clone(), SlotState::Open);
            }
            if let Some(image) = self.memory.images.get_mut(image) {
                image.begin(phase, self.now);
            }
        }
        if phase == ImagePhase::Removing {
            known.removes = images.to_vec();
        }
        self.memory.jobs.insert(key.clone(), known);
    }

    /// Deletes a Job that is not needed, or looks up why it has no pod.
    fn tidy_up(&mut self, live: &Live<'_>) {
        let job = live.job;
        let needed = match job.kind() {
            JobKind::Pull => self.is_pull_needed(live),
            JobKind::Remove => self.is_removal_needed(live),
        };
        let Some(known) = self.memory.jobs.get_mut(&job.key) else {
            return;
        };
        if job.deleting || job.refused {
            return;
        }
        if !needed {
            known.deleted = true;
            self.actions
                .push(JobAction::Delete(job.key.clone(), job.uid.clone()));
            return;
        }
        // A pull takes minutes, and its kubelet reports why it fails; a removal starts within seconds.
        let pending = |pod: &ObservedPod| !(job.kind() == JobKind::Pull || pod.has_begun());
        let starts = live.pod.is_some_and(|pod| !pending(pod));
        if starts || job.end.is_some() || job.uid.is_none() {
            return;
        }
        let (count, at) = known.asked;
        let at = at.unwrap_or_else(|| after(live.since, ASK.delay(1)));
        if at > self.now {
            self.wakes.push(at);
            return;
        }
        let again = after(self.now, ASK.delay(count.saturating_add(2)));
        known.asked = (count.saturating_add(1), Some(again));
        self.wakes.push(again);
        let key = job.key.clone();
        self.actions.push(match live.pod {
            Some(pod) => JobAction::ExplainPod(key, pod.name().to_owned()),
            None => JobAction::Explain(key),
        });
    }

    fn is_pull_needed(&self, live: &Live<'_>) -> bool {
        let job = live.job;
        let Some(known) = self.memory.jobs.get(&job.key) else {
            return false;
        };
        // A Job may wait long for its creation. It is created for what is assigned then, or not at all.
        let assigned = |slot: &PullSlot| self.is_wanted_in(&slot.image, &job.key.namespace);
        if job.uid.is_none() && !job.pulls().iter().all(assigned) {
            return false;
        }
        let open = |image: &ImageRef| {
            known.slots.get(image) == Some(&SlotState::Open)
                && self.is_missing(image)
                && self.is_wanted_in(image, &job.key.namespace)
        };
        if job.pulls().iter().any(|slot| open(&slot.image)) {
            return true;
        }
        let wanted = |image: &ImageRef| {
            let known = self.memory.images.get(image);
            known.is_some_and(|m| m.wants_present())
        };
        let done = |image: &ImageRef| known.slots.get(image) == Some(&SlotState::Pulled);
        let harmless = job
            .pulls()
            .iter()
            .all(|slot| done(&slot.image) || wanted(&slot.image));
        let ended = job.end.is_some() || live.pod.is_some_and(ObservedPod::has_ended);
        let expired = live.expires <= self.now;
        self.options.retention == Retention::Retain && (ended || (harmless && !expired))
    }

    /// A removal Job is the record of its removals: it stays until a newer list covers them.
    fn is_removal_needed(&self, live: &Live<'_>) -> bool {
        let job = live.job;
        let Some(known) = self.memory.jobs.get(&job.key) else {
            return false;
        };
        if self.has_another_socket(live) {
            return false;
        }
        if !known.settled {
            let kept = |image: &ImageRef| {
                let known = self.memory.images.get(image);
                known.is_none_or(|m| m.wants_present())
            };
            let to_remove = |image: &ImageRef| self.is_to_remove(image);
            // Its pod would remove all of them. Once a kubelet has accepted the pod, only its result shows what it did.
            let images = job.removes();
            return known.accepted || (images.iter().any(to_remove) && !images.iter().any(kept));
        }
        let ended = job.end.is_some() || live.pod.is_some_and(ObservedPod::has_ended);
        if self.options.retention == Retention::Retain && ended {
            return true;
        }
        let marked = |image: &ImageRef| self.memory.removals.contains_key(image);
        let lists = self.observed.node.listed_at.is_some();
        lists && known.reported && job.removes().iter().any(marked)
    }

    fn finish(self, assignment: &Assignment) -> Plan {
        let images = assigned(assignment).filter_map(|image| self.memory.images.get(image));
        let images: Vec<_> = images.map(|known| known.progress.snapshot()).collect();
        let busy = images.iter().filter(|report| report.phase.is_busy());
        let busy: BTreeSet<ImageRef> = busy.map(|report| report.image.clone()).collect();
        let busy = assignment
            .images
            .iter()
            .filter(|entry| busy.contains(&entry.image));
        let wakes = self.wakes.into_iter().filter(|at| *at > self.now);
        Plan {
            actions: self.actions,
            report: NodeReport::new(assignment.generation, images)
                .with_record(assignment.record.clone())
                .with_busy(busy),
            wake_at: wakes.min(),
        }
    }
}

/// The assigned images, each once.
fn assigned(assignment: &Assignment) -> impl Iterator<Item = &ImageRef> {
    let mut known = BTreeSet::new();
    let images = assignment.images.iter().map(|entry| &entry.image);
    images.filter(move |image| known.insert(*image))
}

fn unknown(text: String) -> Failure {
    Failure::new(Reason::Unknown, text)
}

#[cfg(test)]
mod tests;
