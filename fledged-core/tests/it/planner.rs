//! The planner after user actions: assignments, statuses and events.
use crate::world::{World, mk_facts, mk_id, mk_name, mk_node, mk_ref, mk_spec};
use fledged_core::error::Reason;
use fledged_core::model::{DeletionPolicy, ImageCacheSpec};
use fledged_core::planner::{ActionReason, ActionStatus, ClusterEvent, ConditionKind};

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
fn a_purge_removes_listed_images_whatever_pulled_them() {
    let mut world = mk_settled();
    let hold = |world: &mut World| {
        let agent = world.agents.get_mut(&mk_name("n1")).unwrap();
        agent.held.insert(mk_ref("app:1"), 0);
    };
    let held = |world: &World| {
        world.agents[&mk_name("n1")]
            .held
            .contains_key(&mk_ref("app:1"))
    };
    world.purge("web");
    world.settle();
    assert!(!held(&world));
    assert_eq!(world.records.len(), 0, "a record without images is left");
    // A pod has pulled it since.
    hold(&mut world);
    world.purge("web");
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    assert!(!held(&world));
    assert_eq!(world.records.len(), 0);
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
