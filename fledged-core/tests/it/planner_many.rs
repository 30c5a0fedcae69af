//! The planner with many caches: what it keeps by node and by time follows every change.
use crate::world::{World, mk_name, mk_node, mk_ref, mk_spec};
use fledged_core::error::Reason;
use fledged_core::planner::{ActionStatus, PlannerConfig};

/// Caches of one image each; four zones have a quarter of them each.
const CACHES: usize = 40;

fn name(cache: usize) -> String {
    format!("cache-{cache:02}")
}

fn image(cache: usize) -> String {
    format!("app:{cache:02}")
}

fn zone(number: usize) -> String {
    format!("zone={}", number % 4)
}

fn apply(world: &mut World, cache: usize, images: &[&str], zone: &str) {
    world.cache(&name(cache), &mk_spec(images, &[zone]));
}

/// Two nodes in the first two zones.
fn mk_world() -> World {
    let mut world = World::with(PlannerConfig::default());
    for node in 0..2 {
        world.node(mk_node(&format!("n{node}"), &[&zone(node)]));
    }
    for cache in 0..CACHES {
        apply(&mut world, cache, &[&image(cache)], &zone(cache));
    }
    world.settle();
    world
}

fn of_zone(number: usize) -> Vec<String> {
    (0..CACHES)
        .filter(|cache| cache % 4 == number)
        .map(image)
        .collect()
}

fn held(world: &World, node: &str) -> Vec<String> {
    let mut held = world.assigned(node);
    held.sort();
    held
}

/// Checks the records against the model, and that a new planner has nothing to add.
fn check(world: &mut World) {
    world.settle();
    for (name, facts) in &world.nodes {
        let mut expected = world.expected(facts);
        expected.sort_by(|a, b| a.image.cmp(&b.image));
        let mut recorded = world.recorded(name);
        recorded.retain(|entry| !entry.wanted_by.is_empty());
        let images = |entries: &[fledged_core::model::AssignedImage]| -> Vec<String> {
            entries
                .iter()
                .map(|entry| entry.image.to_string())
                .collect()
        };
        assert_eq!(images(&recorded), images(&expected), "{name}");
    }
    let (writes, statuses) = (world.writes, world.status_writes);
    world.restart();
    assert_eq!((world.writes, world.status_writes), (writes, statuses));
}

#[test]
fn a_node_follows_the_caches_that_match_it() {
    let mut world = mk_world();
    assert_eq!(held(&world, "n0"), of_zone(0));
    check(&mut world);
    // Labels change, there and back.
    world.node(mk_node("n0", &[&zone(2)]));
    check(&mut world);
    assert_eq!(held(&world, "n0"), of_zone(2));
    world.node(mk_node("n0", &[&zone(0)]));
    check(&mut world);
    assert_eq!(held(&world, "n0"), of_zone(0));
    // A cache selects another zone, and another one lists more images.
    apply(&mut world, 1, &[&image(1)], &zone(0));
    apply(&mut world, 4, &["app:04", "app:05", "app:06"], &zone(0));
    check(&mut world);
    let more = ["app:01", "app:05", "app:06"].map(str::to_owned);
    let mut expected: Vec<String> = of_zone(0).into_iter().chain(more).collect();
    expected.sort();
    assert_eq!(held(&world, "n0"), expected);
    // The image that another cache of the second zone lists stays there.
    assert!(held(&world, "n1").contains(&image(5)));
    assert!(!held(&world, "n1").contains(&image(1)));
}

#[test]
fn purges_and_deletions_reach_only_their_nodes() {
    let mut world = mk_world();
    let before = world.records[&mk_name("n1")].clone();
    world.purge(&name(4));
    world.delete(&name(8));
    check(&mut world);
    assert!(!held(&world, "n0").contains(&image(4)));
    assert!(!held(&world, "n0").contains(&image(8)));
    assert_eq!(world.records[&mk_name("n1")], before);
    // The node of another zone comes under the purge by its labels, and leaves it.
    world.node(mk_node("n1", &[&zone(0)]));
    check(&mut world);
    assert_eq!(held(&world, "n1"), held(&world, "n0"));
    assert_eq!(world.status(&name(4)).counts.desired, 0);
    world.refresh(&name(4));
    check(&mut world);
    assert!(held(&world, "n1").contains(&image(4)));
    assert_eq!(world.word(&name(4)), ActionStatus::Succeeded);
}

#[test]
fn a_node_that_flaps_changes_no_assignment() {
    let mut world = mk_world();
    let (writes, before) = (world.writes, world.records.clone());
    for _ in 0..5 {
        world.set_ready("n0", false);
        world.pass(1);
        assert_eq!(world.status(&name(0)).counts.unreachable, 1);
        world.set_ready("n0", true);
        world.pass(1);
        assert_eq!(world.status(&name(0)).counts.cached, 1);
    }
    assert_eq!((world.writes, &world.records), (writes, &before));
    // Only the caches of its zone are concerned.
    let statuses = world.status_writes;
    world.set_ready("n1", false);
    world.pass(1);
    assert_eq!(world.status_writes, statuses + CACHES / 4);
}

#[test]
fn an_invalid_spec_freezes_only_its_own_images() {
    let mut world = mk_world();
    apply(&mut world, 4, &["App:1"], &zone(0));
    world.settle();
    assert_eq!(held(&world, "n0"), of_zone(0));
    // The other caches still change, and the frozen image stays.
    apply(&mut world, 8, &["app:80"], &zone(0));
    world.settle();
    assert!(held(&world, "n0").contains(&image(4)));
    assert!(held(&world, "n0").contains(&"app:80".to_owned()));
    assert!(!held(&world, "n0").contains(&image(8)));
    apply(&mut world, 4, &["app:40"], &zone(0));
    check(&mut world);
    assert!(!held(&world, "n0").contains(&image(4)));
    assert!(held(&world, "n0").contains(&"app:40".to_owned()));
}

#[test]
fn failures_of_all_kinds_share_one_limit() {
    let mut config = PlannerConfig::default();
    config.record_bytes_max = 700;
    config.failures_max = 5;
    let mut world = World::with(config);
    for number in 0..8 {
        let zone = ["zone=a", "zone=b"][number % 2];
        world.node(mk_node(&format!("n{number}"), &[zone]));
    }
    // The records of zone a have no room for both caches.
    world.cache("first", &mk_spec(&["a0:1", "a1:1"], &["zone=a"]));
    world.settle();
    for agent in world.agents.values_mut() {
        agent.fails.insert(mk_ref("b0:1"), Reason::ImageNotFound);
    }
    world.cache("second", &mk_spec(&["b0:1", "b1:1"], &[]));
    world.settle();
    let failures = &world.status("second").failures;
    let count = |reason| {
        let all = failures.values().flatten();
        all.filter(|failure| failure.reason == reason).count()
    };
    assert_eq!(count(Reason::NodeRecordFull), 4);
    assert_eq!(count(Reason::ImageNotFound), 1);
    assert_eq!(failures.values().flatten().count(), 5);
}
