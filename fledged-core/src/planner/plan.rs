//! What is written to one node next: what it should hold, as far as the rollout's budget allows.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::cache::{CacheState, Fate};
use super::config::CONCURRENT_NODES;
use super::event::ClusterCommand;
use super::node::{NodeState, Pair, Standing, asks_more};
use super::planner::Planner;
use crate::model::{AssignedImage, CacheId, DesiredState, ImagePullPolicy, ImageRef, NodeName};

/// What keeps a pull from being asked for.
enum Obstacle {
    /// The node can't act; it is planned again when it can.
    Unreachable,
    /// The cluster's slots are taken.
    Cluster,
    /// The slots of a cache are taken.
    Cache(Arc<CacheId>),
}

impl Planner {
    /// Folds the node anew and adds it up, without writing.
    pub(super) fn look_at(&mut self, name: &NodeName, now: Timestamp) {
        let Some(mut node) = self.nodes.remove(name) else {
            return;
        };
        node.wanted = self.fold(&node);
        self.assess(name, &mut node, now);
        self.nodes.insert(name.clone(), node);
    }

    /// Writes what the node should hold, if that is not what stands written.
    pub(super) fn plan(&mut self, name: &NodeName, now: Timestamp) {
        let Some(mut node) = self.nodes.remove(name) else {
            return;
        };
        let (next, obstacles) = match node.is_suitable() {
            true => self.next(&node),
            false => (Vec::new(), Vec::new()),
        };
        for obstacle in obstacles {
            match obstacle {
                Obstacle::Unreachable => {}
                Obstacle::Cluster => {
                    self.waiting.insert(name.clone());
                }
                Obstacle::Cache(id) => {
                    if let Some(cache) = self.caches.get_mut(&id) {
                        cache.waiting.insert(name.clone());
                    }
                }
            }
        }
        if !node.is_written(&next) {
            let ticket = node.write(&next, now);
            let node_name = name.clone();
            self.queue.push(match next.is_empty() {
                true => {
                    // What it said is forgotten once its record is gone, not before: if it is
                    // written again as it stands, nobody says anything anew.
                    // There is nothing left for it to speak about.
                    node.silent = false;
                    node.answered = ticket;
                    ClusterCommand::DeleteAssignment {
                        node: node_name,
                        ticket,
                    }
                }
                false => ClusterCommand::WriteAssignment {
                    node: node_name,
                    ticket,
                    images: next.iter().map(|entry| (**entry).clone()).collect(),
                },
            });
            self.assess(name, &mut node, now);
        }
        if node.facts.is_some() || !node.pairs.is_empty() {
            self.nodes.insert(name.clone(), node);
        }
    }

    fn next(&mut self, node: &NodeState) -> (Vec<Arc<AssignedImage>>, Vec<Obstacle>) {
        let mut next = Vec::with_capacity(node.wanted.len().max(node.pairs.len()));
        let mut obstacles = Vec::new();
        let mut found = 0;
        for entry in node.wanted.iter() {
            let pair = node.pair(&entry.image);
            found += usize::from(pair.is_some());
            let entry = &self.revised(node, pair, entry);
            // A node that can't act may be told how to do better at what it was asked for before.
            let pulls = pair.is_none_or(|pair| match node.is_reachable() {
                true => node.renews(pair, entry),
                false => asks_more(pair, entry),
            });
            let obstacle = pulls.then(|| self.obstacle(node, entry)).flatten();
            match obstacle {
                None => next.push(Arc::clone(entry)),
                Some(obstacle) => {
                    obstacles.push(obstacle);
                    // What the node was asked for before goes on.
                    let before = pair.filter(|p| p.entry.state == DesiredState::Present);
                    next.extend(before.map(|p| Arc::clone(&p.entry)));
                }
            }
        }
        if found < node.pairs.len() {
            let wanted: BTreeSet<&ImageRef> = node.wanted.iter().map(|e| &e.image).collect();
            for pair in &node.pairs {
                if !wanted.contains(&pair.entry.image) {
                    next.extend(self.unwanted(node, pair));
                }
            }
        }
        for image in self.to_remove(node) {
            let absent = AssignedImage::absent(image);
            next.push(self.interner.entry(absent));
        }
        (next, obstacles)
    }

    /// What a purge or deletion under way lists for that node and nobody asked it for yet: it may be
    /// there all the same, pulled by the kubelet or before anybody kept records.
    fn to_remove(&self, node: &NodeState) -> Vec<ImageRef> {
        let mut images: Vec<ImageRef> = Vec::new();
        for cache in self.caches.values().filter(|_| node.is_reachable()) {
            for image in cache.removing_from(node) {
                let wanted = || node.wanted.iter().any(|entry| entry.image == *image);
                if node.pair(image).is_none() && !images.contains(image) && !wanted() {
                    images.push(image.clone());
                }
            }
        }
        images
    }

    /// The revision that is asked of a node. Of what does not move it says to look again, or to try
    /// again once a refresh by the interval finds that it has failed; it never falls from then on.
    pub(super) fn revision_for(&self, node: &NodeState, pair: &Pair, entry: &AssignedImage) -> u64 {
        let moves = entry.pull_policy == ImagePullPolicy::Always;
        if moves || pair.entry.state == DesiredState::Absent {
            return entry.revision;
        }
        let asked = pair.entry.revision.max(entry.revision);
        if node.standing(pair) != Standing::Failed {
            return asked;
        }
        let retry = |id: &CacheId| self.caches.get(id).map_or(0, |cache| cache.retry());
        entry.wanted_by.iter().map(retry).fold(asked, u64::max)
    }

    /// The entry with the revision that is asked of that node.
    fn revised(
        &mut self,
        node: &NodeState,
        pair: Option<&Pair>,
        entry: &Arc<AssignedImage>,
    ) -> Arc<AssignedImage> {
        let pair = pair.filter(|p| p.entry.state == DesiredState::Present);
        let revision = pair.map_or(0, |pair| self.revision_for(node, pair, entry));
        if revision <= entry.revision {
            return Arc::clone(entry);
        }
        let revised = AssignedImage {
            revision,
            ..(**entry).clone()
        };
        self.interner.entry(revised)
    }

    /// What is said of an image that stands written and that no cache wants any more.
    fn unwanted(&mut self, node: &NodeState, pair: &Pair) -> Option<Arc<AssignedImage>> {
        if pair.entry.state == DesiredState::Absent {
            let gone = node.standing(pair) == Standing::Removed;
            // Until the action is over, so that it is not asked for again.
            let image = &pair.entry.image;
            let mut caches = self.caches.values();
            let needed = |c: &CacheState| c.removing_from(node).any(|listed| listed == image);
            let kept = !gone || caches.any(needed);
            return kept.then(|| Arc::clone(&pair.entry));
        }
        // A cache that nobody knows of was deleted while nobody looked: it left its images.
        let fate = |id| {
            let cache = self.caches.get(id);
            // A taint keeps from coming what is not there; it takes nothing away, as with pods.
            let repelled = |c: &&CacheState| c.repelled(node, &pair.entry.image);
            match cache.filter(repelled) {
                Some(_) => Fate::Forget,
                None => cache.map_or(Fate::Forget, |c| c.fate()),
            }
        };
        let removed = pair.entry.wanted_by.iter().map(fate);
        let removed = removed.into_iter().any(|fate| fate == Fate::Remove);
        removed.then(|| {
            let absent = AssignedImage::absent(pair.entry.image.clone());
            self.interner.entry(absent)
        })
    }

    /// What keeps that pull from being asked for now. A node that has a slot keeps it for whatever
    /// else it is to pull.
    fn obstacle(&self, node: &NodeState, entry: &AssignedImage) -> Option<Obstacle> {
        if !node.is_reachable() {
            return Some(Obstacle::Unreachable);
        }
        for id in &entry.wanted_by {
            let holds = |(known, tally): &(Arc<CacheId>, super::tally::Tally)| {
                **known == *id && tally.under_way > 0
            };
            if let Some((id, cache)) = self.caches.get_key_value(id)
                && !cache.has_slot()
                && !node.tallies.iter().any(holds)
            {
                return Some(Obstacle::Cache(Arc::clone(id)));
            }
        }
        (!node.active && !self.has_slot()).then_some(Obstacle::Cluster)
    }

    fn has_slot(&self) -> bool {
        let nodes = self.known_nodes;
        let limit = self.config.max_concurrent_nodes.of(nodes);
        self.active < limit.unwrap_or(CONCURRENT_NODES)
    }

    /// Gives free slots to nodes that wait, in the order of their names.
    pub(super) fn fill_slots(&mut self, now: Timestamp) {
        loop {
            while let Some(id) = self.freed.pop_first() {
                while let Some(name) = self.next_waiting(&id) {
                    self.plan(&name, now);
                }
            }
            if !self.has_slot() {
                return;
            }
            let Some(name) = self.waiting.pop_first() else {
                return;
            };
            self.plan(&name, now);
        }
    }

    fn next_waiting(&mut self, id: &CacheId) -> Option<NodeName> {
        let cache = self.caches.get_mut(id)?;
        match cache.has_slot() {
            true => cache.waiting.pop_first(),
            false => None,
        }
    }
}
