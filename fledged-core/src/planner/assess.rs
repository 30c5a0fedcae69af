//! Where one node's images stand, added up for its caches.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::node::{NodeState, Pair, Standing};
use super::planner::Planner;
use super::tally::Tally;
use crate::model::{CacheId, DesiredState, NodeName};
use crate::warmer::time::after;

impl Planner {
    /// Adds the node up anew and brings every sum that it is part of up to date.
    pub(super) fn assess(&mut self, name: &NodeName, node: &mut NodeState, now: Timestamp) {
        let tallies = self.tallies(node);
        // Also with what nobody wants any more: it is pulled until that is written.
        let pulls = |pair: &Pair| {
            pair.entry.state == DesiredState::Present && node.standing(pair) == Standing::Unsettled
        };
        let active = node.is_reachable() && node.pairs.iter().any(pulls);
        self.active = self.active + usize::from(active) - usize::from(node.active);
        node.active = active;
        self.watch(name, node, now);
        let old = std::mem::replace(&mut node.tallies, tallies);
        let failing = !node.failed.is_empty();
        for (id, share) in &old {
            let unchanged = node.tallies.iter().any(|(k, t)| k == id && t == share);
            if !unchanged || failing {
                self.dirty_caches.insert(Arc::clone(id));
            }
            let Some(cache) = self.caches.get_mut(id) else {
                continue;
            };
            cache.totals.take(*share);
            cache.failing.remove(name);
            if share.under_way > 0 {
                self.freed.insert(Arc::clone(id));
            }
        }
        for (id, share) in &node.tallies {
            if !old.iter().any(|(known, _)| known == id) {
                self.dirty_caches.insert(Arc::clone(id));
                // A percentage of more nodes is a greater limit.
                self.freed.insert(Arc::clone(id));
            }
            let Some(cache) = self.caches.get_mut(id) else {
                continue;
            };
            cache.totals.add(*share);
            if share.failed + share.stuck + share.failing > 0 {
                cache.failing.insert(name.clone());
            }
        }
    }

    fn tallies(&self, node: &NodeState) -> Vec<(Arc<CacheId>, Tally)> {
        let reachable = node.is_reachable();
        let mut tallies: BTreeMap<&CacheId, Tally> = BTreeMap::new();
        for entry in node.wanted.iter() {
            let pair = node
                .pair(&entry.image)
                .filter(|p| p.entry.state == DesiredState::Present);
            let standing = pair.map(|p| node.standing(p));
            let under_way = reachable && standing == Some(Standing::Unsettled);
            let asked = pair.map_or(0, |p| self.revision_for(node, p, entry));
            let due = pair.is_none_or(|p| node.renews(p, entry) || asked > p.entry.revision);
            let verifies = pair.is_some_and(|p| node.verifies(p, entry, asked));
            for id in &entry.wanted_by {
                let tally = tallies.entry(id).or_default();
                tally.desired += 1;
                tally.under_way += u64::from(under_way);
                match standing {
                    _ if !reachable => tally.unreachable += 1,
                    _ if verifies => {
                        tally.cached += 1;
                        tally.verifying += 1;
                    }
                    _ if due => tally.pulling += 1,
                    Some(Standing::Cached) => tally.cached += 1,
                    Some(Standing::Failed) => tally.failed += 1,
                    _ => {
                        tally.pulling += 1;
                        tally.failing += u64::from(pair.is_some_and(|p| node.is_failing(p)));
                    }
                }
            }
        }
        let removing = self.caches.iter().filter_map(|(id, cache)| {
            let facts = node.facts.as_ref()?;
            Self::is_purged_from(cache, facts).then_some((id, cache.removes()?))
        });
        for (id, spec) in removing {
            let tally = tallies.entry(id).or_default();
            let Some(facts) = node.facts.as_ref() else {
                continue;
            };
            tally.away += u64::from(!reachable);
            let groups = spec.groups.iter().filter(|group| group.matches(facts));
            for image in groups.flat_map(|group| &group.images) {
                let Some(pair) = node.pair(image).filter(|_| reachable) else {
                    continue;
                };
                if pair.entry.state == DesiredState::Present {
                    tally.shared += 1;
                    continue;
                }
                match node.standing(pair) {
                    Standing::Removed => {}
                    Standing::Kept => tally.kept += 1,
                    Standing::Failed => tally.stuck += 1,
                    Standing::Unsettled | Standing::Cached => tally.removing += 1,
                }
            }
        }
        let shared = |id: &CacheId| self.caches.get_key_value(id).map(|(id, _)| Arc::clone(id));
        let tallies = tallies
            .into_iter()
            .filter_map(|(id, tally)| Some((shared(id)?, tally)));
        tallies.collect()
    }

    /// A node that has something to do is expected to say something.
    fn watch(&mut self, name: &NodeName, node: &mut NodeState, now: Timestamp) {
        let busy = node.is_reachable()
            && node
                .pairs
                .iter()
                .any(|pair| node.standing(pair) == Standing::Unsettled);
        let config = &self.config;
        let longest = match node.is_unanswered() {
            // Whoever is there answers an assignment at once.
            true => config.answer_grace,
            false => config.defaults.deadline.saturating_add(config.report_grace),
        };
        let at = busy.then(|| after(node.heard_at, longest).max(now));
        if at != node.silence_at {
            if let Some(old) = node.silence_at {
                self.silences.remove(&(old, name.clone()));
            }
            if let Some(at) = at {
                self.silences.insert((at, name.clone()));
            }
            node.silence_at = at;
        }
    }
}
