//! The slots of the cluster are shared between namespaces: none waits for images of another that never finish.

use std::collections::{BTreeMap, BTreeSet};

use fledged_core::model::{
    AssignedImage, Assignment, CacheId, CountOrPercent, ImagePhase, ImageReport, NodeName,
    NodeReport,
};
use fledged_core::planner::{CacheFacts, ClusterCommand, ClusterEvent, Planner, PlannerConfig};
use jiff::Timestamp;
use proptest::prelude::*;

use crate::world::{mk_name, mk_node, mk_spec};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// Namespaces with one cache each. Images with `tarpit` in their name never finish.
struct Tenants {
    planner: Planner,
    limit: usize,
    nodes: BTreeSet<NodeName>,
    records: BTreeMap<NodeName, Assignment>,
    cached: BTreeMap<NodeName, BTreeSet<String>>,
    namespaces: BTreeSet<String>,
    writes: usize,
}

impl Tenants {
    /// Nodes `n1` to `n{nodes}`, all in zone `all`, and half of them in `odd`.
    fn new(limit: u32, nodes: usize) -> Self {
        let mut config = PlannerConfig::default();
        config.max_concurrent_nodes = CountOrPercent::Count(limit);
        let mut tenants = Self {
            planner: Planner::new(config, 1),
            limit: limit.try_into().unwrap(),
            nodes: BTreeSet::new(),
            records: BTreeMap::new(),
            cached: BTreeMap::new(),
            namespaces: BTreeSet::new(),
            writes: 0,
        };
        for number in 1..=nodes {
            let name = format!("n{number}");
            let zone = if number % 2 == 0 { "even=y" } else { "odd=y" };
            tenants.apply(ClusterEvent::NodeApplied(mk_node(&name, &["all=y", zone])));
            tenants.nodes.insert(mk_name(&name));
        }
        tenants.apply(ClusterEvent::Synced);
        tenants
    }

    fn apply(&mut self, event: ClusterEvent) {
        self.planner.apply(event, NOW);
    }

    fn create(&mut self, namespace: &str, images: &[&str], zone: &str) {
        let id = CacheId::new(namespace, "web", namespace);
        let facts = CacheFacts::of_spec(id, 1, &mk_spec(images, &[zone]));
        self.namespaces.insert(namespace.to_owned());
        self.apply(ClusterEvent::CacheApplied(Box::new(facts)));
        self.poll();
    }

    fn poll(&mut self) {
        loop {
            let commands = self.planner.poll(NOW);
            if commands.is_empty() {
                return;
            }
            for command in commands {
                if let ClusterCommand::WriteAssignment {
                    node,
                    ticket,
                    images,
                } = command
                {
                    self.writes += 1;
                    let generation = self.records.get(&node).map_or(1, |r| r.generation + 1);
                    let assignment = Assignment::new(generation, images);
                    self.records.insert(node.clone(), assignment);
                    self.check_limit();
                    self.apply(ClusterEvent::AssignmentWritten {
                        node,
                        ticket,
                        generation,
                    });
                }
            }
        }
    }

    fn unfinished(&self, node: &NodeName) -> impl Iterator<Item = &AssignedImage> {
        let cached = self.cached.get(node);
        let images = self
            .records
            .get(node)
            .into_iter()
            .flat_map(|record| &record.images);
        images.filter(move |entry| !cached.is_some_and(|c| c.contains(entry.image.original())))
    }

    fn pulling_for(&self, namespace: &str) -> Vec<&str> {
        let pulls = |node: &&NodeName| {
            let mut wanted = self.unfinished(node).flat_map(|entry| &entry.wanted_by);
            wanted.any(|id| id.namespace == namespace)
        };
        self.nodes
            .iter()
            .filter(pulls)
            .map(NodeName::as_str)
            .collect()
    }

    fn active(&self) -> usize {
        self.nodes
            .iter()
            .filter(|node| self.unfinished(node).next().is_some())
            .count()
    }

    fn check_limit(&self) {
        let (active, limit) = (self.active(), self.limit);
        for namespace in &self.namespaces {
            // A pull of another namespace that brings a shared image takes no slot of this one.
            let pulls = |node: &&NodeName| {
                let mut entries = self.unfinished(node);
                entries
                    .any(|entry| matches!(&entry.wanted_by[..], [id] if id.namespace == *namespace))
            };
            let nodes: Vec<_> = self.nodes.iter().filter(pulls).collect();
            assert!(
                nodes.len() <= limit,
                "{namespace} pulls on {nodes:?}, the limit is {limit}"
            );
        }
        let most = match self.namespaces.len() {
            1 => limit,
            several => limit * 2 + several,
        };
        assert!(active <= most, "{active} nodes pull, the limit is {limit}");
    }

    /// The node finishes all its pulls but those of tarpits.
    fn finish(&mut self, node: &str) {
        let name = mk_name(node);
        let Some(record) = self.records.get(&name) else {
            return;
        };
        let images = record.images.iter().map(|entry| {
            let image = entry.image.clone();
            let stalls = image.original().contains("tarpit");
            let phase = if stalls {
                ImagePhase::Pulling
            } else {
                ImagePhase::Cached
            };
            ImageReport::new(image, phase).with_revision(entry.revision)
        });
        let report = NodeReport::new(record.generation, images);
        let finished = report
            .images
            .iter()
            .filter(|seen| seen.phase == ImagePhase::Cached);
        let finished = finished.map(|seen| seen.image.original().to_owned());
        self.cached
            .entry(name.clone())
            .or_default()
            .extend(finished);
        self.apply(ClusterEvent::Reported { node: name, report });
        self.poll();
    }

    /// All nodes finish what they were assigned before.
    fn round(&mut self) {
        let nodes: Vec<_> = self.records.keys().cloned().collect();
        for node in nodes {
            self.finish(node.as_str());
        }
    }

    fn holders(&self, image: &str) -> usize {
        self.cached
            .values()
            .filter(|cached| cached.contains(image))
            .count()
    }
}

#[test]
fn a_namespace_has_a_node_if_another_holds_every_slot() {
    let mut tenants = Tenants::new(1, 3);
    tenants.create("a", &["tarpit:1"], "all=y");
    assert_eq!(tenants.pulling_for("a"), ["n1"]);
    tenants.create("b", &["app:1"], "all=y");
    // A node that pulls anyway takes no other slot.
    assert_eq!(tenants.pulling_for("b"), ["n1"]);
    tenants.finish("n1");
    assert_eq!(tenants.pulling_for("b"), ["n2"]);
    // The tarpits do not follow to the nodes of others.
    assert_eq!(tenants.pulling_for("a"), ["n1"]);
    tenants.finish("n2");
    tenants.finish("n3");
    assert_eq!((tenants.holders("app:1"), tenants.active()), (3, 1));
}

#[test]
fn a_namespace_has_its_share_if_another_holds_every_slot() {
    let mut tenants = Tenants::new(4, 20);
    tenants.create("a", &["tarpit:1"], "odd=y");
    assert_eq!(tenants.pulling_for("a").len(), 4);
    tenants.create("b", &["app:1"], "even=y");
    assert_eq!(tenants.pulling_for("b").len(), 2);
    assert_eq!(tenants.active(), 6);
    // The share of one of three namespaces is one node.
    tenants.create("c", &["db:1"], "even=y");
    assert_eq!(tenants.pulling_for("c").len(), 1);
}

#[test]
fn namespaces_end_with_equal_shares() {
    let mut tenants = Tenants::new(4, 40);
    tenants.create("a", &["app:1"], "odd=y");
    tenants.create("b", &["db:1"], "even=y");
    assert_eq!(tenants.pulling_for("a").len(), 4);
    for node in tenants.pulling_for("a")[..2]
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
    {
        tenants.finish(&node);
    }
    let pulling = |tenants: &Tenants| ["a", "b"].map(|of| tenants.pulling_for(of).len());
    assert_eq!(pulling(&tenants), [2, 2]);
    tenants.round();
    assert_eq!(pulling(&tenants), [2, 2]);
}

#[test]
fn namespaces_take_turns_at_slots_of_the_cluster() {
    let mut tenants = Tenants::new(2, 12);
    for (namespace, image) in [("a", "app:1"), ("b", "db:1")] {
        tenants.create(namespace, &[image], "all=y");
    }
    let mut assigned = Vec::new();
    for node in ["n1", "n10", "n11", "n12"] {
        tenants.finish(node);
        assigned.push(tenants.pulling_for("a").join(" "));
    }
    // Both pull on the same nodes.
    assert_eq!(assigned, ["n10 n11", "n11 n12", "n12 n2", "n2 n3"]);
    assert_eq!(tenants.active(), 2);
}

#[test]
fn a_rollout_beside_a_tarpit_writes_each_record_twice_at_most() {
    let mut tenants = Tenants::new(4, 20);
    tenants.create("a", &["tarpit:1"], "all=y");
    tenants.create("b", &["app:1", "app:2"], "all=y");
    while tenants.holders("app:2") < 20 {
        tenants.round();
    }
    assert_eq!(tenants.writes, 24);
}

#[derive(Debug, Clone)]
struct Tenant {
    hostile: bool,
    images: usize,
    zone: &'static str,
    /// Rounds between the creation of the tenant before and this one's.
    after: usize,
}

fn tenant() -> impl Strategy<Value = Tenant> {
    let zone = prop::sample::select(vec!["all=y", "odd=y", "even=y"]);
    (any::<bool>(), 1..4usize, zone, 0..3usize).prop_map(|(hostile, images, zone, after)| Tenant {
        hostile,
        images,
        zone,
        after,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Every write checks the limits. The images of a namespace that finish are on all its nodes after at most two rounds
    /// for each node, whatever the others do: one for its own images, and one in which it only waits for the shared image
    /// that another namespace has begun.
    #[test]
    fn no_namespace_waits_for_images_that_never_finish(
        limit in 1..5u32,
        nodes in 1..12usize,
        list in prop::collection::vec(tenant(), 1..6),
    ) {
        let mut tenants = Tenants::new(limit, nodes);
        let images = |at: usize, tenant: &Tenant| -> Vec<String> {
            let word = if tenant.hostile { "tarpit" } else { "app" };
            let own = (0..tenant.images).map(|n| format!("{word}-{at}:{n}"));
            own.chain(["shared:1".to_owned()]).collect()
        };
        for (at, tenant) in list.iter().enumerate() {
            for _ in 0..tenant.after {
                tenants.round();
            }
            let images = images(at, tenant);
            let images: Vec<&str> = images.iter().map(String::as_str).collect();
            tenants.create(&format!("ns-{at}"), &images, tenant.zone);
        }
        let selected = |zone: &str| match zone {
            "all=y" => nodes,
            "odd=y" => nodes.div_ceil(2),
            _ => nodes / 2,
        };
        for _ in 0..2 * nodes {
            tenants.round();
        }
        for (at, tenant) in list.iter().enumerate().filter(|(_, tenant)| !tenant.hostile) {
            for image in images(at, tenant).iter().filter(|image| *image != "shared:1") {
                prop_assert_eq!(tenants.holders(image), selected(tenant.zone), "{}", image);
            }
        }
    }
}
