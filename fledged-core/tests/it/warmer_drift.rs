//! The warmer after changes of the node or the assignment: evictions, refreshes, edits, restarts.
use std::time::Duration;

use crate::warmer_node::{
    TestNode, mk_absent, mk_config, mk_image, mk_inventory, mk_present, mk_ref, mk_secret,
};
use fledged_core::error::Reason;
use fledged_core::model::{
    AssignedImage, Digest, ImagePhase, ImagePullPolicy, ImageReport, PulledVia,
};
use fledged_core::port::RemovalScope;
use fledged_core::warmer::{Inventory, NodeEvent, Warmer};

const MINUTE: Duration = Duration::from_secs(60);

fn mk_always(name: &str) -> AssignedImage {
    mk_present(name).with_pull_policy(ImagePullPolicy::Always)
}

fn mk_revision(name: &str, revision: u64) -> AssignedImage {
    mk_always(name).with_revision(revision)
}

#[test]
fn a_missing_secret_is_reported_until_names_or_revision_change() {
    let image = || mk_present("a").with_pull_secrets(vec![mk_secret("key")]);
    let (mut node, _) = TestNode::warmed(3, vec![image()], &[]);
    node.pulled_without("a", "default/key");
    let warned = |node: &TestNode| {
        let report = node.report("a");
        assert_eq!(report.phase, ImagePhase::Cached);
        report.message
    };
    let text = Some("pull secret default/key: not found".to_owned());
    assert_eq!(warned(&node), text);
    assert!(node.report("a").is_cached_without_credentials());
    node.read_next(mk_inventory(&["a"]));
    assert_eq!(warned(&node), text, "after an inventory");
    let past = node.report("a");
    // Over a restart, also of an image that a refresh asks for.
    for (revision, expected) in [(0, &text), (1, &None)] {
        let mut next = TestNode::new(3);
        next.send(NodeEvent::Resumed(vec![past.clone()]));
        next.assign(vec![image().with_revision(revision)]);
        next.read(mk_inventory(&["a"]));
        assert_eq!(warned(&next), *expected, "revision {revision}");
    }
    let renamed = mk_present("a").with_pull_secrets(vec![mk_secret("other")]);
    node.assign(vec![renamed]);
    assert_eq!(warned(&node), None, "other names");
}

#[test]
fn the_inventory_is_read_every_interval() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &["a"]);
    assert!(!node.pass(53).reads());
    assert!(node.pass(7).reads());
    assert_eq!(
        node.read(mk_inventory(&["a"])).0,
        [],
        "an unchanged inventory causes no report"
    );
    assert!(!node.pass(53).reads());
}

#[test]
fn readings_of_many_nodes_spread_out() {
    let mut readings: Vec<i64> = (0..1_000)
        .map(|seed| {
            let mut node = TestNode::with(mk_config(1));
            node.warmer = Warmer::new(mk_config(1), seed);
            node.assign(vec![mk_present("a")]);
            for _ in 0..3 {
                node.read(mk_inventory(&["a"]));
                node.wake();
            }
            node.at(0)
                .duration_until(node.now)
                .as_millis()
                .try_into()
                .unwrap()
        })
        .collect();
    readings.sort_unstable();
    assert!(readings[0] >= 3 * 54_000 && readings[999] <= 3 * 60_000);
    for (first, later) in readings.iter().zip(&readings[200..]) {
        assert!(
            later - first > 1_000,
            "more than a fifth of the readings are within a second"
        );
    }
}

#[test]
fn an_evicted_image_is_pulled_again() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a"), mk_present("b")], &["a", "b"]);
    node.pass(60);
    let asked = node.read(mk_inventory(&[]));
    assert_eq!(asked.pulls(), ["a"]);
    let waiting = node.report("b");
    assert_eq!(waiting.phase, ImagePhase::Pending);
    assert_eq!(waiting.reason, Some(Reason::Evicted));
    assert_eq!(waiting.size, None);
    assert!(!node.is_settled());
    let pulling = node.report("a");
    assert_eq!(
        (pulling.phase, pulling.reason),
        (ImagePhase::Pulling, Some(Reason::Evicted))
    );
    node.pulled("a");
    node.pulled("b");
    assert_eq!(node.report("b").reason, None);
    node.answer(Ok(mk_inventory(&["a", "b"])));
    assert!(node.is_settled());
}

#[test]
fn repeated_evictions_are_repaired_with_backoff() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &["a"]);
    let mut waits = Vec::new();
    for _ in 0..7 {
        // A reading that began before the end of the pull does not count.
        while node.phase("a") == ImagePhase::Cached {
            node.read_next(mk_inventory(&[]));
        }
        let vanished = node.now;
        if node.phase("a") == ImagePhase::Failed {
            // Repeated evictions are reported and end the round.
            assert_eq!(node.report("a").reason, Some(Reason::Evicted));
            assert!(node.is_settled());
            assert!(node.report("a").next_attempt_at > Some(node.now));
            node.until_pull(&[]);
        }
        let waited = Duration::try_from(node.now.duration_since(vanished)).unwrap();
        waits.push(waited.as_secs());
        node.pulled("a");
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 320]);
}

#[test]
fn a_refresh_repairs_repeated_evictions_at_once() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &["a"]);
    node.read_next(mk_inventory(&[]));
    node.pulled("a");
    node.read_next(mk_inventory(&[]));
    assert_eq!(node.phase("a"), ImagePhase::Failed);
    assert_eq!(node.refresh().pulls(), ["a"]);
}

#[test]
fn an_eviction_after_the_window_is_not_a_repetition() {
    let mut config = mk_config(1);
    config.eviction_window = 2 * MINUTE;
    let mut node = TestNode::with(config);
    node.assign(vec![mk_present("a")]);
    node.read(mk_inventory(&["a"]));
    for _ in 0..5 {
        for _ in 0..3 {
            node.read_next(mk_inventory(&["a"]));
        }
        assert_eq!(node.read_next(mk_inventory(&[])).pulls(), ["a"]);
        node.pulled("a");
    }
}

#[test]
fn an_evicted_image_is_pulled_after_a_failed_refresh() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_always("a")], &["a"]);
    node.failed("a", Reason::InvalidImage);
    assert_eq!(node.phase("a"), ImagePhase::Failed);
    assert_eq!(node.read_next(mk_inventory(&["a"])).pulls(), [""; 0]);
    assert_eq!(node.read_next(mk_inventory(&[])).pulls(), ["a"]);
}

#[test]
fn an_image_pulled_by_another_client_ends_the_backoff() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &[]);
    node.failed("a", Reason::Unauthorized);
    node.assign(vec![mk_present("a"), mk_present("b")]);
    node.read(mk_inventory(&["a", "b"]));
    let report = node.report("a");
    assert_eq!(report.phase, ImagePhase::Cached);
    assert_eq!((report.reason, report.message), (None, None));
    assert_eq!((report.attempts, report.started_at), (0, None));
    assert_eq!(report.next_attempt_at, None);
}

#[test]
fn a_reading_that_began_before_a_pull_ended_is_ignored() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &[]);
    while !node.is_reading() {
        node.wake();
    }
    node.pulled("a");
    // This reading began before the pull ended.
    assert_eq!(node.read(mk_inventory(&[])).pulls(), [""; 0]);
    assert_eq!(node.phase("a"), ImagePhase::Cached);
}

#[test]
fn an_image_assigned_during_a_reading_needs_another() {
    let mut node = TestNode::new(1);
    node.assign(vec![mk_present("a")]);
    node.assign(vec![mk_present("a"), mk_present("b")]);
    let asked = node.read(mk_inventory(&["a"]));
    assert_eq!(asked.pulls(), [""; 0]);
    assert!(asked.reads());
    assert_eq!(node.read(mk_inventory(&["a"])).pulls(), ["b"]);
}

#[test]
fn a_new_revision_with_policy_always_is_pulled() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_revision("a", 3)], &["a"]);
    node.pulled("a");
    node.read(mk_inventory(&["a"]));
    assert_eq!(node.report("a").revision, Some(3));
    assert!(node.assign(vec![mk_revision("a", 4)]).reads());
    assert!(!node.is_settled());
    assert_eq!(node.read(mk_inventory(&["a"])).pulls(), ["a"]);
    assert_eq!(
        node.report("a").revision,
        Some(3),
        "revision 4 is not satisfied yet"
    );
    node.pulled("a");
    assert_eq!(node.report("a").revision, Some(4));
    assert_eq!(node.assign(vec![mk_revision("a", 4)]).0, []);
}

#[test]
fn a_new_revision_during_a_pull_causes_another_pull() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_revision("a", 1)], &[]);
    assert_eq!(node.assign(vec![mk_revision("a", 2)]).cancels(), 0);
    node.read(mk_inventory(&[]));
    assert_eq!(node.pulled("a").pulls(), ["a"]);
    assert_eq!(node.report("a").revision, Some(1));
    assert_eq!(node.pulled("a").pulls(), [""; 0]);
    assert_eq!(node.report("a").revision, Some(2));
}

#[test]
fn a_new_revision_clears_the_last_failure() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_revision("a", 1), mk_present("b")], &[]);
    node.failed("a", Reason::ImageNotFound);
    node.assign(vec![mk_revision("a", 2), mk_present("b")]);
    let report = node.report("a");
    assert_eq!(report.phase, ImagePhase::Pending);
    assert_eq!((report.reason, report.message), (None, None));
}

#[test]
fn policy_always_pulls_once_for_each_refresh() {
    let (mut node, asked) = TestNode::warmed(2, vec![mk_always("a"), mk_present("b")], &["a", "b"]);
    assert_eq!(asked.pulls(), ["a"]);
    node.pulled("a");
    assert_eq!(node.read(mk_inventory(&["a", "b"])).pulls(), [""; 0]);
    assert!(node.is_settled());
    assert!(node.refresh().reads());
    assert_eq!(node.read(mk_inventory(&["a", "b"])).pulls(), ["a"]);
}

#[test]
fn a_refresh_retries_failed_images() {
    let (mut node, _) = TestNode::warmed(2, vec![mk_present("a"), mk_present("b")], &[]);
    node.failed("a", Reason::ImageNotFound);
    node.failed("b", Reason::RegistryError);
    assert_eq!(node.refresh().pulls(), ["b", "a"]);
}

#[test]
fn a_refresh_respects_the_delay_of_a_registry() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &[]);
    node.ended("a", Err(crate::warmer_node::mk_throttled(100)));
    assert_eq!(node.refresh().pulls(), [""; 0]);
    let (waited, _) = node.until_pull(&[]);
    assert!(waited >= Duration::from_secs(100));
}

#[test]
fn a_pull_of_a_dropped_image_is_cancelled() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a"), mk_present("b")], &[]);
    let asked = node.assign(vec![mk_present("b")]);
    assert_eq!(asked.cancels(), 1);
    assert_eq!(asked.pulls(), ["b"]);
    assert_eq!(node.warmer.report().images.len(), 1);
}

#[test]
fn a_pull_of_an_image_to_be_absent_is_cancelled_and_undone() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &[]);
    let asked = node.assign(vec![mk_absent("a")]);
    assert_eq!(asked.cancels(), 1);
    // The pull may have completed before it was cancelled.
    assert_eq!(node.read(mk_inventory(&["a"])).removals(), ["a"]);
}

#[test]
fn satisfied_revisions_survive_a_restart() {
    let past =
        |name: &str, phase, revision| ImageReport::new(mk_ref(name), phase).with_revision(revision);
    let mut node = TestNode::new(3);
    node.send(NodeEvent::Resumed(vec![
        past("a", ImagePhase::Cached, 2),
        past("b", ImagePhase::Cached, 1),
        past("gone", ImagePhase::Removed, 0),
        past("again", ImagePhase::Removed, 0),
    ]));
    let images = vec![
        mk_always("a").with_revision(2),
        mk_revision("b", 2),
        mk_always("new"),
        mk_absent("gone"),
        mk_absent("again").with_revision(1),
    ];
    node.assign(images);
    let held = ["a", "b", "new", "gone", "again"];
    let asked = node.read(mk_inventory(&held));
    assert_eq!(node.phase("a"), ImagePhase::Cached);
    // An image that another client pulled after the removal is kept.
    assert_eq!(node.phase("gone"), ImagePhase::Removed);
    assert_eq!(asked.removals(), ["again"]);
    let asked = node.removal("again", Ok(fledged_core::port::Removal::Removed));
    assert_eq!(asked.pulls(), ["b", "new"]);
}

#[test]
fn reports_of_unchanged_images_survive_a_restart() {
    let mut node = TestNode::new(3);
    let digest = |n: u8| Digest::parse(&format!("sha256:{n:064x}")).unwrap();
    let past = |name: &str| {
        ImageReport::new(mk_ref(name), ImagePhase::Cached)
            .with_digest(digest(1))
            .with_size(mk_image(&[name]).size)
            .with_attempts(2)
            .with_started_at(node.at(0))
            .with_finished_at(node.at(10))
            .with_revision(0)
    };
    let reports = ["same", "moved", "lost"].map(past);
    node.send(NodeEvent::Resumed(reports.to_vec()));
    node.assign(["same", "moved", "lost"].map(mk_present).to_vec());
    let mk_held = |name: &str, n| mk_image(&[name]).with_digest(digest(n));
    let held = vec![mk_held("same", 1), mk_held("moved", 2)];
    let asked = node.read(Inventory::new(held, [], RemovalScope::Image));
    assert_eq!(node.report("same"), reports[0]);
    let moved = node.report("moved");
    assert_eq!((moved.attempts, moved.finished_at), (0, None));
    assert_eq!(asked.pulls(), ["lost"]);
    node.pulled("lost");
    assert_eq!(node.report("lost").attempts, 1);
}

#[test]
fn the_inventory_is_read_again_after_an_interruption() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a"), mk_present("b")], &["a"]);
    assert_eq!(node.phase("b"), ImagePhase::Pulling);
    node.forget();
    assert!(node.send(NodeEvent::Interrupted).reads());
    assert!(!node.is_settled());
    assert_eq!(node.warmer.pulls_under_way(), 0);
    let asked = node.read(mk_inventory(&["b"]));
    assert_eq!(node.phase("b"), ImagePhase::Cached);
    assert_eq!(asked.pulls(), ["a"]);
    assert_eq!(node.warmer.pulls_under_way(), 1);
}

#[test]
fn what_fetched_an_image_is_reported_until_it_is_another_one() {
    let digest = |number: u8| Digest::parse(&format!("sha256:{number:064}")).unwrap();
    let image = |number| mk_image(&["a"]).with_digest(digest(number));
    let held = |number| Inventory::new(vec![image(number)], [], RemovalScope::Image);
    let (mut first, _) = TestNode::warmed(1, vec![mk_present("a")], &[]);
    first.ended("a", Ok(image(1).with_via(PulledVia::Fetcher)));
    first.answer(Ok(held(1)));
    let pulled = first.report("a");
    assert_eq!(pulled.via, Some(PulledVia::Fetcher));

    // After a restart.
    let mut node = TestNode::new(1);
    node.send(NodeEvent::Resumed(vec![pulled]));
    node.assign(vec![mk_present("a")]);
    node.read(held(1));
    assert_eq!(node.report("a").via, Some(PulledVia::Fetcher));

    node.read_next(held(2));
    assert_eq!(node.report("a").via, None, "another program pulled it");
    first.pass(60);
    first.read(mk_inventory(&[]));
    assert_eq!(first.report("a").via, None, "it was evicted");
}
