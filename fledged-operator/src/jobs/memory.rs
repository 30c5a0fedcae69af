//! What a node's past tells that its objects do not: evidence of images, failed rounds, and removals that
//! the kubelet's list does not show yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fledged_core::backoff::Backoff;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{
    AssignedImage, Assignment, ByteSize, DesiredState, Digest, ImagePhase, ImagePullPolicy,
    ImageRef, ImageReport, NodeReport,
};
use fledged_core::port::RuntimeImage;
use fledged_core::warmer::WarmerConfig;
use jiff::Timestamp;

use super::manifest::JobKey;
use super::observe::ObservedNode;
use super::options::JobOptions;
use fledged_core::time::after;

/// How long an image that is in use is left alone before its removal is tried again: containers on the
/// node can't be observed, and every attempt takes a pod.
const IN_USE: Duration = Duration::from_secs(15 * 60);
/// Shortest deadline of a pull, as for agents.
const SHORTEST: Duration = Duration::from_secs(1);
/// Shortest deadline of a removal. The assigned deadline is that of a pull, and may be too short for a pod
/// to be scheduled; a runtime has as long to answer an agent.
const SHORTEST_REMOVAL: Duration = Duration::from_secs(120);

/// Resolution of timestamps in Kubernetes objects. What is dated to a second happened during it.
const RESOLUTION: Duration = Duration::from_secs(1);

/// Memory of one node.
#[derive(Debug)]
pub(super) struct NodeMemory {
    seed: u64,
    pub(super) rng: fastrand::Rng,
    backoff: Backoff,
    eviction_window: Duration,
    /// Generation of the assignment that `images` are of.
    generation: Option<u64>,
    /// The assigned images.
    pub(super) images: BTreeMap<ImageRef, ImageMemory>,
    /// What was reported before a restart, until the first assignment.
    reported: BTreeMap<ImageRef, ImageReport>,
    /// Images that this driver removed, or may have removed, until a newer list covers it. Independent of
    /// the assignment.
    pub(super) removals: BTreeMap<ImageRef, RemovalMark>,
    pub(super) jobs: BTreeMap<JobKey, JobMemory>,
    pub(super) disk: DiskHold,
    /// When the first of the images that wait for a new Job began to wait.
    pub(super) missing_since: Option<Timestamp>,
}

/// A removal by this driver. Evidence that is not newer counts no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RemovalMark {
    /// When the removal ended.
    pub(super) at: Timestamp,
    /// Whether the image was absent then; else it may have been removed.
    pub(super) absent: bool,
}

/// A full disk: no pull starts before `until`, and then one at a time.
#[derive(Debug, Default)]
pub(super) struct DiskHold {
    pub(super) until: Option<Timestamp>,
    message: String,
    /// Number of times in a row that the disk was full.
    pub(super) strikes: u32,
}

/// What is remembered of a Job.
#[derive(Debug)]
pub(super) struct JobMemory {
    pub(super) uid: Option<String>,
    pub(super) since: Timestamp,
    /// Images that it pulls.
    pub(super) slots: BTreeMap<ImageRef, SlotState>,
    /// Images that it removes.
    pub(super) removes: Vec<ImageRef>,
    /// Whether this process has known it before its end.
    pub(super) followed: bool,
    /// Whether its outcome is recorded, or given up.
    pub(super) settled: bool,
    pub(super) pod_seen: bool,
    /// Whether a kubelet has accepted its pod.
    pub(super) accepted: bool,
    /// Whether its removals are all known.
    pub(super) reported: bool,
    /// Whether this driver deletes it.
    pub(super) deleted: bool,
    /// How often the reason for its missing pod was asked for, and when that is due again.
    pub(super) asked: (u32, Option<Timestamp>),
}

/// What is remembered of one image of a pull Job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotState {
    /// The outcome is awaited.
    Open,
    /// The outcome does not matter any more, unless it is a success.
    Closed,
    /// The image was pulled.
    Pulled,
}

/// An image was present at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Evidence {
    digest: Option<Digest>,
    size: ByteSize,
    at: Timestamp,
    /// Whether `at` is when it was pulled; else that time is not known.
    dated: bool,
    /// Whether a removal was under way, which may have taken it along.
    during_removal: bool,
}

/// What is remembered of an assigned image.
#[derive(Debug)]
pub(super) struct ImageMemory {
    pub(super) spec: AssignedImage,
    pub(super) report: ImageReport,
    /// Whether a Job has pulled it, or an earlier report says that it is present.
    pub(super) evidence: Option<Evidence>,
    /// Until when a Job that is gone may have pulled it.
    pub(super) maybe_pulled: Option<Timestamp>,
    /// When the next attempt is due; `None` where none is needed.
    pub(super) due: Option<Timestamp>,
    /// Start of the current round.
    pub(super) round: Option<Timestamp>,
    /// Namespaces in which the current attempt has failed.
    pub(super) refused_in: BTreeSet<String>,
    /// Failed rounds in a row.
    pub(super) failed_rounds: u32,
    /// Number of times in a row that it disappeared soon after it was cached.
    evictions: u32,
    cached_at: Option<Timestamp>,
    /// Whether its credentials have changed since its last Job was created.
    changed_credentials: bool,
    /// Until when it counts as in use.
    pub(super) in_use_until: Option<Timestamp>,
    /// Since when another Job keeps it from its own.
    pub(super) blocked_since: Option<Timestamp>,
}

/// The kubelet's list of images, as of now.
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

    /// Whether the list is newer than that time by the margin.
    pub(super) fn covers(&self, at: Timestamp) -> bool {
        let from = after(at, self.margin.saturating_add(RESOLUTION));
        let listed_at = self.node.listed_at;
        listed_at.is_some_and(|listed_at| listed_at >= from)
    }

    /// Whether absence from the list means that the image is absent: neither the list nor the names of an
    /// image that could be this one are cut.
    pub(super) fn is_complete_for(&self, image: &ImageRef) -> bool {
        let complete = self.node.listed_at.is_some() && self.node.listed < self.max;
        complete && !self.node.may_hide(image)
    }

    /// Whether the image was lost since that time.
    fn lacks_since(&self, image: &ImageRef, at: Timestamp) -> bool {
        self.find(image).is_none() && self.is_complete_for(image) && self.covers(at)
    }
}

impl NodeMemory {
    /// Nothing is remembered. The seed decides the names of Jobs and the jitter of delays.
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
            missing_since: None,
        }
    }

    /// Takes over what was last reported of the node, by an earlier process or for an earlier record.
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

    /// Takes over what is assigned. Each image counts once; `Present` wins over `Absent`.
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
                Some(mut known) if known.spec.state == spec.state => {
                    known.update(spec, now);
                    known
                }
                other => {
                    let mut new = ImageMemory::new(spec);
                    if let Some(other) = other {
                        new.evidence = other.evidence;
                        new.maybe_pulled = other.maybe_pulled;
                    }
                    if let Some(past) = self.reported.remove(&spec.image) {
                        new.resume(past, now);
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

    /// Drops what a newer list decides.
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

    /// The image, if there is evidence that it is present which is newer than our last removal.
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

    /// A Job has pulled the image. `followed`: the pull began under the eyes of this process, and so after
    /// every removal that is recorded.
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
        if known.spec.pull_policy == ImagePullPolicy::Always {
            known.report.revision = known.report.revision.max(Some(revision));
        }
        self.removals.remove(image);
        if followed {
            self.disk = DiskHold::default();
        }
    }

    /// A Job has removed the image, or may have.
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

    /// A removal has ended that may have taken other names of the image along.
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

    /// Space was freed: what failed for lack of it is tried again, one image at a time.
    pub(super) fn record_freed_space(&mut self, now: Timestamp) {
        if self.disk.until.take().is_none() {
            return;
        }
        for known in self.images.values_mut() {
            if known.report.phase == ImagePhase::Failed
                && known.report.reason == Some(Reason::DiskFull)
            {
                known.due = Some(now);
            }
        }
    }

    /// An attempt has failed: back off within the round, or end it. `over`: the round's deadline has
    /// passed.
    pub(super) fn fail(&mut self, image: &ImageRef, failure: &Failure, over: bool, now: Timestamp) {
        let present = self.images.get(image).is_some_and(|m| {
            m.wants_present() && (m.report.digest.is_some() || m.report.size.is_some())
        });
        let Some(known) = self.images.get_mut(image) else {
            return;
        };
        known.explain(failure, present);
        known.refused_in.clear();
        known.blocked_since = None;
        // Images that fail together are due together: the jitter is the node's.
        let rng = |n: u32| fastrand::Rng::with_seed(self.seed ^ u64::from(n));
        let attempts = known.report.attempts;
        if failure.class().is_transient() && !over {
            let delay = self
                .backoff
                .within_round(failure, attempts, &mut rng(attempts));
            let due = after(now, delay);
            if known
                .round
                .is_some_and(|start| due < after(start, known.spec.deadline))
            {
                known.report.phase = ImagePhase::BackingOff;
                known.due = Some(due);
                return;
            }
        }
        known.failed_rounds = known.failed_rounds.saturating_add(1);
        known.report.phase = ImagePhase::Failed;
        known.report.finished_at = Some(now);
        known.round = None;
        let rounds = known.failed_rounds;
        let delay = self
            .backoff
            .between_rounds(failure, rounds, &mut rng(rounds));
        let delay = if known.changed_credentials {
            Duration::ZERO
        } else {
            delay
        };
        known.due = Some(after(now, delay));
        if failure.reason == Reason::DiskFull && known.wants_present() {
            self.disk.strikes = self.disk.strikes.saturating_add(1);
            let delay = self.backoff.disk_full.delay(self.disk.strikes);
            let delay = self.backoff.spread(delay, &mut rng(self.disk.strikes));
            self.disk.until = Some(after(now, delay));
            self.disk.message = format!(
                "not started: no room on the node's image file system (found when pulling {image}: {failure})"
            );
        }
    }

    /// Fails an image because the disk is full; `None` where it is not.
    pub(super) fn fail_for_disk(&mut self, image: &ImageRef, now: Timestamp) -> Option<Timestamp> {
        let until = self.disk.until.filter(|until| *until > now)?;
        let known = self.images.get_mut(image)?;
        let before = (known.report.phase, known.report.reason);
        if before != (ImagePhase::Failed, Some(Reason::DiskFull)) {
            known.report.phase = ImagePhase::Failed;
            known.report.reason = Some(Reason::DiskFull);
            known.report.message = Some(self.disk.message.clone());
            known.report.attempts = 0;
            known.report.started_at = None;
            known.report.finished_at = Some(now);
        }
        known.round = None;
        known.due = Some(until);
        Some(until)
    }

    /// The image is not present any more, although this driver has not removed it.
    pub(super) fn record_eviction(&mut self, image: &ImageRef, now: Timestamp) {
        let Some(known) = self.images.get_mut(image) else {
            return;
        };
        let lived = known.cached_at.map(|at| now.duration_since(at));
        let lived = lived.and_then(|lived| Duration::try_from(lived).ok());
        known.evictions = match lived {
            Some(lived) if lived < self.eviction_window => known.evictions.saturating_add(1),
            _ => 0,
        };
        let repeated = if known.is_satisfied() {
            known.evictions
        } else {
            0
        };
        let delay = match repeated {
            0 | 1 => Duration::ZERO,
            n => {
                let mut rng = fastrand::Rng::with_seed(self.seed ^ u64::from(n));
                let delay = self.backoff.evicted.delay(n - 1);
                self.backoff.spread(delay, &mut rng)
            }
        };
        known.due = Some(after(now, delay));
        known.round = None;
        known.report.attempts = 0;
        known.report.started_at = None;
        known.report.finished_at = (repeated > 1).then_some(now);
        known.report.phase = match repeated {
            0 | 1 => ImagePhase::Pending,
            _ => ImagePhase::Failed,
        };
        known.report.reason = Some(Reason::Evicted);
        known.report.message = Some(match repeated {
            0 | 1 => "it was present and was removed by something else".to_owned(),
            times => format!(
                "it was removed by something else {times} times in a row soon after it was cached; \
                 is there room for it?"
            ),
        });
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
            accepted: false,
            reported: false,
            deleted: false,
            asked: (0, None),
        }
    }
}

impl ImageMemory {
    fn new(spec: &AssignedImage) -> Self {
        let phase = match spec.state {
            DesiredState::Present => ImagePhase::Pending,
            DesiredState::Absent => ImagePhase::Removing,
        };
        Self {
            report: ImageReport::new(spec.image.clone(), phase),
            spec: with_deadline(spec),
            evidence: None,
            maybe_pulled: None,
            due: None,
            round: None,
            refused_in: BTreeSet::new(),
            failed_rounds: 0,
            evictions: 0,
            cached_at: None,
            changed_credentials: false,
            in_use_until: None,
            blocked_since: None,
        }
    }

    pub(super) fn wants_present(&self) -> bool {
        self.spec.state == DesiredState::Present
    }

    fn is_satisfied(&self) -> bool {
        let satisfied = self.report.revision;
        satisfied.is_some_and(|satisfied| satisfied >= self.spec.revision)
    }

    /// Whether a pull is needed although the image is present.
    pub(super) fn wants_fresh(&self) -> bool {
        self.spec.pull_policy == ImagePullPolicy::Always && !self.is_satisfied()
    }

    /// Whether a cache of that namespace wants it.
    pub(super) fn is_wanted_in(&self, namespace: &str, operator: &str) -> bool {
        let mut wanted = self.spec.wanted_by.iter();
        let unnamed = self.spec.wanted_by.is_empty() && namespace == operator;
        self.wants_present() && (unnamed || wanted.any(|id| id.namespace == namespace))
    }

    /// Namespaces whose Jobs may pull it: those of the caches that want it, with credentials first.
    pub(super) fn namespaces(&self, operator: &str) -> Vec<String> {
        let named = self
            .spec
            .pull_secrets
            .iter()
            .chain(&self.spec.service_accounts);
        let with: BTreeSet<&str> = named.map(|name| name.namespace.as_str()).collect();
        let wanted = self.spec.wanted_by.iter().map(|id| id.namespace.as_str());
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

    /// Whether its removal is reported for the assigned revision.
    pub(super) fn is_removed(&self) -> bool {
        let current = self.report.revision == Some(self.spec.revision);
        self.report.phase == ImagePhase::Removed && current
    }

    /// The same image is assigned again, perhaps with other details.
    fn update(&mut self, spec: &AssignedImage, now: Timestamp) {
        let spec = with_deadline(spec);
        let renewed = self.spec.revision < spec.revision;
        let credentials = self.spec.pull_secrets != spec.pull_secrets
            || self.spec.service_accounts != spec.service_accounts;
        let mended = credentials
            || self.spec.pull_policy != spec.pull_policy
            || self.spec.deadline != spec.deadline;
        self.report.image = spec.image.clone();
        self.spec = spec;
        self.changed_credentials |= credentials;
        if renewed {
            self.due = None;
            self.refused_in.clear();
            self.in_use_until = None;
            self.blocked_since = None;
            if self.report.phase != ImagePhase::Cached {
                self.round = None;
                self.reset_phase();
            }
        } else if mended && self.report.phase == ImagePhase::Failed {
            self.failed_rounds = 0;
            self.due = Some(now);
        }
    }

    fn reset_phase(&mut self) {
        self.report.reason = None;
        self.report.message = None;
        self.report.phase = match self.spec.state {
            DesiredState::Present => ImagePhase::Pending,
            DesiredState::Absent => ImagePhase::Removing,
        };
    }

    /// Takes over what was reported before a restart: that it is present, that it was removed, and which
    /// revision is satisfied.
    fn resume(&mut self, past: ImageReport, now: Timestamp) {
        self.report.revision = past.revision;
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
                    self.cached_at = at;
                    self.report = with_image(past, &self.spec.image);
                }
            }
            ImagePhase::Removed
                if !self.wants_present() && past.revision == Some(self.spec.revision) =>
            {
                self.report = with_image(past, &self.spec.image);
            }
            _ => {}
        }
    }

    /// A Job is created for it.
    pub(super) fn begin(&mut self, phase: ImagePhase, now: Timestamp) {
        if self.round.is_none() {
            self.report.attempts = 0;
            self.start_round(now);
            if self.report.reason != Some(Reason::Evicted) {
                self.report.reason = None;
                self.report.message = None;
            }
        }
        if self.refused_in.is_empty() {
            self.report.attempts = self.report.attempts.saturating_add(1);
        }
        self.report.phase = phase;
        self.due = None;
        self.blocked_since = None;
        self.changed_credentials = false;
    }

    fn start_round(&mut self, at: Timestamp) {
        self.round = Some(at);
        self.report.started_at = Some(at);
        self.report.finished_at = None;
    }

    /// A Job works on it, or fails at it for now.
    pub(super) fn follow(
        &mut self,
        phase: ImagePhase,
        since: Timestamp,
        failure: Option<&Failure>,
    ) {
        // The round of a Job begins with its creation, also where an earlier process created it.
        let first = self.report.attempts <= 1 && self.refused_in.is_empty();
        if self.round.is_none() || first {
            self.report.attempts = self.report.attempts.max(1);
            self.start_round(since);
        }
        self.due = None;
        self.blocked_since = None;
        match failure {
            Some(failure) => {
                let present = self.wants_present() && self.report.size.is_some();
                self.explain(failure, present);
                self.report.phase = ImagePhase::BackingOff;
            }
            None => {
                if self.report.phase != phase && self.report.reason != Some(Reason::Evicted) {
                    self.report.reason = None;
                    self.report.message = None;
                }
                self.report.phase = phase;
            }
        }
    }

    /// It is present and as fresh as asked for.
    pub(super) fn cached(&mut self, now: Timestamp) {
        if self.report.phase != ImagePhase::Cached {
            self.cached_at = Some(now);
            if self.round.is_none() {
                // Found, not pulled.
                self.report.attempts = 0;
                self.report.started_at = None;
            }
            let pulled = self.evidence.as_ref().filter(|evidence| evidence.dated);
            let pulled = pulled.map_or(now, |evidence| evidence.at);
            self.report.finished_at = self.round.map(|start| pulled.max(start));
        }
        self.report.phase = ImagePhase::Cached;
        self.report.revision = self.report.revision.max(Some(self.spec.revision));
        self.report.reason = None;
        self.report.message = None;
        self.due = None;
        self.round = None;
        self.refused_in.clear();
        self.failed_rounds = 0;
        self.blocked_since = None;
    }

    /// It is absent, as asked for.
    pub(super) fn removed(&mut self, at: Timestamp) {
        self.report.phase = ImagePhase::Removed;
        self.report.revision = Some(self.spec.revision);
        self.report.finished_at = Some(self.report.started_at.map_or(at, |start| at.max(start)));
        self.report.digest = None;
        self.report.size = None;
        self.report.reason = None;
        self.report.message = None;
        self.due = None;
        self.round = None;
        self.failed_rounds = 0;
        self.in_use_until = None;
        self.blocked_since = None;
    }

    /// It is not removed.
    pub(super) fn kept(&mut self, reason: Reason, message: String) {
        self.report.phase = ImagePhase::InUse;
        self.report.reason = Some(reason);
        self.report.message = Some(message);
        self.due = None;
        self.round = None;
        self.blocked_since = None;
    }

    /// A removal Job found it in use then.
    pub(super) fn in_use(&mut self, by: String, at: Timestamp) {
        self.kept(Reason::InUse, by);
        self.in_use_until = Some(after(at, IN_USE));
    }

    fn explain(&mut self, failure: &Failure, present: bool) {
        self.report.reason = Some(failure.reason);
        self.report.message = Some(match present {
            true => format!("an earlier copy is present, but it could not be refreshed: {failure}"),
            false => failure.message.clone(),
        });
    }

    /// The report as of now.
    pub(super) fn snapshot(&self) -> ImageReport {
        let mut report = self.report.clone();
        report.next_attempt_at = match report.phase {
            ImagePhase::BackingOff | ImagePhase::Failed => self.due,
            _ => None,
        };
        report
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
    report.image = image.clone();
    report
}
