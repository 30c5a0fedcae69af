//! The rollout: which assignment a node gets next, within the limits on concurrent pulls, and how far
//! it is with the assignment it has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::cache::{CacheState, OrphanPolicy, share_of};
use super::caches::Caches;
use super::desired::Interner;
use super::node_state::{ImageState, NodeState, Pair, asks_more};
use super::slots::{Activity, Slots};
use super::tally::Tally;
use super::trouble::{NodeTroubles, TroubleKind};
use crate::model::{
    AssignedImage, CacheId, DesiredState, ImageCache, ImagePullPolicy, ImageRef, NodeFacts,
    RemovalCause, RemovalOrder,
};
use crate::time::after;

/// Estimated size of a removal in a record, in bytes, without its reference and the name of its cache.
const REMOVAL_BYTES: usize = 220;

/// Why a pull is not assigned to a node now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// The node can't act. It is planned again when it can.
    NodeUnreachable,
    /// As many nodes pull as the cluster-wide limit allows, and for each of the namespaces that wait its share.
    ClusterLimit(BTreeSet<String>),
    /// As many nodes pull for each of these caches as its own limit allows. One of them is enough.
    CacheLimit(Vec<Arc<CacheId>>),
}

/// Why that pull is not assigned now, if anything prevents it.
pub(super) fn obstacle(
    node: &NodeState,
    entry: &AssignedImage,
    caches: &Caches,
    slots: &Slots,
) -> Option<Obstacle> {
    if !node.is_reachable() {
        return Some(Obstacle::NodeUnreachable);
    }
    let mut limits = Vec::new();
    for id in &entry.wanted_by {
        if let Some((id, cache)) = caches.get_key_value(id)
            && !cache.has_slot()
            && share_of(&node.tallies, id).is_none_or(|share| share.in_progress == 0)
        {
            limits.push(Arc::clone(id));
        }
    }
    // A slot of one of its caches is enough: no cache delays the images of another.
    if !limits.is_empty() && limits.len() == entry.wanted_by.len() {
        return Some(Obstacle::CacheLimit(limits));
    }
    let namespaces = entry.wanted_by.iter().map(|id| id.namespace.as_str());
    let mut admitted = namespaces.clone();
    if admitted.any(|namespace| slots.admits(&node.activity, namespace)) {
        return None;
    }
    Some(Obstacle::ClusterLimit(
        namespaces.map(str::to_owned).collect(),
    ))
}

/// The assignment to write next, and what keeps it from being complete.
///
/// Removals have room for `room` bytes, beside the images that are desired.
pub(super) fn next_assignment(
    node: &NodeState,
    caches: &Caches,
    slots: &Slots,
    room: usize,
    clock: RemovalClock,
    interner: &mut Interner,
) -> (Vec<Arc<AssignedImage>>, Vec<Obstacle>) {
    let mut next = Vec::with_capacity(node.desired.len().max(node.pairs.len()));
    let mut obstacles = Vec::new();
    let mut found = 0;
    for entry in node.desired.iter() {
        let pair = node.pair(&entry.image);
        found += usize::from(pair.is_some());
        let entry = &with_revision(node, pair, entry, caches, interner);
        // A node that can't act may still get better settings for what it has to do anyway.
        let needs_slot = pair.is_none_or(|pair| {
            if node.is_reachable() {
                node.adds_work(pair, entry)
            } else {
                asks_more(pair, entry)
            }
        });
        let obstacle = if needs_slot {
            obstacle(node, entry, caches, slots)
        } else {
            None
        };
        match obstacle {
            None => next.push(Arc::clone(entry)),
            Some(obstacle) => {
                // The previous request stays assigned.
                let before = pair.filter(|p| p.entry.state == DesiredState::Present);
                next.extend(before.map(|pair| match obstacle {
                    // Its settings change all the same.
                    Obstacle::NodeUnreachable => interner.entry(AssignedImage {
                        revision: pair.entry.revision,
                        ..(**entry).clone()
                    }),
                    _ => Arc::clone(&pair.entry),
                }));
                obstacles.push(obstacle);
            }
        }
    }
    let mut removals = Vec::new();
    if found < node.pairs.len() {
        let desired: BTreeSet<&ImageRef> = node.desired.iter().map(|e| &e.image).collect();
        for pair in &node.pairs {
            if !desired.contains(&pair.entry.image) {
                removals.extend(orphaned(node, pair, caches, clock, interner));
            }
        }
    }
    // Frequent edits must not fill the record with removals: what exceeds the room stays on the node.
    let mut room = room;
    next.extend(removals.into_iter().take_while(|entry| {
        let order = entry.removal.as_ref();
        let cache = order.map_or(0, |order| {
            order.cache.namespace.len() + order.cache.name.len()
        });
        let bytes = entry.image.as_str().len() + cache + REMOVAL_BYTES;
        room.checked_sub(bytes).map(|rest| room = rest).is_some()
    }));
    (next, obstacles)
}

/// The revision to request from a node. For an image that is not pulled again, a greater one asks to
/// verify it, or to retry it if it failed before a refresh in progress. Such a revision never decreases.
pub(super) fn revision_for(
    node: &NodeState,
    pair: &Pair,
    entry: &AssignedImage,
    caches: &Caches,
) -> u64 {
    let pulled_again = entry.pull_policy == ImagePullPolicy::Always;
    if pulled_again || pair.entry.state == DesiredState::Absent {
        return entry.revision;
    }
    let requested = pair.entry.revision.max(entry.revision);
    if node.image_state(pair) != ImageState::Failed {
        return requested;
    }
    let retry = |id: &CacheId| caches.get(id).map_or(0, CacheState::retry_revision);
    entry.wanted_by.iter().map(retry).fold(requested, u64::max)
}

/// The entry with the revision to request from that node.
fn with_revision(
    node: &NodeState,
    pair: Option<&Pair>,
    entry: &Arc<AssignedImage>,
    caches: &Caches,
    interner: &mut Interner,
) -> Arc<AssignedImage> {
    let pair = pair.filter(|p| p.entry.state == DesiredState::Present);
    let revision = pair.map_or(0, |pair| revision_for(node, pair, entry, caches));
    if revision <= entry.revision {
        return Arc::clone(entry);
    }
    interner.entry(AssignedImage {
        revision,
        ..(**entry).clone()
    })
}

/// The time, and how long removals are asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct RemovalClock {
    pub(super) now: Timestamp,
    /// Earlier times are those of another clock.
    pub(super) start: Timestamp,
    pub(super) limit: Duration,
}

impl RemovalClock {
    /// When a removal that waits is given up.
    pub(super) fn end_of(self, order: &RemovalOrder) -> Timestamp {
        after(order.since.max(self.start), self.limit)
    }
}

/// The entry for a recorded image that no cache wants any more, if it stays in the assignment. If the node has not
/// reported the image, it removes the image only if it held it.
fn orphaned(
    node: &NodeState,
    pair: &Pair,
    caches: &Caches,
    clock: RemovalClock,
    interner: &mut Interner,
) -> Option<Arc<AssignedImage>> {
    let image = &pair.entry.image;
    if is_wanted_by_left_out(node, image, caches) {
        return None;
    }
    let mut absent =
        |order| interner.entry(AssignedImage::absent(image.clone()).with_removal(order));
    if pair.entry.state == DesiredState::Absent {
        if node.image_state(pair) == ImageState::Removed {
            // Removed images stay until the action ends, so that they are not requested again.
            let listed = |cache: &CacheState| cache.removing_from(node).any(|of| of == image);
            if !removing(node, caches).any(|(_, cache)| listed(cache)) {
                return None;
            }
            // The cache that asked for it may be gone, and another one asks for it still.
            let order = pair.entry.removal.as_ref();
            let order = order.and_then(|order| {
                continued(order, caches).or_else(|| other_order(node, image, caches, clock))
            });
            return Some(order.map_or_else(|| Arc::clone(&pair.entry), absent));
        }
        let order = pair.entry.removal.as_ref()?;
        if clock.end_of(order) <= clock.now {
            return None;
        }
        let order = continued(order, caches).or_else(|| other_order(node, image, caches, clock))?;
        return Some(absent(order));
    }
    let ordered = |id: &CacheId| {
        // Caches that were deleted while no planner ran leave their images.
        let cache = caches.get(id)?;
        // A taint keeps new images off a node and removes none, as with pods.
        let kept = cache.is_repelled(node, image)
            || (node.is_left_out(id) && !crate::planted::is("full-record-removes"));
        let delete = !kept && cache.orphan_policy() == OrphanPolicy::Delete;
        let if_held = !node.has_held(pair);
        delete.then(|| {
            RemovalOrder::new(id.clone(), cache.removal_cause(), clock.now).with_if_held(if_held)
        })
    };
    pair.entry.wanted_by.iter().find_map(ordered).map(absent)
}

/// Whether a cache whose images do not fit into the record wants the image on the node.
fn is_wanted_by_left_out(node: &NodeState, image: &ImageRef, caches: &Caches) -> bool {
    let Some(facts) = &node.facts else {
        return false;
    };
    let left_out = node.images.left_out.iter();
    let specs = left_out.filter_map(|id| caches.get(id)?.desired_spec());
    let mut groups = specs.flat_map(|spec| &spec.groups);
    groups.any(|group| group.matches(facts) && group.images.contains(image))
}

/// The removal as its cache asks for it now. `None` if the cache is deleted and leaves its images.
fn continued(order: &RemovalOrder, caches: &Caches) -> Option<RemovalOrder> {
    let cause = match caches.get(&order.cache) {
        None => Some(order.cause).filter(|cause| *cause == RemovalCause::Deletion),
        Some(cache) if cache.orphan_policy() == OrphanPolicy::Orphan => None,
        Some(_) if order.cause == RemovalCause::Deletion => Some(RemovalCause::Deletion),
        Some(cache) => Some(cache.removal_cause()),
    };
    let order = order.clone();
    cause.map(|cause| RemovalOrder { cause, ..order })
}

/// The caches that are purged on that node, or being deleted with their images.
fn removing<'a>(
    node: &'a NodeState,
    caches: &'a Caches,
) -> impl Iterator<Item = (&'a Arc<CacheId>, &'a CacheState)> {
    let removing = node.images.removing.iter();
    removing.filter_map(|id| Some((id, caches.get(id)?)))
}

/// The removal of the image by another cache that is purged or deleted.
fn other_order(
    node: &NodeState,
    image: &ImageRef,
    caches: &Caches,
    clock: RemovalClock,
) -> Option<RemovalOrder> {
    let facts = node.facts.as_ref()?;
    let lists = |cache: &CacheState| {
        let groups = cache
            .removed_spec()
            .into_iter()
            .flat_map(|spec| &spec.groups);
        let mut groups = groups.filter(|group| group.matches(facts));
        groups.any(|group| group.images.contains(image))
    };
    let (id, cache) = removing(node, caches).find(|(_, cache)| lists(cache))?;
    Some(RemovalOrder::new(
        (**id).clone(),
        cache.removal_cause(),
        clock.now,
    ))
}

/// How far a node is with the images of each cache that has any on it.
#[derive(Debug)]
pub(super) struct NodeProgress {
    pub(super) tallies: Vec<(Arc<CacheId>, Tally)>,
    pub(super) troubles: NodeTroubles,
}

/// What the node pulls for. An image that is not desired any more is pulled until that is written.
pub(super) fn activity(node: &NodeState) -> Activity {
    let unfinished = |pair: &&Pair| {
        pair.entry.state == DesiredState::Present
            && node.image_state(pair) == ImageState::InProgress
    };
    let mut activity = Activity::default();
    if !node.is_reachable() {
        return activity;
    }
    for pair in node.pairs.iter().filter(unfinished) {
        activity.active = true;
        for id in &pair.entry.wanted_by {
            if !activity.namespaces.contains(&id.namespace) {
                activity.namespaces.insert(id.namespace.clone());
            }
        }
    }
    activity
}

/// Counts the node's images for each cache that has any.
pub(super) fn progress(node: &NodeState, caches: &Caches) -> NodeProgress {
    let reachable = node.is_reachable();
    let shared = |id: &CacheId| caches.get_key_value(id).map(|(id, _)| Arc::clone(id));
    let mut troubles = NodeTroubles::new();
    let mut add_trouble = |id: &CacheId, kind: TroubleKind, image: Option<&ImageRef>| {
        if let Some(id) = shared(id) {
            troubles.entry(id).or_default().push((kind, image.cloned()));
        }
    };
    let mut tallies: BTreeMap<&CacheId, Tally> = BTreeMap::new();
    let limited = |id: &CacheId| caches.get(id).is_some_and(|cache| cache.limit().is_some());
    // An image that a cache without a limit wants takes no slot of the others.
    let takes_slot =
        |entry: &AssignedImage, id: &CacheId| !limited(id) || entry.wanted_by.iter().all(limited);
    let orphans = orphans(node);
    // Until its record is written without them, it pulls them, and a purge or deletion that removes them has not ended.
    for pair in &orphans {
        let pulls = reachable && node.image_state(pair) == ImageState::InProgress;
        for id in &pair.entry.wanted_by {
            let removes = caches.get(id).is_some_and(CacheState::is_removing);
            if pulls || removes {
                let tally = tallies.entry(id).or_default();
                tally.in_progress += u64::from(pulls && takes_slot(&pair.entry, id));
                tally.removing += u64::from(removes);
            }
        }
    }
    for entry in node.desired.iter() {
        let pair = node.pair(&entry.image);
        let pair = pair.filter(|p| p.entry.state == DesiredState::Present);
        let state = pair.map(|p| node.image_state(p));
        let in_progress = reachable && state == Some(ImageState::InProgress);
        let revision = pair.map_or(0, |p| revision_for(node, p, entry, caches));
        let due = pair.is_none_or(|p| node.adds_work(p, entry) || revision > p.entry.revision);
        let verifying = pair.is_some_and(|p| node.is_verifying(p, entry, revision));
        let trouble = pair.filter(|_| reachable && !verifying && !due);
        let trouble = trouble.and_then(|pair| node.trouble(pair));
        let observed = pair.filter(|_| reachable).and_then(|pair| pair.observed);
        let superseded = observed.map_or(0, |observed| observed.superseded);
        for id in &entry.wanted_by {
            if let Some(kind) = trouble {
                add_trouble(id, kind, Some(&entry.image));
            }
            let tally = tallies.entry(id).or_default();
            tally.desired += 1;
            tally.superseded += superseded;
            tally.in_progress += u64::from(in_progress && takes_slot(entry, id));
            match state {
                _ if !reachable => tally.unreachable += 1,
                _ if verifying => {
                    tally.cached += 1;
                    tally.verifying += 1;
                }
                _ if due => tally.pulling += 1,
                Some(ImageState::Cached) => {
                    tally.cached += 1;
                    tally.refresh_held += u64::from(observed.is_some_and(|o| o.refresh_held));
                    let unused = node.unused_credentials(&entry.image);
                    let cache = caches.get(id).filter(|_| unused.is_some());
                    if cache.is_some_and(|cache| cache.own_credentials(unused).is_some()) {
                        tally.without_credentials += 1;
                        add_trouble(id, TroubleKind::CredentialsUnavailable, Some(&entry.image));
                    }
                }
                Some(ImageState::Failed) => tally.failed += 1,
                _ => {
                    tally.pulling += 1;
                    tally.failing += u64::from(pair.is_some_and(|p| node.is_failing(p)));
                }
            }
        }
    }
    if let Some(facts) = &node.facts {
        for id in node.images.left_out.iter() {
            let spec = caches.get(id).and_then(|cache| cache.desired_spec());
            let tally = tallies.entry(id).or_default();
            let images = u64::try_from(spec.map_or(0, |spec| image_count(spec, facts)));
            let images = images.unwrap_or(u64::MAX);
            tally.desired += images;
            if reachable {
                tally.failed += images;
                tally.left_out += images;
                add_trouble(id, TroubleKind::RecordFull, None);
            } else {
                tally.unreachable += images;
            }
        }
        for (id, cache) in removing(node, caches) {
            let tally = tallies.entry(id).or_default();
            tally.unreachable_nodes += u64::from(!reachable);
            if reachable || crate::planted::is("deletion-waits-for-unreachable") {
                count_removals(tally, node, cache, &orphans);
            }
        }
    }
    if node.has_unresponsive_agent() {
        for id in tallies.keys() {
            add_trouble(id, TroubleKind::AgentUnresponsive, None);
        }
    }
    let tallies = tallies.into_iter();
    let tallies = tallies.filter_map(|(id, tally)| Some((shared(id)?, tally)));
    NodeProgress {
        tallies: tallies.collect(),
        troubles,
    }
}

/// The images in its record that are not desired any more: the node is due.
fn orphans(node: &NodeState) -> Vec<&Pair> {
    let recorded = |entry: &&Arc<AssignedImage>| node.pair(&entry.image).is_some();
    if node.desired.iter().filter(recorded).count() == node.pairs.len() {
        return Vec::new();
    }
    let desired: BTreeSet<&ImageRef> = node.desired.iter().map(|e| &e.image).collect();
    let orphans = node.pairs.iter().filter(|pair| {
        pair.entry.state == DesiredState::Present && !desired.contains(&pair.entry.image)
    });
    orphans.collect()
}

/// The number of different images that the cache has on that node.
fn image_count(spec: &ImageCache, facts: &NodeFacts) -> usize {
    let groups = spec.groups.iter().filter(|group| group.matches(facts));
    let images: BTreeSet<&ImageRef> = groups.flat_map(|group| &group.images).collect();
    images.len()
}

/// Adds the images that a purge or deletion removes from a reachable node.
fn count_removals(tally: &mut Tally, node: &NodeState, cache: &CacheState, orphans: &[&Pair]) {
    let (Some(spec), Some(facts)) = (cache.removed_spec(), &node.facts) else {
        return;
    };
    let groups = spec.groups.iter().filter(|group| group.matches(facts));
    let pairs = groups
        .flat_map(|group| &group.images)
        .filter_map(|image| node.pair(image));
    for pair in pairs {
        if pair.entry.state == DesiredState::Present {
            let kept = !orphans.iter().any(|orphan| std::ptr::eq(*orphan, pair));
            tally.shared += u64::from(kept);
            continue;
        }
        match node.image_state(pair) {
            ImageState::Removed => tally.removed += 1,
            ImageState::InUse => tally.in_use += 1,
            ImageState::Failed => tally.removal_failed += 1,
            ImageState::InProgress | ImageState::Cached => tally.removing += 1,
        }
    }
}
