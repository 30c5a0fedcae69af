//! The invariants of every poll, checked against the state of the nodes rather than the planner's totals: the limit
//! of nodes that pull, and that every reachable node has verified its images when a refresh on demand ends.

use std::collections::BTreeSet;

use fledged_core::model::{
    AssignedImage, Assignment, CacheId, DesiredState, ImagePhase, ImagePullPolicy, NodeFacts,
    NodeName, RemovalCause,
};
use fledged_core::planner::CacheStatus;

use super::{World, mk_id};

/// A requested refresh that has not ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct PendingRefresh {
    step: u64,
    /// The verify revision before the request.
    revision: u64,
}

impl World {
    /// Records a refresh that is about to be requested.
    pub(crate) fn note_request(&mut self, name: &str) {
        let Some(facts) = self.caches.get(&mk_id(name)) else {
            return;
        };
        if !facts.refresh_requested {
            self.step += 1;
            let asked = PendingRefresh {
                step: self.step,
                revision: facts.status.as_ref().map_or(0, |s| s.verify_revision),
            };
            self.requests.insert(facts.id.clone(), asked);
        }
    }

    /// Checks requested refreshes against a status before it is recorded.
    pub(crate) fn check_request(&mut self, id: &CacheId, status: &CacheStatus) {
        let known = self.caches.get(id).and_then(|facts| facts.status.as_ref());
        let ends = status.completion_time.is_some()
            && known.is_none_or(|known| {
                known.completion_time.is_none() || known.start_time != status.start_time
            });
        let asked = self.requests.get(id).copied();
        let Some(asked) = asked.filter(|a| ends && status.verify_revision > a.revision) else {
            return;
        };
        self.requests.remove(id);
        for (name, facts) in &self.nodes {
            let known_unresponsive = self.active_at.get(name).copied().flatten().is_none();
            // After this time the node may count as unresponsive until it reports.
            let limit = self.config.answer_grace;
            let may_be = self
                .reported_at
                .get(name)
                .is_none_or(|at| *at + limit <= self.now);
            let unresponsive = known_unresponsive || may_be;
            if !facts.ready || facts.os != "linux" || unresponsive {
                continue;
            }
            let mut wanted = self.expected(facts);
            wanted.retain(|entry| entry.wanted_by.contains(id));
            for entry in wanted {
                let looked = self.agents[name].looked.get(&entry.image);
                assert!(
                    looked.is_some_and(|step| *step > asked.step),
                    "the refresh of {id} ended before {name} verified {}",
                    entry.image
                );
            }
        }
    }

    /// Checks that every reachable node is assigned the requested revisions.
    pub(crate) fn check_revisions(&self) {
        for (name, facts) in &self.nodes {
            let Some(record) = self.records.get(name).filter(|_| facts.ready) else {
                continue;
            };
            for entry in &record.images {
                let of = |id| Some(self.caches.get(id)?.status.as_ref()?.verify_revision);
                let asked = entry.wanted_by.iter().filter_map(of).max().unwrap_or(0);
                let pulled_again = entry.pull_policy == ImagePullPolicy::Always;
                assert!(pulled_again || entry.revision >= asked, "{name}: {entry:?}");
            }
        }
    }

    /// Checks removals before they are recorded: the node held the image, or was ordered to remove it before, and
    /// a cache asks for it that exists or was deleted with its images.
    pub(crate) fn check_removals(&self, node: &NodeName, images: &[AssignedImage]) {
        let record = self.records.get(node);
        for entry in images.iter().filter(|i| i.state == DesiredState::Absent) {
            let mut before = record.into_iter().flat_map(|record| &record.images);
            let before = before.any(|known| known.image == entry.image);
            assert!(before, "{node} never held {}", entry.image);
            let order = entry.removal.as_ref().expect("a removal has a cause");
            let since = order.since.max(self.planner_since);
            assert!(
                since + self.config.removal_limit > self.now || self.is_removed(node, entry),
                "{node}: {} waits for too long",
                entry.image
            );
            let orphan = order.cause == RemovalCause::Deletion;
            let asks = self.caches.contains_key(&order.cache);
            assert!(
                orphan || asks,
                "{node}: nobody asks to remove {}",
                entry.image
            );
        }
    }

    /// Checks that the record of every node orders the removal of the images that no other cache lists.
    pub(crate) fn check_ordered(&self, id: &CacheId) {
        let others = self.caches.values().filter(|facts| facts.id != *id);
        let groups = others.flat_map(|facts| facts.spec.iter().flat_map(|spec| &spec.groups));
        let listed: BTreeSet<_> = groups.flat_map(|group| &group.images).collect();
        for name in self.nodes.keys() {
            let mut images = self.records.get(name).into_iter().flat_map(|r| &r.images);
            let held = images.find(|e| e.wanted_by.contains(id) && !listed.contains(&e.image));
            assert_eq!(held, None, "the record of {name} still has images of {id}");
        }
    }

    fn is_removed(&self, node: &NodeName, entry: &AssignedImage) -> bool {
        let reported = self.agents.get(node).and_then(|a| a.reported.as_ref());
        let mut images = reported.into_iter().flat_map(|report| &report.images);
        images.any(|seen| seen.image == entry.image && seen.phase == ImagePhase::Removed)
    }

    pub(crate) fn is_active(&self, name: &NodeName) -> bool {
        let can_pull = |facts: &NodeFacts| facts.ready && facts.os == "linux";
        let can_pull = self.nodes.get(name).is_some_and(can_pull);
        let record = self.records.get(name);
        let done = |record| self.agents.get(name).is_some_and(|a| a.is_done(record));
        let pulls = |record: &&Assignment| {
            let mut images = record.images.iter();
            images.any(|i| i.state == DesiredState::Present)
        };
        let at = self.active_at.get(name).copied().flatten();
        // These agents finish all pulls before their first report.
        let limit = self.config.answer_grace;
        let unresponsive = at.is_none_or(|at| at + limit <= self.now);
        can_pull && !unresponsive && record.filter(pulls).is_some_and(|record| !done(record))
    }

    /// Records that a node has to report, unless it already owes a report.
    pub(crate) fn note_reason_to_report(&mut self, name: &NodeName) {
        let limit = self.config.answer_grace;
        let agent = self.agents.get(name);
        let owes = self
            .records
            .get(name)
            .is_some_and(|record| !agent.is_some_and(|a| a.has_answered(record)));
        if let Some(Some(at)) = self.active_at.get_mut(name)
            && (!owes || *at + limit > self.now)
        {
            *at = self.now;
        }
    }

    pub(crate) fn owes_report(&self, name: &NodeName) -> bool {
        let reported = self.agents.get(name).and_then(|a| a.reported.as_ref());
        let observed = reported.map_or(0, |r| r.observed_generation);
        self.records
            .get(name)
            .is_some_and(|r| r.generation > observed)
    }

    pub(crate) fn active(&self) -> usize {
        self.nodes
            .keys()
            .filter(|name| self.is_active(name))
            .count()
    }

    pub(crate) fn check_budget(&mut self) {
        let active = self.active();
        self.most_active = self.most_active.max(active);
        let limit = self
            .config
            .max_concurrent_nodes
            .of(self.nodes.len())
            .unwrap();
        assert!(active <= limit, "{active} nodes pull, the limit is {limit}");
    }
}
