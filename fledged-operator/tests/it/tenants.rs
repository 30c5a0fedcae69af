//! Tenants share the records of nodes: whatever one namespace creates, records stay bounded and the images of
//! the others arrive.

use std::collections::{BTreeMap, BTreeSet};

use fledged_core::error::Reason;
use fledged_core::model::{
    AssignedImage, CacheId, CacheSpecImages, ImageCacheSpec, ImagePhase, ImageReport,
    LocalObjectReference, NodeFacts, NodeName, NodeReport,
};
use fledged_core::planner::{
    ActionStatus, CacheFacts, CacheStatus, ClusterCommand, ClusterEvent, ConditionKind, Planner,
    PlannerConfig,
};
use fledged_operator::crd::NodeImageCacheSpec;
use jiff::{Timestamp, ToSpan};
use proptest::prelude::*;

/// A planner with two nodes that carry out each assignment at once.
struct Cluster {
    planner: Planner,
    now: Timestamp,
    records: BTreeMap<NodeName, Vec<AssignedImage>>,
    statuses: BTreeMap<CacheId, CacheStatus>,
    generation: u64,
    events: usize,
    /// Whether nodes do not report.
    unresponsive: bool,
    /// Bytes above which an assignment is refused.
    refused_above: usize,
}

impl Cluster {
    fn new(room: usize) -> Self {
        let mut config = PlannerConfig::default();
        config.record_bytes_max = room;
        let mut planner = Planner::new(config, 1);
        let now = Timestamp::UNIX_EPOCH;
        for name in ["node-1", "node-2"] {
            let facts = NodeFacts::new(name.parse().unwrap());
            planner.apply(ClusterEvent::NodeApplied(facts), now);
        }
        planner.apply(ClusterEvent::Synced, now);
        Self {
            planner,
            now,
            records: BTreeMap::new(),
            statuses: BTreeMap::new(),
            generation: 0,
            events: 0,
            unresponsive: false,
            refused_above: usize::MAX,
        }
    }

    fn create(&mut self, namespace: &str, name: &str, spec: &ImageCacheSpec) -> CacheId {
        let id = CacheId::new(namespace, name, format!("uid-of-{namespace}-{name}"));
        let facts = CacheFacts::of_spec(id.clone(), 1, spec);
        assert!(facts.spec.is_ok(), "{:?}", facts.spec);
        self.planner
            .apply(ClusterEvent::CacheApplied(Box::new(facts)), self.now);
        id
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            let commands = self.planner.poll(self.now);
            if commands.is_empty() && self.planner.next_wakeup().is_none() {
                return;
            }
            for command in commands {
                self.execute(command);
            }
            self.now = self.now.checked_add(2.seconds()).unwrap();
        }
    }

    fn execute(&mut self, command: ClusterCommand) {
        let now = self.now;
        match command {
            ClusterCommand::WriteAssignment {
                node,
                ticket,
                images,
            } => {
                if bytes(&images) > self.refused_above {
                    self.planner
                        .apply(ClusterEvent::AssignmentTooLarge(node), now);
                    return;
                }
                self.generation += 1;
                let generation = self.generation;
                let written = ClusterEvent::AssignmentWritten {
                    node: node.clone(),
                    ticket,
                    generation,
                };
                self.planner.apply(written, now);
                let reports = images.iter().map(|entry| {
                    let report = ImageReport::new(entry.image.clone(), ImagePhase::Cached);
                    report.with_revision(entry.revision)
                });
                let report = NodeReport::new(generation, reports);
                self.records.insert(node.clone(), images);
                if !self.unresponsive {
                    self.planner
                        .apply(ClusterEvent::Reported { node, report }, now);
                }
            }
            ClusterCommand::WriteStatus { cache, status } => {
                self.statuses.insert(cache, *status);
            }
            ClusterCommand::RecordEvent { .. } => self.events += 1,
            _ => {}
        }
    }

    fn largest_record(&self) -> usize {
        self.records
            .values()
            .map(|images| bytes(images))
            .max()
            .unwrap_or(0)
    }
}

/// Size of the record as it is written.
fn bytes(images: &[AssignedImage]) -> usize {
    let spec = NodeImageCacheSpec::from_images(images);
    serde_json::to_vec(&spec).unwrap().len()
}

fn mk_spec(images: impl IntoIterator<Item = String>, secrets: usize) -> ImageCacheSpec {
    let mut spec = ImageCacheSpec::new([CacheSpecImages::new(images)]);
    spec.image_pull_secrets = (0..secrets)
        .map(|n| LocalObjectReference::new(format!("{n:0>200}")))
        .collect();
    spec
}

#[test]
fn secrets_are_written_once_a_cache() {
    let mut cluster = Cluster::new(usize::MAX);
    let images = (0..60).map(|n| format!("registry.test/app:{n}"));
    cluster.create("attacker", "big", &mk_spec(images, 10));
    cluster.create(
        "victim",
        "web",
        &mk_spec(["registry.test/web:1".to_owned()], 1),
    );
    cluster.settle();
    assert!(
        cluster.largest_record() < 20_000,
        "{}",
        cluster.largest_record()
    );
    for images in cluster.records.values() {
        let wire = serde_json::to_value(NodeImageCacheSpec::from_images(images)).unwrap();
        let object = serde_json::json!({ "metadata": { "generation": 1 }, "spec": wire });
        let read: fledged_operator::crd::ReadNodeCache = serde_json::from_value(object).unwrap();
        let (assignment, invalid) = read.assignment();
        assert!(invalid.is_empty(), "{invalid:?}");
        assert_eq!(
            assignment.images, *images,
            "secrets are lost or in another order"
        );
    }
}

#[test]
fn a_cache_without_room_reports_it_and_the_others_are_served() {
    let mut cluster = Cluster::new(64 * 1024);
    let victim = cluster.create(
        "victim",
        "web",
        &mk_spec(["registry.test/web:1".to_owned()], 0),
    );
    let images = (0..1_000).map(|n| format!("registry.test/big:{n}"));
    let big = cluster.create("attacker", "big", &mk_spec(images, 0));
    let small = cluster.create(
        "attacker",
        "small",
        &mk_spec(["registry.test/s:1".to_owned()], 0),
    );
    cluster.settle();
    for id in [&victim, &small] {
        assert_eq!(cluster.statuses[id].status, ActionStatus::Succeeded, "{id}");
        assert_eq!(cluster.statuses[id].counts.cached, 2, "{id}");
    }
    let status = &cluster.statuses[&big];
    assert_eq!(status.status, ActionStatus::Failed);
    assert_eq!(status.counts.failed, 2_000);
    let degraded = status.condition(ConditionKind::Degraded).unwrap();
    assert_eq!(
        (degraded.status, &*degraded.reason),
        (true, "NodeRecordFull")
    );
    let failures = status.failures.values().flatten();
    let reasons: BTreeSet<Reason> = failures.map(|failure| failure.reason).collect();
    assert_eq!(reasons, BTreeSet::from([Reason::NodeRecordFull]));
    // Room again: the cache that was left out is served.
    cluster
        .planner
        .apply(ClusterEvent::CacheGone(big.clone()), cluster.now);
    let images = (0..100).map(|n| format!("registry.test/big:{n}"));
    let again = cluster.create("attacker", "again", &mk_spec(images, 0));
    cluster.settle();
    assert_eq!(cluster.statuses[&again].status, ActionStatus::Succeeded);
}

#[test]
fn a_refused_assignment_is_planned_with_less_room() {
    let mut cluster = Cluster::new(512 * 1024);
    cluster.refused_above = 40_000;
    let victim = cluster.create(
        "victim",
        "web",
        &mk_spec(["registry.test/web:1".to_owned()], 0),
    );
    for n in 0..20 {
        let images = (0..50).map(|m| format!("registry.test/big-{n}:{m}"));
        cluster.create("attacker", &format!("big-{n}"), &mk_spec(images, 0));
    }
    cluster.settle();
    assert_eq!(cluster.statuses[&victim].status, ActionStatus::Succeeded);
    assert!(
        cluster.largest_record() > 5_000,
        "{}",
        cluster.largest_record()
    );
}

#[test]
fn failures_conceal_names_of_other_namespaces() {
    let mut cluster = Cluster::new(usize::MAX);
    let spec = mk_spec(["registry.test/app:1".to_owned()], 1);
    let ids = ["attacker", "victim"].map(|namespace| cluster.create(namespace, "web", &spec));
    cluster.settle();
    let node: NodeName = "node-1".parse().unwrap();
    let image = "registry.test/app:1".parse().unwrap();
    let mut report = ImageReport::new(image, ImagePhase::Failed);
    report.reason = Some(Reason::CredentialsUnavailable);
    report.message = Some(
        "denied for registry.test/victim/app (pulled without credentials: service account \
         victim/payments: not found; pull secret attacker/own: not found)"
            .to_owned(),
    );
    let report = NodeReport::new(cluster.generation, [report]);
    cluster
        .planner
        .apply(ClusterEvent::Reported { node, report }, cluster.now);
    cluster.settle();
    let texts = ids.map(|id| {
        let mut failures = cluster.statuses[&id].failures.values().flatten();
        failures.next().unwrap().message.clone()
    });
    assert_eq!(
        texts[0],
        "denied for registry.test/victim/app (pulled without credentials: service account of \
         another namespace: not found; pull secret attacker/own: not found)"
    );
    assert!(texts[1].contains("victim/payments"), "{}", texts[1]);
    assert!(!texts[1].contains("attacker/own"), "{}", texts[1]);
}

#[test]
fn edits_do_not_fill_a_record_with_removals() {
    let room = 64 * 1024;
    let mut cluster = Cluster::new(room);
    let victim = cluster.create(
        "victim",
        "web",
        &mk_spec(["registry.test/web:1".to_owned()], 0),
    );
    cluster.settle();
    cluster.unresponsive = true;
    let id = CacheId::new("attacker", "web", "uid-attacker");
    for edit in 0..30 {
        let images = (0..200).map(|n| format!("registry.test/edit-{edit}:{n}"));
        let facts = CacheFacts::of_spec(id.clone(), edit + 1, &mk_spec(images, 0));
        cluster
            .planner
            .apply(ClusterEvent::CacheApplied(Box::new(facts)), cluster.now);
        let commands = cluster.planner.poll(cluster.now);
        commands.into_iter().for_each(|c| cluster.execute(c));
    }
    assert!(
        cluster.largest_record() <= 2 * room,
        "{} bytes",
        cluster.largest_record()
    );
    assert!(
        cluster.largest_record() > room / 2,
        "{} bytes",
        cluster.largest_record()
    );
    let wanted = |images: &[AssignedImage]| images.iter().any(|i| i.wanted_by.contains(&victim));
    assert!(cluster.records.values().all(|images| wanted(images)));
}

#[test]
fn events_of_a_cache_are_limited() {
    let mut cluster = Cluster::new(usize::MAX);
    let spec = mk_spec(["registry.test/app:1".to_owned()], 0);
    cluster.create("attacker", "web", &spec);
    cluster.settle();
    let node: NodeName = "node-1".parse().unwrap();
    for n in 0..200 {
        let phase = [ImagePhase::Failed, ImagePhase::Cached][n % 2];
        let report = ImageReport::new("registry.test/app:1".parse().unwrap(), phase);
        let report = NodeReport::new(cluster.generation, [report.with_revision(0)]);
        let node = node.clone();
        cluster
            .planner
            .apply(ClusterEvent::Reported { node, report }, cluster.now);
        let commands = cluster.planner.poll(cluster.now);
        commands.into_iter().for_each(|c| cluster.execute(c));
    }
    assert!(
        (20..=30).contains(&cluster.events),
        "{} events",
        cluster.events
    );
}

#[test]
fn a_report_is_bounded_when_it_is_read() {
    let status = serde_json::json!({ "observedGeneration": 1, "images": [
        { "image": "app:1", "phase": "Failed", "reason": "Unknown",
          "message": format!("no\u{1b}[31m\u{202e}\n{}", "x".repeat(1_200_000)) },
    ]});
    let object =
        serde_json::json!({ "metadata": { "generation": 1 }, "spec": {}, "status": status });
    let read: fledged_operator::crd::ReadNodeCache = serde_json::from_value(object).unwrap();
    let message = read.report().unwrap().images[0].message.clone().unwrap();
    assert!(
        message.starts_with("no[31m xxx") && message.chars().count() <= 401,
        "{message}"
    );
}

/// Namespace, and for each cache the number of images, their length and the number of secrets.
type Tenant = Vec<(usize, usize, usize)>;

fn tenant() -> impl Strategy<Value = Tenant> {
    prop::collection::vec((1..200usize, 1..220usize, 0..=10usize), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_tenant_keeps_a_smaller_one_from_converging(
        tenants in prop::collection::vec(tenant(), 1..6),
        shared in any::<bool>(),
    ) {
        let room = 64 * 1024;
        let mut cluster = Cluster::new(room);
        let victim = cluster.create("victim", "web", &mk_spec(["registry.test/web:1".to_owned()], 2));
        let mut ids = Vec::new();
        for (t, tenant) in tenants.iter().enumerate() {
            for (c, (images, length, secrets)) in tenant.iter().enumerate() {
                let owner = if shared { 0 } else { t };
                let images = (0..*images).map(|n| format!("registry.test/{}{owner}-{n}:1", "x".repeat(*length)));
                let spec = mk_spec(images, *secrets);
                ids.push(cluster.create(&format!("tenant-{t}"), &format!("c{c}"), &spec));
            }
        }
        cluster.settle();
        prop_assert!(cluster.largest_record() <= room, "{} bytes", cluster.largest_record());
        prop_assert_eq!(cluster.statuses[&victim].status, ActionStatus::Succeeded);
        for id in ids {
            let status = &cluster.statuses[&id];
            match status.status {
                ActionStatus::Succeeded => prop_assert_eq!(status.counts.cached, status.counts.desired),
                ActionStatus::Failed => {
                    let degraded = status.condition(ConditionKind::Degraded).unwrap();
                    prop_assert_eq!(degraded.reason.as_str(), "NodeRecordFull");
                }
                other => prop_assert!(false, "{} is {}", id, other),
            }
        }
    }
}
