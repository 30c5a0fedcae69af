//! The cluster-wide limit on nodes with unfinished pulls, shared between namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::model::{CountOrPercent, NodeName};

/// The cluster-wide limit if the configured one is malformed.
const DEFAULT_LIMIT: usize = 100;

/// What a node pulls for. A node with unfinished pulls holds a slot.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Activity {
    /// Whether it has unfinished pulls.
    pub(super) active: bool,
    /// The namespaces that it has unfinished pulls for.
    pub(super) namespaces: BTreeSet<String>,
}

/// The slots of the cluster.
///
/// The limit is exact while one namespace pulls. A namespace whose images never finish would otherwise hold every slot, so
/// the limit yields to two guarantees: a namespace may always pull on one node, and on its fair share of the limit as
/// long as fewer than twice the limit are active. With `n` namespaces, at most `2 × limit + n` nodes are active, and at
/// most `limit` of them for any one namespace.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    limit: CountOrPercent,
    /// Nodes that exist. Others are only records.
    nodes: usize,
    active: usize,
    /// Active nodes by namespace. A node may be active for several.
    active_for: BTreeMap<String, usize>,
    /// Nodes that wait for a slot, by the namespaces that they wait for.
    waiting: BTreeMap<String, BTreeSet<NodeName>>,
    /// The namespace that was last given a slot.
    last_served: Option<String>,
}

impl Slots {
    pub(super) fn new(limit: CountOrPercent) -> Self {
        Self {
            limit,
            nodes: 0,
            active: 0,
            active_for: BTreeMap::new(),
            waiting: BTreeMap::new(),
            last_served: None,
        }
    }

    pub(super) fn node_added(&mut self) {
        self.nodes += 1;
    }

    pub(super) fn node_removed(&mut self) {
        self.nodes = self.nodes.saturating_sub(1);
    }

    /// A node takes a slot, keeps it, or returns it.
    pub(super) fn set_activity(&mut self, before: &Activity, after: &Activity) {
        self.active = self.active + usize::from(after.active) - usize::from(before.active);
        for namespace in before.namespaces.difference(&after.namespaces) {
            if let Some(nodes) = self.active_for.get_mut(namespace) {
                *nodes = nodes.saturating_sub(1);
                if *nodes == 0 {
                    self.active_for.remove(namespace);
                }
            }
        }
        for namespace in after.namespaces.difference(&before.namespaces) {
            *self.active_for.entry(namespace.clone()).or_default() += 1;
        }
    }

    /// Whether a node may be given pulls for that namespace now.
    pub(super) fn admits(&self, node: &Activity, namespace: &str) -> bool {
        let limit = self.limit();
        let active_for = self.active_for.get(namespace).copied().unwrap_or(0);
        if active_for == 0
            || self.active < limit + usize::from(crate::planted::is("one-slot-too-many"))
        {
            return true;
        }
        // A node that is active anyway takes no other slot. Beyond the limit, each namespace has only its own share:
        // the nodes of one must not be held by the pulls of another.
        if node.active && self.active == limit {
            return true;
        }
        let share = limit / self.active_for.len().max(1);
        active_for < share && self.active < limit.saturating_mul(2)
    }

    /// Queues a node for a slot, for images of these namespaces.
    pub(super) fn wait(&mut self, node: &NodeName, namespaces: BTreeSet<String>) {
        for namespace in namespaces {
            let nodes = self.waiting.entry(namespace).or_default();
            nodes.insert(node.clone());
        }
    }

    /// The next node that may take a slot: the namespaces take turns, each with its nodes in the order of
    /// names.
    pub(super) fn pop_waiting(&mut self) -> Option<NodeName> {
        let namespace = self.next_namespace()?.to_owned();
        let node = self.waiting.get_mut(&namespace)?.pop_first();
        self.last_served = Some(namespace);
        if let Some(node) = &node {
            // It is planned for all namespaces.
            self.waiting.retain(|_, nodes| {
                nodes.remove(node);
                !nodes.is_empty()
            });
        }
        node
    }

    /// The next namespace in turn that a node waits for and that may have one more.
    fn next_namespace(&self) -> Option<&str> {
        let last = self.last_served.as_deref().unwrap_or_default();
        let turns = [
            (Bound::Excluded(last), Bound::Unbounded),
            (Bound::Unbounded, Bound::Included(last)),
        ];
        let turns = turns.map(|range| self.waiting.range::<str, _>(range));
        let mut turns = turns.into_iter().flatten().map(|(namespace, _)| namespace);
        let idle = Activity::default();
        turns
            .find(|namespace| self.admits(&idle, namespace))
            .map(String::as_str)
    }

    /// Most nodes that one namespace may pull on at once.
    pub(super) fn limit(&self) -> usize {
        self.limit.of(self.nodes).unwrap_or(DEFAULT_LIMIT)
    }

    /// Nodes with unfinished pulls.
    pub(super) fn active(&self) -> usize {
        self.active
    }
}
