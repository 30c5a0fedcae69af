//! Nodes and their NodeImageCaches, and the state of an image on a node as the planner sees it.

use std::collections::BTreeMap;

use fledged_core::model::{
    AssignedImage, CacheId, CountOrPercent, ImagePhase, ImageRef, ImageReport, NodeName,
};
use fledged_core::planner::{Cause, Explanation, NodeRecord, Planner, PlannerConfig};
use fledged_kube::crd::{ReadCache, ReadNodeCache};
use fledged_operator::controller::ReadNode;
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde::Serialize;

/// A planner with the state of these objects, to be asked for explanations. The controller's own limit on nodes
/// that pull is not recorded anywhere, so it is taken for unlimited.
pub(super) fn planner<'a>(
    caches: impl IntoIterator<Item = &'a ReadCache>,
    nodes: &[ReadNode],
    records: &[ReadNodeCache],
    now: Timestamp,
) -> Planner {
    let mut config = PlannerConfig::default();
    config.max_concurrent_nodes = CountOrPercent::Count(u32::MAX);
    Planner::from_records(
        config,
        caches.into_iter().map(|cache| cache.clone().into_facts()),
        nodes
            .iter()
            .filter_map(|node| Some(node.clone().into_facts(node.name()?))),
        records.iter().filter_map(node_record),
        now,
    )
}

/// A NodeImageCache as the planner reads it, with the times of its last writes.
fn node_record(record: &ReadNodeCache) -> Option<NodeRecord> {
    let (assignment, _) = record.assignment();
    let mut node_record = NodeRecord::new(NodeName::new(record.name_any()).ok()?, assignment);
    node_record.written_at = last_write(record, false);
    node_record.report = record.report();
    node_record.reported_at = last_write(record, true);
    Some(node_record)
}

/// The time of the last write of the status, or of the rest.
pub(super) fn last_write(record: &ReadNodeCache, of_status: bool) -> Option<Timestamp> {
    let fields = record.metadata.managed_fields.iter().flatten();
    fields
        .filter(|entry| (entry.subresource.as_deref() == Some("status")) == of_status)
        .filter_map(|entry| entry.time.as_ref().map(|at| at.0))
        .max()
}

/// The content of a NodeImageCache, for its details.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeDetails {
    assigned: BTreeMap<ImageRef, AssignedImage>,
    reports: BTreeMap<ImageRef, ImageReport>,
    observed_generation: Option<u64>,
}

impl NodeDetails {
    /// The details of a NodeImageCache; empty if there is none.
    pub(super) fn new(record: Option<&ReadNodeCache>) -> Self {
        let Some(record) = record else {
            return Self::default();
        };
        let (assignment, _) = record.assignment();
        let entries = assignment.images.into_iter();
        let report = record.report();
        let observed_generation = report.as_ref().map(|report| report.observed_generation);
        let reports = report.into_iter().flat_map(|report| report.images);
        Self {
            assigned: entries.map(|entry| (entry.image.clone(), entry)).collect(),
            reports: reports
                .map(|report| (report.image.clone(), report))
                .collect(),
            observed_generation,
        }
    }

    /// The assignment of an image.
    pub(super) fn assigned(&self, image: &ImageRef) -> Option<&AssignedImage> {
        self.assigned.get(image)
    }

    /// The assignments of all images.
    pub(super) fn entries(&self) -> impl Iterator<Item = &AssignedImage> {
        self.assigned.values()
    }

    /// The caches that images are assigned for.
    pub(super) fn wanted_by(&self) -> impl Iterator<Item = &CacheId> {
        self.entries().flat_map(|entry| &entry.wanted_by)
    }

    /// The images that are assigned for a cache.
    pub(super) fn assigned_for(&self, cache: &CacheId) -> impl Iterator<Item = &ImageRef> {
        self.entries()
            .filter(|entry| entry.wanted_by.contains(cache))
            .map(|entry| &entry.image)
    }

    /// The agent's report on an image.
    pub(super) fn report(&self, image: &ImageRef) -> Option<&ImageReport> {
        self.reports.get(image)
    }

    /// The generation of the assignment that the agent's report is for.
    pub(super) fn observed_generation(&self) -> Option<u64> {
        self.observed_generation
    }
}

/// The state of an image on a node, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum State {
    /// The last round of pulls failed, or the removal failed, or the node's record has no room for the image.
    Failed,
    /// The node is unreachable.
    Unreachable,
    /// Pulls fail and are retried.
    BackingOff,
    /// The image is being pulled.
    Pulling,
    /// The image is being removed.
    Removing,
    /// Nothing has started.
    Waiting,
    /// The image is to be removed, but a container uses it.
    InUse,
    /// The image is removed, as requested.
    Removed,
    /// The image is present.
    Cached,
}

impl State {
    /// The state that an explanation shows; `is_assigned` is whether the NodeImageCache lists the image.
    pub(super) fn new(explanation: &Explanation, is_assigned: bool) -> Self {
        let is_wanted = !explanation.other_caches.is_empty();
        match &explanation.cause {
            Cause::Cached { .. } => Self::Cached,
            Cause::Pulling { .. } => Self::Pulling,
            Cause::BackingOff(_) => Self::BackingOff,
            Cause::Failed(_) | Cause::NodeRecordFull => Self::Failed,
            Cause::KeptInUse => Self::InUse,
            // The cache no longer wants the image.
            Cause::CachePurged | Cause::CacheDeleting if !is_wanted => {
                if is_assigned {
                    Self::of_removal(explanation.last_phase)
                } else {
                    Self::Removed
                }
            }
            // Other caches, or the last valid spec, still want the image.
            Cause::CachePurged | Cause::CacheDeleting | Cause::InvalidSpec(_) => {
                if explanation.present {
                    Self::Cached
                } else {
                    Self::of_pull(explanation.last_phase)
                }
            }
            Cause::NodeNotLinux { .. } | Cause::NodeNotReady | Cause::AgentUnresponsive { .. } => {
                Self::Unreachable
            }
            _ => Self::Waiting,
        }
    }

    /// The state of an image that is to be absent, by its last phase.
    pub(super) fn of_removal(phase: Option<ImagePhase>) -> Self {
        match phase {
            Some(ImagePhase::Removed) => Self::Removed,
            Some(ImagePhase::InUse) => Self::InUse,
            Some(ImagePhase::Failed) => Self::Failed,
            _ => Self::Removing,
        }
    }

    /// The state of an image that is to be present, by its last phase.
    pub(super) fn of_pull(phase: Option<ImagePhase>) -> Self {
        match phase {
            Some(ImagePhase::Pulling | ImagePhase::Cached) => Self::Pulling,
            Some(ImagePhase::BackingOff) => Self::BackingOff,
            Some(ImagePhase::Failed) => Self::Failed,
            _ => Self::Waiting,
        }
    }
}

/// Why a node is unreachable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unreachable {
    /// The node has another operating system.
    NotLinux,
    /// The node is about to be deleted: by this taint, or because the Node object is being deleted.
    Leaving(Option<String>),
    /// The node is not Ready.
    NotReady {
        /// The condition's status.
        status: String,
        /// The condition's reason.
        reason: String,
        /// The condition's last transition.
        since: Option<Timestamp>,
    },
    /// The agent has not reported in time.
    AgentUnresponsive {
        /// The last report, or the last write of the assignment.
        since: Timestamp,
    },
}

impl Unreachable {
    /// Why the node is unreachable, if it is.
    pub(super) fn of(node: &ReadNode, name: &NodeName, planner: &Planner) -> Option<Self> {
        let facts = node.clone().into_facts(name.clone());
        if facts.os != "linux" {
            Some(Self::NotLinux)
        } else if !facts.ready {
            Some(Self::not_ready(node))
        } else {
            let since = planner.unresponsive_since(name)?;
            Some(Self::AgentUnresponsive { since })
        }
    }

    /// Why a node counts as not Ready.
    pub(super) fn not_ready(node: &ReadNode) -> Self {
        match (node.leaving(), node.ready()) {
            (Some(taint), _) => Self::Leaving(Some(taint.key.clone())),
            (None, Some(ready)) if ready.status == "True" => Self::Leaving(None),
            (None, ready) => Self::NotReady {
                status: ready.map_or_else(|| "missing".to_owned(), |c| c.status.clone()),
                reason: ready.map(|c| c.reason.clone()).unwrap_or_default(),
                since: ready.and_then(|c| c.last_transition_time.as_ref().map(|at| at.0)),
            },
        }
    }

    /// The reason in one word.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::NotLinux => "NotLinux",
            Self::Leaving(_) => "Leaving",
            Self::NotReady { .. } => "NotReady",
            Self::AgentUnresponsive { .. } => "AgentSilent",
        }
    }

    /// Since when, if known.
    pub(super) fn since(&self) -> Option<Timestamp> {
        match self {
            Self::NotReady { since, .. } => *since,
            Self::AgentUnresponsive { since } => Some(*since),
            _ => None,
        }
    }
}

/// Whether the node's agent has reported each of these images as present.
#[cfg(feature = "demo")]
pub(crate) fn is_warm(record: &ReadNodeCache, images: &[ImageRef]) -> bool {
    let details = NodeDetails::new(Some(record));
    images.iter().all(|image| {
        details
            .report(image)
            .is_some_and(|report| report.phase == ImagePhase::Cached)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-01-01T00:10:00Z";

    /// Returns the state of an image with this assignment and report.
    fn state(purged: bool, desired: &str, policy: &str, revision: u64, phase: &str) -> State {
        let image = "docker.io/library/a:1";
        let cache = serde_json::from_value(json!({
            "metadata": { "namespace": "shop", "name": "web", "uid": "1", "generation": 1 },
            "spec": { "cacheSpec": [{ "images": [image] }] },
            "status": { "status": "Processing", "reason": "ImageCacheCreate", "message": "",
                "observedGeneration": 1, "startTime": "2026-01-01T00:00:00Z", "purged": purged },
        }))
        .unwrap();
        let node = serde_json::from_value(json!({
            "metadata": { "name": "n" },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        }))
        .unwrap();
        let record = serde_json::from_value(json!({
            "metadata": { "name": "n", "generation": 2 },
            "spec": { "images": [{ "image": image, "state": desired, "pullPolicy": policy,
                "revision": revision }] },
            "status": { "observedGeneration": 2, "images": [{ "image": image, "phase": phase }] },
        }))
        .unwrap();
        let (node, record): (ReadNode, ReadNodeCache) = (node, record);
        let cache: ReadCache = cache;
        let now = NOW.parse().unwrap();
        let planner = planner([&cache], &[node], &[record], now);
        let name = NodeName::new("n").unwrap();
        let explanation = planner.explain(&cache.id(), &name, &image.parse().unwrap());
        State::new(&explanation, true)
    }

    #[test]
    fn the_state_depends_on_assignment_and_report() {
        use State::{BackingOff, Cached, Failed, InUse, Pulling, Removed, Removing, Waiting};
        let (fixed, always) = ("IfNotPresent", "Always");
        for (desired, policy, revision, phase, expected) in [
            ("Present", fixed, 0, "Cached", Cached),
            // Present, with a check pending.
            ("Present", fixed, 7, "Cached", Cached),
            ("Present", fixed, 7, "Pending", Waiting),
            ("Present", always, 7, "Cached", Pulling),
            ("Present", fixed, 0, "Pulling", Pulling),
            ("Present", fixed, 0, "Pending", Waiting),
            ("Present", fixed, 0, "BackingOff", BackingOff),
            ("Present", fixed, 0, "Failed", Failed),
            ("Present", fixed, 0, "Removed", Waiting),
            ("Absent", fixed, 0, "Cached", Removing),
            ("Absent", fixed, 0, "Removed", Removed),
            ("Absent", fixed, 0, "InUse", InUse),
            ("Absent", fixed, 0, "Failed", Failed),
        ] {
            let purged = desired == "Absent";
            let state = state(purged, desired, policy, revision, phase);
            assert_eq!(state, expected, "{desired} {phase}");
        }
    }
}
