//! What becomes of nodes: late ones, lost ones, and those that wait for their turn.
use crate::world::{World, mk_limited, mk_name, mk_node, mk_ref, mk_spec};
use fledged_core::error::Reason;
use fledged_core::model::{
    AssignedImage, Assignment, CountOrPercent, ImagePhase, ImageReport, NodeReport, Taint,
};
use fledged_core::planner::{ActionStatus, ClusterEvent, PlannerConfig, WriteTarget};

fn mk_nodes(world: &mut World, count: usize) {
    for n in 1..=count {
        world.node(mk_node(&format!("n{n}"), &[]));
    }
}

fn assigned(world: &World) -> Vec<&str> {
    world.records.keys().map(|name| name.as_str()).collect()
}

#[test]
fn nothing_is_written_before_everything_is_known() {
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
    world.tell(ClusterEvent::Synced);
    assert_eq!(world.assigned("n1"), ["app:1"]);
}

#[test]
fn a_late_node_gets_what_the_others_got() {
    let mut world = World::new();
    mk_nodes(&mut world, 1);
    world.cache("web", &mk_spec(&["app:1", "tool"], &[]));
    world.settle();
    world.refresh("web");
    world.settle();
    mk_nodes(&mut world, 2);
    let images = |name| world.records[&mk_name(name)].images.clone();
    assert_eq!(images("n1"), images("n2"));
    // What was complete stays so while it is served.
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    assert_eq!(world.status("web").counts.pulling, 2);
}

#[test]
fn another_machine_of_the_same_name_is_told_anew_however_fast_it_comes() {
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
fn a_node_that_leaves_is_forgotten() {
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
fn nodes_that_cannot_act_hold_nobody_up() {
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
fn when_no_node_can_be_reached_nothing_is_known() {
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
fn passing_taints_change_nothing() {
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
    // One that is not tolerated keeps images from coming, but takes none away, as with pods.
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
fn a_silent_node_is_given_up_on_until_it_speaks() {
    let mut world = World::budget(1);
    mk_nodes(&mut world, 2);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    assert_eq!(assigned(&world), ["n1"]);
    world.pass(29);
    assert_eq!(assigned(&world), ["n1"]);
    world.pass(2);
    assert_eq!(assigned(&world), ["n1", "n2"], "its slot is given back");
    world.act("n2");
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    assert_eq!(world.status("web").counts.unreachable, 1);
    world.act("n1");
    world.pass(1);
    assert_eq!(world.status("web").counts.cached, 2);
}

#[test]
fn an_agent_known_to_be_gone_is_given_up_on_at_once() {
    let mut world = World::new();
    mk_nodes(&mut world, 1);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.silence("n1");
    assert_eq!(world.word("web"), ActionStatus::Unknown);
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
}

#[test]
fn the_cluster_s_budget_lets_few_nodes_pull_at_once() {
    let mut world = World::budget(2);
    mk_nodes(&mut world, 5);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    assert_eq!(assigned(&world), ["n1", "n2"]);
    assert_eq!(world.status("web").counts.pulling, 5);
    world.act("n2");
    assert_eq!(assigned(&world), ["n1", "n2", "n3"]);
    // One that turns NotReady gives its slot back at once.
    world.set_ready("n1", false);
    assert_eq!(assigned(&world), ["n1", "n2", "n3", "n4"]);
    world.set_ready("n1", true);
    world.act("n3");
    assert_eq!(
        assigned(&world).len(),
        4,
        "n1 went on with what it had begun"
    );
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    assert_eq!(world.most_active, 2);
}

#[test]
fn a_percentage_is_one_of_all_nodes() {
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
fn a_cache_s_own_budget_binds_that_cache_only() {
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
fn what_needs_no_pull_needs_no_slot() {
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
fn many_failures_within_a_second_are_told_once() {
    let mut world = World::new();
    mk_nodes(&mut world, 50);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    let before = world.status_writes;
    for n in 1..=49 {
        world.act(&format!("n{n}"));
    }
    assert_eq!(world.status_writes, before, "nothing but numbers changed");
    world.pass(1);
    assert_eq!(world.status_writes, before + 1);
    assert_eq!(world.status("web").counts.cached, 49);
    world.act("n50");
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
}

#[test]
fn a_record_that_somebody_changed_is_put_right() {
    let mut world = World::new();
    mk_nodes(&mut world, 1);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.settle();
    let record = world.records.remove(&mk_name("n1")).unwrap();
    world.tell(ClusterEvent::AssignmentGone(mk_name("n1")));
    assert_eq!(world.assigned("n1"), ["app:1"]);
    let tampered = Assignment::new(9, Vec::new());
    world.records.insert(mk_name("n1"), tampered.clone());
    world.tell(ClusterEvent::AssignmentRecorded {
        node: mk_name("n1"),
        assignment: tampered,
    });
    assert_eq!(world.records[&mk_name("n1")].images, record.images);
    let writes = world.writes;
    world.tell(ClusterEvent::Conflicted(WriteTarget::Assignment(mk_name(
        "n1",
    ))));
    assert_eq!(world.writes, writes + 1);
}

#[test]
fn a_restart_goes_on_where_it_was() {
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
fn a_cache_deleted_while_nobody_looked_leaves_its_images() {
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
fn a_record_of_a_node_that_is_gone_is_removed() {
    let mut world = World::new();
    mk_nodes(&mut world, 2);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.settle();
    world.nodes.remove(&mk_name("n2"));
    world.restart();
    assert_eq!(assigned(&world), ["n1"]);
}

#[test]
fn a_report_answers_only_what_the_node_had_been_told() {
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
    world.tell(ClusterEvent::Reported { node: name, report });
    assert_eq!(world.word("web"), ActionStatus::Processing);
    let report = answer(generation);
    world.tell(ClusterEvent::Reported { node, report });
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
}

#[test]
fn an_old_copy_does_not_answer_a_refresh() {
    let mut world = World::new();
    mk_nodes(&mut world, 1);
    world.cache("web", &mk_spec(&["tool"], &[]));
    world.settle();
    world.refresh("web");
    let mut report = world.agents[&mk_name("n1")].reported.clone().unwrap();
    report.observed_generation = world.records[&mk_name("n1")].generation;
    let node = mk_name("n1");
    world.tell(ClusterEvent::Reported { node, report });
    assert_eq!(world.word("web"), ActionStatus::Processing);
    world.act("n1");
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
}

#[test]
fn why_an_attempt_failed_stays_told_while_the_next_is_under_way() {
    let mut world = World::new();
    mk_nodes(&mut world, 1);
    world.cache("web", &mk_spec(&["app:1"], &[]));
    let generation = world.records[&mk_name("n1")].generation;
    for (attempts, reason, failures) in [
        (1, None, 0),
        (3, Some(Reason::ConnectionFailed), 1),
        // It was lost, and is pulled again: nothing has failed.
        (1, Some(Reason::Evicted), 0),
        (2, Some(Reason::Evicted), 0),
    ] {
        let mut said = ImageReport::new(mk_ref("app:1"), ImagePhase::Pulling);
        said.attempts = attempts;
        said.reason = reason;
        let report = NodeReport::new(generation, [said]);
        let node = mk_name("n1");
        world.tell(ClusterEvent::Reported { node, report });
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
