//! One ImageCache as a matrix of nodes and images.

use std::collections::{BTreeMap, BTreeSet};

use fledged_core::error::Reason;
use fledged_core::model::{CacheId, ImageCache, ImageRef, NodeFacts, NodeName};
use fledged_core::planner::Cause;
use fledged_kube::crd::{ReadCache, ReadNodeCache};
use fledged_operator::controller::ReadNode;
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde::Serialize;

use super::node_state::{NodeDetails, State, Unreachable, planner};
use super::overview::{CacheOverview, is_left_out};
use super::pull_bytes::{PullBytes, PullRound};

/// The result, as `-o json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Matrix {
    /// The ImageCache.
    pub(super) image_cache: CacheOverview,
    /// The images as written in the spec; their indexes are the columns.
    pub(crate) images: Vec<String>,
    /// The nodes that the ImageCache selects, by name.
    pub(super) nodes: Vec<NodeRow>,
    /// Why bytes of running pulls are missing.
    pub(super) bytes_unavailable: Option<String>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeRow {
    /// The name.
    pub(super) name: String,
    /// Why the node is unreachable, in one word.
    pub(super) unreachable: Option<&'static str>,
    /// Since when the node is unreachable.
    pub(super) unreachable_since: Option<Timestamp>,
    /// The images that are selected for the node.
    pub(super) images: Vec<Cell>,
}

/// One image on one node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cell {
    /// The index of the image in [`Matrix::images`].
    #[serde(skip)]
    pub(super) column: usize,
    /// The image as written in the spec.
    pub(super) image: String,
    /// The state.
    pub(super) state: State,
    /// The reason, in one word.
    pub(super) reason: Option<String>,
    /// The message of the registry or runtime.
    pub(super) message: Option<String>,
    /// Attempts of the current or last round of pulls.
    pub(super) attempts: Option<u32>,
    /// Time of the next attempt.
    pub(super) next_attempt: Option<Timestamp>,
    /// Digest of the image on the node.
    pub(super) digest: Option<String>,
    /// Bytes of the running pull.
    pub(super) pull: Option<PullBytes>,
}

impl Matrix {
    /// The matrix of an ImageCache at `now`; `caches`, `nodes` and `records` are those of the whole cluster.
    pub(crate) fn new(
        cache: &ReadCache,
        caches: &[ReadCache],
        nodes: &[ReadNode],
        records: &[ReadNodeCache],
        now: Timestamp,
    ) -> Self {
        let (id, spec) = (cache.id(), cache.clone().into_facts().spec);
        let others = caches.iter().filter(|other| other.id() != id);
        let planner = planner([cache].into_iter().chain(others), nodes, records, now);
        let details: BTreeMap<String, NodeDetails> = records
            .iter()
            .map(|record| (record.name_any(), NodeDetails::new(Some(record))))
            .collect();
        let by_name: BTreeMap<NodeName, &ReadNode> = nodes
            .iter()
            .filter_map(|node| Some((node.name()?, node)))
            .collect();
        let rows = match &spec {
            Ok(spec) => selected(spec, &by_name),
            Err(_) => assigned(&id, &details),
        };
        let columns = columns(spec.as_ref().ok(), &rows);
        let empty = NodeDetails::default();
        let nodes = rows.iter().map(|(name, images)| {
            let details = details.get(name.as_str()).unwrap_or(&empty);
            let unreachable = by_name
                .get(name)
                .and_then(|node| Unreachable::of(node, name, &planner));
            let images: BTreeSet<&ImageRef> = images.iter().collect();
            let cells = columns
                .iter()
                .enumerate()
                .filter(|(_, image)| images.contains(*image))
                .map(|(column, image)| {
                    if unreachable.is_some() {
                        return cell(column, image, State::Unreachable, details);
                    }
                    let explanation = planner.explain(&id, name, image);
                    let state = State::new(&explanation, details.assigned(image).is_some());
                    let is_full = explanation.cause == Cause::NodeRecordFull
                        || (state == State::Waiting && is_left_out(cache, name));
                    if is_full {
                        left_out(column, image)
                    } else {
                        cell(column, image, state, details)
                    }
                });
            NodeRow {
                name: name.to_string(),
                images: cells.collect(),
                unreachable: unreachable.as_ref().map(Unreachable::word),
                unreachable_since: unreachable.as_ref().and_then(Unreachable::since),
            }
        });
        Self {
            image_cache: CacheOverview::new(cache),
            nodes: nodes.collect(),
            images: columns.iter().map(ToString::to_string).collect(),
            bytes_unavailable: None,
        }
    }

    /// The nodes that pull images of the ImageCache.
    pub(super) fn pulling_nodes(&self) -> BTreeSet<String> {
        let pulls = |node: &&NodeRow| node.images.iter().any(|cell| cell.state == State::Pulling);
        let nodes = self.nodes.iter().filter(pulls);
        nodes.map(|node| node.name.clone()).collect()
    }

    /// Adds the bytes of running pulls. An agent writes the phase of an image later than it serves its bytes.
    pub(super) fn add_pulls(&mut self, round: &PullRound) {
        self.bytes_unavailable.clone_from(&round.problem);
        for node in &mut self.nodes {
            for cell in &mut node.images {
                if matches!(
                    cell.state,
                    State::Pulling | State::Waiting | State::BackingOff
                ) {
                    let image = cell.image.parse().ok();
                    cell.pull = image.and_then(|image| round.of(&node.name, &image).cloned());
                }
            }
        }
    }
}

/// The images that the spec selects for each node.
fn selected(
    spec: &ImageCache,
    nodes: &BTreeMap<NodeName, &ReadNode>,
) -> BTreeMap<NodeName, Vec<ImageRef>> {
    nodes
        .iter()
        .filter_map(|(name, node)| {
            let images = images_for(spec, node, name);
            (!images.is_empty()).then(|| (name.clone(), images))
        })
        .collect()
}

/// The images that the spec selects for a node.
pub(super) fn images_for(spec: &ImageCache, node: &ReadNode, name: &NodeName) -> Vec<ImageRef> {
    let mut facts: NodeFacts = node.clone().into_facts(name.clone());
    facts.taints.retain(|taint| !taint.is_node_condition());
    let groups = spec.groups.iter().filter(|group| group.matches(&facts));
    groups
        .flat_map(|group| group.images.iter().cloned())
        .collect()
}

/// The images that nodes are still assigned for a cache with an invalid spec.
fn assigned(
    id: &CacheId,
    details: &BTreeMap<String, NodeDetails>,
) -> BTreeMap<NodeName, Vec<ImageRef>> {
    details
        .iter()
        .filter_map(|(name, details)| {
            let images: Vec<ImageRef> = details.assigned_for(id).cloned().collect();
            let name = NodeName::new(name).ok()?;
            (!images.is_empty()).then_some((name, images))
        })
        .collect()
}

/// The images in the order of the spec, each once.
fn columns(spec: Option<&ImageCache>, rows: &BTreeMap<NodeName, Vec<ImageRef>>) -> Vec<ImageRef> {
    let mut known = BTreeSet::new();
    spec.into_iter()
        .flat_map(|spec| &spec.groups)
        .flat_map(|group| &group.images)
        .chain(rows.values().flatten())
        .filter(|image| known.insert((*image).clone()))
        .cloned()
        .collect()
}

/// An image that is not assigned because the node's record is full. A report about it is another cache's.
fn left_out(column: usize, image: &ImageRef) -> Cell {
    Cell {
        reason: Some(Reason::NodeRecordFull.to_string()),
        message: Some(Cause::NodeRecordFull.to_string()),
        ..cell(column, image, State::Failed, &NodeDetails::default())
    }
}

fn cell(column: usize, image: &ImageRef, state: State, details: &NodeDetails) -> Cell {
    let report = details.report(image);
    Cell {
        column,
        image: image.to_string(),
        state,
        reason: report.and_then(|report| report.reason.map(|reason| reason.to_string())),
        message: report.and_then(|report| report.message.clone()),
        attempts: report.map(|report| report.attempts),
        next_attempt: report.and_then(|report| report.next_attempt_at),
        digest: report.and_then(|report| report.digest.as_ref().map(ToString::to_string)),
        pull: None,
    }
}
