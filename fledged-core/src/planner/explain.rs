//! Why an image is on a node, or what prevents it.

use std::fmt;

use jiff::Timestamp;

use super::caches::Caches;
use super::node_state::{ImageState, NodeState, Pair};
use super::rollout::{self, Obstacle};
use super::slots::Slots;
use super::status::NodeFailure;
use crate::error::Reason;
use crate::model::{
    CacheId, DesiredState, ImageGroup, ImagePhase, ImageRef, InvalidSpec, NodeFacts, Taint,
};

/// Why an image of a cache is on a node, or what prevents it; see
/// [`Planner::explain`](super::Planner::explain).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// [`Cause::Cached`], or the first thing that prevents it. Checked in the order of the variants.
    pub cause: Cause,
    /// Whether the assignment of the node contains the image, to be present or to be absent.
    pub assigned: Option<DesiredState>,
    /// Other caches that the image is assigned to the node for.
    pub other_caches: Vec<CacheId>,
    /// Whether the node holds the image as far as known, for this cache or for others.
    pub present: bool,
    /// The phase in the node's last report, whichever assignment that answers.
    pub last_phase: Option<ImagePhase>,
}

/// Why an image is on a node, or what prevents it. [`Display`](fmt::Display) gives a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The cache does not exist.
    CacheNotFound,
    /// The spec of the cache is invalid. Images of the last valid spec stay.
    InvalidSpec(InvalidSpec),
    /// The spec of the cache does not list the image.
    ImageNotListed,
    /// The cache is being deleted.
    CacheDeleting,
    /// The node does not exist.
    NodeNotFound,
    /// No group of the cache that lists the image selects the node by its labels: one mismatch a group.
    NodeNotSelected(Vec<SelectorMismatch>),
    /// The groups that select the node do not tolerate this taint.
    TaintNotTolerated {
        /// Index of the first such group in the spec.
        group: usize,
        /// The taint.
        taint: Taint,
    },
    /// The node is virtual and holds no images.
    NodeVirtual {
        /// The label or taint that says so.
        mark: String,
    },
    /// The cache is purged, but the image is in use and can't be removed.
    KeptInUse,
    /// The cache is purged.
    CachePurged,
    /// The node is not a Linux node.
    NodeNotLinux {
        /// Its operating system.
        os: String,
    },
    /// The node is NotReady or about to be deleted.
    NodeNotReady,
    /// The agent of the node does not respond.
    AgentUnresponsive {
        /// When the node last reported or was last assigned something.
        since: Timestamp,
        /// Generation of the assignment.
        generation: u64,
        /// The generation that the node has acknowledged, if any.
        observed_generation: Option<u64>,
    },
    /// The record of the node has no room for the images of the cache.
    NodeRecordFull,
    /// The node holds the image.
    Cached {
        /// Whether it was asked to verify that, and has not reported the result.
        verifying: bool,
    },
    /// No planner has processed the newest spec of the cache.
    SpecNotObserved {
        /// Generation of the spec.
        generation: u64,
        /// The generation in the recorded status, if any.
        observed_generation: Option<u64>,
    },
    /// As many nodes pull for a cache as its `rollout.maxConcurrentNodes` allows.
    CacheLimit {
        /// The cache: this one, or another that lists the image.
        cache: CacheId,
        /// Its limit.
        limit: usize,
        /// Nodes that pull for it.
        active: usize,
    },
    /// As many nodes pull as the limit of the whole cluster allows.
    ClusterLimit {
        /// The limit.
        limit: usize,
        /// Nodes that pull. More than the limit if several namespaces pull.
        active: usize,
    },
    /// Nothing known prevents the assignment, but it is not written.
    NotAssigned {
        /// Nodes of the cluster that pull now. Without any, no rollout limit delays the node.
        active: usize,
    },
    /// The node has not acknowledged the assignment.
    NotAcknowledged {
        /// Generation of the assignment. `None` while it is being written.
        generation: Option<u64>,
        /// The generation that the node has acknowledged, if any.
        observed_generation: Option<u64>,
        /// When the node last reported or was last assigned something.
        since: Timestamp,
    },
    /// The image waits for other pulls of the node.
    Pending,
    /// The image is being pulled.
    Pulling {
        /// Whether the node holds an older revision of it, which a refresh replaces.
        again: bool,
    },
    /// Attempts to pull the image fail so far.
    BackingOff(PullFailure),
    /// The last round of pull attempts failed.
    Failed(PullFailure),
}

/// Why a group of a cache does not select a node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SelectorMismatch {
    /// A label of its `nodeSelector`.
    Label {
        /// Index of the group in the spec.
        group: usize,
        /// Key of the label.
        key: String,
        /// The value in the selector.
        expected: String,
        /// The value on the node, if any.
        found: Option<String>,
    },
    /// Its `nodeAffinity`.
    Affinity {
        /// Index of the group in the spec.
        group: usize,
    },
}

impl SelectorMismatch {
    /// The first mismatch between a group and a node. `None` if the group selects the node.
    #[must_use]
    pub fn of(group: usize, spec: &ImageGroup, node: &NodeFacts) -> Option<Self> {
        if spec.selects(node) {
            return None;
        }
        let mut labels = spec.node_selector.iter();
        let label = labels.find(|(key, value)| node.labels.get(*key) != Some(value));
        Some(match label {
            Some((key, expected)) => Self::Label {
                group,
                key: key.clone(),
                expected: expected.clone(),
                found: node.labels.get(key).cloned(),
            },
            None => Self::Affinity { group },
        })
    }
}

/// The reason and text of a failed pull.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PullFailure {
    /// Why.
    pub reason: Reason,
    /// The runtime's own text, possibly empty.
    pub message: String,
}

pub(super) fn explain(
    id: &CacheId,
    node: Option<&NodeState>,
    image: &ImageRef,
    caches: &Caches,
    slots: &Slots,
) -> Explanation {
    let node = node.filter(|node| node.facts.is_some());
    let pair = node.and_then(|node| node.pair(image));
    let wanted_by = pair.iter().flat_map(|pair| &pair.entry.wanted_by);
    let present = node.zip(pair).is_some_and(|(node, pair)| {
        pair.entry.state == DesiredState::Present
            && (node.image_state(pair) == ImageState::Cached
                || node.is_verifying(pair, &pair.entry, pair.entry.revision))
    });
    Explanation {
        assigned: pair.map(|pair| pair.entry.state),
        cause: cause(id, node, image, caches, slots),
        other_caches: wanted_by.filter(|other| *other != id).cloned().collect(),
        present,
        last_phase: node
            .and_then(|node| node.last_reported(image))
            .map(|observed| observed.phase),
    }
}

fn cause(
    id: &CacheId,
    node: Option<&NodeState>,
    image: &ImageRef,
    caches: &Caches,
    slots: &Slots,
) -> Cause {
    let Some(cache) = caches.get(id).filter(|cache| !cache.gone) else {
        return Cause::CacheNotFound;
    };
    let spec = match &cache.spec {
        Ok(spec) => spec,
        Err(invalid) => return Cause::InvalidSpec(invalid.clone()),
    };
    let groups = spec.groups.iter().enumerate();
    let listing = groups.filter(|(_, group)| group.images.contains(image));
    if listing.clone().next().is_none() {
        return Cause::ImageNotListed;
    }
    if cache.deleting {
        return Cause::CacheDeleting;
    }
    if let Some(invalid) = cache.refused_by_status() {
        return Cause::InvalidSpec(invalid);
    }
    let Some((node, facts)) = node.and_then(|node| Some((node, node.facts.as_ref()?))) else {
        return Cause::NodeNotFound;
    };
    let mismatches = listing.clone();
    let mismatches = mismatches.map(|(at, group)| SelectorMismatch::of(at, group, facts));
    if let Some(mismatches) = mismatches.collect() {
        return Cause::NodeNotSelected(mismatches);
    }
    if let Some(mark) = facts.virtual_mark() {
        return Cause::NodeVirtual { mark };
    }
    let selecting = listing.filter(|(_, group)| group.selects(facts));
    let taints = selecting.map(|(at, group)| Some((at, group.untolerated(facts)?)));
    let taints: Option<Vec<_>> = taints.collect();
    if let Some((group, taint)) = taints.into_iter().flatten().next() {
        let taint = taint.clone();
        return Cause::TaintNotTolerated { group, taint };
    }
    let pair = node.pair(image);
    if cache.purged {
        // By the last report, whichever assignment it answers: the image may have been assigned meanwhile.
        let absent = pair.filter(|pair| pair.entry.state == DesiredState::Absent);
        let observed = absent.and_then(|pair| pair.observed);
        return if observed.is_some_and(|observed| observed.phase == ImagePhase::InUse) {
            Cause::KeptInUse
        } else {
            Cause::CachePurged
        };
    }
    if !node.is_suitable() {
        let os = facts.os.clone();
        return Cause::NodeNotLinux { os };
    }
    if !facts.ready {
        return Cause::NodeNotReady;
    }
    // Before the state of the image, because a report of an agent that no longer responds proves nothing.
    if node.unresponsive {
        return unresponsive(node);
    }
    if node.is_left_out(id) {
        return Cause::NodeRecordFull;
    }
    if let Some(pair) = pair.filter(|pair| pair.entry.state == DesiredState::Present) {
        return assigned(node, pair);
    }
    let observed = cache.recorded.as_ref().map(|s| s.observed_generation);
    if observed != Some(cache.generation) {
        return Cause::SpecNotObserved {
            generation: cache.generation,
            observed_generation: observed,
        };
    }
    // The planner that wrote the status may know of less room, from writes that were refused.
    let failures = cache.recorded.iter().flat_map(|s| s.failures.values());
    let is_full = |failure: &NodeFailure| {
        failure.reason == Reason::NodeRecordFull && failure.node == facts.name
    };
    if failures.flatten().any(is_full) {
        return Cause::NodeRecordFull;
    }
    let desired = node.desired.iter().find(|entry| entry.image == *image);
    let obstacle = desired.and_then(|entry| rollout::obstacle(node, entry, caches, slots));
    match obstacle {
        Some(Obstacle::CacheLimit(ids)) => {
            // The image waits for all of them; this one is what the reader can change.
            let own = ids.iter().find(|limiting| ***limiting == *id);
            let limiting = own.or(ids.first()).map_or(id, |limiting| &**limiting);
            let cache = caches.get(limiting);
            Cause::CacheLimit {
                limit: cache.and_then(|cache| cache.limit()).unwrap_or(0),
                active: cache.map_or(0, |cache| cache.totals.active),
                cache: limiting.clone(),
            }
        }
        Some(Obstacle::ClusterLimit(_)) => Cause::ClusterLimit {
            limit: slots.limit(),
            active: slots.active(),
        },
        Some(Obstacle::NodeUnreachable) | None => Cause::NotAssigned {
            active: slots.active(),
        },
    }
}

/// How far a node that responds is with an image that is assigned to it.
fn assigned(node: &NodeState, pair: &Pair) -> Cause {
    let state = node.image_state(pair);
    let verifying = node.is_verifying(pair, &pair.entry, pair.entry.revision);
    if state == ImageState::Cached {
        return Cause::Cached { verifying: false };
    }
    if verifying {
        return Cause::Cached { verifying: true };
    }
    let image = &pair.entry.image;
    let failure = || {
        let failed = node.failed.iter().find(|failed| failed.image == *image);
        PullFailure {
            reason: failed.map_or(Reason::Unknown, |failed| failed.reason),
            message: failed.map_or_else(String::new, |failed| failed.message.clone()),
        }
    };
    if state == ImageState::Failed {
        return Cause::Failed(failure());
    }
    // A phase is more specific than a missing acknowledgement, whichever assignment it answers.
    match node.last_reported(image).map(|observed| observed.phase) {
        Some(ImagePhase::Cached) => Cause::Pulling { again: true },
        Some(ImagePhase::Pulling) => Cause::Pulling { again: false },
        Some(ImagePhase::BackingOff) => Cause::BackingOff(failure()),
        _ if !node.is_covered(pair) => Cause::NotAcknowledged {
            generation: Some(node.generation).filter(|_| !node.is_writing()),
            observed_generation: acknowledged(node),
            since: node.last_active_at,
        },
        _ => Cause::Pending,
    }
}

fn unresponsive(node: &NodeState) -> Cause {
    Cause::AgentUnresponsive {
        since: node.last_active_at,
        generation: node.generation,
        observed_generation: acknowledged(node),
    }
}

fn acknowledged(node: &NodeState) -> Option<u64> {
    Some(node.observed_generation).filter(|generation| *generation > 0)
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CacheNotFound => f.write_str("the image cache does not exist"),
            Self::InvalidSpec(invalid) => {
                write!(f, "the spec of the image cache is invalid: {invalid}")
            }
            Self::ImageNotListed => f.write_str("the image cache does not list the image"),
            Self::CacheDeleting => f.write_str("the image cache is being deleted"),
            Self::NodeNotFound => f.write_str("the node does not exist"),
            Self::NodeNotSelected(_) => f.write_str("the image cache does not select the node"),
            Self::TaintNotTolerated { taint, .. } => write!(
                f,
                "the image cache does not tolerate the taint {} of the node",
                taint.key
            ),
            Self::NodeVirtual { mark } => {
                write!(f, "the node is virtual ({mark}) and holds no images")
            }
            Self::KeptInUse => {
                f.write_str("the image cache is purged, but the image is in use and stays")
            }
            Self::CachePurged => f.write_str("the image cache is purged"),
            Self::NodeNotLinux { os } => write!(f, "the node runs {os}, not Linux"),
            Self::NodeNotReady => f.write_str("the node is not Ready"),
            Self::NodeRecordFull => {
                f.write_str("the record of the node has no room for the images of the image cache")
            }
            Self::Cached { verifying: false } => f.write_str("the node holds the image"),
            Self::Cached { verifying: true } => {
                f.write_str("the node holds the image and is verifying it")
            }
            Self::AgentUnresponsive { .. } => f.write_str("the agent of the node does not respond"),
            Self::SpecNotObserved { .. } => {
                f.write_str("no controller has processed the newest spec of the image cache")
            }
            Self::CacheLimit {
                cache,
                limit,
                active,
            } => write!(
                f,
                "the node waits for a rollout slot of image cache {cache}: \
                 {active} of {limit} are in use"
            ),
            Self::ClusterLimit { limit, active } => write!(
                f,
                "the node waits for a rollout slot of the cluster: {active} of {limit} are in use"
            ),
            Self::NotAssigned { .. } => f.write_str("the image is not assigned to the node yet"),
            Self::NotAcknowledged { .. } => {
                f.write_str("the node has not acknowledged the assignment yet")
            }
            Self::Pending => f.write_str("the image waits for other pulls of the node"),
            Self::Pulling { again: false } => f.write_str("the image is being pulled"),
            Self::Pulling { again: true } => f.write_str("the image is being pulled again"),
            Self::BackingOff(failure) => {
                write!(
                    f,
                    "attempts to pull the image fail so far: {}",
                    failure.reason
                )
            }
            Self::Failed(failure) => write!(f, "the pull failed: {}", failure.reason),
        }
    }
}
