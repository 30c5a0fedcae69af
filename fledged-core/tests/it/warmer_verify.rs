//! The warmer after a refresh of a fixed tag, which verifies that the image is present.
use crate::warmer_node::{TestNode, mk_failure, mk_image, mk_inventory, mk_present, mk_ref};
use fledged_core::error::Reason;
use fledged_core::model::{AssignedImage, Digest, ImagePhase, ImagePullPolicy, ImageReport};
use fledged_core::port::RemovalScope;
use fledged_core::warmer::{Inventory, NodeEvent};

const NONE: [&str; 0] = [];

fn mk_revision(name: &str, revision: u64) -> AssignedImage {
    mk_present(name).with_revision(revision)
}

#[test]
fn a_present_image_satisfies_a_new_revision() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &["a"]);
    assert!(node.assign(vec![mk_revision("a", 7)]).reads(), "at once");
    assert!(!node.is_settled());
    assert_eq!(
        node.report("a").revision,
        Some(0),
        "revision 7 is not verified yet"
    );
    let asked = node.read(mk_inventory(&["a"]));
    assert_eq!(asked.pulls(), NONE);
    assert_eq!(asked.phases(), [("a".to_owned(), ImagePhase::Cached)]);
    assert_eq!(node.report("a").revision, Some(7));
    assert!(node.is_settled());
    assert_eq!(
        node.assign(vec![mk_revision("a", 7)]).0,
        [],
        "an equal assignment changes nothing"
    );
}

#[test]
fn a_refresh_pulls_evicted_images() {
    let (mut node, _) = TestNode::warmed(2, vec![mk_present("a"), mk_present("b")], &["a", "b"]);
    node.assign(vec![mk_revision("a", 7), mk_revision("b", 7)]);
    assert_eq!(node.read(mk_inventory(&["a"])).pulls(), ["b"]);
    let pulling = node.report("b");
    assert_eq!(
        (pulling.phase, pulling.reason, pulling.revision),
        (ImagePhase::Pulling, Some(Reason::Evicted), Some(0))
    );
    assert_eq!(node.report("a").revision, Some(7));
    node.pulled("b");
    assert_eq!(node.report("b").revision, Some(7));
}

#[test]
fn a_refresh_repairs_repeated_evictions_at_once() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &["a"]);
    for revision in 1..4 {
        node.assign(vec![mk_revision("a", revision)]);
        assert_eq!(node.read_next(mk_inventory(&[])).pulls(), ["a"]);
        node.pulled("a");
        // A pull is followed by a reading.
        node.read(mk_inventory(&["a"]));
    }
    // Without a refresh, repeated evictions are repaired with back-off.
    assert_eq!(node.read_next(mk_inventory(&[])).pulls(), NONE);
    assert_eq!(node.phase("a"), ImagePhase::Failed);
}

#[test]
fn a_reading_that_began_before_a_refresh_is_ignored() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &["a"]);
    while !node.is_reading() {
        node.wake();
    }
    node.assign(vec![mk_revision("a", 7)]);
    assert!(node.read(mk_inventory(&["a"])).reads());
    assert_eq!(node.report("a").revision, Some(0));
    assert_eq!(node.read(mk_inventory(&[])).pulls(), ["a"]);
}

#[test]
fn a_pull_that_ends_after_a_refresh_satisfies_its_revision() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &[]);
    assert_eq!(node.assign(vec![mk_revision("a", 7)]).cancels(), 0);
    node.read(mk_inventory(&[]));
    assert_eq!(node.pulled("a").pulls(), NONE);
    assert_eq!(node.report("a").revision, Some(7));
}

#[test]
fn a_refresh_retries_failed_images() {
    let (mut node, _) = TestNode::warmed(2, vec![mk_present("a"), mk_present("b")], &[]);
    node.failed("a", Reason::ImageNotFound);
    node.failed("b", Reason::Unauthorized);
    node.assign(vec![mk_revision("a", 7), mk_revision("b", 7)]);
    // Another client has pulled one of the images.
    assert_eq!(node.read(mk_inventory(&["a"])).pulls(), ["b"]);
    assert_eq!(node.phase("a"), ImagePhase::Cached);
    node.failed("b", Reason::Unauthorized);
    assert_eq!(node.phase("b"), ImagePhase::Failed);
}

#[test]
fn an_unavailable_runtime_fails_a_refresh_at_the_deadline() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &["a"]);
    node.assign(vec![mk_revision("a", 7)]);
    let asked_at = node.now;
    while node.phase("a") == ImagePhase::Pending {
        match node.is_reading() {
            true => node.answer(Err(mk_failure(Reason::RuntimeUnavailable))),
            false => node.wake(),
        };
    }
    let report = node.report("a");
    assert_eq!(report.phase, ImagePhase::Failed);
    assert_eq!(report.reason, Some(Reason::RuntimeUnavailable));
    assert_eq!(node.now.duration_since(asked_at).as_secs(), 300);
    node.read_next(mk_inventory(&["a"]));
    assert_eq!(node.phase("a"), ImagePhase::Cached);
    assert_eq!(node.report("a").revision, Some(7));
}

#[test]
fn a_refresh_keeps_the_history_of_an_unchanged_image() {
    let digest = |n: u8| Digest::parse(&format!("sha256:{n:064x}")).unwrap();
    let held = |n| {
        let image = mk_image(&["a"]).with_digest(digest(n));
        Inventory::new(vec![image], [], RemovalScope::Image)
    };
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &[]);
    node.failed("a", Reason::ConnectionFailed);
    node.wake();
    node.ended("a", Ok(mk_image(&["a"]).with_digest(digest(1))));
    node.read(held(1));
    let before = node.report("a");
    assert_eq!(before.attempts, 2);
    node.pass(10);
    node.assign(vec![mk_revision("a", 7)]);
    node.read(held(1));
    assert_eq!(node.report("a"), before.with_revision(7));
    // Another client has replaced the image.
    node.assign(vec![mk_revision("a", 8)]);
    node.read(held(2));
    let after = node.report("a");
    assert_eq!((after.attempts, after.finished_at), (0, None));
    assert_eq!(after.revision, Some(8));
}

#[test]
fn a_refresh_does_not_restart_the_eviction_window() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &[]);
    node.pulled("a");
    node.read(mk_inventory(&["a"]));
    for revision in 1..40 {
        node.pass(50);
        node.assign(vec![mk_revision("a", revision)]);
        node.read(mk_inventory(&["a"]));
    }
    // Each eviction is 33 minutes after the pull, which is longer than the eviction window.
    for _ in 0..2 {
        node.assign(vec![mk_revision("a", 40)]);
        assert_eq!(node.read_next(mk_inventory(&[])).pulls(), ["a"]);
        assert_eq!(
            node.report("a").message.unwrap(),
            "it was present and was removed by something else"
        );
        node.pulled("a");
        for _ in 0..40 {
            node.read_next(mk_inventory(&["a"]));
        }
    }
}

#[test]
fn a_refresh_is_completed_after_a_restart() {
    let past = ImageReport::new(mk_ref("a"), ImagePhase::Cached).with_revision(0);
    for held in [&["a"][..], &[]] {
        let mut node = TestNode::new(1);
        node.send(NodeEvent::Resumed(vec![past.clone()]));
        node.assign(vec![mk_revision("a", 7)]);
        let missing = held.is_empty();
        assert_eq!(node.read(mk_inventory(held)).pulls().is_empty(), !missing);
        if missing {
            node.pulled("a");
        }
        assert_eq!(node.report("a").revision, Some(7));
    }
}

#[test]
fn a_refresh_pulls_images_with_policy_always() {
    let always = |revision| mk_revision("a", revision).with_pull_policy(ImagePullPolicy::Always);
    let (mut node, _) = TestNode::warmed(1, vec![always(3)], &["a"]);
    node.pulled("a");
    node.read(mk_inventory(&["a"]));
    node.assign(vec![always(4)]);
    assert_eq!(node.read(mk_inventory(&["a"])).pulls(), ["a"]);
    node.pulled("a");
    node.read(mk_inventory(&["a"]));
    assert_eq!(node.report("a").revision, Some(4));
    // Without policy Always, the present image satisfies the revision.
    node.assign(vec![mk_revision("a", 5)]);
    assert_eq!(node.read_next(mk_inventory(&["a"])).pulls(), NONE);
    assert_eq!(node.report("a").revision, Some(5));
}
