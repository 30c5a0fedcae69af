//! One node: what it is, what stands recorded for it, and what it says.

use std::sync::Arc;

use jiff::Timestamp;

use super::tally::Tally;
use crate::error::Reason;
use crate::model::{
    AssignedImage, Assignment, CacheId, DesiredState, ImagePhase, ImagePullPolicy, ImageRef,
    ImageReport, NodeFacts, NodeReport,
};

/// Marks a generation that is not known yet; the rest is the ticket of the write.
const UNCONFIRMED: u64 = 1 << 63;

/// What a node should hold, in order; shared by all nodes that match the same groups.
pub(super) type Wanted = Arc<[Arc<AssignedImage>]>;

/// One image of the assignment as it was last written.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) entry: Arc<AssignedImage>,
    /// The generation from which on a report answers it.
    pub(super) since: u64,
    /// What the node says of it.
    said: Option<Said>,
}

/// What a node says of one image; texts are kept of failures only.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Said {
    phase: ImagePhase,
    revision: u64,
    /// Whether attempts at it fail, and another follows or is under way.
    failing: bool,
}

/// An image that failed, or fails for now.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FailedImage {
    pub(super) image: ImageRef,
    pub(super) reason: Reason,
    pub(super) message: String,
}

/// Where one written image stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not where it is to be yet, or not reported.
    Unsettled,
    Cached,
    Failed,
    Removed,
    /// To be removed, but in use.
    Kept,
}

#[derive(Debug)]
pub(super) struct NodeState {
    pub(super) facts: Option<NodeFacts>,
    pub(super) wanted: Wanted,
    /// By image.
    pub(super) pairs: Vec<Pair>,
    /// Of the last write, or of what was found recorded.
    pub(super) generation: u64,
    pub(super) ticket: u64,
    /// The ticket of the last write that was answered.
    pub(super) answered: u64,
    /// Whether it has to be written again, although it looks written.
    outdated: bool,
    observed: u64,
    /// By image, also of what is not written any more.
    reported: Vec<(ImageRef, Said)>,
    pub(super) failed: Vec<FailedImage>,
    pub(super) silent: bool,
    /// When it last said something, or was last given a reason to.
    pub(super) heard_at: Timestamp,
    pub(super) silence_at: Option<Timestamp>,
    pub(super) tallies: Vec<(Arc<CacheId>, Tally)>,
    /// Whether it holds one of the cluster's slots.
    pub(super) active: bool,
}

impl NodeState {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            facts: None,
            wanted: Arc::from([]),
            pairs: Vec::new(),
            generation: 0,
            ticket: 0,
            answered: 0,
            outdated: false,
            observed: 0,
            reported: Vec::new(),
            failed: Vec::new(),
            silent: false,
            heard_at: now,
            silence_at: None,
            tallies: Vec::new(),
            active: false,
        }
    }

    /// Whether it can hold images at all.
    pub(super) fn is_suitable(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.os == "linux")
    }

    /// Whether it can act now.
    pub(super) fn is_reachable(&self) -> bool {
        self.is_suitable() && !self.silent && self.facts.as_ref().is_some_and(|facts| facts.ready)
    }

    pub(super) fn pair(&self, image: &ImageRef) -> Option<&Pair> {
        let at = self.pairs.binary_search_by(|p| p.entry.image.cmp(image));
        self.pairs.get(at.ok()?)
    }

    pub(super) fn standing(&self, pair: &Pair) -> Standing {
        if self.observed < pair.since {
            return Standing::Unsettled;
        }
        let Some(said) = pair.said else {
            return Standing::Unsettled;
        };
        let fresh = said.revision >= pair.entry.revision;
        match (pair.entry.state, said.phase) {
            (_, ImagePhase::Failed) => Standing::Failed,
            (DesiredState::Present, ImagePhase::Cached) if fresh => Standing::Cached,
            (DesiredState::Absent, ImagePhase::Removed) => Standing::Removed,
            (DesiredState::Absent, ImagePhase::InUse) => Standing::Kept,
            _ => Standing::Unsettled,
        }
    }

    /// Whether attempts at it fail, and another follows within the round.
    pub(super) fn is_failing(&self, pair: &Pair) -> bool {
        let said = pair.said.filter(|_| self.observed >= pair.since);
        said.is_some_and(|said| said.failing)
    }

    /// Whether it holds the image as far as is known, and only has to be sure of it for that revision.
    pub(super) fn verifies(&self, pair: &Pair, entry: &AssignedImage, revision: u64) -> bool {
        let moves = entry.pull_policy == ImagePullPolicy::Always;
        let held = |said: Said| said.phase == ImagePhase::Cached && said.revision < revision;
        !moves && pair.said.is_some_and(held)
    }

    /// Puts what it says of each image beside what is written: it is asked for again and again.
    fn match_up(&mut self) {
        let mut reported = self.reported.iter().peekable();
        for pair in &mut self.pairs {
            let image = &pair.entry.image;
            while reported.next_if(|(said_of, _)| said_of < image).is_some() {}
            let said = reported.next_if(|(said_of, _)| said_of == image);
            pair.said = said.map(|(_, said)| *said);
        }
    }

    /// What it says now. `intern` gives the one copy of a reference that is kept.
    pub(super) fn hear(
        &mut self,
        report: NodeReport,
        intern: impl Fn(&ImageRef) -> ImageRef,
        now: Timestamp,
    ) {
        self.heard_at = now;
        self.silent = false;
        self.observed = report.observed_generation;
        self.reported.clear();
        self.failed.clear();
        self.reported.reserve_exact(report.images.len());
        for said in report.images {
            let image = intern(&said.image);
            let failing = is_failing(&said);
            if failing || said.phase == ImagePhase::Failed {
                self.failed.push(FailedImage {
                    image: image.clone(),
                    reason: said.reason.unwrap_or(Reason::Unknown),
                    message: said.message.unwrap_or_default(),
                });
            }
            let said = Said {
                phase: said.phase,
                revision: said.revision.unwrap_or(0),
                failing,
            };
            self.reported.push((image, said));
        }
        self.reported.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.match_up();
    }

    /// Takes what stands recorded for what was written. Only what is the same in both keeps its
    /// standing.
    pub(super) fn adopt(
        &mut self,
        assignment: Assignment,
        mut intern: impl FnMut(AssignedImage) -> Arc<AssignedImage>,
    ) {
        let generation = assignment.generation;
        let mut pairs: Vec<Pair> = Vec::with_capacity(assignment.images.len());
        for image in assignment.images {
            let entry = intern(image);
            let known = self.pair(&entry.image).filter(|p| !self.renews(p, &entry));
            let since = known
                .map(|p| p.since)
                .filter(|since| since & UNCONFIRMED == 0);
            pairs.push(Pair {
                since: since.unwrap_or(generation),
                entry,
                said: None,
            });
        }
        self.generation = generation;
        self.set_pairs(pairs);
    }

    fn set_pairs(&mut self, mut pairs: Vec<Pair>) {
        pairs.sort_by(|a, b| a.entry.image.cmp(&b.entry.image));
        pairs.dedup_by(|a, b| a.entry.image == b.entry.image);
        pairs.shrink_to_fit();
        self.pairs = pairs;
        self.match_up();
    }

    /// Whether the node has something new to do when that entry is written over the pair.
    pub(super) fn renews(&self, pair: &Pair, entry: &AssignedImage) -> bool {
        let old = &pair.entry;
        let mended = old.pull_secrets != entry.pull_secrets
            || old.service_accounts != entry.service_accounts
            || old.pull_policy != entry.pull_policy
            || old.deadline != entry.deadline;
        asks_more(pair, entry) || (mended && self.standing(pair) == Standing::Failed)
    }

    /// Whether exactly this stands written, in whatever order.
    pub(super) fn is_written(&self, next: &[Arc<AssignedImage>]) -> bool {
        !self.outdated
            && next.len() == self.pairs.len()
            && next.iter().all(|entry| {
                self.pair(&entry.image)
                    .is_some_and(|p| Arc::ptr_eq(&p.entry, entry) || p.entry == *entry)
            })
    }

    /// Takes a new assignment as written under a new ticket.
    pub(super) fn write(&mut self, next: &[Arc<AssignedImage>], now: Timestamp) -> u64 {
        self.ticket += 1;
        self.outdated = false;
        let pairs = next.iter().map(|entry| {
            let known = self.pair(&entry.image).filter(|p| !self.renews(p, entry));
            Pair {
                entry: Arc::clone(entry),
                since: known.map_or(UNCONFIRMED | self.ticket, |p| p.since),
                said: None,
            }
        });
        let pairs = pairs.collect();
        self.set_pairs(pairs);
        self.heard_at = now;
        self.ticket
    }

    /// A write was answered: reports of that generation answer it.
    pub(super) fn confirm(&mut self, ticket: u64, generation: u64) {
        self.answered = self.answered.max(ticket);
        self.generation = generation;
        for pair in &mut self.pairs {
            if pair.since & UNCONFIRMED != 0 && pair.since & !UNCONFIRMED <= ticket {
                pair.since = generation;
            }
        }
    }

    /// Whether something was assigned that it has not said a word about.
    pub(super) fn is_unanswered(&self) -> bool {
        !self.is_writing() && self.pairs.iter().any(|pair| self.observed < pair.since)
    }

    /// Whether a write is not answered yet.
    pub(super) fn is_writing(&self) -> bool {
        self.answered < self.ticket
    }

    /// What stands written is not known any more; what was asked for is asked for again.
    pub(super) fn unwrite(&mut self) {
        self.answered = self.ticket;
        self.outdated = true;
    }

    /// Forgets what was written and said: the record is gone.
    pub(super) fn forget(&mut self) {
        self.pairs.clear();
        self.reported.clear();
        self.failed.clear();
        self.observed = 0;
        self.generation = 0;
    }
}

/// Whether the entry asks for more than the pair, wherever that stands.
pub(super) fn asks_more(pair: &Pair, entry: &AssignedImage) -> bool {
    pair.entry.state != entry.state || pair.entry.revision < entry.revision
}

/// Whether attempts at an image fail. While the next one is under way, the last has still failed: where a
/// kubelet pulls, it may be under way for minutes.
fn is_failing(said: &ImageReport) -> bool {
    match said.phase {
        ImagePhase::BackingOff => true,
        ImagePhase::Pulling => {
            said.attempts > 1 && said.reason.is_some_and(|reason| reason != Reason::Evicted)
        }
        _ => false,
    }
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
        NodeReport {
            observed_generation: 1,
            inventory_at: None,
            images: images.collect(),
        }
    }

    fn cached(node: &NodeState) -> Vec<&str> {
        let pairs = node.pairs.iter();
        let cached = pairs.filter(|pair| node.standing(pair) == Standing::Cached);
        cached.map(|pair| pair.entry.image.original()).collect()
    }

    #[test]
    fn what_a_node_says_counts_whether_it_is_written_before_or_after() {
        let mut node = NodeState::new(NOW);
        let hear = |node: &mut NodeState, names: &[&str]| {
            node.hear(mk_report(names), ImageRef::clone, NOW);
        };
        let write = |node: &mut NodeState, names: &[&str]| {
            let next: Vec<_> = names.iter().map(|name| mk_entry(name)).collect();
            let ticket = node.write(&next, NOW);
            node.confirm(ticket, 1);
        };
        // In other words, in any order, and with what nobody asked about.
        hear(&mut node, &["d", "docker.io/library/b", "a"]);
        write(&mut node, &["c", "b", "d"]);
        assert_eq!(cached(&node), ["b", "d"]);
        write(&mut node, &["e", "a"]);
        assert_eq!(cached(&node), ["a"]);
        hear(&mut node, &["e", "z"]);
        assert_eq!(cached(&node), ["e"]);
        node.forget();
        write(&mut node, &["e"]);
        assert_eq!(cached(&node), [""; 0]);
    }
}
