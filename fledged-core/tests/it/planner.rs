//! The planner after user actions: assignments, statuses and events.
use std::time::Duration;

use crate::world::{World, mk_facts, mk_id, mk_name, mk_node, mk_ref, mk_spec};
use fledged_core::error::Reason;
use fledged_core::model::{DeletionPolicy, ImageCacheSpec, RemovalCause, RemovalOrder};
use fledged_core::planner::{
    ActionReason, ActionStatus, ClusterEvent, ConditionKind, PlannerConfig,
};

fn mk_purging(images: &[&str]) -> ImageCacheSpec {
    mk_spec(images, &[]).with_deletion_policy(DeletionPolicy::Purge)
}

/// Two nodes and one settled cache `web` of `app:1` and `db:1`.
fn mk_settled() -> World {
    let mut world = World::new();
    world.node(mk_node("n1", &["zone=a"]));
    world.node(mk_node("n2", &["zone=b"]));
    world.cache("web", &mk_spec(&["app:1", "db:1"], &[]));
    world.settle();
    world
}

#[test]
fn a_new_cache_is_assigned_to_every_matching_node() {
    let mut world = World::new();
    world.node(mk_node("n1", &["zone=a"]));
    world.node(mk_node("n2", &["zone=b"]));
    world.cache("web", &mk_spec(&["app:1", "db:1"], &["zone=a"]));
    assert_eq!(world.assigned("n1"), ["app:1", "db:1"]);
    assert_eq!(world.assigned("n2"), [""; 0]);
    let status = world.status("web");
    assert_eq!(status.status, ActionStatus::Processing);
    assert_eq!(status.reason, ActionReason::ImageCacheCreate);
    assert_eq!((status.counts.desired, status.counts.pulling), (2, 2));
    assert_eq!(status.completion_time, None);

    world.act("n1");
    let status = world.status("web");
    assert_eq!(status.status, ActionStatus::Succeeded);
    assert_eq!(status.message, "2 of 2 cached on 1 node");
    assert_eq!(status.counts.cached, 2);
    assert_eq!(status.completion_time, Some(world.now));
    assert!(
        status
            .conditions
            .iter()
            .all(|c| c.status == (c.kind == ConditionKind::Ready))
    );
    let events: Vec<_> = world
        .events
        .iter()
        .map(|(_, e)| e.message.as_str())
        .collect();
    assert_eq!(
        events,
        [
            "Started creating the image cache",
            "creating the image cache: 2 of 2 cached on 1 node"
        ]
    );
}

#[test]
fn an_idle_cluster_writes_nothing() {
    let mut world = mk_settled();
    let before = (world.writes, world.status_writes);
    for _ in 0..100 {
        world.pass(60);
        world.act("n1");
    }
    assert_eq!((world.writes, world.status_writes), before);
}

#[test]
fn failures_are_counted_and_sampled() {
    let mut world = World::new();
    world.config.failures_max = 3;
    world.restart();
    for n in 1..=5 {
        world.node(mk_node(&format!("n{n}"), &[]));
        let agent = world.agents.get_mut(&mk_name(&format!("n{n}"))).unwrap();
        agent.fails.insert(mk_ref("app:1"), Reason::ImageNotFound);
    }
    world.cache("web", &mk_spec(&["app:1", "db:1"], &[]));
    world.settle();
    let status = world.status("web");
    assert_eq!(status.status, ActionStatus::Failed);
    assert_eq!(
        (
            status.counts.cached,
            status.counts.failed,
            status.failures_total
        ),
        (5, 5, 5)
    );
    let nodes: Vec<_> = status.failures["app:1"]
        .iter()
        .map(|f| f.node.as_str())
        .collect();
    assert_eq!(nodes, ["n1", "n2", "n3"]);
    assert_eq!(status.failures["app:1"][0].reason, Reason::ImageNotFound);
    assert_eq!(
        status.failures["app:1"][0].message,
        "the runtime failed with ImageNotFound"
    );
    let degraded = |c: &&fledged_core::planner::Condition| c.kind == ConditionKind::Degraded;
    assert!(status.conditions.iter().find(degraded).unwrap().status);
    assert!(world.events.last().unwrap().1.warning);

    // A later round succeeds, which is published without a request.
    for n in 1..=5 {
        world
            .agents
            .get_mut(&mk_name(&format!("n{n}")))
            .unwrap()
            .fails
            .clear();
    }
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    assert_eq!(world.status("web").failures.len(), 0);
}

#[test]
fn a_cache_without_matching_node_reports_it() {
    let mut world = World::new();
    world.cache("web", &mk_spec(&["app:1"], &["zone=nowhere"]));
    assert_eq!(world.word("web"), ActionStatus::NoImagesPulledOrDeleted);
    // A node that joins later is served without a request.
    world.node(mk_node("n1", &["zone=nowhere"]));
    assert_eq!(world.assigned("n1"), ["app:1"]);
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
}

#[test]
fn an_invalid_spec_keeps_the_images() {
    let mut world = mk_settled();
    world.cache("other", &mk_spec(&["cron:1"], &[]));
    world.settle();
    let before = world.records.clone();
    world.cache("web", &mk_spec(&["App:1"], &[]));
    world.settle();
    assert_eq!(world.records, before);
    let status = world.status("web");
    assert_eq!(status.status, ActionStatus::Failed);
    assert_eq!(status.reason, ActionReason::CacheSpecValidationFailed);
    assert!(
        status.message.contains("spec.cacheSpec[0].images[0]"),
        "{}",
        status.message
    );
    assert_eq!(status.counts.cached, 4);
    // The images stay assigned after a restart and after an edit of another cache.
    world.restart();
    world.settle();
    assert_eq!(world.records, before);
    world.cache("other", &mk_spec(&["app:1"], &[]));
    world.settle();
    assert_eq!(world.assigned("n1"), ["app:1", "db:1"]);
    world.cache("other", &mk_spec(&["cron:1"], &[]));
    world.settle();
    let mut assigned = world.assigned("n1");
    assigned.sort();
    assert_eq!(assigned, ["app:1", "cron:1", "db:1"]);
    // A valid spec applies again.
    world.cache("web", &mk_spec(&["db:1"], &[]));
    world.settle();
    assert_eq!(world.assigned("n1"), ["cron:1", "db:1"]);
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
}

#[test]
fn a_purge_of_an_invalid_spec_says_what_happens() {
    let mut world = mk_settled();
    world.cache("web", &mk_spec(&["App:1", "Db:1"], &[]));
    world.settle();
    world.purge("web");
    world.settle();
    let status = world.status("web").clone();
    assert_eq!(status.status, ActionStatus::Failed);
    assert_eq!(status.reason, ActionReason::ImageCachePurge);
    let message = &status.message;
    assert!(!message.contains("no node matches"), "{message}");
    for part in [
        "the spec is invalid: spec.cacheSpec[0].images[0]",
        "spec.cacheSpec[0].images[1]",
        "; images of its last valid version are removed",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(world.assigned("n1"), [""; 0]);
    let degraded = status.condition(ConditionKind::Degraded).unwrap();
    assert_eq!((degraded.status, &*degraded.reason), (true, "InvalidSpec"));
}

#[test]
fn a_message_counts_invalid_fields_beyond_its_room() {
    let images: Vec<String> = (0..500).map(|n| format!("Upper:{n}")).collect();
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    let mut world = World::new();
    world.cache("web", &mk_spec(&images, &[]));
    world.settle();
    let message = &world.status("web").message;
    assert!(message.len() < 1_100, "{message}");
    let named = message.matches("spec.cacheSpec").count();
    assert!(named > 3, "{message}");
    let more = format!("; and {} more", 500 - named);
    assert!(message.ends_with(&more), "{message}");
}

#[test]
fn an_edit_removes_dropped_images() {
    let mut world = mk_settled();
    world.cache("web", &mk_spec(&["app:2", "db:1"], &[]));
    assert_eq!(world.assigned("n1"), ["app:2", "db:1", "-app:1"]);
    assert_eq!(world.status("web").reason, ActionReason::ImageCacheUpdate);
    world.settle();
    assert_eq!(world.assigned("n1"), ["app:2", "db:1"]);
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    assert_eq!(world.agents[&mk_name("n1")].held.len(), 2);
}

#[test]
fn an_edit_during_a_rollout_wins() {
    let mut world = World::new();
    world.node(mk_node("n1", &[]));
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.cache("web", &mk_spec(&["app:2"], &[]));
    assert_eq!(world.assigned("n1"), ["app:2", "-app:1"]);
    world.settle();
    assert_eq!(world.status("web").observed_generation, 2);
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
}

#[test]
fn a_changed_selector_moves_images_to_other_nodes() {
    let mut world = World::new();
    world.node(mk_node("n1", &["zone=a"]));
    world.node(mk_node("n2", &["zone=b"]));
    world.cache("web", &mk_spec(&["app:1"], &["zone=a"]));
    world.settle();
    world.cache("web", &mk_spec(&["app:1"], &["zone=b"]));
    assert_eq!(
        (world.assigned("n1"), world.assigned("n2")),
        (vec!["-app:1".to_owned()], vec!["app:1".to_owned()])
    );
    world.settle();
    assert_eq!(world.records.len(), 1, "n1 keeps a record without images");
}

#[test]
fn a_shared_image_stays_until_its_last_cache_drops_it() {
    let mut world = mk_settled();
    world.cache("api", &mk_spec(&["app:1"], &[]));
    world.settle();
    world.purge("web");
    assert_eq!(world.assigned("n1"), ["app:1", "-db:1"]);
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    assert_eq!(world.status("api").counts.cached, 2);
    world.purge("api");
    assert_eq!(world.assigned("n1"), ["-app:1"]);
}

#[test]
fn a_recreated_cache_is_another_cache() {
    let mut world = mk_settled();
    let mut facts = world.caches[&mk_id("web")].clone();
    facts.id.uid = "another".to_owned();
    facts.spec = mk_spec(&["app:1"], &[]).validate(facts.id.clone());
    facts.status = None;
    let id = facts.id.clone();
    world.caches.insert(id.clone(), facts.clone());
    world.send(fledged_core::planner::ClusterEvent::CacheApplied(Box::new(
        facts,
    )));
    world.purge("web");
    assert_eq!(world.assigned("n1"), ["app:1", "-db:1"]);
}

#[test]
fn a_purge_leaves_images_that_others_pulled() {
    let mut world = mk_settled();
    let held = |world: &World| {
        let agent = &world.agents[&mk_name("n1")];
        agent.held.contains_key(&mk_ref("app:1"))
    };
    world.purge("web");
    world.settle();
    assert!(!held(&world));
    assert_eq!(world.status("web").message, "removed from 2 nodes");
    assert_eq!(world.records.len(), 0, "a record without images is left");
    // A pod has pulled it since.
    let agent = world.agents.get_mut(&mk_name("n1")).unwrap();
    agent.held.insert(mk_ref("app:1"), 0);
    world.purge("web");
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    assert_eq!(
        world.status("web").message,
        "nothing left to remove from 2 nodes"
    );
    assert!(held(&world));
    assert_eq!(world.records.len(), 0);
}

#[test]
fn an_image_that_was_not_reported_is_removed_if_held() {
    // n2 waits for its slot when the purge comes, and n1 has not reported.
    let mut world = World::budget(1);
    world.node(mk_node("n1", &[]));
    world.node(mk_node("n2", &[]));
    world.cache("web", &mk_spec(&["app:1"], &[]));
    assert_eq!(world.assigned("n2"), [""; 0]);
    world.purge("web");
    assert!(order_of(&world).unwrap().if_held);
    assert_eq!(world.assigned("n2"), [""; 0], "it never held the image");
    world.refresh("web");
    world.settle();
    world.cache("web", &mk_spec(&["app:2"], &[]));
    assert!(!order_of(&world).unwrap().if_held);
}

/// Two nodes with `app:1` of `web` in use on n1, and the removal ordered by `act`.
fn mk_pending(spec: &ImageCacheSpec, act: impl FnOnce(&mut World)) -> World {
    let mut world = World::new();
    world.node(mk_node("n1", &[]));
    world.node(mk_node("n2", &[]));
    world.cache("web", spec);
    world.settle();
    let agent = world.agents.get_mut(&mk_name("n1")).unwrap();
    agent.in_use.insert(mk_ref("app:1"));
    act(&mut world);
    world.settle();
    world
}

fn order_of(world: &World) -> Option<RemovalOrder> {
    let record = world.records.get(&mk_name("n1"))?;
    let mut images = record.images.iter();
    let entry = images.find(|entry| entry.image == mk_ref("app:1"))?;
    entry.removal.clone()
}

#[test]
fn a_pending_removal_names_its_cause() {
    let one = mk_spec(&["app:1"], &[]);
    let edit = |world: &mut World| world.cache("web", &mk_spec(&["db:1"], &[]));
    type Act<'a> = &'a dyn Fn(&mut World);
    let cases: [(&ImageCacheSpec, Act<'_>, RemovalCause); 3] = [
        (&one, &|world| world.purge("web"), RemovalCause::Purge),
        (&one, &edit, RemovalCause::Edit),
        (
            &mk_purging(&["app:1"]),
            &|world| world.delete("web"),
            RemovalCause::Deletion,
        ),
    ];
    for (spec, act, cause) in cases {
        let world = mk_pending(spec, act);
        let order = order_of(&world).unwrap();
        assert_eq!((order.cause, order.cache.name.as_str()), (cause, "web"));
        assert!(order.since <= world.now);
    }
}

#[test]
fn a_pending_removal_is_forgotten_with_its_cache() {
    let edit = |world: &mut World| world.cache("web", &mk_spec(&["db:1"], &[]));
    let purge = |world: &mut World| world.purge("web");
    for act in [&edit as &dyn Fn(&mut World), &purge] {
        let mut world = mk_pending(&mk_spec(&["app:1"], &[]), act);
        assert!(order_of(&world).is_some());
        world.delete("web");
        assert_eq!(order_of(&world), None);
        world.settle();
        assert_eq!(world.records.len(), 0);
        let agent = world.agents.get_mut(&mk_name("n1")).unwrap();
        agent.in_use.clear();
        world.settle();
        let agent = &world.agents[&mk_name("n1")];
        assert!(agent.held.contains_key(&mk_ref("app:1")), "nobody asks");
    }
}

#[test]
fn a_removal_without_its_cache_is_forgotten_at_a_restart() {
    let mut world = mk_pending(&mk_spec(&["app:1"], &[]), |world| world.purge("web"));
    // Deleted while no planner ran.
    world.caches.clear();
    world.restart();
    assert_eq!(world.records.len(), 0);
}

#[test]
fn a_pending_removal_ends_after_its_limit() {
    let limit = PlannerConfig::default().removal_limit.as_secs();
    let purge = |world: &mut World| world.purge("web");
    let delete = |world: &mut World| world.delete("web");
    for (spec, act) in [
        (mk_spec(&["app:1"], &[]), &purge as &dyn Fn(&mut World)),
        (mk_purging(&["app:1"]), &delete),
    ] {
        let mut world = mk_pending(&spec, act);
        world.restart();
        world.wait(limit - 10);
        assert!(order_of(&world).is_some());
        world.wait(20);
        world.settle();
        assert_eq!(order_of(&world), None);
        assert_eq!(world.records.len(), 0);
    }
}

#[test]
fn a_clock_that_jumps_ends_no_removal() {
    let limit = PlannerConfig::default().removal_limit.as_secs();
    let mut world = mk_pending(&mk_spec(&["app:1"], &[]), |world| world.purge("web"));
    world.wait(60);
    world.pass(2 * limit);
    world.settle();
    assert!(order_of(&world).is_some());
    // The limit counts from the jump.
    world.wait(limit - 60);
    assert!(order_of(&world).is_some());
    world.wait(60);
    world.settle();
    assert_eq!(order_of(&world), None);
}

#[test]
fn a_clock_that_is_ahead_ends_no_removal_of_an_earlier_planner() {
    let mut world = mk_pending(&mk_spec(&["app:1"], &[]), |world| world.purge("web"));
    // The next planner's clock is two days ahead.
    world.now += Duration::from_secs(48 * 3600);
    world.restart();
    world.settle();
    assert!(order_of(&world).is_some());
}

#[test]
fn an_image_that_a_cache_without_room_wants_is_not_removed() {
    let mut config = PlannerConfig::default();
    config.record_bytes_max = 600;
    let mut world = World::with(config);
    world.node(mk_node("n1", &[]));
    world.cache("small", &mk_spec(&["app0:1"], &[]));
    world.settle();
    let images: Vec<String> = (0..50).map(|n| format!("app{n}:1")).collect();
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    world.cache("large", &mk_spec(&images, &[]));
    world.settle();
    world.cache("small", &mk_spec(&["other:1"], &[]));
    world.settle();
    assert_eq!(order_of(&world), None);
    world.delete("large");
    world.settle();
    assert_eq!(order_of(&world), None);
}

#[test]
fn a_removal_is_taken_over_by_another_purged_cache() {
    let mut world = mk_pending(&mk_spec(&["app:1"], &[]), |world| {
        world.cache("other", &mk_spec(&["app:1"], &[]));
        world.settle();
        world.purge("web");
        world.purge("other");
    });
    let first = order_of(&world).unwrap().cache.name;
    world.delete(&first);
    world.settle();
    let second = order_of(&world).unwrap().cache.name;
    assert_ne!(first, second);
    world.delete(&second);
    assert_eq!(order_of(&world), None);
}

#[test]
fn a_purge_that_removes_nothing_does_not_claim_so() {
    let mut world = World::new();
    for name in ["n1", "n2", "n3"] {
        world.node(mk_node(name, &[]));
        let agent = world.agents.get_mut(&mk_name(name)).unwrap();
        agent.in_use.insert(mk_ref("app:1"));
    }
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.settle();
    world.purge("web");
    world.settle();
    let kept = "kept because they are in use or shared";
    assert_eq!(
        world.status("web").message,
        format!("nothing removed from 3 nodes, 3 {kept}")
    );
    let agent = world.agents.get_mut(&mk_name("n2")).unwrap();
    agent.in_use.clear();
    world.settle();
    let message = format!("removed from 1 of 3 nodes, 2 {kept}");
    assert_eq!(world.status("web").message, message);
    world.restart();
    assert_eq!(world.status("web").message, message);
}

#[test]
fn a_purge_excludes_unreachable_nodes_from_its_result() {
    let mut world = mk_settled();
    world.set_ready("n1", false);
    world.set_ready("n2", false);
    world.purge("web");
    let status = world.status("web");
    assert_eq!(status.status, ActionStatus::Unknown);
    assert_eq!(
        status.message,
        "removed from 0 of 2 nodes, 2 can't be reached"
    );
    world.set_ready("n1", true);
    world.settle();
    assert_eq!(
        world.status("web").message,
        "removed from 1 of 2 nodes, 1 can't be reached"
    );
    world.set_ready("n2", true);
    world.settle();
    assert_eq!(world.status("web").message, "removed from 2 nodes");
}

#[test]
fn a_foreign_status_is_overwritten() {
    let mut world = mk_settled();
    let written = world.status("web").clone();
    world.pass(60);
    let writes = world.status_writes;
    world.change("web", |facts| {
        let status = facts.status.as_mut().unwrap();
        status.status = ActionStatus::Processing;
        status.message = "from a leader that is none any more".to_owned();
    });
    assert_eq!(world.status("web").message, written.message);
    assert_eq!(world.status_writes, writes + 1);
    world.pass(60);
    assert_eq!(world.status_writes, writes + 1, "once");
}

#[test]
fn a_status_is_not_repeated_while_the_watch_hangs() {
    let mut world = mk_settled();
    world.pass(60);
    let agent = world.agents.get_mut(&mk_name("n1")).unwrap();
    agent.fails.insert(mk_ref("db:1"), Reason::ImageNotFound);
    let writes = world.status_writes;
    world.watch_hangs = true;
    world.act("n1");
    world.pass(60);
    assert_eq!(world.status_writes, writes + 1);
    world.pass(600);
    assert_eq!(world.status_writes, writes + 1);
    // What another program wrote meanwhile is overwritten when it is observed.
    world.watch_hangs = false;
    world.change("web", |facts| {
        facts.status.as_mut().unwrap().message = "from another program".to_owned();
    });
    assert_eq!(world.status_writes, writes + 2);
}

#[test]
fn a_purge_reports_images_kept_for_other_caches() {
    let mut world = mk_settled();
    world.cache("other", &mk_spec(&["db:1"], &[]));
    world.settle();
    world.purge("web");
    world.settle();
    assert_eq!(
        world.status("web").message,
        "removed from 2 nodes, 2 kept for other image caches"
    );
}

#[test]
fn a_purge_lasts_until_a_refresh_or_an_edit() {
    let mut world = mk_settled();
    world
        .agents
        .get_mut(&mk_name("n2"))
        .unwrap()
        .in_use
        .insert(mk_ref("db:1"));
    world.purge("web");
    assert_eq!(world.word("web"), ActionStatus::Processing);
    assert_eq!(
        world.status("web").message,
        "being removed from 2 nodes, 4 to be removed"
    );
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    assert_eq!(
        world.status("web").message,
        "removed from 2 nodes, 1 kept because they are in use or shared"
    );
    assert!(
        !world.caches[&mk_id("web")].purge_requested,
        "the annotation is removed"
    );
    assert_eq!(world.agents[&mk_name("n1")].held.len(), 0);
    // The purge also lasts after a restart and for a new node.
    world.restart();
    world.node(mk_node("n3", &[]));
    assert_eq!(world.assigned("n3"), [""; 0]);
    assert!(world.status("web").purged);
    world.refresh("web");
    assert_eq!(world.assigned("n3"), ["app:1", "db:1"]);
    world.settle();
    assert_eq!(world.status("web").counts.cached, 6);
    world.purge("web");
    world.settle();
    world.cache("web", &mk_spec(&["app:1"], &[]));
    assert_eq!(world.assigned("n1"), ["app:1"]);
    assert!(!world.status("web").purged);
}

#[test]
fn a_deletion_keeps_the_images() {
    let mut world = mk_settled();
    world.delete("web");
    assert_eq!(world.caches.len(), 0);
    assert_eq!(world.records.len(), 0, "a record without images is left");
    assert_eq!(world.agents[&mk_name("n1")].held.len(), 2);
}

#[test]
fn a_purging_deletion_waits_only_for_reachable_nodes() {
    let mut world = World::new();
    for name in ["n1", "n2", "n3"] {
        world.node(mk_node(name, &[]));
    }
    world.cache("web", &mk_purging(&["app:1", "db:1"]));
    world.settle();
    assert!(world.caches[&mk_id("web")].finalizer);
    world.set_ready("n3", false);
    world
        .agents
        .get_mut(&mk_name("n2"))
        .unwrap()
        .in_use
        .insert(mk_ref("db:1"));
    world.delete("web");
    assert_eq!(world.assigned("n1"), ["-app:1", "-db:1"]);
    assert_eq!(world.word("web"), ActionStatus::Processing);
    world.act("n1");
    assert_eq!(world.caches.len(), 1, "n2 has not answered");
    world.act("n2");
    assert_eq!(world.caches.len(), 0);
    // The NotReady node removes its images when it is back.
    assert_eq!(world.assigned("n3"), ["-app:1", "-db:1"]);
    world.set_ready("n3", true);
    world.settle();
    assert_eq!(world.agents[&mk_name("n3")].held.len(), 0);
    assert_eq!(world.records.len(), 1, "n2 still holds what is in use");
}

#[test]
fn a_purging_deletion_skips_unresponsive_nodes() {
    let mut world = World::new();
    world.node(mk_node("n1", &[]));
    world.cache("web", &mk_purging(&["app:1"]));
    world.settle();
    world.delete("web");
    assert_eq!(world.caches.len(), 1);
    world.pass(6 * 60 + 1);
    assert_eq!(world.caches.len(), 0);
}

#[test]
fn the_finalizer_follows_the_policy() {
    let mut world = mk_settled();
    assert!(!world.caches[&mk_id("web")].finalizer);
    world.cache("web", &mk_purging(&["app:1", "db:1"]));
    assert!(world.caches[&mk_id("web")].finalizer);
    world.cache("web", &mk_spec(&["app:1", "db:1"], &[]));
    assert!(!world.caches[&mk_id("web")].finalizer);
}

#[test]
fn a_cache_created_with_a_purge_removes_nothing() {
    let mut world = World::new();
    world.node(mk_node("n1", &[]));
    let mut facts = mk_facts("web", &mk_spec(&["app:1"], &[]));
    facts.purge_requested = true;
    world.caches.insert(mk_id("web"), facts.clone());
    world.send(ClusterEvent::CacheApplied(Box::new(facts)));
    world.settle();
    assert_eq!(world.assigned("n1"), [""; 0]);
    assert!(!world.records.contains_key(&mk_name("n1")));
    assert!(world.status("web").purged);
    // A refresh desires the images; the next purge removes them.
    world.refresh("web");
    world.settle();
    assert_eq!(world.assigned("n1"), ["app:1"]);
    world.purge("web");
    world.settle();
    assert!(world.status("web").purged);
}
