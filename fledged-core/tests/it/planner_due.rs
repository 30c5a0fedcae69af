//! Polls with room for few records: nodes stay due until a later poll, which plans them from the newest events.
use std::collections::BTreeSet;
use std::time::Duration;

use fledged_core::model::{AssignedImage, Assignment, DeletionPolicy, ImageCacheSpec};
use fledged_core::planner::{ActionStatus, ClusterEvent, WriteTarget};

use crate::world::{World, mk_facts, mk_id, mk_limited, mk_name, mk_node, mk_ref, mk_spec};

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
    let mut given = Vec::new();
    for edit in 1..50 {
        world.room = 1;
        world.cache("api", &edited(edit));
        // Polls without room are no turns.
        world.room = 0;
        world.run();
        world.run();
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

fn mk_purged(images: &[&str]) -> ImageCacheSpec {
    mk_spec(images, &[]).with_deletion_policy(DeletionPolicy::Purge)
}

#[test]
fn a_purge_ends_after_the_last_record_is_written() {
    let mut world = mk_world(100, "zone=a");
    world.cache("web", &mk_purged(&["app:1"]));
    world.settle();
    world.room = 0;
    world.purge("web");
    world.pass(2);
    assert_eq!(world.word("web"), ActionStatus::Processing);
    world.room = 1;
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    assert_eq!(world.status("web").removed.nodes, NODES as u64);
}

/// The finalizer stays, also for an image of an earlier spec, and for a node that is not ready.
#[test]
fn a_deletion_ends_after_the_last_record_is_written() {
    for (edited, ready) in [(false, true), (true, true), (false, false), (true, false)] {
        let mut world = mk_world(100, "zone=a");
        world.cache("web", &mk_purged(&["app:1"]));
        world.settle();
        world.room = 0;
        if edited {
            world.cache(
                "web",
                &mk_spec(&["app:2"], &["zone=b"]).with_deletion_policy(DeletionPolicy::Purge),
            );
        }
        for number in 0..NODES {
            world.set_ready(&node(number), ready);
        }
        world.delete("web");
        world.pass(2);
        assert!(world.caches.contains_key(&mk_id("web")), "{edited} {ready}");
        world.room = 1;
        for _ in 1..NODES {
            world.pass(1);
            assert!(world.caches.contains_key(&mk_id("web")), "{edited} {ready}");
        }
        world.settle();
        assert!(
            !world.caches.contains_key(&mk_id("web")),
            "{edited} {ready}"
        );
    }
}

/// Each edit lets the nodes wait for a slot again, and the record of the node that pulls is not written.
#[test]
fn edits_beyond_the_room_keep_the_limit_of_a_cache() {
    let mut world = mk_world(100, "zone=a");
    world.room = 1;
    for edit in 0..20 {
        world.cache("web", &mk_limited(&[&format!("edited:{edit}")], 1));
        let pulling = world.nodes.keys().filter(|name| world.is_active(name));
        assert_eq!(pulling.count(), 1, "edit {edit}");
    }
}

#[test]
fn a_node_that_is_replaced_while_it_is_due_holds_nothing() {
    let mut world = mk_world(100, "zone=a");
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.settle();
    world.room = 0;
    world.send(ClusterEvent::NodeGone(mk_name("n0")));
    world.send(ClusterEvent::NodeApplied(mk_node("n0", &["zone=a"])));
    world.pass(2);
    assert_eq!(world.status("web").counts.cached, NODES as u64 - 1);
    world.room = 1;
    world.pass(2);
    assert_eq!(world.assigned("n0"), ["app:1"]);
    assert_eq!(world.status("web").counts.cached, NODES as u64 - 1);
    world.settle();
    assert_eq!(world.status("web").counts.cached, NODES as u64);
}

#[test]
fn a_node_whose_record_is_not_known_owes_no_report() {
    let mut world = mk_world(100, "zone=a");
    world.apply(ClusterEvent::CacheApplied(Box::new(mk_facts(
        "web",
        &mk_spec(&["app:1"], &[]),
    ))));
    let written = world.planner.poll(world.now);
    assert!(!written.is_empty());
    let known = ClusterEvent::AssignmentWritten {
        node: mk_name("n1"),
        ticket: 1,
        generation: 1,
    };
    world.apply(known);
    world.now += Duration::from_secs(70);
    // The answer to the write was lost, and a second attempt was refused.
    world.apply(ClusterEvent::Conflicted(WriteTarget::Assignment(mk_name(
        "n0",
    ))));
    // Another program has written the record.
    let images = vec![AssignedImage::present(mk_ref("db:1"))];
    world.apply(ClusterEvent::AssignmentRecorded {
        node: mk_name("n1"),
        assignment: Assignment::new(2, images),
    });
    for _ in 0..2 {
        world.planner.poll_with_room(world.now, 0);
        let wakeup = world.planner.next_wakeup();
        assert!(
            wakeup.is_none_or(|at| at > world.now),
            "the loop would spin"
        );
        for name in ["n0", "n1"] {
            assert_eq!(world.planner.unresponsive_since(&mk_name(name)), None);
        }
    }
}
