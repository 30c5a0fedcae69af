//! The planner with nodes that join, leave, fail or wait for a rollout slot.
use std::time::Duration;

use crate::world::{World, mk_limited, mk_name, mk_node, mk_ref, mk_spec};
use fledged_core::error::Reason;
use fledged_core::model::{
    AssignedImage, Assignment, CountOrPercent, ImagePhase, ImageReport, NodeReport, Rollout, Taint,
    Toleration,
};
use fledged_core::planner::{ActionReason, ActionStatus, ClusterEvent, PlannerConfig, WriteTarget};

fn mk_nodes(world: &mut World, count: usize) {
    for n in 1..=count {
        world.node(mk_node(&format!("n{n}"), &[]));
    }
}

fn assigned(world: &World) -> Vec<&str> {
    world.records.keys().map(|name| name.as_str()).collect()
}

#[test]
fn nothing_is_written_before_sync() {
    let mut world = World::unsynced(PlannerConfig::default());
    mk_nodes(&mut world, 1);
    let images = vec![AssignedImage::present(mk_ref("app:1"))];
    world.apply(ClusterEvent::AssignmentRecorded {
        node: mk_name("n1"),
        assignment: Assignment::new(4, images),
    });
    world.run();
    assert_eq!((world.writes, world.planner.next_wakeup()), (0, None));
    world.cache("web", &mk_spec(&["app:1"], &[]));
    assert_eq!((world.writes, world.status_writes), (0, 0));
    world.send(ClusterEvent::Synced);
    assert_eq!(world.assigned("n1"), ["app:1"]);
}

#[test]
fn a_new_node_gets_the_assignment_of_its_peers() {
    let mut world = World::new();
    mk_nodes(&mut world, 1);
    world.cache("web", &mk_spec(&["app:1", "tool"], &[]));
    world.settle();
    world.refresh("web");
    world.settle();
    mk_nodes(&mut world, 2);
    let images = |name| world.records[&mk_name(name)].images.clone();
    assert_eq!(images("n1"), images("n2"));
    // A complete cache stays complete while the new node pulls.
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    assert_eq!(world.status("web").counts.pulling, 2);
}

#[test]
fn a_replaced_node_is_assigned_again() {
    let mut world = World::new();
    mk_nodes(&mut world, 1);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.settle();
    let before = world.writes;
    world.apply(ClusterEvent::NodeGone(mk_name("n1")));
    world.apply(ClusterEvent::NodeApplied(mk_node("n1", &[])));
    world.run();
    assert_eq!(world.writes, before + 1);
    assert_eq!(world.assigned("n1"), ["app:1"]);
}

#[test]
fn a_deleted_node_loses_its_record() {
    let mut world = World::new();
    mk_nodes(&mut world, 2);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.act("n1");
    assert_eq!(world.word("web"), ActionStatus::Processing);
    world.node_gone("n2");
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    assert_eq!(assigned(&world), ["n1"]);
}

#[test]
fn unreachable_nodes_do_not_block_a_rollout() {
    let mut world = World::new();
    mk_nodes(&mut world, 3);
    let mut windows = mk_node("n2", &[]);
    windows.os = "windows".to_owned();
    world.node(windows);
    world.set_ready("n3", false);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.act("n1");
    let status = world.status("web");
    assert_eq!(status.status, ActionStatus::Succeeded);
    assert_eq!(
        (
            status.counts.desired,
            status.counts.cached,
            status.counts.unreachable
        ),
        (3, 1, 2)
    );
    assert_eq!(assigned(&world), ["n1"]);
    world.set_ready("n3", true);
    assert_eq!(world.assigned("n3"), ["app:1"]);
}

#[test]
fn the_status_is_unknown_if_no_node_is_reachable() {
    let mut world = World::new();
    mk_nodes(&mut world, 1);
    world.set_ready("n1", false);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    assert_eq!(world.word("web"), ActionStatus::Unknown);
    world.set_ready("n1", true);
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
}

#[test]
fn node_condition_taints_change_nothing() {
    let mut world = World::new();
    let mut spec = mk_spec(&["app:1"], &[]);
    spec.cache_spec[0].tolerations = Some(Vec::new());
    mk_nodes(&mut world, 1);
    world.cache("web", &spec);
    world.settle();
    let taint = |key: &str| Taint {
        key: key.to_owned(),
        value: String::new(),
        effect: "NoSchedule".to_owned(),
    };
    let mut cordoned = mk_node("n1", &[]);
    cordoned.unschedulable = true;
    cordoned.taints = vec![taint("node.kubernetes.io/unschedulable")];
    world.node(cordoned.clone());
    assert_eq!(world.assigned("n1"), ["app:1"]);
    // A taint that is not tolerated prevents new images but removes none, as with pods.
    cordoned.taints.push(taint("dedicated"));
    world.node(cordoned.clone());
    assert_eq!(world.assigned("n1"), [""; 0]);
    assert!(
        world.agents[&mk_name("n1")]
            .held
            .contains_key(&mk_ref("app:1"))
    );
    cordoned.taints.pop();
    world.node(cordoned);
    assert_eq!(world.assigned("n1"), ["app:1"]);
}

#[test]
fn an_unresponsive_node_is_skipped_until_its_report() {
    let mut world = World::budget(1);
    mk_nodes(&mut world, 2);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    assert_eq!(assigned(&world), ["n1"]);
    world.pass(29);
    assert_eq!(assigned(&world), ["n1"]);
    world.pass(2);
    assert_eq!(assigned(&world), ["n1", "n2"], "the slot of n1 is released");
    world.act("n2");
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    assert_eq!(world.status("web").counts.unreachable, 1);
    world.act("n1");
    world.pass(1);
    assert_eq!(world.status("web").counts.cached, 2);
}

#[test]
fn an_agent_reported_unresponsive_is_skipped_at_once() {
    let mut world = World::new();
    mk_nodes(&mut world, 1);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.unresponsive("n1");
    assert_eq!(world.word("web"), ActionStatus::Unknown);
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
}

#[test]
fn the_cluster_limit_bounds_concurrent_pulls() {
    let mut world = World::budget(2);
    mk_nodes(&mut world, 5);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    assert_eq!(assigned(&world), ["n1", "n2"]);
    assert_eq!(world.status("web").counts.pulling, 5);
    world.act("n2");
    assert_eq!(assigned(&world), ["n1", "n2", "n3"]);
    // A node that turns NotReady releases its slot at once.
    world.set_ready("n1", false);
    assert_eq!(assigned(&world), ["n1", "n2", "n3", "n4"]);
    world.set_ready("n1", true);
    world.act("n3");
    assert_eq!(assigned(&world).len(), 4, "n1 continued its pulls");
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    assert_eq!(world.most_active, 2);
}

#[test]
fn a_percentage_limit_counts_all_nodes() {
    let mut config = PlannerConfig::default();
    config.max_concurrent_nodes = CountOrPercent::Percent("50%".to_owned());
    let mut world = World::with(config);
    mk_nodes(&mut world, 4);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    assert_eq!(assigned(&world).len(), 2);
    mk_nodes(&mut world, 6);
    assert_eq!(assigned(&world).len(), 3);
}

#[test]
fn a_cache_limit_binds_only_its_cache() {
    let mut world = World::new();
    mk_nodes(&mut world, 3);
    world.cache("slow", &mk_limited(&["app:1"], 1));
    world.cache("web", &mk_spec(&["db:1"], &[]));
    assert_eq!(world.assigned("n1"), ["app:1", "db:1"]);
    assert_eq!(world.assigned("n2"), ["db:1"]);
    world.act("n1");
    assert_eq!(world.assigned("n2"), ["app:1", "db:1"]);
    assert_eq!(world.assigned("n3"), ["db:1"]);
    world.cache("slow", &mk_limited(&["app:1"], 2));
    assert_eq!(world.assigned("n3"), ["app:1", "db:1"]);
}

#[test]
fn a_change_without_a_pull_needs_no_slot() {
    let mut world = World::budget(1);
    mk_nodes(&mut world, 3);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.settle();
    world.cache("other", &mk_spec(&["db:1"], &[]));
    assert_eq!(world.assigned("n2"), ["app:1"]);
    world.purge("web");
    assert_eq!(world.assigned("n2"), ["-app:1"]);
    assert_eq!(world.assigned("n3"), ["-app:1"]);
}

#[test]
fn failures_within_a_second_are_published_once() {
    let mut world = World::new();
    mk_nodes(&mut world, 50);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    let before = world.status_writes;
    for n in 1..=49 {
        world.act(&format!("n{n}"));
    }
    assert_eq!(world.status_writes, before, "only counts changed");
    world.pass(1);
    assert_eq!(world.status_writes, before + 1);
    assert_eq!(world.status("web").counts.cached, 49);
    world.act("n50");
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
}

#[test]
fn a_foreign_change_of_a_record_is_reverted() {
    let mut world = World::new();
    mk_nodes(&mut world, 1);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.settle();
    let record = world.records.remove(&mk_name("n1")).unwrap();
    world.send(ClusterEvent::AssignmentGone(mk_name("n1")));
    assert_eq!(world.assigned("n1"), ["app:1"]);
    let tampered = Assignment::new(9, Vec::new());
    world.records.insert(mk_name("n1"), tampered.clone());
    world.send(ClusterEvent::AssignmentRecorded {
        node: mk_name("n1"),
        assignment: tampered,
    });
    assert_eq!(world.records[&mk_name("n1")].images, record.images);
    let writes = world.writes;
    world.send(ClusterEvent::Conflicted(WriteTarget::Assignment(mk_name(
        "n1",
    ))));
    assert_eq!(world.writes, writes + 1);
}

#[test]
fn a_record_that_others_delete_again_and_again_is_created_after_a_pause() {
    let mut world = World::new();
    mk_nodes(&mut world, 1);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.settle();
    let mut pauses = Vec::new();
    for _ in 0..5 {
        world.records.remove(&mk_name("n1")).unwrap();
        world.send(ClusterEvent::AssignmentGone(mk_name("n1")));
        let mut seconds = 0;
        while !world.records.contains_key(&mk_name("n1")) {
            world.pass(1);
            seconds += 1;
        }
        pauses.push(seconds);
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8]);
    assert_eq!(world.assigned("n1"), ["app:1"]);
    // After a while, a deletion counts as the first one.
    world.settle();
    world.pass(301);
    world.records.remove(&mk_name("n1")).unwrap();
    world.send(ClusterEvent::AssignmentGone(mk_name("n1")));
    assert_eq!(world.assigned("n1"), ["app:1"]);
}

#[test]
fn an_unresponsive_node_whose_record_was_deleted_gets_a_new_one() {
    let mut world = World::new();
    mk_nodes(&mut world, 2);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.settle();
    world.unresponsive("n1");
    assert_eq!(world.status("web").counts.unreachable, 1);
    world.records.remove(&mk_name("n1")).unwrap();
    world.send(ClusterEvent::AssignmentGone(mk_name("n1")));
    assert_eq!(world.assigned("n1"), ["app:1"]);
    world.settle();
    assert_eq!(world.status("web").counts.cached, 2);
    assert_eq!(world.status("web").counts.unreachable, 0);
}

#[test]
fn a_node_that_is_gone_does_not_count_for_an_invalid_spec() {
    let mut world = World::new();
    mk_nodes(&mut world, 2);
    world.cache("web", &mk_spec(&["app:1", "tool:1"], &[]));
    world.settle();
    world.cache("web", &mk_spec(&["App:1"], &[]));
    world.node_gone("n1");
    world.settle();
    assert_eq!(world.status("web").counts.desired, 2);
    world.cache("web", &mk_spec(&["app:2"], &[]));
    world.settle();
    assert_eq!(world.status("web").counts.desired, 1);
}

#[test]
fn a_restart_continues_from_recorded_state() {
    let mut world = World::budget(1);
    mk_nodes(&mut world, 3);
    world.cache("web", &mk_spec(&["app:1", "tool"], &[]));
    world.act("n1");
    world.pass(1);
    let before = (
        world.records.clone(),
        world.writes,
        world.status("web").clone(),
    );
    world.restart();
    assert_eq!(
        (
            world.records.clone(),
            world.writes,
            world.status("web").clone()
        ),
        before
    );
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    let writes = (world.writes, world.status_writes, world.events.len());
    world.restart();
    assert_eq!(
        (world.writes, world.status_writes, world.events.len()),
        writes
    );
}

#[test]
fn a_cache_deleted_during_downtime_keeps_its_images() {
    let mut world = World::new();
    mk_nodes(&mut world, 1);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.cache("api", &mk_spec(&["db:1"], &[]));
    world.settle();
    world.caches.remove(&crate::world::mk_id("web"));
    world.restart();
    assert_eq!(world.assigned("n1"), ["db:1"]);
}

#[test]
fn a_record_without_node_is_deleted() {
    let mut world = World::new();
    mk_nodes(&mut world, 2);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.settle();
    world.nodes.remove(&mk_name("n2"));
    world.restart();
    assert_eq!(assigned(&world), ["n1"]);
}

#[test]
fn a_report_covers_only_its_generation() {
    let mut world = World::new();
    mk_nodes(&mut world, 1);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.settle();
    world.cache("web", &mk_spec(&["app:1", "db:1"], &[]));
    let generation = world.records[&mk_name("n1")].generation;
    let node = mk_name("n1");
    let cached = |image| ImageReport::new(mk_ref(image), ImagePhase::Cached);
    let answer = |generation| NodeReport::new(generation, ["app:1", "db:1"].map(cached));
    let report = answer(generation - 1);
    let name = node.clone();
    world.send(ClusterEvent::Reported { node: name, report });
    assert_eq!(world.word("web"), ActionStatus::Processing);
    let report = answer(generation);
    world.send(ClusterEvent::Reported { node, report });
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
}

#[test]
fn an_older_revision_does_not_satisfy_a_refresh() {
    let mut world = World::new();
    mk_nodes(&mut world, 1);
    world.cache("web", &mk_spec(&["tool"], &[]));
    world.settle();
    world.refresh("web");
    let mut report = world.agents[&mk_name("n1")].reported.clone().unwrap();
    report.observed_generation = world.records[&mk_name("n1")].generation;
    let node = mk_name("n1");
    world.send(ClusterEvent::Reported { node, report });
    assert_eq!(world.word("web"), ActionStatus::Processing);
    world.act("n1");
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
}

#[test]
fn a_failure_stays_published_during_the_next_attempt() {
    let mut world = World::new();
    mk_nodes(&mut world, 1);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    let generation = world.records[&mk_name("n1")].generation;
    for (attempts, reason, failures) in [
        (1, None, 0),
        (3, Some(Reason::ConnectionFailed), 1),
        // An evicted image that is pulled again is not a failure.
        (1, Some(Reason::Evicted), 0),
        (2, Some(Reason::Evicted), 0),
    ] {
        let mut report = ImageReport::new(mk_ref("app:1"), ImagePhase::Pulling);
        report.attempts = attempts;
        report.reason = reason;
        let report = NodeReport::new(generation, [report]);
        let node = mk_name("n1");
        world.send(ClusterEvent::Reported { node, report });
        world.pass(2);
        let status = world.status("web");
        assert_eq!(status.status, ActionStatus::Processing);
        assert_eq!(status.failures_total, failures, "{attempts} {reason:?}");
        assert_eq!(
            status.failures.len() as u64,
            failures,
            "{attempts} {reason:?}"
        );
    }
}

fn mk_taint(key: &str) -> Taint {
    Taint {
        key: key.to_owned(),
        value: String::new(),
        effect: "NoSchedule".to_owned(),
    }
}

#[test]
fn control_planes_need_a_written_toleration() {
    let mut world = World::new();
    let control_plane = mk_taint("node-role.kubernetes.io/control-plane");
    world.node(mk_node("cp", &[]).with_taints([control_plane]));
    world.node(mk_node("gpu", &[]).with_taints([mk_taint("gpu")]));
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.settle();
    assert_eq!(assigned(&world), ["gpu"]);
    assert_eq!(world.status("web").counts.desired, 1);

    let mut spec = mk_spec(&["app:1"], &[]);
    let toleration: Toleration = serde_json::from_value(serde_json::json!({
        "key": "node-role.kubernetes.io/control-plane", "operator": "Exists",
    }))
    .unwrap();
    spec.cache_spec[0].tolerations = Some(vec![toleration]);
    world.cache("agents", &spec);
    world.settle();
    assert_eq!(assigned(&world), ["cp", "gpu"]);
    assert_eq!(world.assigned("cp"), ["app:1"]);
}

#[test]
fn virtual_nodes_are_left_out() {
    let mut world = World::new();
    let labelled = |name, key, value| mk_node(name, &[]).with_labels([(key, value)]);
    world.node(labelled(
        "ip-1",
        "eks.amazonaws.com/compute-type",
        "fargate",
    ));
    world.node(labelled("aci", "type", "virtual-kubelet"));
    world.node(mk_node("n1", &[]));
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.settle();
    assert_eq!(assigned(&world), ["n1"]);
    let status = world.status("web");
    assert_eq!((status.counts.desired, status.counts.unreachable), (1, 0));
    assert_eq!(status.status, ActionStatus::Succeeded);
}

#[test]
fn a_cache_above_the_limit_of_images_is_invalid() {
    let mut config = PlannerConfig::default();
    config.images_per_cache_max = 2;
    let mut world = World::with(config);
    mk_nodes(&mut world, 1);
    world.cache("web", &mk_spec(&["app:1", "app:2"], &[]));
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    world.cache("web", &mk_spec(&["app:3", "app:4", "app:5"], &[]));
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Failed);
    let message = &world.status("web").message;
    assert!(
        message.contains("lists 3 images, the limit of this cluster is 2"),
        "{message}"
    );
    // The images of the last valid spec stay.
    assert_eq!(world.assigned("n1"), ["app:1", "app:2"]);
}

#[test]
fn the_status_names_a_deadline_above_the_limit() {
    let mut world = World::new();
    mk_nodes(&mut world, 1);
    world.cache("web", &mk_spec(&["app:1"], &[]).with_deadline("5h"));
    world.settle();
    assert_eq!(
        world.status("web").message,
        "1 of 1 cached on 1 node, a deadline of 5h is cut to 2h, the limit of this cluster"
    );
    let deadline = world.recorded(&mk_name("n1"))[0].deadline;
    assert_eq!(deadline, std::time::Duration::from_secs(2 * 3_600));
    world.cache("web", &mk_spec(&["app:1"], &[]).with_deadline("2h"));
    world.settle();
    assert_eq!(world.status("web").message, "1 of 1 cached on 1 node");
}

#[test]
fn a_new_pull_rate_is_written_and_gives_no_work() {
    let mut world = World::budget(1);
    mk_nodes(&mut world, 2);
    let limited = |rate: &str| {
        let rollout = Rollout::default().with_max_pull_rate_per_node(rate);
        mk_spec(&["app:1"], &[]).with_rollout(rollout)
    };
    let rates = |world: &World| {
        let recorded = |name: &str| world.recorded(&mk_name(name)).remove(0).pull_limit;
        ["n1", "n2"].map(|name| recorded(name).map(|limit| limit.rate.to_string()))
    };
    let both = |rate: Option<&str>| [rate, rate].map(|rate| rate.map(str::to_owned));
    world.cache("web", &limited("20Mi"));
    world.settle();
    assert_eq!(rates(&world), both(Some("20.0 MiB/s")));
    // Another node takes the only slot: a new rate needs none.
    mk_nodes(&mut world, 3);
    let writes = world.writes;
    world.cache("web", &limited("1Mi"));
    assert_eq!(rates(&world), both(Some("1.0 MiB/s")));
    assert_eq!(world.writes, writes + 3);
    let status = world.status("web");
    assert_eq!((status.counts.cached, status.counts.pulling), (2, 1));
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    assert_eq!(rates(&world), both(None));
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
}

#[test]
fn an_invalid_edit_keeps_the_pull_rate() {
    let mut world = World::new();
    mk_nodes(&mut world, 1);
    let limited = |rate: &str| {
        let rollout = Rollout::default().with_max_pull_rate_per_node(rate);
        mk_spec(&["app:1"], &[]).with_rollout(rollout)
    };
    let rate = |world: &World| {
        let limit = world.recorded(&mk_name("n1")).remove(0).pull_limit;
        limit.map(|limit| (limit.cache.name, limit.rate.to_string()))
    };
    let limit = |cache: &str, rate: &str| Some((cache.to_owned(), rate.to_owned()));
    world.cache("web", &limited("20Mi"));
    world.settle();
    let invalid = limited("slow");
    world.cache("web", &invalid);
    assert_eq!(
        world.status("web").reason,
        ActionReason::CacheSpecValidationFailed
    );
    let message = &world.status("web").message;
    assert!(
        message.contains("spec.rollout.maxPullRatePerNode: \"slow\": must be"),
        "{message}"
    );
    assert_eq!(rate(&world), limit("web", "20.0 MiB/s"));
    // The higher one of both counts.
    world.cache("job", &limited("1Mi"));
    assert_eq!(rate(&world), limit("web", "20.0 MiB/s"));
    world.cache("job", &limited("30Mi"));
    assert_eq!(rate(&world), limit("job", "30.0 MiB/s"));
    world.cache("job", &mk_spec(&["app:1"], &[]));
    assert_eq!(rate(&world), None);
}

#[test]
fn a_report_that_comes_with_the_end_of_its_time_counts() {
    let mut world = World::new();
    world.node(mk_node("n1", &[]));
    world.cache("web", &mk_spec(&["app:1"], &[]));
    // The planner was busy meanwhile.
    world.now += Duration::from_secs(40);
    world.act("n1");
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    let warnings = world.events.iter().filter(|(_, event)| event.warning);
    assert_eq!(warnings.count(), 0);
}
