//! One node's NodeImageCache, and where an image stands by it.

use std::collections::BTreeMap;

use fledged_core::model::{
    AssignedImage, DesiredState, ImagePhase, ImagePullPolicy, ImageRef, ImageReport, NodeName,
};
use fledged_core::planner::PlannerConfig;
use fledged_operator::controller::ReadNode;
use fledged_operator::crd::ReadNodeCache;
use jiff::Timestamp;
use serde::Serialize;

/// Where an image of a cache stands on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum State {
    /// The last round of pulls ended without it, or it can't be removed.
    Failed,
    /// The node can't be asked.
    Unreachable,
    /// Attempts fail so far.
    BackingOff,
    /// It is being pulled, also again.
    Pulling,
    /// It is being removed.
    Removing,
    /// Nothing has begun yet.
    Waiting,
    /// It is to be removed, but something uses it.
    InUse,
    /// It is gone, as asked for.
    Removed,
    /// It is there.
    Cached,
}

/// Why a node can't be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreachable {
    /// Its operating system is another.
    NotLinux(String),
    /// It is about to be deleted: the taint that says so, unless the Node itself is deleted.
    Leaving(Option<String>),
    /// Its kubelet says something else than Ready, or nothing.
    NotReady {
        /// The condition's status.
        status: String,
        /// The condition's reason.
        reason: String,
        /// Since when.
        since: Option<Timestamp>,
    },
    /// Its agent has said nothing for longer than it may.
    AgentSilent {
        /// The last generation that it answered.
        answered: Option<u64>,
        /// When it was last heard, or last given something to do.
        since: Timestamp,
    },
}

impl Unreachable {
    /// In one word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::NotLinux(_) => "NotLinux",
            Self::Leaving(_) => "Leaving",
            Self::NotReady { .. } => "NotReady",
            Self::AgentSilent { .. } => "AgentSilent",
        }
    }

    /// Since when, where that is known.
    #[must_use]
    pub fn since(&self) -> Option<Timestamp> {
        match self {
            Self::NotReady { since, .. } => *since,
            Self::AgentSilent { since, .. } => Some(*since),
            _ => None,
        }
    }
}

/// Why the Node alone says that it can't be asked.
pub(super) fn unreachable(node: &ReadNode, name: &NodeName) -> Option<Unreachable> {
    let facts = node.clone().into_facts(name.clone());
    if facts.os != "linux" {
        return Some(Unreachable::NotLinux(facts.os));
    }
    if facts.ready {
        return None;
    }
    match (node.leaving(), node.ready()) {
        (Some(taint), _) => Some(Unreachable::Leaving(Some(taint.key.clone()))),
        (None, Some(ready)) if ready.status == "True" => Some(Unreachable::Leaving(None)),
        (None, ready) => Some(Unreachable::NotReady {
            status: ready.map_or_else(|| "missing".to_owned(), |c| c.status.clone()),
            reason: ready.map(|c| c.reason.clone()).unwrap_or_default(),
            since: ready.and_then(|c| c.last_transition_time.as_ref().map(|at| at.0)),
        }),
    }
}

/// What a NodeImageCache says.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeRecord {
    pub(super) generation: u64,
    /// The generation that the agent has answered.
    pub(super) answered: Option<u64>,
    pub(super) assigned: BTreeMap<ImageRef, AssignedImage>,
    pub(super) reported: BTreeMap<ImageRef, ImageReport>,
    /// When the controller wrote it.
    pub(super) written_at: Option<Timestamp>,
    /// When the agent last wrote.
    heard_at: Option<Timestamp>,
}

impl NodeRecord {
    pub(super) fn new(record: &ReadNodeCache) -> Self {
        let (assignment, _) = record.assignment();
        let report = record.report();
        let fields = record.metadata.managed_fields.iter().flatten();
        let written = |status: bool| {
            let of = fields
                .clone()
                .filter(move |entry| (entry.subresource.as_deref() == Some("status")) == status);
            of.filter_map(|entry| entry.time.as_ref().map(|at| at.0))
                .max()
        };
        let by_image = |entry: AssignedImage| (entry.image.clone(), entry);
        Self {
            generation: assignment.generation,
            answered: report.as_ref().map(|report| report.observed_generation),
            assigned: assignment.images.into_iter().map(by_image).collect(),
            written_at: written(false),
            heard_at: written(true),
            reported: report
                .into_iter()
                .flat_map(|report| report.images)
                .map(|report| (report.image.clone(), report))
                .collect(),
        }
    }

    /// Whether the agent has answered the assignment as it stands.
    pub(super) fn is_answered(&self) -> bool {
        self.answered
            .is_some_and(|answered| answered >= self.generation)
    }

    /// Whether the agent has been silent for longer than a controller waits for it.
    pub(super) fn silence(&self, now: Timestamp) -> Option<Unreachable> {
        let config = PlannerConfig::default();
        let busy = self.assigned.keys().any(|image| {
            let state = self.state(image, false);
            let settled = [State::Cached, State::Failed, State::Removed, State::InUse];
            !settled.contains(&state) || self.verifies(image)
        });
        let deadlines = self.assigned.values().map(|entry| entry.deadline);
        let patience = match self.is_answered() {
            true if !busy => return None,
            true => deadlines
                .max()
                .unwrap_or_default()
                .saturating_add(config.report_grace),
            false => config.answer_grace,
        };
        let since = self.heard_at.max(self.written_at)?;
        let silent = now.duration_since(since);
        let patience = jiff::SignedDuration::try_from(patience).ok()?;
        (silent > patience).then_some(Unreachable::AgentSilent {
            answered: self.answered,
            since,
        })
    }

    /// Whether the node holds an image that does not move, as far as is known, and has been asked to
    /// look again.
    pub(super) fn verifies(&self, image: &ImageRef) -> bool {
        let entry = self.assigned.get(image);
        let entry = entry.filter(|e| e.state == DesiredState::Present);
        let entry = entry.filter(|e| e.pull_policy == ImagePullPolicy::IfNotPresent);
        let (Some(entry), Some(report)) = (entry, self.reported.get(image)) else {
            return false;
        };
        let satisfied = report.revision.unwrap_or(0);
        report.phase == ImagePhase::Cached && satisfied < entry.revision
    }

    /// Where an image stands. `leaves`: whether the cache that is asked about takes its images away.
    pub(super) fn state(&self, image: &ImageRef, leaves: bool) -> State {
        let Some(entry) = self.assigned.get(image) else {
            return match leaves {
                true => State::Removed,
                false => State::Waiting,
            };
        };
        let report = self.reported.get(image);
        let phase = report.map_or(ImagePhase::Pending, |report| report.phase);
        let revision = report.and_then(|report| report.revision).unwrap_or(0);
        match (entry.state, phase) {
            (_, ImagePhase::Failed) => State::Failed,
            (DesiredState::Present, ImagePhase::Cached)
                if revision >= entry.revision || self.verifies(image) =>
            {
                State::Cached
            }
            (DesiredState::Present, ImagePhase::Cached | ImagePhase::Pulling) => State::Pulling,
            (DesiredState::Present, ImagePhase::BackingOff) => State::BackingOff,
            (DesiredState::Present, _) => State::Waiting,
            (DesiredState::Absent, ImagePhase::Removed) => State::Removed,
            (DesiredState::Absent, ImagePhase::InUse) => State::InUse,
            (DesiredState::Absent, _) => State::Removing,
        }
    }
}

/// Whether a node's agent has said of each of these images that it is there.
#[cfg(feature = "demo")]
pub(crate) fn is_warm(record: &ReadNodeCache, images: &[ImageRef]) -> bool {
    let record = NodeRecord::new(record);
    let mut images = images.iter();
    images.all(|image| record.state(image, false) == State::Cached)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_record(spec: serde_json::Value, status: serde_json::Value) -> NodeRecord {
        let field =
            |subresource: &str, time: &str| json!({ "subresource": subresource, "time": time });
        let record = json!({
            "metadata": { "name": "n", "generation": 2, "managedFields": [
                { "time": "2026-01-01T00:00:00Z" }, field("status", "2026-01-01T00:01:00Z"),
            ] },
            "spec": spec,
            "status": status,
        });
        NodeRecord::new(&serde_json::from_value(record).unwrap())
    }

    fn image() -> ImageRef {
        "a:1".parse().unwrap()
    }

    #[test]
    fn an_image_stands_where_spec_and_status_together_say() {
        use State::{BackingOff, Cached, Failed, InUse, Pulling, Removed, Removing, Waiting};
        let (fixed, always) = ("IfNotPresent", "Always");
        for (desired, policy, revision, phase, state) in [
            ("Present", fixed, 0, "Cached", Cached),
            // It is there as far as is known.
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
        ] {
            let spec = json!({ "images": [{ "image": "docker.io/library/a:1", "state": desired,
                "pullPolicy": policy, "revision": revision }] });
            let status = json!({ "observedGeneration": 2, "images": [{ "image": "docker.io/library/a:1", "phase": phase }] });
            let record = mk_record(spec, status);
            assert_eq!(record.state(&image(), false), state, "{desired} {phase}");
        }
        let nothing = mk_record(json!({}), json!({}));
        assert_eq!(nothing.state(&image(), false), Waiting);
        assert_eq!(nothing.state(&image(), true), Removed);
    }

    #[test]
    fn an_agent_is_silent_once_it_should_have_answered() {
        let mut spec = json!({ "images": [{ "image": "docker.io/library/a:1" }] });
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let is_silent = |spec: &serde_json::Value, status: serde_json::Value, now: &str| {
            let silence = mk_record(spec.clone(), status).silence(at(now));
            silence.is_some()
        };
        let silent = |status, now: &str| is_silent(&spec, status, now);
        let old = json!({ "observedGeneration": 1 });
        assert!(!silent(old.clone(), "2026-01-01T00:01:30Z"));
        assert!(silent(old, "2026-01-01T00:01:31Z"));
        let says = |phase: &str| json!({ "observedGeneration": 2, "images": [{ "image": "docker.io/library/a:1", "phase": phase }] });
        assert!(!silent(says("Cached"), "2026-02-01T00:00:00Z"));
        assert!(!silent(says("Pulling"), "2026-01-01T00:06:59Z"));
        assert!(silent(says("Pulling"), "2026-01-01T00:07:01Z"));
        // It was asked to look again, and has not.
        spec["images"][0]["revision"] = 7.into();
        assert!(is_silent(&spec, says("Cached"), "2026-01-01T00:07:01Z"));
    }
}
