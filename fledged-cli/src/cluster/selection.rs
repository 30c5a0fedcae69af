//! Which nodes a cache means, as the planner sees it.

use std::collections::BTreeMap;

use fledged_core::model::{CountOrPercent, ImageRef, NodeFacts, NodeName};
use fledged_core::planner::{CacheFacts, ClusterCommand, ClusterEvent, Planner, PlannerConfig};
use jiff::Timestamp;

/// A planner that gives every node its whole assignment at once.
pub(super) fn planner() -> Planner {
    let mut config = PlannerConfig::default();
    config.max_concurrent_nodes = CountOrPercent::Count(u32::MAX);
    // The seed spreads refreshes, and none is waited for.
    Planner::new(config, 0)
}

/// The cache without the pace of its rollout.
pub(super) fn at_once(mut facts: CacheFacts) -> CacheFacts {
    if let Ok(spec) = &mut facts.spec {
        spec.rollout.max_concurrent_nodes = None;
    }
    facts
}

/// The node as it is once it can act.
pub(super) fn when_ready(facts: NodeFacts) -> NodeFacts {
    facts.with_ready(true)
}

/// The images that the cache wants on each node it means, whether or not that can act, and whether or not
/// the cache is purged.
pub(super) fn meant(
    facts: CacheFacts,
    nodes: impl IntoIterator<Item = NodeFacts>,
    now: Timestamp,
) -> BTreeMap<NodeName, Vec<ImageRef>> {
    let mut planner = planner();
    let mut facts = at_once(facts);
    facts.status = None;
    facts.deleting = false;
    facts.refresh_requested = false;
    facts.purge_requested = false;
    planner.apply(ClusterEvent::CacheApplied(Box::new(facts)), now);
    for node in nodes {
        // A node of another system is meant all the same: that it can't hold the images is to be seen.
        let mut node = when_ready(node);
        node.os = "linux".to_owned();
        planner.apply(ClusterEvent::NodeApplied(node), now);
    }
    planner.apply(ClusterEvent::Synced, now);
    let commands = planner.poll(now).into_iter();
    let assignments = commands.filter_map(|command| match command {
        ClusterCommand::WriteAssignment { node, images, .. } => {
            Some((node, images.into_iter().map(|entry| entry.image).collect()))
        }
        _ => None,
    });
    assignments.collect()
}
