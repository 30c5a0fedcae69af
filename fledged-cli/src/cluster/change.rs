//! What assignments would become, image by image.

use std::collections::{BTreeMap, BTreeSet};

use fledged_core::model::{
    AssignedImage, CacheId, DesiredState, ImageCache, ImagePullPolicy, ImageRef, NodeFacts,
    NodeName,
};
use fledged_core::planner::{CacheFacts, ClusterCommand, ClusterEvent};
use fledged_operator::controller::ReadNode;
use fledged_operator::crd::{ReadCache, ReadNodeCache};
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde::Serialize;

use super::selection::{at_once, planner, when_ready};

/// What a node would be told anew of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Action {
    /// It is pulled, unless it is there already.
    Pull,
    /// It is removed, unless something uses it.
    Remove,
    /// It stays, and nobody keeps it there any more.
    Release,
    /// It stays: other caches want it.
    Keep,
}

/// One image, and the nodes on which the same happens to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// What happens.
    pub action: Action,
    /// To which image, normalised.
    pub image: String,
    /// The caches that want it then, `namespace/name`.
    pub image_caches: Vec<String>,
    /// On which nodes, by name.
    pub nodes: Vec<String>,
    /// Those of them that can't act now: it happens once they can.
    pub not_ready: Vec<String>,
}

/// What `plan` shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Changes {
    /// The changes, pulls first.
    pub changes: Vec<Change>,
    /// Numbers of (image, node) pairs.
    pub summary: ChangeSummary,
}

/// Numbers of (image, node) pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ChangeSummary {
    /// To be pulled.
    pub pull: usize,
    /// To be removed.
    pub remove: usize,
    /// Kept by nobody any more.
    pub release: usize,
    /// Kept for others.
    pub keep: usize,
    /// Nodes on which anything is pulled, removed, released or kept.
    pub nodes: usize,
}

impl Changes {
    /// Whether anything would be pulled, removed or released.
    #[must_use]
    pub fn is_any(&self) -> bool {
        let summary = self.summary;
        summary.pull + summary.remove + summary.release > 0
    }
}

/// The objects of a cluster that decide what nodes hold.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Every ImageCache.
    pub caches: Vec<ReadCache>,
    /// Every Node.
    pub nodes: Vec<ReadNode>,
    /// Every NodeImageCache.
    pub records: Vec<ReadNodeCache>,
}

/// By node and image.
type Assignments = BTreeMap<NodeName, BTreeMap<ImageRef, AssignedImage>>;

/// What would change if these caches were applied. The pace of a rollout is left out of it.
#[must_use]
pub fn changes(inventory: &Inventory, applied: &[ImageCache], now: Timestamp) -> Changes {
    let mut facts: Vec<CacheFacts> = inventory
        .caches
        .iter()
        .cloned()
        .map(ReadCache::into_facts)
        .collect();
    let before = assignments(inventory, &facts, now);
    for cache in applied {
        apply(&mut facts, cache);
    }
    let after = assignments(inventory, &facts, now);
    let unready: BTreeSet<NodeName> = nodes(inventory)
        .filter(|node| !node.ready)
        .map(|node| node.name)
        .collect();
    let held = recorded(inventory);
    compare(&before, &after, &held, &unready)
}

/// What an API server makes of an applied manifest: another generation where the spec is another.
fn apply(facts: &mut Vec<CacheFacts>, cache: &ImageCache) {
    let same = |known: &&mut CacheFacts| {
        known.id.namespace == cache.id.namespace && known.id.name == cache.id.name
    };
    match facts.iter_mut().find(same) {
        Some(known) => {
            let mut spec = cache.clone();
            spec.id = known.id.clone();
            if known.spec.as_ref() != Ok(&spec) {
                known.spec = Ok(spec);
                known.generation += 1;
            }
        }
        None => facts.push(CacheFacts::new(cache.id.clone(), 1, Ok(cache.clone()))),
    }
}

fn nodes(inventory: &Inventory) -> impl Iterator<Item = NodeFacts> {
    let nodes = inventory.nodes.iter();
    nodes.filter_map(|node| Some(node.clone().into_facts(node.name()?)))
}

fn recorded(inventory: &Inventory) -> Assignments {
    let records = inventory.records.iter();
    let assigned = records.filter_map(|record| {
        let (assignment, _) = record.assignment();
        let node = NodeName::new(record.name_any()).ok()?;
        Some((node, by_image(assignment.images)))
    });
    assigned.collect()
}

/// What the planner leaves recorded once every node can act and has had its turn.
fn assignments(inventory: &Inventory, facts: &[CacheFacts], now: Timestamp) -> Assignments {
    let mut planner = planner();
    let mut assignments = recorded(inventory);
    for facts in facts {
        let facts = Box::new(at_once(facts.clone()));
        planner.apply(ClusterEvent::CacheApplied(facts), now);
    }
    for node in nodes(inventory) {
        planner.apply(ClusterEvent::NodeApplied(when_ready(node)), now);
    }
    for record in &inventory.records {
        let Ok(node) = NodeName::new(record.name_any()) else {
            continue;
        };
        let (assignment, _) = record.assignment();
        planner.apply(
            ClusterEvent::AssignmentRecorded {
                node: node.clone(),
                assignment,
            },
            now,
        );
        if let Some(report) = record.report() {
            planner.apply(ClusterEvent::Reported { node, report }, now);
        }
    }
    planner.apply(ClusterEvent::Synced, now);
    for command in planner.poll(now) {
        match command {
            ClusterCommand::WriteAssignment { node, images, .. } => {
                assignments.insert(node, by_image(images));
            }
            ClusterCommand::DeleteAssignment { node, .. } => {
                assignments.remove(&node);
            }
            _ => {}
        }
    }
    assignments
}

fn by_image(images: Vec<AssignedImage>) -> BTreeMap<ImageRef, AssignedImage> {
    let entries = images.into_iter();
    entries.map(|entry| (entry.image.clone(), entry)).collect()
}

/// `held` is what stands recorded: of what was still to come, nothing is left on a node.
fn compare(
    before: &Assignments,
    after: &Assignments,
    held: &Assignments,
    unready: &BTreeSet<NodeName>,
) -> Changes {
    type Key = (Action, String, Vec<String>);
    let mut found: BTreeMap<Key, Vec<&NodeName>> = BTreeMap::new();
    let (mut summary, none) = (ChangeSummary::default(), BTreeMap::new());
    let mut changed: BTreeSet<&NodeName> = BTreeSet::new();
    let names: BTreeSet<&NodeName> = before.keys().chain(after.keys()).collect();
    for node in names {
        let old = before.get(node).unwrap_or(&none);
        let new = after.get(node).unwrap_or(&none);
        let images: BTreeSet<&ImageRef> = old.keys().chain(new.keys()).collect();
        for image in images {
            let Some(action) = action(old.get(image), new.get(image)) else {
                continue;
            };
            let is_held = held.get(node).is_some_and(|held| held.contains_key(image));
            if action == Action::Release && !is_held {
                continue;
            }
            let count = match action {
                Action::Pull => &mut summary.pull,
                Action::Remove => &mut summary.remove,
                Action::Release => &mut summary.release,
                Action::Keep => &mut summary.keep,
            };
            *count += 1;
            changed.insert(node);
            let wanted_by = new.get(image).map_or(&[][..], |entry| &entry.wanted_by);
            let caches = wanted_by.iter().map(CacheId::to_string).collect();
            let key = (action, image.as_str().to_owned(), caches);
            found.entry(key).or_default().push(node);
        }
    }
    summary.nodes = changed.len();
    let changes = found
        .into_iter()
        .map(|((action, image, image_caches), nodes)| Change {
            action,
            image,
            image_caches,
            not_ready: nodes
                .iter()
                .filter(|node| unready.contains(**node))
                .map(ToString::to_string)
                .collect(),
            nodes: nodes.iter().map(ToString::to_string).collect(),
        });
    Changes {
        changes: changes.collect(),
        summary,
    }
}

/// From what stands of an image before and after.
fn action(before: Option<&AssignedImage>, after: Option<&AssignedImage>) -> Option<Action> {
    let present = |entry: &&AssignedImage| entry.state == DesiredState::Present;
    match (before.filter(present), after.filter(present)) {
        (None, Some(_)) => Some(Action::Pull),
        // Of what does not move, it only asks to look again.
        (Some(old), Some(new))
            if new.revision > old.revision && new.pull_policy == ImagePullPolicy::Always =>
        {
            Some(Action::Pull)
        }
        (Some(old), Some(new)) => {
            let left = |id: &CacheId| !new.wanted_by.contains(id);
            old.wanted_by.iter().any(left).then_some(Action::Keep)
        }
        (Some(_), None) if after.is_some() => Some(Action::Remove),
        (Some(_), None) => Some(Action::Release),
        (None, None) if before.is_none() && after.is_some() => Some(Action::Remove),
        (None, None) => None,
    }
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
