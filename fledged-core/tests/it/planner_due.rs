//! Polls with room for few records: nodes stay due until a later poll, which plans them from the newest events.
use std::collections::BTreeSet;

use fledged_core::model::DeletionPolicy;
use fledged_core::planner::ClusterEvent;

use crate::world::{World, mk_id, mk_name, mk_node, mk_spec};

const NODES: usize = 5;

fn node(number: usize) -> String {
    format!("n{number}")
}

fn mk_world(limit: u32, zone: &str) -> World {
    let mut world = World::budget(limit);
    for number in 0..NODES {
        world.node(mk_node(&node(number), &[zone]));
    }
    world
}

#[test]
fn edits_beyond_the_room_leave_no_removals() {
    let mut world = mk_world(100, "zone=a");
    world.room = 1;
    let mut first = BTreeSet::new();
    for edit in 0..100 {
        let mut spec = mk_spec(&["app:1", &format!("edited:{edit}")], &[]);
        spec.deletion_policy = Some(DeletionPolicy::Purge);
        world.cache("web", &spec);
        first.extend(world.records.keys().cloned());
        // Each poll has written one record, those of all nodes in turn.
        assert_eq!(first.len(), (edit + 1).min(NODES));
        assert_eq!(world.writes, edit + 1);
    }
    assert_eq!(world.planner.due_nodes(), NODES - 1);
    for number in 0..NODES {
        let assigned = world.assigned(&node(number));
        // The agents have not reported, so an image stays listed once its record was written.
        assert!(assigned.len() <= 2 + 100 / NODES, "{assigned:?}");
    }
    world.settle();
    for number in 0..NODES {
        assert_eq!(world.assigned(&node(number)), ["app:1", "edited:99"]);
    }
}

/// Records of other nodes are due at each poll, because the cache of these is edited all the time.
#[test]
fn a_node_that_waits_for_a_slot_gets_it_beside_nodes_that_are_due() {
    let mut world = mk_world(1, "zone=a");
    for number in NODES..2 * NODES {
        world.node(mk_node(&node(number), &["zone=b"]));
    }
    let edited = |edit: usize| {
        let mut spec = mk_spec(&["db:1"], &["zone=b"]);
        spec.service_account_name = Some(format!("account-{edit}"));
        spec
    };
    world.cache("api", &edited(0));
    world.settle();
    world.cache("web", &mk_spec(&["app:1"], &["zone=a"]));
    assert_eq!(world.assigned("n0"), ["app:1"]);
    world.room = 1;
    let mut given = Vec::new();
    for edit in 1..50 {
        world.cache("api", &edited(edit));
        assert!(world.planner.due_nodes() > 0);
        if let Some(number) = (0..NODES).rfind(|n| world.records.contains_key(&mk_name(&node(*n))))
        {
            world.act(&node(number));
            given.push(number);
        }
    }
    assert_eq!(given.last(), Some(&(NODES - 1)), "{given:?}");
}

#[test]
fn a_deleted_cache_is_remembered_until_its_nodes_are_planned() {
    let mut world = mk_world(100, "zone=a");
    let mut spec = mk_spec(&["app:1"], &[]);
    spec.deletion_policy = Some(DeletionPolicy::Purge);
    world.cache("web", &spec);
    world.cache("api", &mk_spec(&["db:1"], &[]));
    world.settle();
    world.room = 1;
    // Another program has removed the finalizer.
    world.caches.remove(&mk_id("web"));
    world.send(ClusterEvent::CacheGone(mk_id("web")));
    for number in 0..NODES {
        assert_eq!(world.assigned(&node(number)), ["db:1", "-app:1"]);
        world.pass(1);
    }
    world.settle();
    for number in 0..NODES {
        assert_eq!(world.assigned(&node(number)), ["db:1"]);
    }
}
