//! One node: its facts, the assignment that is recorded for it, and its last report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::cluster_event::NodeRecord;
use super::slots::Activity;
use super::tally::Tally;
use super::trouble::TroubleKind;
use crate::backoff::Schedule;
use crate::error::Reason;
use crate::model::{
    AssignedImage, Assignment, CacheId, DesiredState, ImagePhase, ImagePullPolicy, ImageRef,
    ImageReport, NodeFacts, NodeReport,
};
use crate::time::after;

/// The images that a node should hold, in order. Nodes that match the same groups share one list.
pub(super) type DesiredImages = Arc<[Arc<AssignedImage>]>;

/// Caches of a node, sorted.
pub(super) type CacheList = Arc<[Arc<CacheId>]>;

/// Delays before a record that other programs delete again and again is created again.
const RECREATED: Schedule = Schedule::seconds(1, 60);
/// Time after which an earlier deletion of a record no longer counts.
const FORGIVEN_AFTER: Duration = Duration::from_secs(300);

/// What the caches that match a node ask for.
#[derive(Debug, Clone)]
pub(super) struct NodeImages {
    pub(super) images: DesiredImages,
    /// Caches that its record has no room for.
    pub(super) left_out: CacheList,
    /// Caches that are purged, or being deleted with their images.
    pub(super) removing: CacheList,
}

impl Default for NodeImages {
    fn default() -> Self {
        Self {
            images: Arc::from([]),
            left_out: Arc::from([]),
            removing: Arc::from([]),
        }
    }
}

/// The first assignment generation whose report covers an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CoveredFrom {
    /// Known once the write with this ticket is acknowledged.
    Ticket(u64),
    Generation(u64),
}

impl CoveredFrom {
    fn is_reached(self, observed_generation: u64) -> bool {
        matches!(self, Self::Generation(generation) if generation <= observed_generation)
    }
}

/// One image of the assignment as last written.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) entry: Arc<AssignedImage>,
    covered_from: CoveredFrom,
    /// The node's last report of the image, whichever generation it answers.
    pub(super) observed: Option<ObservedImage>,
}

/// The part of an image report that decides. Texts are stored for failures only.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ObservedImage {
    pub(super) phase: ImagePhase,
    pub(super) revision: u64,
    /// Why it is in that phase, if the phase needs a reason.
    pub(super) reason: Option<Reason>,
    /// Whether attempts fail and more of them follow in the same round.
    failing: bool,
    /// Whether the node held the image for its assignment, or began to pull it.
    held: bool,
    /// Whether it is present, and its refresh waits for room on the image file system.
    pub(super) refresh_held: bool,
    /// Digests that the tag named before and that are still on the node.
    pub(super) superseded: u64,
}

impl ObservedImage {
    fn new(report: &ImageReport) -> Self {
        // Where a kubelet pulls, one attempt may take minutes; until it ends, the last one counts.
        let failing = match report.phase {
            ImagePhase::BackingOff => true,
            ImagePhase::Pulling => {
                let failed = |reason| reason != Reason::Evicted;
                report.attempts > 1 && report.reason.is_some_and(failed)
            }
            _ => false,
        };
        Self {
            phase: report.phase,
            revision: report.revision.unwrap_or(0),
            reason: report.reason,
            failing,
            held: report.is_held(),
            refresh_held: report.is_refresh_held(),
            superseded: u64::try_from(report.superseded.len()).unwrap_or(u64::MAX),
        }
    }

    fn state(self, entry: &AssignedImage) -> ImageState {
        let current = self.refresh_held || self.revision >= entry.revision;
        match (entry.state, self.phase) {
            (_, ImagePhase::Failed) => ImageState::Failed,
            (DesiredState::Present, ImagePhase::Cached) if current => ImageState::Cached,
            (DesiredState::Absent, ImagePhase::Removed) => ImageState::Removed,
            (DesiredState::Absent, ImagePhase::InUse) => ImageState::InUse,
            _ => ImageState::InProgress,
        }
    }
}

/// An image that failed, or whose attempts fail so far.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FailedImage {
    pub(super) image: ImageRef,
    pub(super) reason: Reason,
    pub(super) message: String,
}

/// How long a node may go without a report.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReportLimits {
    /// Until the first report on an assignment.
    pub(super) answer_grace: Duration,
    /// Beyond the longest deadline of the work in progress.
    pub(super) report_grace: Duration,
    /// Deadline of a removal.
    pub(super) removal: Duration,
}

/// How far an assigned image is, by the reports that cover it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ImageState {
    /// Not finished, or not reported.
    InProgress,
    Cached,
    Failed,
    Removed,
    /// Should be removed but is in use.
    InUse,
}

#[derive(Debug, Clone)]
pub(super) struct NodeState {
    pub(super) facts: Option<NodeFacts>,
    /// The caches that match it, sorted, also those that are purged or being deleted.
    matching: Vec<Arc<CacheId>>,
    /// Whether a matching cache has changed since its images were looked up.
    pub(super) outdated: bool,
    /// What the matching caches ask for.
    pub(super) images: NodeImages,
    /// The same, with the images of caches whose spec became invalid.
    pub(super) desired: DesiredImages,
    /// Room for the assignment in its record, in bytes.
    pub(super) room: usize,
    /// The assignment as last written or recorded, sorted by image.
    pub(super) pairs: Vec<Pair>,
    /// Whether any of them is a removal.
    pub(super) has_removals: bool,
    /// Generation of the last acknowledged write or of the record.
    pub(super) generation: u64,
    pub(super) ticket: u64,
    acked_ticket: u64,
    /// Whether the assignment must be written even if it looks unchanged.
    invalidated: bool,
    pub(super) observed_generation: u64,
    /// Sorted by image. Includes images that are no longer assigned.
    reported: Vec<(ImageRef, ObservedImage)>,
    pub(super) failed: Vec<FailedImage>,
    /// The credentials that could not be used for images that are cached, each with its problem.
    unused_credentials: BTreeMap<ImageRef, String>,
    pub(super) unresponsive: bool,
    /// The last report, or the last event that asks for one.
    pub(super) last_active_at: Timestamp,
    /// When the node counts as unresponsive unless it reports.
    pub(super) report_due_at: Option<Timestamp>,
    /// When the first of its removals is given up.
    pub(super) removal_ends_at: Option<Timestamp>,
    /// When another program last deleted its record, and how many times in a row.
    deleted_at: Option<Timestamp>,
    deletions: u32,
    /// Time from which the record is created again.
    pub(super) recreate_from: Option<Timestamp>,
    /// Its share in each cache, sorted by cache.
    pub(super) tallies: Vec<(Arc<CacheId>, Tally)>,
    /// Whether something is wrong with its images of any cache.
    pub(super) has_troubles: bool,
    /// What it pulls for: with unfinished pulls, it holds one of the cluster's slots.
    pub(super) activity: Activity,
}

impl NodeState {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            facts: None,
            matching: Vec::new(),
            outdated: true,
            images: NodeImages::default(),
            desired: Arc::from([]),
            room: usize::MAX,
            pairs: Vec::new(),
            has_removals: false,
            generation: 0,
            ticket: 0,
            acked_ticket: 0,
            invalidated: false,
            observed_generation: 0,
            reported: Vec::new(),
            failed: Vec::new(),
            unused_credentials: BTreeMap::new(),
            unresponsive: false,
            last_active_at: now,
            report_due_at: None,
            removal_ends_at: None,
            deleted_at: None,
            deletions: 0,
            recreate_from: None,
            tallies: Vec::new(),
            has_troubles: false,
            activity: Activity::default(),
        }
    }

    /// Whether its record has no room for that cache.
    pub(super) fn is_left_out(&self, id: &CacheId) -> bool {
        let left_out = &self.images.left_out;
        left_out.binary_search_by(|known| (**known).cmp(id)).is_ok()
    }

    /// The caches that match it, also those that are purged or being deleted.
    pub(super) fn matching(&self) -> &[Arc<CacheId>] {
        &self.matching
    }

    /// Replaces the caches that match it. They are sorted.
    pub(super) fn set_matching(&mut self, matching: Vec<Arc<CacheId>>) {
        self.matching = matching;
        self.outdated = true;
    }

    /// Notes whether a changed cache matches it. Returns whether the cache matches it, or did before.
    pub(super) fn note_match(&mut self, id: &Arc<CacheId>, matches: bool) -> bool {
        let at = self.matching.binary_search(id);
        match (at, matches) {
            (Ok(_), true) => {}
            (Ok(at), false) => drop(self.matching.remove(at)),
            (Err(at), true) => self.matching.insert(at, Arc::clone(id)),
            (Err(_), false) => return false,
        }
        self.outdated = true;
        true
    }

    /// Whether it can hold images at all.
    pub(super) fn is_suitable(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.os == "linux")
    }

    /// Whether it can pull and remove images now.
    pub(super) fn is_reachable(&self) -> bool {
        self.is_suitable()
            && !self.unresponsive
            && self.facts.as_ref().is_some_and(|facts| facts.ready)
    }

    /// Whether it could pull and remove images if its agent responded.
    pub(super) fn has_unresponsive_agent(&self) -> bool {
        let ready = self.facts.as_ref().is_some_and(|facts| facts.ready);
        self.unresponsive && ready && self.is_suitable()
    }

    pub(super) fn pair(&self, image: &ImageRef) -> Option<&Pair> {
        let at = self.pairs.binary_search_by(|p| p.entry.image.cmp(image));
        self.pairs.get(at.ok()?)
    }

    pub(super) fn image_state(&self, pair: &Pair) -> ImageState {
        let observed = pair.observed.filter(|_| self.is_covered(pair));
        observed.map_or(ImageState::InProgress, |seen| seen.state(&pair.entry))
    }

    /// Whether the last report answers an assignment that contained this entry.
    pub(super) fn is_covered(&self, pair: &Pair) -> bool {
        pair.covered_from.is_reached(self.observed_generation)
            || crate::planted::is("old-report-trusted")
    }

    /// The state of the image in the last report, if that covers the entry.
    pub(super) fn observed(&self, pair: &Pair) -> Option<ObservedImage> {
        pair.observed.filter(|_| self.is_covered(pair))
    }

    /// Whether attempts fail and more of them follow in the same round.
    pub(super) fn is_failing(&self, pair: &Pair) -> bool {
        self.observed(pair).is_some_and(|seen| seen.failing)
    }

    /// What is wrong with an image to pull, by the last report that covers it.
    pub(super) fn trouble(&self, pair: &Pair) -> Option<TroubleKind> {
        let seen = self.observed(pair)?;
        if seen.failing || seen.phase == ImagePhase::Failed {
            let reason = seen.reason.unwrap_or(Reason::Unknown);
            return Some(TroubleKind::of_failure(reason));
        }
        let lost = seen.reason == Some(Reason::Evicted) && seen.phase != ImagePhase::Cached;
        lost.then_some(TroubleKind::Evicted)
    }

    /// The credentials that could not be used for an image that is cached, each with its problem.
    pub(super) fn unused_credentials(&self, image: &ImageRef) -> Option<&str> {
        self.unused_credentials.get(image).map(String::as_str)
    }

    /// Whether the node holds the image as far as known and only has to verify it for that revision.
    pub(super) fn is_verifying(&self, pair: &Pair, entry: &AssignedImage, revision: u64) -> bool {
        let held =
            |seen: ObservedImage| seen.phase == ImagePhase::Cached && seen.revision < revision;
        entry.pull_policy != ImagePullPolicy::Always && pair.observed.is_some_and(held)
    }

    /// Whether the node held the image for its assignment, or began to pull it. Other images are not fledged's.
    pub(super) fn has_held(&self, pair: &Pair) -> bool {
        pair.observed.is_some_and(|seen| seen.held)
    }

    /// The last report of an image, assigned or not, whichever generation it answers.
    pub(super) fn last_reported(&self, image: &ImageRef) -> Option<ObservedImage> {
        let at = self
            .reported
            .binary_search_by(|(known, _)| known.cmp(image));
        self.reported.get(at.ok()?).map(|(_, observed)| *observed)
    }

    /// Stores the report of each image next to its entry, because it is read often.
    fn match_reports(&mut self) {
        let mut reported = self.reported.iter().peekable();
        for pair in &mut self.pairs {
            let image = &pair.entry.image;
            while reported.next_if(|(of, _)| of < image).is_some() {}
            let found = reported.next_if(|(of, _)| of == image);
            pair.observed = found.map(|(_, observed)| *observed);
        }
    }

    /// Replaces the last report. `intern` returns the shared copy of a reference.
    pub(super) fn apply_report(
        &mut self,
        report: NodeReport,
        intern: impl Fn(&ImageRef) -> ImageRef,
        now: Timestamp,
    ) {
        self.last_active_at = now;
        self.unresponsive &= crate::planted::is("unresponsive-for-ever");
        self.observed_generation = report.observed_generation;
        self.reported.clear();
        self.failed.clear();
        self.unused_credentials.clear();
        self.reported.reserve_exact(report.images.len());
        for report in report.images {
            let image = intern(&report.image);
            let observed = ObservedImage::new(&report);
            if report.is_cached_without_credentials() {
                let text = report.message.unwrap_or_default();
                self.unused_credentials.insert(image.clone(), text);
            } else if observed.failing || observed.phase == ImagePhase::Failed {
                self.failed.push(FailedImage {
                    image: image.clone(),
                    reason: report.reason.unwrap_or(Reason::Unknown),
                    message: report.message.unwrap_or_default(),
                });
            }
            self.reported.push((image, observed));
        }
        self.reported.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.match_reports();
    }

    /// Takes the recorded assignment for the written one. Entries that are equal in both keep their
    /// coverage.
    pub(super) fn adopt(
        &mut self,
        assignment: Assignment,
        mut intern: impl FnMut(AssignedImage) -> Arc<AssignedImage>,
    ) {
        let recorded = CoveredFrom::Generation(assignment.generation);
        let mut pairs: Vec<Pair> = Vec::with_capacity(assignment.images.len());
        for image in assignment.images {
            let entry = intern(image);
            let known = self.pair(&entry.image);
            let known = known.filter(|pair| !self.adds_work(pair, &entry));
            let known = known.map(|pair| pair.covered_from);
            pairs.push(Pair {
                covered_from: known
                    .filter(|from| matches!(from, CoveredFrom::Generation(_)))
                    .unwrap_or(recorded),
                entry,
                observed: None,
            });
        }
        self.generation = assignment.generation;
        self.set_pairs(pairs);
    }

    /// Takes over a record and its report as found by a reader, which did not see the history: a final
    /// state is taken to cover its entry even if the report answers an older generation.
    pub(super) fn adopt_record(
        &mut self,
        record: NodeRecord,
        intern: impl FnMut(AssignedImage) -> Arc<AssignedImage>,
        now: Timestamp,
    ) {
        self.adopt(record.assignment, intern);
        let reported_at = record.reported_at;
        if let Some(report) = record.report {
            self.apply_report(report, ImageRef::clone, now);
        }
        for pair in &mut self.pairs {
            let state = pair.observed.map(|seen| seen.state(&pair.entry));
            if state.is_some_and(|state| state != ImageState::InProgress) {
                pair.covered_from = CoveredFrom::Generation(0);
            }
        }
        self.last_active_at = reported_at.max(record.written_at).unwrap_or(now);
    }

    fn set_pairs(&mut self, mut pairs: Vec<Pair>) {
        pairs.sort_by(|a, b| a.entry.image.cmp(&b.entry.image));
        pairs.dedup_by(|a, b| a.entry.image == b.entry.image);
        pairs.shrink_to_fit();
        self.has_removals = pairs.iter().any(|pair| pair.entry.removal.is_some());
        self.pairs = pairs;
        self.match_reports();
    }

    /// Whether writing the entry over the pair gives the node something to do.
    pub(super) fn adds_work(&self, pair: &Pair, entry: &AssignedImage) -> bool {
        let old = &pair.entry;
        let changed = old.pull_secrets != entry.pull_secrets
            || old.service_accounts != entry.service_accounts
            || old.pull_policy != entry.pull_policy
            || old.deadline != entry.deadline;
        asks_more(pair, entry) || (changed && self.image_state(pair) == ImageState::Failed)
    }

    /// Whether exactly these entries are written, in any order.
    pub(super) fn is_written(&self, next: &[Arc<AssignedImage>]) -> bool {
        !self.invalidated
            && next.len() == self.pairs.len()
            && next.iter().all(|entry| {
                self.pair(&entry.image)
                    .is_some_and(|p| Arc::ptr_eq(&p.entry, entry) || p.entry == *entry)
            })
    }

    /// Takes a new assignment for written under a new ticket.
    pub(super) fn write(&mut self, next: &[Arc<AssignedImage>], now: Timestamp) -> u64 {
        self.ticket += 1;
        self.invalidated = false;
        let unacked = CoveredFrom::Ticket(self.ticket);
        let pairs = next.iter().map(|entry| {
            let known = self.pair(&entry.image);
            let known = known.filter(|pair| !self.adds_work(pair, entry));
            Pair {
                entry: Arc::clone(entry),
                covered_from: known.map_or(unacked, |pair| pair.covered_from),
                observed: None,
            }
        });
        let pairs = pairs.collect();
        self.set_pairs(pairs);
        self.last_active_at = now;
        self.ticket
    }

    /// The write with that ticket has succeeded: reports of that generation cover its entries.
    pub(super) fn acknowledge(&mut self, ticket: u64, generation: u64) {
        self.acked_ticket = self.acked_ticket.max(ticket);
        self.generation = generation;
        for pair in &mut self.pairs {
            if matches!(pair.covered_from, CoveredFrom::Ticket(of) if of <= ticket) {
                pair.covered_from = CoveredFrom::Generation(generation);
            }
        }
    }

    /// No result of the last write is expected.
    pub(super) fn acknowledge_delete(&mut self) {
        self.acked_ticket = self.ticket;
    }

    /// Whether the node has not reported on everything in its recorded assignment.
    pub(super) fn awaits_first_report(&self) -> bool {
        !self.is_writing() && self.pairs.iter().any(|pair| !self.is_covered(pair))
    }

    /// When the node has to report at the latest. `None` if it has no work in progress.
    pub(super) fn report_due(&self, limits: &ReportLimits) -> Option<Timestamp> {
        let limit = self.report_limit(limits)?;
        Some(after(self.last_active_at, limit))
    }

    /// How long the node may go without a report.
    fn report_limit(&self, config: &ReportLimits) -> Option<Duration> {
        // Its record may differ from the last assignment.
        if !self.is_reachable() || self.invalidated {
            return None;
        }
        let in_progress = |pair: &&Pair| self.image_state(pair) == ImageState::InProgress;
        let deadline = |pair: &Pair| match pair.entry.state {
            DesiredState::Present => pair.entry.deadline,
            DesiredState::Absent => config.removal,
        };
        let in_progress = self.pairs.iter().filter(in_progress);
        let longest = in_progress.map(deadline).max()?;
        Some(if self.awaits_first_report() {
            config.answer_grace
        } else {
            longest.saturating_add(config.report_grace)
        })
    }

    /// Whether a write has no result yet.
    pub(super) fn is_writing(&self) -> bool {
        self.acked_ticket < self.ticket
    }

    /// The recorded assignment is unknown: the next plan writes it again.
    pub(super) fn invalidate(&mut self) {
        self.acked_ticket = self.ticket;
        self.invalidated = true;
    }

    /// Another program deleted the record. Without a pause, two that disagree would write without end: a garbage
    /// collector, for one, that already knows that the node is gone.
    pub(super) fn record_deleted(&mut self, now: Timestamp) {
        if self.pairs.is_empty() {
            return;
        }
        let again = self
            .deleted_at
            .is_some_and(|at| now < after(at, FORGIVEN_AFTER));
        self.deletions = if again {
            self.deletions.saturating_add(1)
        } else {
            0
        };
        self.deleted_at = Some(now);
        let pause = again.then(|| RECREATED.delay(self.deletions));
        self.recreate_from = pause.map(|pause| after(now, pause));
    }

    /// Its machine is gone. Another one that takes its name holds nothing, and has nothing to remove. It may find the
    /// record and pull its images, so these are not forgotten.
    pub(super) fn machine_gone(&mut self) {
        // No earlier write has reached the other machine.
        self.invalidate();
        let mut pairs = std::mem::take(&mut self.pairs);
        pairs.retain(|pair| pair.entry.state == DesiredState::Present);
        for pair in &mut pairs {
            pair.covered_from = CoveredFrom::Ticket(self.ticket + 1);
        }
        self.reported.clear();
        self.failed.clear();
        self.unused_credentials.clear();
        self.observed_generation = 0;
        self.set_pairs(pairs);
    }

    /// The record is gone, and the report with it. An agent without a record has nothing to answer.
    pub(super) fn clear(&mut self) {
        self.unresponsive = false;
        self.pairs.clear();
        self.has_removals = false;
        self.reported.clear();
        self.failed.clear();
        self.unused_credentials.clear();
        self.observed_generation = 0;
        self.generation = 0;
    }
}

/// Whether the entry asks for more than the pair, whatever the state of the image.
pub(super) fn asks_more(pair: &Pair, entry: &AssignedImage) -> bool {
    pair.entry.state != entry.state || pair.entry.revision < entry.revision
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ImageReport;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn mk_entry(name: &str) -> Arc<AssignedImage> {
        Arc::new(AssignedImage::present(name.parse().unwrap()))
    }

    fn mk_report(names: &[&str]) -> NodeReport {
        let images = names
            .iter()
            .map(|name| ImageReport::new(name.parse().unwrap(), ImagePhase::Cached));
        NodeReport::new(1, images)
    }

    fn cached(node: &NodeState) -> Vec<&str> {
        let pairs = node.pairs.iter();
        let cached = pairs.filter(|pair| node.image_state(pair) == ImageState::Cached);
        cached.map(|pair| pair.entry.image.original()).collect()
    }

    #[test]
    fn reports_apply_to_entries_written_before_and_after() {
        let mut node = NodeState::new(NOW);
        let report = |node: &mut NodeState, names: &[&str]| {
            node.apply_report(mk_report(names), ImageRef::clone, NOW);
        };
        let write = |node: &mut NodeState, names: &[&str]| {
            let next: Vec<_> = names.iter().map(|name| mk_entry(name)).collect();
            let ticket = node.write(&next, NOW);
            node.acknowledge(ticket, 1);
        };
        // A report with another spelling, another order, and unassigned images.
        report(&mut node, &["d", "docker.io/library/b", "a"]);
        write(&mut node, &["c", "b", "d"]);
        assert_eq!(cached(&node), ["b", "d"]);
        write(&mut node, &["e", "a"]);
        assert_eq!(cached(&node), ["a"]);
        report(&mut node, &["e", "z"]);
        assert_eq!(cached(&node), ["e"]);
        node.clear();
        write(&mut node, &["e"]);
        assert_eq!(cached(&node), [""; 0]);
    }
}
