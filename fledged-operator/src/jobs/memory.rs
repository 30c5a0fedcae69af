//! State of a node that its objects do not hold: evidence of images, failed rounds, and removals that
//! the kubelet's list does not show yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fledged_core::backoff::{Backoff, Schedule};
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{
    AssignedImage, Assignment, ByteSize, DesiredState, Digest, ImagePhase, ImagePullPolicy,
    ImageRef, ImageReport, NodeReport, PulledVia,
};
use fledged_core::port::RuntimeImage;
use fledged_core::warmer::{DiskHold, ImageProgress, Update, WarmerConfig};
use jiff::Timestamp;

use super::job_object::JobKey;
use super::observe::ObservedNode;
use super::options::JobOptions;
use fledged_core::time::after;

/// Delays before the removal of an image in use is retried. The containers on the node can't be observed, and
/// every attempt takes a pod.
const IN_USE: Schedule = Schedule::seconds(15 * 60, 4 * 3600);
/// Shortest deadline of a pull, as for agents.
const SHORTEST: Duration = Duration::from_secs(1);
/// Shortest deadline of a removal. The assigned deadline is for pulls, and may be too short for a pod
/// to be scheduled. A call of an agent to its runtime has the same limit.
const SHORTEST_REMOVAL: Duration = Duration::from_secs(120);

/// Resolution of timestamps in Kubernetes objects: the event happened during that second.
const RESOLUTION: Duration = Duration::from_secs(1);

/// Memory of one node.
#[derive(Debug)]
pub(super) struct NodeMemory {
    seed: u64,
    pub(super) rng: fastrand::Rng,
    backoff: Backoff,
    eviction_window: Duration,
    /// Generation of the assignment of `images`.
    generation: Option<u64>,
    /// The assigned images.
    pub(super) images: BTreeMap<ImageRef, ImageMemory>,
    /// The report from before a restart, until the first assignment.
    reported: BTreeMap<ImageRef, ImageReport>,
    /// Images that this driver removed, or may have removed, until a newer list covers it. Independent of
    /// the assignment.
    pub(super) removals: BTreeMap<ImageRef, RemovalMark>,
    pub(super) jobs: BTreeMap<JobKey, JobMemory>,
    pub(super) disk: DiskHold,
    /// Whether the kubelet reports disk pressure: a registry's text are no evidence of a full disk.
    pub(super) disk_pressure: bool,
    /// Time since which the first of the missing images waits for a new Job.
    pub(super) missing_since: Option<Timestamp>,
}

/// A removal by this driver. Only newer evidence counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RemovalMark {
    /// When the removal ended.
    pub(super) at: Timestamp,
    /// Whether the image was certainly absent then; otherwise it may have been removed.
    pub(super) absent: bool,
}

/// The memory of a Job.
#[derive(Debug)]
pub(super) struct JobMemory {
    pub(super) uid: Option<String>,
    pub(super) since: Timestamp,
    /// Images that it pulls.
    pub(super) slots: BTreeMap<ImageRef, SlotState>,
    /// Images that it removes.
    pub(super) removes: Vec<ImageRef>,
    /// Whether this process has observed the Job before its end.
    pub(super) followed: bool,
    /// Whether its result is recorded, or no longer awaited.
    pub(super) settled: bool,
    pub(super) pod_seen: bool,
    /// When this process first observed that the Job had ended.
    pub(super) end_seen: Option<Timestamp>,
    /// Whether a kubelet has accepted its pod.
    pub(super) accepted: bool,
    /// Whether the results of all its removals are known.
    pub(super) reported: bool,
    /// Whether this driver deletes it.
    pub(super) deleted: bool,
    /// Number of lookups of the reason for its missing pod, and the time of the next one.
    pub(super) asked: (u32, Option<Timestamp>),
}

/// The memory of one image of a pull Job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotState {
    /// The result is awaited.
    Open,
    /// Only a success still matters.
    Closed,
    /// The image was pulled.
    Pulled,
}

/// Evidence that an image was present at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Evidence {
    digest: Option<Digest>,
    size: ByteSize,
    at: Timestamp,
    /// Whether `at` is the time of the pull; otherwise that time is unknown.
    dated: bool,
    /// Whether a removal was running, which may have removed the image as well.
    during_removal: bool,
}

/// The memory of an assigned image.
#[derive(Debug)]
pub(super) struct ImageMemory {
    pub(super) progress: ImageProgress,
    /// Whether a Job has pulled the image, or an earlier report has it as present.
    pub(super) evidence: Option<Evidence>,
    /// Time until which a deleted Job may have pulled the image.
    pub(super) maybe_pulled: Option<Timestamp>,
    /// Namespaces in which the current attempt has failed.
    pub(super) refused_in: BTreeSet<String>,
    /// Time until which the image counts as in use.
    pub(super) in_use_until: Option<Timestamp>,
    /// Number of removals in a row that found the image in use.
    in_use_count: u32,
    /// Whether the runtime keeps the image even if no container uses it.
    pub(super) refused: bool,
    /// Time since which another Job blocks the image's Job.
    pub(super) blocked_since: Option<Timestamp>,
}

/// The kubelet's latest list of images.
pub(super) struct ImageList<'a> {
    node: &'a ObservedNode,
    margin: Duration,
    max: usize,
    named: BTreeMap<&'a ImageRef, &'a RuntimeImage>,
}

impl<'a> ImageList<'a> {
    pub(super) fn new(node: &'a ObservedNode, options: &JobOptions) -> Self {
        let images = node.images.iter();
        let named = images.flat_map(|image| image.references.iter().map(move |name| (name, image)));
        Self {
            node,
            margin: options.list_margin,
            max: options.list_max,
            named: named.collect(),
        }
    }

    pub(super) fn find(&self, image: &ImageRef) -> Option<&'a RuntimeImage> {
        self.named.get(image).copied()
    }

    /// Whether the list is newer than `at` by the margin.
    pub(super) fn covers(&self, at: Timestamp) -> bool {
        let from = after(at, self.margin.saturating_add(RESOLUTION));
        let listed_at = self.node.listed_at;
        listed_at.is_some_and(|listed_at| listed_at >= from)
    }

    /// Whether absence from the list proves that the image is absent: neither the list nor the names of an
    /// image that could be this one are incomplete.
    pub(super) fn is_complete_for(&self, image: &ImageRef) -> bool {
        let complete = self.node.listed_at.is_some() && self.node.listed < self.max;
        complete && !self.node.may_hide(image)
    }

    /// Whether the image has disappeared since `at`.
    fn lacks_since(&self, image: &ImageRef, at: Timestamp) -> bool {
        self.find(image).is_none() && self.is_complete_for(image) && self.covers(at)
    }
}

impl NodeMemory {
    /// An empty memory. The seed determines the names of Jobs and the jitter of delays.
    pub(super) fn new(seed: u64) -> Self {
        let config = WarmerConfig::default();
        Self {
            seed,
            rng: fastrand::Rng::with_seed(seed),
            backoff: config.backoff,
            eviction_window: config.eviction_window,
            generation: None,
            images: BTreeMap::new(),
            reported: BTreeMap::new(),
            removals: BTreeMap::new(),
            jobs: BTreeMap::new(),
            disk: DiskHold::default(),
            disk_pressure: false,
            missing_since: None,
        }
    }

    /// Adopts the last report of the node, by an earlier process or for an earlier record.
    pub(super) fn resume(&mut self, report: &NodeReport) {
        self.generation = None;
        self.images.clear();
        self.reported.clear();
        for image in &report.images {
            if let (ImagePhase::Removed, Some(at)) = (image.phase, image.finished_at) {
                self.mark_removed(&image.image, at, true);
            }
            self.reported.insert(image.image.clone(), image.clone());
        }
    }

    /// Adopts an assignment. Each image counts once; `Present` wins over `Absent`.
    pub(super) fn assign(&mut self, assignment: &Assignment, now: Timestamp) {
        if self.generation == Some(assignment.generation) {
            return;
        }
        self.generation = Some(assignment.generation);
        let assigned = &assignment.images;
        let mut specs: BTreeMap<&ImageRef, &AssignedImage> = BTreeMap::new();
        for spec in assigned {
            let known = specs.entry(&spec.image).or_insert(spec);
            if known.state == DesiredState::Absent && spec.state == DesiredState::Present {
                *known = spec;
            }
        }
        let mut previous = std::mem::take(&mut self.images);
        for spec in specs.into_values() {
            let known = match previous.remove(&spec.image) {
                Some(mut known) if known.progress.spec.state == spec.state => {
                    if known.update(spec, now) && known.wants_present() {
                        self.disk.release();
                    }
                    known
                }
                other => {
                    let known = other.as_ref().map(|other| &other.progress.report);
                    let known = known.or(self.reported.get(&spec.image));
                    let held = known.is_some_and(ImageReport::is_held);
                    let if_held = spec.removal.as_ref().is_some_and(|order| order.if_held);
                    let mut new = ImageMemory::new(spec);
                    if let Some(other) = other {
                        new.evidence = other.evidence;
                        new.maybe_pulled = other.maybe_pulled;
                    }
                    if let Some(past) = self.reported.remove(&spec.image) {
                        new.resume(past, now);
                    }
                    if if_held && !held {
                        new.removed(now);
                    }
                    new
                }
            };
            self.images.insert(spec.image.clone(), known);
        }
        if !assigned.is_empty() {
            self.reported.clear();
        }
    }

    /// Drops evidence and removals that a newer list covers.
    pub(super) fn drop_covered(&mut self, list: &ImageList<'_>) {
        self.removals.retain(|_, mark| !list.covers(mark.at));
        for (image, known) in &mut self.images {
            let evidence = known.evidence.as_ref();
            if evidence.is_some_and(|evidence| list.lacks_since(image, evidence.at)) {
                known.evidence = None;
            }
            let maybe = known.maybe_pulled;
            if maybe.is_some_and(|at| list.covers(at) && list.is_complete_for(image)) {
                known.maybe_pulled = None;
            }
        }
    }

    /// The image, if there is evidence of its presence that is newer than the driver's last removal.
    pub(super) fn find_present(
        &self,
        image: &ImageRef,
        list: &ImageList<'_>,
    ) -> Option<(Option<Digest>, ByteSize)> {
        let evidence = self.images.get(image).and_then(|m| m.evidence.as_ref());
        let marked = self.removals.contains_key(image);
        let listed = list.find(image).filter(|_| !marked);
        match (listed, evidence) {
            (Some(listed), Some(evidence)) if !list.covers(evidence.at) => {
                // A mutable tag: the pull is newer than the list.
                let digest = evidence.digest.clone().or_else(|| listed.digest.clone());
                Some((digest, listed.size))
            }
            (Some(listed), _) => Some((listed.digest.clone(), listed.size)),
            (None, Some(evidence)) => Some((evidence.digest.clone(), evidence.size)),
            (None, None) => None,
        }
    }

    /// Whether the image is certainly absent.
    pub(super) fn is_absent(&self, image: &ImageRef, list: &ImageList<'_>) -> bool {
        let known = self.images.get(image);
        if known.is_some_and(|m| m.evidence.is_some() || m.maybe_pulled.is_some()) {
            return false;
        }
        match self.removals.get(image) {
            Some(mark) => mark.absent,
            None => list.find(image).is_none() && list.is_complete_for(image),
        }
    }

    /// Records that a Job has pulled the image. `followed`: this process observed the start of the pull, which
    /// is therefore later than every recorded removal.
    pub(super) fn record_pull(
        &mut self,
        image: &ImageRef,
        pull: (Option<Digest>, Option<Timestamp>, u64),
        followed: bool,
        during_removal: bool,
        now: Timestamp,
    ) {
        let (digest, at, revision) = pull;
        let dated = at.is_some() || followed;
        let at = at.unwrap_or(now);
        let mark = self.removals.get(image);
        let newer = followed || mark.is_none_or(|mark| dated && at > mark.at);
        let Some(known) = self.images.get_mut(image).filter(|_| newer) else {
            return;
        };
        let size = known.evidence.as_ref().map_or(ByteSize::ZERO, |e| e.size);
        if !followed && known.evidence.as_ref().is_some_and(|e| e.at >= at) {
            return;
        }
        known.evidence = Some(Evidence {
            digest,
            size,
            at,
            dated,
            during_removal,
        });
        known.maybe_pulled = None;
        let limit = known.progress.spec.pull_limit.as_ref();
        known.progress.report.via =
            limit.map(|limit| PulledVia::runtime("a Job requests the pull", Some(limit)));
        if known.progress.spec.pull_policy == ImagePullPolicy::Always {
            known.progress.report.revision = known.progress.report.revision.max(Some(revision));
        }
        self.removals.remove(image);
        if followed {
            self.disk = DiskHold::default();
        }
    }

    /// Records that a Job has removed the image, or may have removed it.
    pub(super) fn mark_removed(&mut self, image: &ImageRef, at: Timestamp, absent: bool) {
        if let Some(known) = self.images.get_mut(image) {
            let older = |evidence: &mut Evidence| !evidence.dated || evidence.at <= at;
            known.evidence.take_if(older);
            known.maybe_pulled = known.maybe_pulled.filter(|until| *until > at);
        }
        let mark = self.removals.entry(image.clone());
        let mark = mark.or_insert(RemovalMark { at, absent });
        if mark.at <= at {
            *mark = RemovalMark { at, absent };
        }
    }

    /// Records that a removal may have removed other names of the image as well.
    pub(super) fn doubt_others(&mut self, names: &BTreeSet<ImageRef>, at: Timestamp) {
        let images = self.images.iter();
        let during = images.filter(|(_, m)| m.evidence.as_ref().is_some_and(|e| e.during_removal));
        let during = during.map(|(image, _)| image.clone());
        let doubted: BTreeSet<ImageRef> = during.chain(names.iter().cloned()).collect();
        for image in doubted {
            if let Some(known) = self.images.get_mut(&image).filter(|m| m.wants_present()) {
                known.evidence = None;
                self.mark_removed(&image, at, false);
            }
        }
    }

    /// Records that space was freed: images that failed because of a full disk are retried, one at a time.
    pub(super) fn record_freed_space(&mut self, now: Timestamp) {
        if !self.disk.release() {
            return;
        }
        for known in self.images.values_mut() {
            if known.progress.report.phase == ImagePhase::Failed
                && known.progress.report.reason == Some(Reason::DiskFull)
            {
                known.progress.due = Some(now);
            }
        }
    }

    /// Records a failed attempt: backs off within the round, or ends it. `over`: the round's deadline has
    /// passed.
    pub(super) fn fail(&mut self, image: &ImageRef, failure: &Failure, over: bool, now: Timestamp) {
        let Some(known) = self.images.get_mut(image) else {
            return;
        };
        known.refused_in.clear();
        known.blocked_since = None;
        let progress = &mut known.progress;
        let present = progress.report.digest.is_some() || progress.report.size.is_some();
        // The jitter belongs to the node, so that images that fail together are retried together.
        let attempt = if over {
            progress.failed_rounds
        } else {
            progress.report.attempts
        };
        let mut rng = fastrand::Rng::with_seed(self.seed ^ u64::from(attempt));
        if over {
            let message = progress.message_for(failure, present);
            progress.explain(failure.reason, message);
            progress.end_round(failure, now, &self.backoff, &mut rng);
        } else {
            progress.failed(failure, present, now, &self.backoff, &mut rng);
        }
        let ended = progress.report.phase == ImagePhase::Failed;
        let full = failure.reason == Reason::DiskFull && self.disk_pressure;
        if ended && full && progress.wants_present() {
            self.disk.set(now, &self.backoff, &mut rng);
        }
    }

    /// Fails an image if the disk is full; `None` otherwise.
    pub(super) fn fail_for_disk(&mut self, image: &ImageRef, now: Timestamp) -> Option<Timestamp> {
        let hold = self.disk.current(now)?;
        self.images.get_mut(image)?.progress.blocked(hold, now);
        Some(hold.until)
    }

    /// Records that the image has disappeared although this driver has not removed it.
    pub(super) fn record_eviction(&mut self, image: &ImageRef, now: Timestamp) {
        if let Some(known) = self.images.get_mut(image) {
            let evictions = u64::from(known.progress.evictions);
            let mut rng = fastrand::Rng::with_seed(self.seed ^ evictions);
            let window = self.eviction_window;
            known.progress.evicted(now, window, &self.backoff, &mut rng);
        }
    }
}

impl JobMemory {
    pub(super) fn new(uid: Option<String>, since: Timestamp) -> Self {
        Self {
            uid,
            since,
            slots: BTreeMap::new(),
            removes: Vec::new(),
            followed: false,
            settled: false,
            pod_seen: false,
            end_seen: None,
            accepted: false,
            reported: false,
            deleted: false,
            asked: (0, None),
        }
    }
}

impl ImageMemory {
    fn new(spec: &AssignedImage) -> Self {
        Self {
            progress: ImageProgress::new(with_deadline(spec)),
            evidence: None,
            maybe_pulled: None,
            refused_in: BTreeSet::new(),
            in_use_until: None,
            in_use_count: 0,
            refused: false,
            blocked_since: None,
        }
    }

    pub(super) fn wants_present(&self) -> bool {
        self.progress.wants_present()
    }

    /// Whether a cache of this namespace lists the image.
    pub(super) fn is_wanted_in(&self, namespace: &str, operator: &str) -> bool {
        let mut wanted = self.progress.spec.wanted_by.iter();
        let unnamed = self.progress.spec.wanted_by.is_empty() && namespace == operator;
        self.wants_present() && (unnamed || wanted.any(|id| id.namespace == namespace))
    }

    /// Namespaces whose Jobs may pull the image: those of its caches, with credentials first.
    pub(super) fn namespaces(&self, operator: &str) -> Vec<String> {
        let named = self
            .progress
            .spec
            .pull_secrets
            .iter()
            .chain(&self.progress.spec.service_accounts);
        let with: BTreeSet<&str> = named.map(|name| name.namespace.as_str()).collect();
        let wanted = self
            .progress
            .spec
            .wanted_by
            .iter()
            .map(|id| id.namespace.as_str());
        let wanted: BTreeSet<&str> = wanted.collect();
        let (first, then): (Vec<&str>, Vec<&str>) = wanted
            .into_iter()
            .partition(|namespace| with.contains(namespace));
        let all: Vec<String> = first.into_iter().chain(then).map(str::to_owned).collect();
        if all.is_empty() {
            return vec![operator.to_owned()];
        }
        all
    }

    /// Whether the image's removal is reported for the assigned revision.
    pub(super) fn is_removed(&self) -> bool {
        let current = self.progress.report.revision == Some(self.progress.spec.revision);
        self.progress.report.phase == ImagePhase::Removed && current
    }

    /// Whether an earlier removal Job has kept the image. The report says so until the next Job has another
    /// result: a Job that looks again in vain changes nothing.
    pub(super) fn is_kept_so_far(&self) -> bool {
        self.progress.report.phase == ImagePhase::InUse && self.in_use_count > 0
    }

    /// Applies a new assignment of the same image, perhaps with other details. Returns whether it has a newer revision.
    fn update(&mut self, spec: &AssignedImage, now: Timestamp) -> bool {
        match self.progress.update(with_deadline(spec)) {
            Update::Renewed => {
                self.progress.due = None;
                self.refused_in.clear();
                self.in_use_until = None;
                self.refused = false;
                self.blocked_since = None;
                if self.progress.report.phase != ImagePhase::Cached {
                    self.progress.round = None;
                    self.progress.reset_phase();
                }
                return true;
            }
            Update::Mended => self.progress.due = Some(now),
            _ => {}
        }
        false
    }

    /// Adopts the report from before a restart: presence, removal, and the satisfied revision.
    fn resume(&mut self, past: ImageReport, now: Timestamp) {
        self.progress.report.revision = past.revision;
        let at = past.finished_at;
        match past.phase {
            ImagePhase::Cached => {
                self.evidence = Some(Evidence {
                    digest: past.digest.clone(),
                    size: past.size.unwrap_or(ByteSize::ZERO),
                    // A list that is older than this process may be older than the pull.
                    at: at.unwrap_or(now),
                    dated: at.is_some(),
                    during_removal: false,
                });
                if self.wants_present() {
                    self.progress.cached_at = at;
                    self.progress.report = with_image(past, &self.progress.spec.image);
                }
            }
            ImagePhase::Removed
                if !self.wants_present() && past.revision == Some(self.progress.spec.revision) =>
            {
                self.progress.report = with_image(past, &self.progress.spec.image);
            }
            ImagePhase::InUse if !self.wants_present() => {
                if let Some(reason) = past.reason.filter(|reason| reason.keeps_image()) {
                    self.refused(reason, past.message.unwrap_or_default(), now);
                }
            }
            _ => {}
        }
    }

    /// Records that a Job is created for the image.
    pub(super) fn begin(&mut self, phase: ImagePhase, now: Timestamp) {
        self.blocked_since = None;
        if self.is_kept_so_far() {
            let kept = self.progress.report.clone();
            self.progress.begin(phase, now);
            let attempts = self.progress.report.attempts;
            self.progress.report = kept;
            self.progress.report.attempts = attempts;
            return;
        }
        let attempts = self.progress.report.attempts;
        self.progress.begin(phase, now);
        if !self.refused_in.is_empty() {
            // The same attempt, with the credentials of another namespace.
            self.progress.report.attempts = attempts;
        }
    }

    /// Records that a Job works on the image, or is failing so far.
    pub(super) fn follow(
        &mut self,
        phase: ImagePhase,
        since: Timestamp,
        failure: Option<&Failure>,
    ) {
        if self.is_kept_so_far() && failure.is_none() {
            self.progress.round = Some(since);
            self.progress.due = None;
            self.blocked_since = None;
            return;
        }
        // The round of a Job begins with its creation, even if an earlier process created it.
        let first = self.progress.report.attempts <= 1 && self.refused_in.is_empty();
        if self.progress.round.is_none() || first {
            self.progress.report.attempts = self.progress.report.attempts.max(1);
            self.progress.start_round(since);
        }
        self.progress.due = None;
        self.blocked_since = None;
        match failure {
            Some(failure) => {
                let present = self.progress.report.size.is_some();
                let message = self.progress.message_for(failure, present);
                self.progress.explain(failure.reason, message);
                self.progress.report.phase = ImagePhase::BackingOff;
            }
            None => {
                if self.progress.report.phase != phase
                    && self.progress.report.reason != Some(Reason::Evicted)
                {
                    self.progress.clear_reason();
                }
                self.progress.report.phase = phase;
            }
        }
    }

    /// Records that the image is present and has the assigned revision.
    pub(super) fn cached(&mut self, now: Timestamp) {
        self.refused_in.clear();
        self.blocked_since = None;
        if self.progress.report.phase == ImagePhase::Cached {
            self.progress.still_cached();
            return;
        }
        let round = self.progress.round;
        self.progress.cached(now);
        let pulled = self.evidence.as_ref().filter(|evidence| evidence.dated);
        let pulled = pulled.map_or(now, |evidence| evidence.at);
        self.progress.report.finished_at = round.map(|start| pulled.max(start));
    }

    /// Records that the image is absent, as assigned.
    pub(super) fn removed(&mut self, at: Timestamp) {
        let at = self
            .progress
            .report
            .started_at
            .map_or(at, |start| at.max(start));
        self.progress.removed(at);
        self.in_use_until = None;
        self.blocked_since = None;
    }

    /// Records that the image is kept, and why.
    pub(super) fn kept(&mut self, reason: Reason, message: String) {
        self.progress.kept(reason, message);
        self.blocked_since = None;
    }

    /// Records that a removal Job found a reason to keep the image. Another Job looks later, each time after
    /// longer; none does if the runtime or its operator keeps an unused image.
    pub(super) fn refused(&mut self, reason: Reason, message: String, at: Timestamp) {
        self.kept(reason, message);
        // Every later Job that looks in vain is the first attempt of its round: it changes nothing either, nor does a
        // restart.
        self.progress.report.attempts = 1;
        self.refused = matches!(reason, Reason::Pinned | Reason::Protected);
        self.in_use_count = self.in_use_count.saturating_add(1);
        self.in_use_until = Some(after(at, IN_USE.delay(self.in_use_count)));
    }
}

fn with_deadline(spec: &AssignedImage) -> AssignedImage {
    let shortest = match spec.state {
        DesiredState::Present => SHORTEST,
        DesiredState::Absent => SHORTEST_REMOVAL,
    };
    spec.clone().with_deadline(spec.deadline.max(shortest))
}

fn with_image(mut report: ImageReport, image: &ImageRef) -> ImageReport {
    // An agent may have written it. No Job removes superseded digests.
    report.superseded.clear();
    report.image = image.clone();
    report
}
