//! The limit of images of a namespace: the oldest caches keep theirs.

use fledged_core::model::CacheId;
use fledged_core::planner::{
    ActionReason, ActionStatus, CacheFacts, ClusterEvent, Planner, PlannerConfig,
};
use proptest::prelude::*;

use crate::world::{World, mk_id, mk_name, mk_node, mk_ref, mk_spec};

const LIMIT: usize = 4;

fn mk_world() -> World {
    let mut config = PlannerConfig::default();
    config.images_per_namespace_max = LIMIT;
    let mut world = World::with(config);
    world.node(mk_node("n1", &[]));
    world
}

/// Images of a cache, distinct from those of others.
fn images(cache: &str, count: usize) -> Vec<String> {
    (1..=count)
        .map(|number| format!("{cache}:{number}"))
        .collect()
}

fn apply(world: &mut World, cache: &str, count: usize) {
    let images = images(cache, count);
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    world.cache(cache, &mk_spec(&images, &[]));
}

#[test]
fn a_cache_above_the_limit_is_invalid_until_it_fits() {
    let mut world = mk_world();
    apply(&mut world, "a", 2);
    apply(&mut world, "b", 3);
    apply(&mut world, "c", 2);
    world.settle();
    assert_eq!(world.assigned("n1"), ["a:1", "a:2", "c:1", "c:2"]);
    let status = world.status("b");
    assert_eq!(
        (status.status, status.reason),
        (
            ActionStatus::Failed,
            ActionReason::CacheSpecValidationFailed
        )
    );
    let problem =
        "lists 3 images, older image caches of the namespace list 2, the limit of a namespace is 4";
    assert!(status.message.contains(problem), "{}", status.message);
    for name in ["a", "c"] {
        assert_eq!(world.word(name), ActionStatus::Succeeded, "{name}");
    }
    world.delete("c");
    apply(&mut world, "a", 1);
    world.settle();
    assert_eq!(world.assigned("n1"), ["a:1", "b:1", "b:2", "b:3"]);
    assert_eq!(world.word("b"), ActionStatus::Succeeded);
}

#[test]
fn a_greater_limit_serves_what_was_refused() {
    for of_namespace in [true, false] {
        let mut world = mk_world();
        world.config.images_per_cache_max = LIMIT;
        world.restart();
        apply(&mut world, "a", LIMIT + 1);
        world.settle();
        assert_eq!(world.word("a"), ActionStatus::Failed);
        if of_namespace {
            world.config.images_per_namespace_max = LIMIT + 1;
        } else {
            world.config.images_per_namespace_max = usize::MAX;
        }
        world.config.images_per_cache_max = usize::MAX;
        world.restart();
        world.settle();
        assert_eq!(world.word("a"), ActionStatus::Succeeded);
        assert_eq!(world.assigned("n1").len(), LIMIT + 1);
    }
}

#[test]
fn a_reader_without_the_limit_names_it() {
    let mut world = mk_world();
    apply(&mut world, "a", LIMIT + 1);
    world.settle();
    let (caches, nodes) = (
        world.caches.values().cloned(),
        world.nodes.values().cloned(),
    );
    let reader = Planner::from_records(PlannerConfig::default(), caches, nodes, [], world.now);
    let cause = reader
        .explain(&mk_id("a"), &mk_name("n1"), &mk_ref("a:1"))
        .cause;
    let problem =
        "spec.cacheSpec: \"5\": lists 5 images, older image caches of the namespace list 0";
    assert!(cause.to_string().contains(problem), "{cause}");
}

#[test]
fn an_edit_of_an_older_cache_displaces_a_newer_one() {
    let mut world = mk_world();
    apply(&mut world, "a", 1);
    apply(&mut world, "b", 3);
    world.settle();
    apply(&mut world, "a", 2);
    world.settle();
    // Its images are not removed, and do not count any more.
    assert_eq!(world.assigned("n1"), ["a:1", "a:2"]);
    assert_eq!(world.word("b"), ActionStatus::Failed);
}

#[test]
fn caches_are_counted_by_age_and_namespace() {
    let mut world = mk_world();
    let mut create = |namespace: &str, name: &str, age: i64| {
        let id = CacheId::new(namespace, name, format!("uid-{namespace}-{name}"));
        let names = images(&format!("{namespace}-{name}"), 3);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut facts = CacheFacts::of_spec(id.clone(), 1, &mk_spec(&names, &[]));
        facts.created_at = Some(world.now - jiff::SignedDuration::from_secs(age));
        world.caches.insert(id, facts.clone());
        world.send(ClusterEvent::CacheApplied(Box::new(facts)));
    };
    create("x", "a", 10);
    create("x", "b", 20);
    create("y", "a", 10);
    world.settle();
    let assigned = world.assigned("n1");
    assert_eq!(
        assigned,
        ["x-b:1", "x-b:2", "x-b:3", "y-a:1", "y-a:2", "y-a:3"]
    );
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_oldest_caches_that_fit_are_served(
        steps in prop::collection::vec((0..NAMES.len(), prop::option::weighted(0.8, 1..4usize), any::<bool>()), 1..20),
    ) {
        let mut world = mk_world();
        let mut sizes = [None; NAMES.len()];
        for (cache, count, restart) in steps {
            match count {
                Some(count) => apply(&mut world, NAMES[cache], count),
                None => world.delete(NAMES[cache]),
            }
            sizes[cache] = count;
            if restart {
                world.restart();
            }
            world.settle();
            let mut used = 0;
            let mut expected = Vec::new();
            for (name, count) in NAMES.iter().zip(sizes) {
                let Some(count) = count else {
                    prop_assert!(!world.caches.contains_key(&mk_id(name)));
                    continue;
                };
                let fits = used + count <= LIMIT;
                let word = if fits { ActionStatus::Succeeded } else { ActionStatus::Failed };
                prop_assert_eq!(world.word(name), word, "{}", name);
                if fits {
                    used += count;
                    expected.extend(images(name, count));
                }
            }
            let mut assigned = world.assigned("n1");
            assigned.sort_unstable();
            prop_assert_eq!(assigned, expected);
        }
        let writes = (world.writes, world.status_writes);
        world.restart();
        prop_assert_eq!((world.writes, world.status_writes), writes);
    }
}
