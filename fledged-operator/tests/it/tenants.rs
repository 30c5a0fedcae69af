//! Tenants share the records of nodes: whatever one namespace creates, records stay bounded and the images of
//! the others arrive.

use std::collections::{BTreeMap, BTreeSet};

use fledged_core::error::Reason;
use fledged_core::model::{
    AssignedImage, CacheId, CacheSpecImages, CountOrPercent, DesiredState, ImageCacheSpec,
    ImagePhase, ImageReport, LocalObjectReference, NodeFacts, NodeName, NodeReport, Rollout,
};
use fledged_core::planner::{
    ActionStatus, CacheFacts, CacheStatus, ClusterCommand, ClusterEvent, ConditionKind, Planner,
    PlannerConfig,
};
use fledged_kube::crd::{ImageCacheStatus, NodeImageCacheSpec, ReadNodeCache};
use jiff::{Timestamp, ToSpan};
use proptest::prelude::*;

/// A planner with two nodes that carry out each assignment at once.
struct Cluster {
    planner: Planner,
    now: Timestamp,
    records: BTreeMap<NodeName, Vec<AssignedImage>>,
    statuses: BTreeMap<CacheId, CacheStatus>,
    generation: u64,
    events: BTreeMap<CacheId, usize>,
    /// Whether nodes do not report.
    unresponsive: bool,
    /// Creations and edits so far.
    edits: u64,
    /// A node that does not report by itself.
    rogue: Option<NodeName>,
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
            events: BTreeMap::new(),
            unresponsive: false,
            edits: 0,
            rogue: None,
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

    /// One second of work.
    fn second(&mut self) {
        for command in self.planner.poll(self.now) {
            self.execute(command);
        }
        self.now = self.now.checked_add(1.seconds()).unwrap();
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
                let report = NodeReport::new(generation, images.iter().map(outcome));
                self.records.insert(node.clone(), images);
                if !self.unresponsive && self.rogue.as_ref() != Some(&node) {
                    self.planner
                        .apply(ClusterEvent::Reported { node, report }, now);
                }
            }
            ClusterCommand::WriteStatus { cache, status } => {
                self.statuses.insert(cache, *status);
            }
            ClusterCommand::RemoveAnnotation { cache, annotation } => {
                let removed = ClusterEvent::AnnotationRemoved { cache, annotation };
                self.planner.apply(removed, now);
            }
            ClusterCommand::RecordEvent { cache, .. } => {
                *self.events.entry(cache).or_default() += 1;
            }
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

/// What becomes of an image on a node. The names of images say which pulls fail or do not end.
fn outcome(entry: &AssignedImage) -> ImageReport {
    let of_name = |part: &str| entry.image.as_str().contains(part);
    let phase = match entry.state {
        DesiredState::Absent => ImagePhase::Removed,
        DesiredState::Present if of_name("/stalled") => ImagePhase::Pulling,
        DesiredState::Present if of_name("/private") => ImagePhase::Failed,
        DesiredState::Present => ImagePhase::Cached,
    };
    let mut report = ImageReport::new(entry.image.clone(), phase).with_revision(entry.revision);
    if phase == ImagePhase::Failed {
        report.reason = Some(Reason::CredentialsUnavailable);
        report.message = Some("\u{10348}".repeat(400));
    }
    report
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
        let read: fledged_kube::crd::ReadNodeCache = serde_json::from_value(object).unwrap();
        let (assignment, invalid) = read.assignment();
        assert!(invalid.is_empty(), "{invalid:?}");
        assert_eq!(
            assignment.images, *images,
            "secrets are lost or in another order"
        );
    }
}

#[test]
fn the_room_of_a_pull_rate_is_estimated_from_above() {
    let images = || (0..500).map(|n| format!("registry.test/app:{n}"));
    let written = |rate: Option<&str>| {
        let mut spec = mk_spec(images(), 0);
        if let Some(rate) = rate {
            spec = spec.with_rollout(Rollout::default().with_max_pull_rate_per_node(rate));
        }
        let mut cluster = Cluster::new(usize::MAX);
        cluster.create("a", "web", &spec);
        cluster.create("b", "web", &spec);
        cluster.settle();
        cluster.largest_record()
    };
    // The longest number. The planner counts 100 bytes for each image.
    let more = written(Some("1Ti")) - written(None);
    assert!(more > 500 * 20 && more < 500 * 100, "{more}");
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
        "denied for registry.test/victim/app (tried without credentials: service account \
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
        "denied for registry.test/victim/app (tried without credentials: service account of \
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
    let events: usize = cluster.events.values().sum();
    assert!((20..=30).contains(&events), "{events} events");
}

#[test]
fn a_report_is_bounded_when_it_is_read() {
    let status = serde_json::json!({ "observedGeneration": 1, "images": [
        { "image": "app:1", "phase": "Failed", "reason": "Unknown",
          "message": format!("no\u{1b}[31m\u{202e}\n{}", "x".repeat(1_200_000)) },
    ]});
    let object =
        serde_json::json!({ "metadata": { "generation": 1 }, "spec": {}, "status": status });
    let read: fledged_kube::crd::ReadNodeCache = serde_json::from_value(object).unwrap();
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

/// What a tenant or an untrustworthy node does to harm the others.
#[derive(Debug, Clone)]
enum Move {
    /// Creates or edits a cache.
    Apply(Target, Shape),
    /// Creates or edits a cache, and asks for a refresh or a purge in the same moment.
    Request(Target, Shape, Request),
    Delete(Target),
    Report(Nonsense),
}

/// A tenant and one of its caches.
type Target = (usize, usize);

#[derive(Debug, Clone, Copy)]
enum Request {
    Refresh,
    Purge,
}

/// A spec: the fate of its images, their number and the length of their names, the secrets, and whether one node
/// pulls at a time.
#[derive(Debug, Clone)]
struct Shape {
    fate: &'static str,
    images: usize,
    length: usize,
    secrets: usize,
    one_by_one: bool,
}

/// A report of the rogue node.
#[derive(Debug, Clone)]
enum Nonsense {
    /// About as many images that nobody assigned.
    Strangers(usize),
    /// Each assigned image in this phase, with a text of this length, for a generation that is so far away.
    All(&'static str, usize, i64),
    /// Nothing at all.
    Empty,
}

fn mk_shape() -> impl Strategy<Value = Shape> {
    let fate = prop::sample::select(vec!["cached", "stalled", "private"]);
    let images = prop_oneof![3 => 1..20usize, 1 => 200..2_000usize];
    (fate, images, 1..200usize, 0..=10usize, any::<bool>()).prop_map(
        |(fate, images, length, secrets, one_by_one)| Shape {
            fate,
            images,
            length,
            secrets,
            one_by_one,
        },
    )
}

fn mk_move() -> impl Strategy<Value = Move> {
    let target = || (0..3usize, 0..20usize);
    let request = prop::sample::select(vec![Request::Refresh, Request::Purge]);
    let phase = prop::sample::select(vec!["Cached", "Failed", "Pulling", "Removed", "InUse"]);
    let nonsense = prop_oneof![
        (0..3_000usize).prop_map(Nonsense::Strangers),
        (phase, 0..2_000usize, -3..4i64).prop_map(|(p, l, g)| Nonsense::All(p, l, g)),
        Just(Nonsense::Empty),
    ];
    prop_oneof![
        6 => (target(), mk_shape()).prop_map(|(t, s)| Move::Apply(t, s)),
        3 => (target(), mk_shape(), request).prop_map(|(t, s, r)| Move::Request(t, s, r)),
        1 => target().prop_map(Move::Delete),
        2 => nonsense.prop_map(Move::Report),
    ]
}

/// The first tenants have names before the victim's, the last has one after it.
fn mk_target((tenant, cache): Target) -> CacheId {
    let namespace = ["a-tenant", "b-tenant", "z-tenant"][tenant];
    CacheId::new(
        namespace,
        format!("c{cache}"),
        format!("uid-of-{namespace}-c{cache}"),
    )
}

impl Cluster {
    fn make(&mut self, hostile: &Move) {
        match hostile {
            Move::Apply(target, shape) => self.apply(*target, shape, None),
            Move::Request(target, shape, request) => self.apply(*target, shape, Some(*request)),
            Move::Delete(target) => {
                let gone = ClusterEvent::CacheGone(mk_target(*target));
                self.planner.apply(gone, self.now);
                self.statuses.remove(&mk_target(*target));
            }
            Move::Report(nonsense) => self.report(nonsense),
        }
    }

    fn apply(&mut self, target: Target, shape: &Shape, request: Option<Request>) {
        let fill = "x".repeat(shape.length);
        let images =
            (0..shape.images).map(|n| format!("registry.test/{}/{fill}-{n}:1", shape.fate));
        let mut spec = mk_spec(images, shape.secrets);
        let one = CountOrPercent::Count(1);
        spec.rollout = shape
            .one_by_one
            .then(|| Rollout::default().with_max_concurrent_nodes(one));
        self.edits += 1;
        let mut facts = CacheFacts::of_spec(mk_target(target), self.edits, &spec);
        facts.refresh_requested = matches!(request, Some(Request::Refresh));
        facts.purge_requested = matches!(request, Some(Request::Purge));
        self.planner
            .apply(ClusterEvent::CacheApplied(Box::new(facts)), self.now);
    }

    /// A report of the rogue node, as it is read from the API server.
    fn report(&mut self, nonsense: &Nonsense) {
        let Some(node) = self.rogue.clone() else {
            return;
        };
        let generation = i64::try_from(self.generation).unwrap();
        let assigned = self.records.get(&node).cloned().unwrap_or_default();
        let (images, generation) = match nonsense {
            Nonsense::Strangers(count) => {
                let image =
                    |n| serde_json::json!({ "image": format!("x{n}:1"), "phase": "Cached" });
                ((0..*count).map(image).collect(), generation)
            }
            Nonsense::All(phase, length, further) => {
                let image = |entry: &AssignedImage| {
                    serde_json::json!({
                        "image": entry.image.as_str(), "phase": phase, "reason": "Unknown",
                        "message": "\u{10348}".repeat(*length), "revision": u64::MAX,
                    })
                };
                (assigned.iter().map(image).collect(), generation + further)
            }
            Nonsense::Empty => (Vec::new(), generation),
        };
        let object = serde_json::json!({
            "metadata": { "generation": self.generation }, "spec": {},
            "status": { "observedGeneration": generation, "images": images },
        });
        let Ok(read) = serde_json::from_value::<ReadNodeCache>(object) else {
            return;
        };
        if let Some(report) = read.report() {
            let reported = ClusterEvent::Reported { node, report };
            self.planner.apply(reported, self.now);
        }
    }

    /// Whether the status of a cache counts all its images on the two honest nodes.
    fn is_served(&self, cache: &CacheId, images: u64) -> bool {
        let status = self.statuses.get(cache);
        status.is_some_and(|status| status.counts.cached >= 2 * images)
    }
}

/// Seconds within which the honest nodes have the victim's images, and its status says so.
const SERVED_WITHIN: usize = 10;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_hostile_moves_keep_a_victim_from_being_served(
        before in prop::collection::vec(mk_move(), 0..15),
        after in prop::collection::vec(prop::collection::vec(mk_move(), 0..3), SERVED_WITHIN),
        edit in any::<bool>(),
    ) {
        let room = 64 * 1024;
        let mut cluster = Cluster::new(room);
        let rogue: NodeName = "rogue".parse().unwrap();
        let facts = NodeFacts::new(rogue.clone());
        cluster.planner.apply(ClusterEvent::NodeApplied(facts), cluster.now);
        cluster.rogue = Some(rogue);
        for hostile in &before {
            cluster.make(hostile);
            cluster.second();
        }
        let images = ["registry.test/web:1".to_owned(), "registry.test/db:1".to_owned()];
        let victim = cluster.create("m-victim", "web", &mk_spec(images.clone(), 2));
        let mut desired = 2;
        if edit {
            cluster.second();
            desired = 1;
            let facts = CacheFacts::of_spec(victim.clone(), 2, &mk_spec(images[..1].to_vec(), 2));
            cluster.planner.apply(ClusterEvent::CacheApplied(Box::new(facts)), cluster.now);
            cluster.statuses.remove(&victim);
        }
        for moves in &after {
            for hostile in moves {
                cluster.make(hostile);
            }
            cluster.second();
        }
        // The last write of a second is executed in the next one.
        cluster.second();
        let status = cluster.statuses.get(&victim);
        prop_assert!(cluster.is_served(&victim, desired), "{status:#?}");
        // Removals have as much room again.
        let largest = cluster.largest_record();
        prop_assert!(largest <= 2 * room, "{largest} bytes in a record");
        for (id, status) in &cluster.statuses {
            let bytes = serde_json::to_vec(&ImageCacheStatus::from(status)).unwrap().len();
            prop_assert!(bytes <= 64 * 1024, "{bytes} bytes in the status of {id}");
        }
        for (id, events) in &cluster.events {
            prop_assert!(*events <= 30, "{events} events of {id}");
        }
    }
}
