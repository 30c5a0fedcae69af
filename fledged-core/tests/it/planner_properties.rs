//! After any history a cluster converges, and no desired image is ever removed.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::world::{World, mk_facts, mk_id, mk_name, mk_node, mk_ref, mk_spec};
use fledged_core::error::Reason;
use fledged_core::model::{
    AssignedImage, CountOrPercent, DeletionPolicy, ImageCacheSpec, ImagePullPolicy, NodeFacts,
    Rollout,
};
use fledged_core::planner::{
    ActionStatus, Cause, ClusterEvent, NodeRecord, Planner, PlannerConfig,
};
use proptest::prelude::*;

const IMAGES: [&str; 5] = ["app:1", "app:2", "db:1", "tool", "cron:1"];
const CACHES: [&str; 3] = ["api", "jobs", "web"];
const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const ZONES: [&str; 2] = ["zone=a", "zone=b"];

#[derive(Debug, Clone)]
enum Step {
    Apply(usize, ImageCacheSpec),
    Delete(usize),
    Refresh(usize),
    Purge(usize),
    Node(NodeFacts),
    Gone(usize),
    Act(usize),
    Unresponsive(usize),
    Fails(usize, usize, bool),
    Use(usize, usize),
    Pass(u64),
    Restart,
}

fn spec() -> impl Strategy<Value = ImageCacheSpec> {
    (
        prop::sample::subsequence(IMAGES.to_vec(), 1..=IMAGES.len()),
        prop::option::of(prop::sample::select(ZONES.to_vec())),
        any::<bool>(),
        any::<bool>(),
        prop::option::of(1..3u32),
    )
        .prop_map(|(images, zone, always, purge, limit)| {
            let zones: Vec<&str> = zone.into_iter().collect();
            let mut spec = mk_spec(&images, &zones);
            if always {
                spec.cache_spec[0].image_pull_policy = Some(ImagePullPolicy::Always);
            }
            spec.deletion_policy = purge.then_some(DeletionPolicy::Purge);
            spec.rollout = limit.map(|limit| {
                Rollout::default().with_max_concurrent_nodes(CountOrPercent::Count(limit))
            });
            spec
        })
}

fn node() -> impl Strategy<Value = NodeFacts> {
    (
        prop::sample::select(NODES.to_vec()),
        prop::sample::select(ZONES.to_vec()),
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.9),
    )
        .prop_map(|(name, zone, ready, linux)| {
            let mut facts = mk_node(name, &[zone]);
            facts.ready = ready;
            if !linux {
                facts.os = "windows".to_owned();
            }
            facts
        })
}

fn step() -> impl Strategy<Value = Step> {
    let (caches, nodes, images) = (0..CACHES.len(), 0..NODES.len(), 0..IMAGES.len());
    prop_oneof![
        4 => (caches.clone(), spec()).prop_map(|(c, s)| Step::Apply(c, s)),
        1 => caches.clone().prop_map(Step::Delete),
        1 => caches.clone().prop_map(Step::Refresh),
        1 => caches.prop_map(Step::Purge),
        4 => node().prop_map(Step::Node),
        1 => nodes.clone().prop_map(Step::Gone),
        6 => nodes.clone().prop_map(Step::Act),
        1 => nodes.clone().prop_map(Step::Unresponsive),
        1 => (nodes.clone(), images.clone(), any::<bool>()).prop_map(|(n, i, f)| Step::Fails(n, i, f)),
        1 => (nodes, images).prop_map(|(n, i)| Step::Use(n, i)),
        2 => (1..1_000u64).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ]
}

fn take(world: &mut World, step: &Step) {
    match step {
        Step::Apply(cache, spec) => {
            let deleting = world
                .caches
                .get(&mk_id(CACHES[*cache]))
                .is_some_and(|c| c.deleting);
            if !deleting {
                world.cache(CACHES[*cache], spec);
            }
        }
        Step::Delete(cache) => world.delete(CACHES[*cache]),
        Step::Refresh(cache) => world.refresh(CACHES[*cache]),
        Step::Purge(cache) => world.purge(CACHES[*cache]),
        Step::Node(facts) => world.node(facts.clone()),
        Step::Gone(node) => world.node_gone(NODES[*node]),
        Step::Act(node) => {
            if world.nodes.contains_key(&mk_name(NODES[*node])) {
                world.act(NODES[*node]);
            }
        }
        Step::Unresponsive(node) => world.unresponsive(NODES[*node]),
        Step::Fails(node, image, fails) => {
            if let Some(agent) = world.agents.get_mut(&mk_name(NODES[*node])) {
                let image = mk_ref(IMAGES[*image]);
                match fails {
                    true => {
                        agent.fails.insert(image, Reason::Unauthorized);
                    }
                    false => {
                        agent.fails.remove(&image);
                    }
                }
            }
        }
        Step::Use(node, image) => {
            if let Some(agent) = world.agents.get_mut(&mk_name(NODES[*node])) {
                agent.in_use.insert(mk_ref(IMAGES[*image]));
            }
        }
        Step::Pass(seconds) => world.pass(*seconds),
        Step::Restart => world.restart(),
    }
}

fn play(limit: u32, room: usize, steps: &[Step]) -> World {
    let mut world = World::budget(limit);
    world.room = room;
    for step in steps {
        take(&mut world, step);
    }
    world
}

/// Ends all faults on the nodes, and runs all agents until nothing changes.
fn calm(world: &mut World) {
    for agent in world.agents.values_mut() {
        agent.fails.clear();
        agent.in_use.clear();
    }
    world.settle();
}

/// Checks that every node holds exactly the images of the model, and that every status agrees.
fn check(world: &World) -> Result<(), TestCaseError> {
    for (name, facts) in &world.nodes {
        if !facts.ready || facts.os != "linux" {
            continue;
        }
        let by_image = |images: &[_]| -> BTreeMap<_, _> {
            let images = images.iter();
            images
                .map(|i: &fledged_core::model::AssignedImage| (i.image.clone(), i.clone()))
                .collect()
        };
        prop_assert_eq!(
            by_image(&world.recorded(name)),
            by_image(&world.expected(facts)),
            "{}",
            name
        );
    }
    world.check_revisions();
    for (id, facts) in &world.caches {
        let status = facts.status.as_ref().expect("a status was written");
        prop_assert_ne!(status.status, ActionStatus::Processing, "{}", id);
        prop_assert!(status.completion_time.is_some());
        prop_assert_eq!(status.observed_generation, facts.generation);
        prop_assert_eq!(status.counts.pulling, 0);
        prop_assert_eq!(status.counts.failed, 0);
        prop_assert_eq!(
            status.counts.cached + status.counts.unreachable,
            status.counts.desired
        );
        prop_assert!(!facts.refresh_requested && !facts.purge_requested);
        prop_assert!(!facts.deleting, "the finalizer was not removed");
    }
    Ok(())
}

/// Checks that explanations agree with the counts of the statuses, and with a planner built from the records.
fn check_explanations(world: &World) -> Result<(), TestCaseError> {
    let records = world.records.iter().map(|(node, assignment)| {
        let mut record = NodeRecord::new(node.clone(), assignment.clone());
        let agent = world.agents.get(node);
        record.report = agent.and_then(|agent| agent.reported.clone());
        record
    });
    let (config, now) = (world.config.clone(), world.now);
    let (caches, nodes) = (
        world.caches.values().cloned(),
        world.nodes.values().cloned(),
    );
    let reader = Planner::from_records(config, caches, nodes, records, now);
    for (id, facts) in &world.caches {
        let groups = facts.spec.iter().flat_map(|spec| &spec.groups);
        let images: BTreeSet<_> = groups.flat_map(|group| &group.images).collect();
        let mut cached = 0;
        for (image, node) in images
            .iter()
            .flat_map(|i| world.nodes.keys().map(move |n| (i, n)))
        {
            let live = world.planner.explain(id, node, image);
            cached += u64::from(matches!(live.cause, Cause::Cached { .. }));
            let read = reader.explain(id, node, image);
            prop_assert_eq!(read.cause, live.cause, "{} of {} on {}", image, id, node);
        }
        let status = facts.status.as_ref().expect("a status was written");
        prop_assert_eq!(cached, status.counts.cached, "{}", id);
    }
    Ok(())
}

/// The image is assigned and dropped while the node is NotReady, so the node's report acknowledges neither.
#[test]
fn an_image_in_use_is_explained_by_the_last_report() {
    let spec = |image| mk_spec(&[image], &[]);
    let mut not_ready = mk_node("n2", &["zone=a"]);
    not_ready.ready = false;
    let steps = [
        Step::Node(mk_node("n2", &["zone=a"])),
        Step::Use(1, 2),
        Step::Apply(2, spec("db:1")),
        Step::Purge(2),
        Step::Act(1),
        Step::Apply(1, spec("db:1")),
        Step::Apply(1, spec("tool")),
        Step::Node(not_ready),
    ];
    let mut world = play(2, usize::MAX, &steps);
    calm(&mut world);
    check_explanations(&world).unwrap();
}

/// The image fails on the node, so the refresh of the other cache, which is due then, asks for it again.
#[test]
fn the_settings_of_images_on_a_node_that_is_not_ready_follow_the_caches() {
    let mut not_ready = mk_node("n4", &["zone=a"]);
    not_ready.ready = false;
    let steps = [
        Step::Node(mk_node("n4", &["zone=a"])),
        Step::Fails(3, 4, true),
        Step::Apply(1, mk_spec(&["tool", "cron:1"], &[])),
        Step::Apply(0, mk_spec(&["cron:1"], &[])),
        Step::Act(3),
        Step::Node(not_ready),
        Step::Pass(1_000),
        Step::Apply(0, mk_spec(&["tool"], &[])),
    ];
    let world = play(2, usize::MAX, &steps);
    let recorded = world.recorded(&mk_name("n4"));
    let wanted_by: Vec<_> = recorded
        .iter()
        .map(|entry| entry.wanted_by.clone())
        .collect();
    assert_eq!(
        wanted_by,
        [vec![mk_id("jobs")], vec![mk_id("api"), mk_id("jobs")]]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// The world also checks at every write: the limit of active nodes, no desired image marked absent, no refresh on
    /// demand that ends before every node has verified its images.
    #[test]
    fn converges_after_any_history(
        limit in 1..4u32,
        room in prop_oneof![Just(usize::MAX), 0..4usize],
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut world = play(limit, room, &steps);
        world.room = room.max(1);
        calm(&mut world);
        world.room = usize::MAX;
        check(&world)?;
        check_explanations(&world)?;
        // A new planner writes nothing.
        let writes = (world.writes, world.status_writes);
        world.restart();
        prop_assert_eq!((world.writes, world.status_writes), writes);
    }

    #[test]
    fn any_order_of_events_gives_the_same_assignments(
        specs in prop::collection::vec(spec(), CACHES.len()),
        nodes in prop::collection::vec(node(), 0..6),
        seed in any::<u64>(),
    ) {
        let mut config = PlannerConfig::default();
        config.max_concurrent_nodes = CountOrPercent::Count(1);
        let mut events: Vec<ClusterEvent> = Vec::new();
        let nodes: BTreeMap<_, _> = nodes.into_iter().map(|n| (n.name.clone(), n)).collect();
        for (name, spec) in CACHES.iter().zip(&specs) {
            events.push(ClusterEvent::CacheApplied(Box::new(mk_facts(name, spec))));
        }
        events.extend(nodes.values().cloned().map(ClusterEvent::NodeApplied));
        let mut outcomes = Vec::new();
        for shuffled in [false, true] {
            let mut world = World::with(config.clone());
            if shuffled {
                fastrand::Rng::with_seed(seed).shuffle(&mut events);
            }
            world.nodes = nodes.clone();
            for (name, spec) in CACHES.iter().zip(&specs) {
                world.caches.insert(mk_id(name), mk_facts(name, spec));
            }
            for event in events.clone() {
                world.send(event);
            }
            world.settle();
            let images = world.records.into_iter().map(|(name, record)| (name, record.images));
            outcomes.push(images.collect::<Vec<_>>());
        }
        prop_assert_eq!(&outcomes[0], &outcomes[1]);
    }

    #[test]
    fn an_edit_never_changes_images_of_other_caches(
        steps in prop::collection::vec(step(), 0..40),
        cache in 0..CACHES.len(),
        new in spec(),
    ) {
        // A refresh by the interval would change images as well.
        let mut config = PlannerConfig::default();
        config.refresh_interval = Duration::ZERO;
        let mut world = World::with(config);
        for step in &steps {
            take(&mut world, step);
        }
        calm(&mut world);
        let mut touched: BTreeSet<_> = new.cache_spec[0].images.iter().map(|i| mk_ref(i)).collect();
        if let Some(Ok(old)) = world.caches.get(&mk_id(CACHES[cache])).map(|c| &c.spec) {
            touched.extend(old.groups.iter().flat_map(|g| g.images.clone()));
        }
        // An edit may change the cause of a removal that the same cache has ordered before.
        let edited = mk_id(CACHES[cache]);
        let ordered = |image: &AssignedImage| image.removal.as_ref().is_some_and(|r| r.cache == edited);
        let others = |world: &World| -> Vec<_> {
            let images = world.records.iter().flat_map(|(name, record)| {
                let others = record.images.iter().filter(|i| !touched.contains(&i.image) && !ordered(i));
                others.map(move |image| (name.clone(), image.clone()))
            });
            // The order in a record has no meaning.
            let mut images: Vec<_> = images.collect();
            images.sort_by(|(a, one), (b, other)| (a, &one.image).cmp(&(b, &other.image)));
            images
        };
        let before = others(&world);
        world.cache(CACHES[cache], &new);
        prop_assert_eq!(others(&world), before.clone());
        world.settle();
        prop_assert_eq!(others(&world), before);
    }

    #[test]
    fn a_late_node_gets_the_assignment_of_an_early_one(
        steps in prop::collection::vec(step(), 0..40),
        zone in prop::sample::select(ZONES.to_vec()),
    ) {
        let mut early = mk_node("early", &[zone]);
        let mut world = World::budget(4);
        world.node(early.clone());
        for step in &steps {
            take(&mut world, step);
        }
        calm(&mut world);
        early.name = mk_name("late");
        world.node(early);
        world.settle();
        prop_assert_eq!(world.recorded(&mk_name("early")), world.recorded(&mk_name("late")));
    }
}
