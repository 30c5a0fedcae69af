//! One ImageCache on its nodes: a matrix of nodes by images.

use std::collections::{BTreeMap, BTreeSet};

use fledged_core::model::{ImageRef, NodeName};
use fledged_core::planner::CacheFacts;
use fledged_operator::controller::ReadNode;
use fledged_operator::crd::{ReadCache, ReadNodeCache};
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde::Serialize;

use super::overview::CacheOverview;
use super::record::{NodeRecord, State, unreachable};
use super::selection::meant;

/// What `status` shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Matrix {
    /// What the cache says of itself.
    pub image_cache: CacheOverview,
    /// Its images as they are written in the spec; their places are the columns.
    pub images: Vec<String>,
    /// The nodes that it means, by name.
    pub nodes: Vec<NodeRow>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Why it can't be asked, in one word.
    pub unreachable: Option<&'static str>,
    /// Since when.
    pub unreachable_since: Option<Timestamp>,
    /// The images that are meant for it.
    pub images: Vec<Cell>,
}

/// One image on one node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cell {
    /// The place of the image among [`Matrix::images`].
    #[serde(skip)]
    pub column: usize,
    /// The image as it is written in the spec.
    pub image: String,
    /// Where it stands.
    pub state: State,
    /// Why, in one word.
    pub reason: Option<String>,
    /// The registry's or runtime's own text.
    pub message: Option<String>,
    /// Attempts of the current or last round.
    pub attempts: Option<u32>,
    /// When the next is due.
    pub next_attempt: Option<Timestamp>,
    /// Digest of what is there.
    pub digest: Option<String>,
}

impl Matrix {
    /// From the objects that tell of it, at `now`.
    #[must_use]
    pub fn new(
        cache: &ReadCache,
        nodes: &[ReadNode],
        records: &[ReadNodeCache],
        now: Timestamp,
    ) -> Self {
        let facts = cache.clone().into_facts();
        let leaves = facts.deleting || facts.status.as_ref().is_some_and(|s| s.purged);
        let records: BTreeMap<String, NodeRecord> = records
            .iter()
            .map(|record| (record.name_any(), NodeRecord::new(record)))
            .collect();
        let by_name: BTreeMap<NodeName, &ReadNode> = nodes
            .iter()
            .filter_map(|node| Some((node.name()?, node)))
            .collect();
        let meant = match facts.spec {
            Ok(_) => {
                let nodes = by_name.iter();
                let nodes = nodes.map(|(name, node)| (*node).clone().into_facts(name.clone()));
                meant(facts.clone(), nodes, now)
            }
            Err(_) => recorded(&facts, &records),
        };
        let columns = columns(&facts, &meant);
        let nothing = NodeRecord::default();
        let rows = meant.iter().map(|(name, images)| {
            let record = records.get(name.as_str()).unwrap_or(&nothing);
            let by_node = by_name.get(name).and_then(|node| unreachable(node, name));
            let unreachable = by_node.or_else(|| record.silence(now));
            let wanted: BTreeSet<&ImageRef> = images.iter().collect();
            let cells = columns.iter().enumerate();
            let cells = cells.filter(|(_, image)| wanted.contains(image));
            let cells = cells.map(|(column, image)| {
                let state = match unreachable {
                    Some(_) => State::Unreachable,
                    None => record.state(image, leaves),
                };
                cell(column, image, state, record)
            });
            NodeRow {
                name: name.to_string(),
                images: cells.collect(),
                unreachable: unreachable.as_ref().map(|why| why.word()),
                unreachable_since: unreachable.as_ref().and_then(|why| why.since()),
            }
        });
        Self {
            image_cache: CacheOverview::new(cache),
            nodes: rows.collect(),
            images: columns.iter().map(ToString::to_string).collect(),
        }
    }
}

/// What nodes still hold for a cache of which nobody knows what it wants now.
fn recorded(
    facts: &CacheFacts,
    records: &BTreeMap<String, NodeRecord>,
) -> BTreeMap<NodeName, Vec<ImageRef>> {
    let held = records.iter().filter_map(|(name, record)| {
        let entries = record.assigned.values();
        let of_cache = entries.filter(|entry| entry.wanted_by.contains(&facts.id));
        let images: Vec<ImageRef> = of_cache.map(|entry| entry.image.clone()).collect();
        let name = NodeName::new(name).ok()?;
        (!images.is_empty()).then_some((name, images))
    });
    held.collect()
}

/// The images in the order of the spec, each once.
fn columns(facts: &CacheFacts, meant: &BTreeMap<NodeName, Vec<ImageRef>>) -> Vec<ImageRef> {
    let groups = facts.spec.iter().flat_map(|spec| &spec.groups);
    let written = groups.flat_map(|group| &group.images);
    let mut known = BTreeSet::new();
    let all = written.chain(meant.values().flatten());
    all.filter(|image| known.insert((*image).clone()))
        .cloned()
        .collect()
}

fn cell(column: usize, image: &ImageRef, state: State, record: &NodeRecord) -> Cell {
    let report = record.reported.get(image);
    Cell {
        column,
        image: image.to_string(),
        state,
        reason: report.and_then(|report| report.reason.map(|reason| reason.to_string())),
        message: report.and_then(|report| report.message.clone()),
        attempts: report.map(|report| report.attempts),
        next_attempt: report.and_then(|report| report.next_attempt_at),
        digest: report.and_then(|report| report.digest.as_ref().map(ToString::to_string)),
    }
}
