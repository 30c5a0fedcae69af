//! What a node should hold: the fold of all caches that match it, kept once for all nodes alike.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cache::{CacheState, Fate};
use super::node::{NodeState, Wanted};
use super::planner::Planner;
use crate::model::{AssignedImage, Assignment, CacheId, DesiredState, ImagePullPolicy, ImageRef};

/// Groups of caches that a node matches; equal for nodes that should hold the same.
pub(super) type ShapeKey = Vec<(Arc<CacheId>, usize)>;

/// Most shapes that are kept between changes of a cache; a cluster has few kinds of nodes.
const SHAPES_MAX: usize = 1_024;

/// Keeps one copy of everything that many nodes have alike.
#[derive(Debug, Default)]
pub(super) struct Interner(BTreeMap<ImageRef, Vec<Arc<AssignedImage>>>);

impl Interner {
    /// The one copy of an entry.
    pub(super) fn entry(&mut self, entry: AssignedImage) -> Arc<AssignedImage> {
        let variants = self.0.entry(entry.image.clone()).or_default();
        if let Some(known) = variants.iter().find(|known| ***known == entry) {
            return Arc::clone(known);
        }
        variants.retain(|known| Arc::strong_count(known) > 1);
        let entry = Arc::new(entry);
        variants.push(Arc::clone(&entry));
        entry
    }

    /// The one copy of a reference, if there is any.
    pub(super) fn image(&self, image: &ImageRef) -> ImageRef {
        let known = self.0.get_key_value(image);
        known.map_or(image, |(known, _)| known).clone()
    }

    /// Forgets what nobody uses any more.
    pub(super) fn sweep(&mut self) {
        self.0.retain(|_, variants| {
            variants.retain(|known| Arc::strong_count(known) > 1);
            !variants.is_empty()
        });
    }
}

impl Planner {
    /// What that node should hold now, whether or not it can act.
    pub(super) fn fold(&mut self, node: &NodeState) -> Wanted {
        let Some(facts) = node.facts.as_ref().filter(|_| node.is_suitable()) else {
            return self.fold_unsuitable(node);
        };
        let mut key: ShapeKey = Vec::new();
        for (id, cache) in &self.caches {
            let groups = cache.wants().map_or(&[][..], |spec| &spec.groups);
            for (at, group) in groups.iter().enumerate() {
                if group.matches(facts) {
                    key.push((Arc::clone(id), at));
                }
            }
        }
        let shape = match self.shapes.get(&key) {
            Some(shape) => Arc::clone(shape),
            None => {
                let folded = self.fold_caches(facts);
                let shape: Wanted = folded.into_iter().map(|e| self.interner.entry(e)).collect();
                if self.shapes.len() >= SHAPES_MAX {
                    self.shapes.clear();
                }
                self.shapes.insert(key, Arc::clone(&shape));
                shape
            }
        };
        self.with_frozen(node, shape)
    }

    /// A node that can hold no images is still counted for the caches that mean it.
    fn fold_unsuitable(&mut self, node: &NodeState) -> Wanted {
        let Some(facts) = node.facts.as_ref() else {
            return Arc::from([]);
        };
        let folded = self.fold_caches(facts);
        folded.into_iter().map(|e| self.interner.entry(e)).collect()
    }

    fn fold_caches(&self, facts: &crate::model::NodeFacts) -> Vec<AssignedImage> {
        let caches = self.caches.values().filter_map(|cache| cache.wants());
        let caches = caches.map(Arc::as_ref);
        let mut images = Assignment::for_node(facts, caches, self.config.defaults).images;
        for entry in &mut images {
            entry.revision = self.revision(entry);
        }
        images
    }

    /// The last refresh of any cache that wants it; of what does not move, the last on demand: lost
    /// images are found by the nodes themselves. Being a moment, it grows from one refresh to the next
    /// whichever cache it is of.
    fn revision(&self, entry: &AssignedImage) -> u64 {
        let of = |cache: &CacheState| match entry.pull_policy {
            ImagePullPolicy::Always => cache.revision,
            ImagePullPolicy::IfNotPresent => cache.verify,
        };
        let of = |id: &CacheId| self.caches.get(id).map(of);
        entry.wanted_by.iter().filter_map(of).max().unwrap_or(0)
    }

    /// Adds what stands recorded for caches of which nobody knows what they want now.
    fn with_frozen(&mut self, node: &NodeState, shape: Wanted) -> Wanted {
        let is_frozen = |id: &CacheId| {
            self.caches
                .get(id)
                .is_some_and(|cache| cache.fate() == Fate::Frozen)
        };
        let mut wanted: Option<Vec<Arc<AssignedImage>>> = None;
        let mut made = Vec::new();
        if !self.caches.values().any(|c| c.fate() == Fate::Frozen) {
            return shape;
        }
        for pair in &node.pairs {
            let present = pair.entry.state == DesiredState::Present;
            let by = pair.entry.wanted_by.iter().filter(|id| is_frozen(id));
            let by: Vec<CacheId> = by.cloned().collect();
            if present && !by.is_empty() {
                made.push((&pair.entry, by));
            }
        }
        for (recorded, by) in made {
            let wanted = wanted.get_or_insert_with(|| shape.to_vec());
            let place = wanted.iter().position(|e| e.image == recorded.image);
            let known = place.and_then(|at| wanted.get(at));
            let mut entry = known.map_or_else(|| (**recorded).clone(), |e| (**e).clone());
            if known.is_none() {
                entry.wanted_by.clear();
            }
            entry.wanted_by.extend(by);
            entry.wanted_by.sort();
            entry.wanted_by.dedup();
            let entry = self.interner.entry(entry);
            match place.and_then(|at| wanted.get_mut(at)) {
                Some(slot) => *slot = entry,
                None => wanted.push(entry),
            }
        }
        wanted.map_or(shape, Arc::from)
    }
}
