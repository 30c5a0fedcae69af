//! What a warmer does when the node or the assignment turns out to be different from before.
use std::time::Duration;

use crate::warmer_node::{
    TestNode, mk_absent, mk_config, mk_image, mk_inventory, mk_present, mk_ref,
};
use fledged_core::error::Reason;
use fledged_core::model::{AssignedImage, Digest, ImagePhase, ImagePullPolicy, ImageReport};
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
fn the_inventory_is_read_every_interval() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &["a"]);
    assert!(!node.pass(53).reads());
    assert!(node.pass(7).reads());
    assert_eq!(
        node.read(mk_inventory(&["a"])).0,
        [],
        "nothing changed, nothing is told"
    );
    assert!(!node.pass(53).reads());
}

#[test]
fn nodes_that_were_assigned_together_do_not_go_on_reading_together() {
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
        assert!(later - first > 1_000, "more than a fifth within a second");
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
fn repeated_evictions_are_repaired_ever_more_slowly() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &["a"]);
    let mut waits = Vec::new();
    for _ in 0..7 {
        // A reading that was under way during the pull does not count.
        while node.phase("a") == ImagePhase::Cached {
            node.read_next(mk_inventory(&[]));
        }
        let vanished = node.now;
        if node.phase("a") == ImagePhase::Failed {
            // Something that goes on takes it away; that is told, and ends a round.
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
fn an_eviction_long_after_is_no_repetition() {
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
fn a_copy_that_could_not_be_refreshed_is_replaced_when_it_vanishes() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_always("a")], &["a"]);
    node.failed("a", Reason::InvalidImage);
    assert_eq!(node.phase("a"), ImagePhase::Failed);
    assert_eq!(node.read_next(mk_inventory(&["a"])).pulls(), [""; 0]);
    assert_eq!(node.read_next(mk_inventory(&[])).pulls(), ["a"]);
}

#[test]
fn an_image_that_somebody_else_brought_ends_the_backoff() {
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
fn a_reading_older_than_a_pull_does_not_count() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &[]);
    while !node.is_reading() {
        node.wake();
    }
    node.pulled("a");
    // That reading was asked for before the pull ended.
    assert_eq!(node.read(mk_inventory(&[])).pulls(), [""; 0]);
    assert_eq!(node.phase("a"), ImagePhase::Cached);
}

#[test]
fn an_image_assigned_during_a_reading_waits_for_the_next() {
    let mut node = TestNode::new(1);
    node.assign(vec![mk_present("a")]);
    node.assign(vec![mk_present("a"), mk_present("b")]);
    let asked = node.read(mk_inventory(&["a"]));
    assert_eq!(asked.pulls(), [""; 0]);
    assert!(asked.reads());
    assert_eq!(node.read(mk_inventory(&["a"])).pulls(), ["b"]);
}

#[test]
fn a_new_revision_is_pulled_although_present() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_revision("a", 3)], &["a"]);
    node.pulled("a");
    node.read(mk_inventory(&["a"]));
    assert_eq!(node.report("a").revision, Some(3));
    assert!(node.assign(vec![mk_revision("a", 4)]).reads());
    assert!(!node.is_settled());
    assert_eq!(node.read(mk_inventory(&["a"])).pulls(), ["a"]);
    assert_eq!(node.report("a").revision, Some(3), "not satisfied yet");
    node.pulled("a");
    assert_eq!(node.report("a").revision, Some(4));
    assert_eq!(node.assign(vec![mk_revision("a", 4)]).0, []);
}

#[test]
fn a_revision_that_comes_during_a_pull_asks_for_another() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_revision("a", 1)], &[]);
    assert_eq!(node.assign(vec![mk_revision("a", 2)]).cancels(), 0);
    node.read(mk_inventory(&[]));
    assert_eq!(node.pulled("a").pulls(), ["a"]);
    assert_eq!(node.report("a").revision, Some(1));
    assert_eq!(node.pulled("a").pulls(), [""; 0]);
    assert_eq!(node.report("a").revision, Some(2));
}

#[test]
fn a_new_revision_forgets_why_the_last_one_failed() {
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
fn a_refresh_tries_again_what_has_failed() {
    let (mut node, _) = TestNode::warmed(2, vec![mk_present("a"), mk_present("b")], &[]);
    node.failed("a", Reason::ImageNotFound);
    node.failed("b", Reason::RegistryError);
    assert_eq!(node.refresh().pulls(), ["b", "a"]);
}

#[test]
fn a_refresh_leaves_a_throttling_registry_alone() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &[]);
    node.ended("a", Err(crate::warmer_node::mk_throttled(100)));
    assert_eq!(node.refresh().pulls(), [""; 0]);
    let (waited, _) = node.until_pull(&[]);
    assert!(waited >= Duration::from_secs(100));
}

#[test]
fn a_pull_that_nobody_wants_any_more_is_cancelled() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a"), mk_present("b")], &[]);
    let asked = node.assign(vec![mk_present("b")]);
    assert_eq!(asked.cancels(), 1);
    assert_eq!(asked.pulls(), ["b"]);
    assert_eq!(node.warmer.report().images.len(), 1);
}

#[test]
fn a_pull_of_what_is_now_to_be_absent_is_cancelled_and_undone() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &[]);
    let asked = node.assign(vec![mk_absent("a")]);
    assert_eq!(asked.cancels(), 1);
    // It may have been complete before it was cancelled.
    assert_eq!(node.read(mk_inventory(&["a"])).removals(), ["a"]);
}

#[test]
fn after_a_restart_satisfied_revisions_are_not_pulled_again() {
    let past =
        |name: &str, phase, revision| ImageReport::new(mk_ref(name), phase).with_revision(revision);
    let mut node = TestNode::new(3);
    node.tell(NodeEvent::Resumed(vec![
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
    // Somebody brought it back after it was removed; that is left alone.
    assert_eq!(node.phase("gone"), ImagePhase::Removed);
    assert_eq!(asked.removals(), ["again"]);
    let asked = node.removal("again", Ok(fledged_core::port::Removal::Removed));
    assert_eq!(asked.pulls(), ["b", "new"]);
}

#[test]
fn after_a_restart_what_is_still_there_is_told_as_before() {
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
    node.tell(NodeEvent::Resumed(reports.to_vec()));
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
fn after_an_interruption_nothing_is_believed() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a"), mk_present("b")], &["a"]);
    assert_eq!(node.phase("b"), ImagePhase::Pulling);
    node.forget();
    assert!(node.tell(NodeEvent::Interrupted).reads());
    assert!(!node.is_settled());
    assert_eq!(node.warmer.pulls_under_way(), 0);
    let asked = node.read(mk_inventory(&["b"]));
    assert_eq!(node.phase("b"), ImagePhase::Cached);
    assert_eq!(asked.pulls(), ["a"]);
    assert_eq!(node.warmer.pulls_under_way(), 1);
}
