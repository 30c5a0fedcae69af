//! The images a node should hold: the union of all caches that match it, computed once for all nodes
//! that match the same groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cache::{CacheState, Caches, OrphanPolicy};
use super::node::{DesiredImages, NodeState};
use crate::model::{
    AssignedImage, Assignment, AssignmentDefaults, CacheId, DesiredState, ImagePullPolicy,
    ImageRef, NodeFacts,
};

/// The groups that a node matches, by cache and index.
type MatchedGroups = Vec<(Arc<CacheId>, usize)>;

/// Most results that are kept between changes of a cache. A cluster has few kinds of nodes.
const RESULTS_MAX: usize = 1_024;

/// Keeps one copy of equal entries and references, which many nodes share.
#[derive(Debug, Default)]
pub(super) struct Interner(BTreeMap<ImageRef, Vec<Arc<AssignedImage>>>);

impl Interner {
    /// The shared copy of an entry.
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

    /// The shared copy of a reference, or a new one.
    pub(super) fn image(&self, image: &ImageRef) -> ImageRef {
        let known = self.0.get_key_value(image);
        known.map_or(image, |(known, _)| known).clone()
    }

    /// Drops what is no longer used.
    pub(super) fn sweep(&mut self) {
        self.0.retain(|_, variants| {
            variants.retain(|known| Arc::strong_count(known) > 1);
            !variants.is_empty()
        });
    }
}

/// Computes desired images, and keeps the results until a cache changes.
#[derive(Debug, Default)]
pub(super) struct Desired(BTreeMap<MatchedGroups, DesiredImages>);

impl Desired {
    /// Drops all results. Called for every change of a cache.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The images that the node should hold, whether or not it can act now.
    pub(super) fn images(
        &mut self,
        node: &NodeState,
        caches: &Caches,
        defaults: AssignmentDefaults,
        interner: &mut Interner,
    ) -> DesiredImages {
        let Some(facts) = &node.facts else {
            return Arc::from([]);
        };
        let mut compute = || -> DesiredImages {
            let images = merge(facts, caches, defaults).into_iter();
            images.map(|entry| interner.entry(entry)).collect()
        };
        if !node.is_suitable() {
            // It can hold no images, but counts as unreachable for the caches that select it.
            return compute();
        }
        let matched = matched_groups(facts, caches);
        let images = match self.0.get(&matched) {
            Some(images) => Arc::clone(images),
            None => {
                let images = compute();
                if self.0.len() >= RESULTS_MAX {
                    self.0.clear();
                }
                self.0.insert(matched, Arc::clone(&images));
                images
            }
        };
        with_frozen(node, images, caches, interner)
    }
}

fn matched_groups(facts: &NodeFacts, caches: &Caches) -> MatchedGroups {
    let mut matched = MatchedGroups::new();
    for (id, cache) in caches {
        let groups = cache.desired_spec().map_or(&[][..], |spec| &spec.groups);
        for (at, group) in groups.iter().enumerate() {
            if group.matches(facts) {
                matched.push((Arc::clone(id), at));
            }
        }
    }
    matched
}

fn merge(facts: &NodeFacts, caches: &Caches, defaults: AssignmentDefaults) -> Vec<AssignedImage> {
    let specs = caches.values().filter_map(CacheState::desired_spec);
    let mut images = Assignment::for_node(facts, specs.map(Arc::as_ref), defaults).images;
    for entry in &mut images {
        entry.revision = revision(entry, caches);
    }
    images
}

/// The last refresh of any cache that lists the image. For an image that is not pulled again, only
/// refreshes on demand count: nodes notice lost images themselves. A revision is a time, so it grows from
/// one refresh to the next, whichever cache it belongs to.
fn revision(entry: &AssignedImage, caches: &Caches) -> u64 {
    let of = |id: &CacheId| {
        let cache = caches.get(id)?;
        Some(match entry.pull_policy {
            ImagePullPolicy::Always => cache.revision,
            ImagePullPolicy::IfNotPresent => cache.verify,
        })
    };
    entry.wanted_by.iter().filter_map(of).max().unwrap_or(0)
}

/// Adds the entries that are recorded for caches whose spec became invalid: these keep their images.
fn with_frozen(
    node: &NodeState,
    images: DesiredImages,
    caches: &Caches,
    interner: &mut Interner,
) -> DesiredImages {
    let is_frozen = |cache: &CacheState| cache.orphan_policy() == OrphanPolicy::Freeze;
    if !caches.values().any(is_frozen) {
        return images;
    }
    let mut extended: Option<Vec<Arc<AssignedImage>>> = None;
    for recorded in node.pairs.iter().map(|pair| &pair.entry) {
        let frozen = |id: &&CacheId| caches.get(*id).is_some_and(is_frozen);
        let wanted_by: Vec<CacheId> = recorded.wanted_by.iter().filter(frozen).cloned().collect();
        if recorded.state != DesiredState::Present || wanted_by.is_empty() {
            continue;
        }
        let extended = extended.get_or_insert_with(|| images.to_vec());
        let known = extended.iter_mut().find(|e| e.image == recorded.image);
        let mut entry = match &known {
            Some(known) => (***known).clone(),
            None => AssignedImage {
                wanted_by: Vec::new(),
                ..(**recorded).clone()
            },
        };
        entry.wanted_by.extend(wanted_by);
        entry.wanted_by.sort();
        entry.wanted_by.dedup();
        let entry = interner.entry(entry);
        match known {
            Some(known) => *known = entry,
            None => extended.push(entry),
        }
    }
    extended.map_or(images, Arc::from)
}
