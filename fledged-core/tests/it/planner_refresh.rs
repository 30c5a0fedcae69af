//! Refreshes: on demand, every node verifies every image; by the interval, mutable tags are pulled again.
use std::time::Duration;

use crate::world::{World, mk_id, mk_name, mk_node, mk_ref, mk_spec};
use fledged_core::error::Reason;
use fledged_core::model::{CountOrPercent, DesiredState, Digest, ImagePullPolicy, NodeReport};
use fledged_core::planner::{
    ActionReason, ActionStatus, ClusterEvent, ConditionKind, PlannerConfig,
};

/// Longer than the interval between refreshes, with its jitter.
const INTERVAL: u64 = 16 * 60 + 30;

/// Returns a world with two nodes and one settled cache `web` of these images.
fn mk_settled(images: &[&str]) -> World {
    let mut world = World::new();
    world.node(mk_node("n1", &[]));
    world.node(mk_node("n2", &[]));
    world.cache("web", &mk_spec(images, &[]));
    world.settle();
    world.pass(1);
    world
}

/// Returns the revisions of a node's desired images, in the order of the record.
fn revisions(world: &World, node: &str) -> Vec<u64> {
    let record = &world.records[&mk_name(node)];
    record.images.iter().map(|i| i.revision).collect()
}

#[test]
fn superseded_versions_are_counted() {
    let mut world = mk_settled(&["app:1", "tool"]);
    world.cache("other", &mk_spec(&["app:1"], &[]));
    world.settle();
    let digests = || (1..=2).map(|n| Digest::parse(&format!("sha256:{n:064}")).unwrap());
    let mut report = world.agents[&mk_name("n1")].reported.clone().unwrap();
    for image in &mut report.images {
        if image.image == mk_ref("tool") {
            *image = image.clone().with_superseded(digests());
        }
    }
    let node = mk_name("n1");
    world.send(ClusterEvent::Reported { node, report });
    world.pass(1);
    let status = world.status("web");
    assert_eq!(status.counts.superseded, 2);
    assert_eq!((status.counts.desired, status.counts.cached), (4, 4));
    assert_eq!(
        status.message,
        "4 of 4 cached on 2 nodes, 2 superseded versions still on nodes"
    );
    assert!(status.condition(ConditionKind::Ready).unwrap().status);
    assert_eq!(world.status("other").counts.superseded, 0);

    world.set_ready("n1", false);
    world.pass(1);
    assert_eq!(world.status("web").counts.superseded, 0);
    world.set_ready("n1", true);
    world.act("n1");
    world.pass(1);
    assert_eq!(world.status("web").message, "4 of 4 cached on 2 nodes");
}

#[test]
fn a_refresh_that_waits_for_disk_space_counts_as_cached() {
    let mut world = mk_settled(&["app:1", "tool"]);
    world.refresh("web");
    world.act("n2");
    let node = mk_name("n1");
    let before = world.agents[&node].reported.clone().unwrap();
    let generation = world.records[&node].generation;
    let revision = revisions(&world, "n1")[0];
    // The agent looked at both images, and found no room for the second.
    let agent = world.agents.get_mut(&node).unwrap();
    let looked = before
        .images
        .iter()
        .map(|seen| (seen.image.clone(), u64::MAX));
    agent.looked.extend(looked);
    let images = before.images.into_iter().map(|mut image| {
        if image.image == mk_ref("tool") {
            image.reason = Some(Reason::ImageFsAboveThreshold);
        } else {
            image.revision = Some(revision);
        }
        image
    });
    let report = NodeReport::new(generation, images);
    world.send(ClusterEvent::Reported { node, report });
    world.pass(1);
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    let status = world.status("web");
    assert_eq!((status.counts.cached, status.failures_total), (4, 0));
    assert_eq!(
        status.message,
        "4 of 4 cached on 2 nodes, 1 of them not refreshed while the image file system of the node is above its \
         threshold"
    );
}

#[test]
fn on_demand_ends_once_every_node_verified_every_image() {
    let mut world = mk_settled(&["app:1", "tool"]);
    let writes = world.writes;
    world.refresh("web");
    assert_eq!(world.writes, writes + 2, "one for each node");
    let status = world.status("web").clone();
    assert_eq!(status.reason, ActionReason::ImageCacheRefresh);
    assert_eq!(status.status, ActionStatus::Processing);
    // Fixed tags count as present; mutable tags are pulled.
    assert_eq!(
        status.message,
        "2 of 4 cached on 2 nodes, 2 of them to be verified, 2 to be pulled"
    );
    assert_eq!((status.counts.cached, status.counts.pulling), (2, 2));
    let holds = |kind| status.condition(kind).unwrap().status;
    assert!(holds(ConditionKind::Progressing) && !holds(ConditionKind::Ready));
    assert_eq!(status.verify_revision, status.refresh_revision);
    let revision = status.refresh_revision;
    assert_eq!(revisions(&world, "n1"), [revision, revision]);
    world.act("n1");
    assert_eq!(world.word("web"), ActionStatus::Processing);
    assert!(world.caches[&mk_id("web")].refresh_requested);
    world.act("n2");
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    assert!(!world.caches[&mk_id("web")].refresh_requested);
    assert_eq!(world.status("web").message, "4 of 4 cached on 2 nodes");
    world.settle();
    assert_eq!(world.writes, writes + 2);
}

#[test]
fn on_demand_waits_for_nodes_with_fixed_tags_only() {
    let mut world = mk_settled(&["app:1", "db:1"]);
    world.refresh("web");
    let status = world.status("web");
    assert_eq!(status.status, ActionStatus::Processing);
    assert_eq!(
        status.message,
        "4 of 4 cached on 2 nodes, 4 of them to be verified"
    );
    world.act("n2");
    assert_eq!(world.word("web"), ActionStatus::Processing);
    world.act("n1");
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
}

#[test]
fn the_interval_refreshes_only_mutable_tags() {
    let mut world = mk_settled(&["app:1", "tool"]);
    world.refresh("web");
    world.settle();
    let first = world.status("web").refresh_revision;
    let writes = world.writes;
    world.pass(INTERVAL);
    let status = world.status("web");
    assert_eq!(
        (status.reason, status.status),
        (ActionReason::ImageCacheRefresh, ActionStatus::Processing)
    );
    let second = status.refresh_revision;
    assert!(second > first && status.verify_revision == first);
    assert_eq!(revisions(&world, "n1"), [first, second]);
    assert_eq!(status.message, "2 of 4 cached on 2 nodes, 2 to be pulled");
    world.settle();
    assert_eq!(world.writes, writes + 2);
    // A refresh on demand changes the revisions of both images.
    world.refresh("web");
    let third = world.status("web").refresh_revision;
    assert_eq!(revisions(&world, "n2"), [third, third]);
}

#[test]
fn the_interval_writes_nothing_without_mutable_tags() {
    let mut world = mk_settled(&["app:1"]);
    for asked in [false, true] {
        if asked {
            world.refresh("web");
            world.settle();
        }
        let writes = (world.writes, world.status_writes);
        world.pass(4 * INTERVAL);
        assert_eq!((world.writes, world.status_writes), writes, "{asked}");
    }
}

#[test]
fn the_interval_skips_busy_and_purged_caches() {
    let mut world = World::new();
    world.node(mk_node("n1", &[]));
    let mut always = mk_spec(&["app:1"], &[]);
    always.cache_spec[0].image_pull_policy = Some(ImagePullPolicy::Always);
    world.cache("web", &always);
    // No refresh while the cache is processing.
    world.pass(16 * 60 + 30);
    assert_eq!(world.status("web").reason, ActionReason::ImageCacheCreate);
    world.settle();
    world.pass(16 * 60 + 30);
    assert_eq!(world.status("web").reason, ActionReason::ImageCacheRefresh);
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    // No refresh after a purge.
    world.purge("web");
    world.settle();
    world.pass(40 * 60);
    assert_eq!(world.status("web").reason, ActionReason::ImageCachePurge);
    assert_eq!(world.records.len(), 0);
}

#[test]
fn every_refresh_retries_failed_images() {
    let mut world = World::new();
    world.node(mk_node("n1", &[]));
    world.node(mk_node("n2", &[]));
    let agent = world.agents.get_mut(&mk_name("n1")).unwrap();
    agent.fails.insert(mk_ref("app:1"), Reason::Unauthorized);
    world.cache("web", &mk_spec(&["app:1", "tool"], &[]));
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Failed);
    world.pass(INTERVAL);
    let now = world.status("web").refresh_revision;
    assert_eq!(
        revisions(&world, "n1"),
        [now, now],
        "the fixed tag has failed on n1"
    );
    assert_eq!(revisions(&world, "n2"), [0, now]);
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Failed);
    let writes = world.writes;
    world.refresh("web");
    assert_eq!(world.word("web"), ActionStatus::Processing);
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Failed);
    assert_eq!(world.writes, writes + 2, "once");
    world.agents.get_mut(&mk_name("n1")).unwrap().fails.clear();
    world.refresh("web");
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    assert_eq!(world.writes, writes + 4);
}

#[test]
fn a_restart_neither_loses_nor_repeats_a_refresh() {
    let mut config = PlannerConfig::default();
    config.max_concurrent_nodes = CountOrPercent::Count(1);
    let mut world = World::with(config);
    world.node(mk_node("n1", &[]));
    world.node(mk_node("n2", &[]));
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.settle();
    world.pass(1);
    let writes = world.writes;
    world.refresh("web");
    assert_eq!(world.writes, writes + 1, "n2 waits for its turn");
    let revision = world.status("web").refresh_revision;
    world.restart();
    assert_eq!(world.status("web").refresh_revision, revision);
    assert_eq!(world.writes, writes + 1);
    assert_eq!(world.word("web"), ActionStatus::Processing);
    world.act("n1");
    assert_eq!(world.word("web"), ActionStatus::Processing);
    assert_eq!(revisions(&world, "n2"), [revision]);
    world.restart();
    world.act("n2");
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    let writes = (world.writes, world.status_writes);
    world.restart();
    world.pass(INTERVAL);
    assert_eq!((world.writes, world.status_writes), writes);
}

#[test]
fn an_edit_does_not_cancel_a_refresh() {
    let mut config = PlannerConfig::default();
    config.max_concurrent_nodes = CountOrPercent::Count(1);
    let mut world = World::with(config);
    world.node(mk_node("n1", &[]));
    world.node(mk_node("n2", &[]));
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.settle();
    world.refresh("web");
    world.cache("web", &mk_spec(&["app:1", "db:1"], &[]));
    world.act("n1");
    assert_eq!(world.status("web").reason, ActionReason::ImageCacheUpdate);
    assert_eq!(world.word("web"), ActionStatus::Processing);
    let revision = world.status("web").verify_revision;
    assert_eq!(revisions(&world, "n2"), [revision, revision]);
    world.settle();
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
}

#[test]
fn the_later_refresh_of_a_shared_image_wins() {
    let mut world = mk_settled(&["app:1", "db:1"]);
    world.cache("jobs", &mk_spec(&["db:1", "cron:1"], &[]));
    world.settle();
    world.refresh("web");
    world.settle();
    world.pass(1);
    let web = world.status("web").refresh_revision;
    assert_eq!(world.word("jobs"), ActionStatus::Succeeded);
    world.refresh("jobs");
    assert_eq!(
        world.word("web"),
        ActionStatus::Succeeded,
        "db:1 is not refreshed"
    );
    assert_eq!(
        world.status("web").message,
        "4 of 4 cached on 2 nodes, 2 of them to be verified"
    );
    world.settle();
    let jobs = world.status("jobs").refresh_revision;
    assert!(jobs > web);
    let by_image = |world: &World| -> Vec<(String, u64)> {
        let images = world.records[&mk_name("n1")].images.iter();
        let mut found: Vec<_> = images.map(|i| (i.image.to_string(), i.revision)).collect();
        found.sort();
        found
    };
    let mut expected = vec![
        ("app:1".to_owned(), web),
        ("cron:1".to_owned(), jobs),
        ("db:1".to_owned(), jobs),
    ];
    assert_eq!(by_image(&world), expected);
    // The revision stays when the cache with the later refresh is deleted.
    world.delete("jobs");
    world.settle();
    expected.remove(1);
    assert_eq!(by_image(&world), expected);
    let writes = world.writes;
    world.restart();
    world.settle();
    assert_eq!(world.writes, writes);
}

#[test]
fn a_node_is_refreshed_once_reachable_again() {
    let mut world = mk_settled(&["app:1"]);
    world.set_ready("n2", false);
    world.refresh("web");
    world.act("n1");
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    assert_eq!(world.status("web").counts.unreachable, 1);
    assert_eq!(revisions(&world, "n2"), [0]);
    world.set_ready("n2", true);
    assert_eq!(revisions(&world, "n2"), revisions(&world, "n1"));
    world.pass(1);
    let status = world.status("web");
    assert_eq!(
        status.status,
        ActionStatus::Succeeded,
        "the refresh was repeated"
    );
    assert_eq!(
        status.message,
        "2 of 2 cached on 2 nodes, 1 of them to be verified"
    );
    assert!(status.condition(ConditionKind::Ready).unwrap().status);
    let writes = world.writes;
    world.settle();
    assert_eq!(world.writes, writes);
    assert_eq!(world.status("web").message, "2 of 2 cached on 2 nodes");
}

#[test]
fn an_unresponsive_node_does_not_block_a_refresh() {
    let mut world = mk_settled(&["app:1"]);
    world.refresh("web");
    world.act("n1");
    world.pass(29);
    assert_eq!(world.word("web"), ActionStatus::Processing);
    world.pass(1);
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
    assert_eq!(world.status("web").counts.unreachable, 1);
}

#[test]
fn a_new_node_gets_the_revisions_of_its_peers() {
    let mut world = mk_settled(&["app:1", "tool"]);
    world.refresh("web");
    world.settle();
    world.node(mk_node("n3", &[]));
    assert_eq!(revisions(&world, "n3"), revisions(&world, "n1"));
    assert_eq!(world.status("web").counts.pulling, 2);
}

#[test]
fn a_refresh_leaves_images_being_removed_alone() {
    let mut world = mk_settled(&["app:1"]);
    world.cache("old", &mk_spec(&["old:1"], &[]));
    world.settle();
    for agent in world.agents.values_mut() {
        agent.in_use.insert(mk_ref("old:1"));
    }
    world.purge("old");
    world.settle();
    let leaving = |world: &World| {
        let images = &world.records[&mk_name("n1")].images;
        let leaving = images.iter().find(|i| i.state == DesiredState::Absent);
        leaving.cloned().unwrap()
    };
    let before = leaving(&world);
    world.refresh("web");
    world.settle();
    assert_eq!(leaving(&world), before);
    assert_eq!(world.word("web"), ActionStatus::Succeeded);
}

/// A subject that may edit a status could otherwise make every later revision a number that Kubernetes refuses.
#[test]
fn a_recorded_revision_far_in_the_future_is_capped() {
    let mut world = mk_settled(&["app:1", "tool"]);
    world.refresh("web");
    world.settle();
    let honest = world.status("web").refresh_revision;
    let id = mk_id("web");
    let status = world.caches.get_mut(&id).unwrap().status.as_mut().unwrap();
    (status.refresh_revision, status.verify_revision) = (i64::MAX as u64, i64::MAX as u64);
    world.restart();
    world.refresh("web");
    world.settle();
    let day = 24 * 60 * 60 * 1_000;
    let capped = world.status("web").refresh_revision;
    assert!(capped > honest && capped < honest + 2 * day, "{capped}");
}

#[test]
fn a_declared_annotation_is_done_once_for_each_value() {
    let mut world = World::new();
    world.node(mk_node("n1", &[]));
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.settle();
    let declare = |world: &mut World, value: &str| {
        world.change("web", |facts| {
            facts.purge_requested = true;
            facts.declared_purge = Some(value.to_owned());
        });
        world.settle();
    };
    for value in ["", "2026-01-01", ""] {
        declare(&mut world, value);
        assert!(world.status("web").purged, "{value:?}");
        let facts = &world.caches[&mk_id("web")];
        assert!(!facts.purge_requested, "the annotation is removed");
        // The manifest puts it back, again and again, and a refresh wins for good.
        world.refresh("web");
        world.settle();
        let writes = world.status_writes;
        for restart in [false, true, false] {
            if restart {
                world.restart();
            }
            world.pass(60);
            declare(&mut world, value);
            assert!(!world.status("web").purged, "{value:?}");
        }
        assert_eq!(world.status_writes, writes, "{value:?}");
    }
    // What is set by hand is done every time.
    for _ in 0..2 {
        world.change("web", |facts| {
            facts.purge_requested = true;
            facts.declared_purge = None;
        });
        world.settle();
        assert!(world.status("web").purged);
        world.refresh("web");
        world.settle();
    }
}

#[test]
fn a_refresh_too_soon_waits_and_is_not_lost() {
    let mut config = PlannerConfig::default();
    config.refresh_min_interval = Duration::from_secs(60);
    let mut world = World::with(config);
    world.node(mk_node("n1", &[]));
    world.cache("web", &mk_spec(&["app:1"], &[]));
    world.settle();
    world.refresh("web");
    world.settle();
    let first = world.status("web").verify_revision;
    assert!(first > 0, "the first one does not wait");
    for restart in [false, true] {
        let before = world.status("web").verify_revision;
        world.refresh("web");
        world.settle();
        assert_eq!(world.status("web").verify_revision, before);
        let message = world.status("web").message.clone();
        assert!(
            message.contains("the requested refresh starts at"),
            "{message}"
        );
        assert!(world.caches[&mk_id("web")].refresh_requested);
        if restart {
            world.restart();
        }
        world.pass(60);
        world.settle();
        assert!(world.status("web").verify_revision >= before + 60_000);
        assert!(!world.caches[&mk_id("web")].refresh_requested);
    }
}
