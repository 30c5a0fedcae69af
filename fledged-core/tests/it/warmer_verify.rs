//! What a warmer does about a new revision of an image that does not move: it looks again.
use crate::warmer_node::{TestNode, mk_failure, mk_image, mk_inventory, mk_present, mk_ref};
use fledged_core::error::Reason;
use fledged_core::model::{AssignedImage, Digest, ImagePhase, ImagePullPolicy, ImageReport};
use fledged_core::port::RemovalScope;
use fledged_core::warmer::{Inventory, NodeEvent};

const NONE: [&str; 0] = [];

fn mk_asked(name: &str, revision: u64) -> AssignedImage {
    mk_present(name).with_revision(revision)
}

#[test]
fn what_is_there_satisfies_a_new_revision_without_a_pull() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &["a"]);
    assert!(node.assign(vec![mk_asked("a", 7)]).reads(), "at once");
    assert!(!node.is_settled());
    assert_eq!(
        node.report("a").revision,
        Some(0),
        "nothing is known as of now"
    );
    let asked = node.read(mk_inventory(&["a"]));
    assert_eq!(asked.pulls(), NONE);
    assert_eq!(asked.phases(), [("a".to_owned(), ImagePhase::Cached)]);
    assert_eq!(node.report("a").revision, Some(7));
    assert!(node.is_settled());
    assert_eq!(node.assign(vec![mk_asked("a", 7)]).0, [], "asked once");
}

#[test]
fn what_was_taken_away_is_missed_at_once_and_pulled() {
    let (mut node, _) = TestNode::warmed(2, vec![mk_present("a"), mk_present("b")], &["a", "b"]);
    node.assign(vec![mk_asked("a", 7), mk_asked("b", 7)]);
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
fn what_is_taken_away_again_and_again_is_pulled_at_once_when_asked_for() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &["a"]);
    for revision in 1..4 {
        node.assign(vec![mk_asked("a", revision)]);
        assert_eq!(node.read_next(mk_inventory(&[])).pulls(), ["a"]);
        node.pulled("a");
        // What was pulled is looked at once more.
        node.read(mk_inventory(&["a"]));
    }
    // Without anybody asking, it is pulled ever more slowly.
    assert_eq!(node.read_next(mk_inventory(&[])).pulls(), NONE);
    assert_eq!(node.phase("a"), ImagePhase::Failed);
}

#[test]
fn a_reading_from_before_the_question_is_no_answer() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &["a"]);
    while !node.is_reading() {
        node.wake();
    }
    node.assign(vec![mk_asked("a", 7)]);
    assert!(node.read(mk_inventory(&["a"])).reads());
    assert_eq!(node.report("a").revision, Some(0));
    assert_eq!(node.read(mk_inventory(&[])).pulls(), ["a"]);
}

#[test]
fn a_pull_that_ends_after_the_question_answers_it() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &[]);
    assert_eq!(node.assign(vec![mk_asked("a", 7)]).cancels(), 0);
    node.read(mk_inventory(&[]));
    assert_eq!(node.pulled("a").pulls(), NONE);
    assert_eq!(node.report("a").revision, Some(7));
}

#[test]
fn what_has_failed_is_looked_for_and_tried_again() {
    let (mut node, _) = TestNode::warmed(2, vec![mk_present("a"), mk_present("b")], &[]);
    node.failed("a", Reason::ImageNotFound);
    node.failed("b", Reason::Unauthorized);
    node.assign(vec![mk_asked("a", 7), mk_asked("b", 7)]);
    // Somebody else has brought one of them.
    assert_eq!(node.read(mk_inventory(&["a"])).pulls(), ["b"]);
    assert_eq!(node.phase("a"), ImagePhase::Cached);
    node.failed("b", Reason::Unauthorized);
    assert_eq!(node.phase("b"), ImagePhase::Failed);
}

#[test]
fn a_runtime_that_does_not_answer_is_told_when_the_deadline_is_over() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &["a"]);
    node.assign(vec![mk_asked("a", 7)]);
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
fn how_it_got_there_is_still_true() {
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
    node.assign(vec![mk_asked("a", 7)]);
    node.read(held(1));
    assert_eq!(node.report("a"), before.with_revision(7));
    // Somebody has replaced it.
    node.assign(vec![mk_asked("a", 8)]);
    node.read(held(2));
    let after = node.report("a");
    assert_eq!((after.attempts, after.finished_at), (0, None));
    assert_eq!(after.revision, Some(8));
}

#[test]
fn a_look_does_not_make_it_new() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &[]);
    node.pulled("a");
    node.read(mk_inventory(&["a"]));
    for revision in 1..40 {
        node.pass(50);
        node.assign(vec![mk_asked("a", revision)]);
        node.read(mk_inventory(&["a"]));
    }
    // 33 minutes after it was pulled, twice: longer than whatever counts as an eviction.
    for _ in 0..2 {
        node.assign(vec![mk_asked("a", 40)]);
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
fn an_agent_that_restarts_in_the_middle_looks_all_the_same() {
    let past = ImageReport::new(mk_ref("a"), ImagePhase::Cached).with_revision(0);
    for held in [&["a"][..], &[]] {
        let mut node = TestNode::new(1);
        node.tell(NodeEvent::Resumed(vec![past.clone()]));
        node.assign(vec![mk_asked("a", 7)]);
        let missing = held.is_empty();
        assert_eq!(node.read(mk_inventory(held)).pulls().is_empty(), !missing);
        if missing {
            node.pulled("a");
        }
        assert_eq!(node.report("a").revision, Some(7));
    }
}

#[test]
fn what_is_to_be_pulled_always_is_pulled_for_a_new_revision() {
    let always = |revision| mk_asked("a", revision).with_pull_policy(ImagePullPolicy::Always);
    let (mut node, _) = TestNode::warmed(1, vec![always(3)], &["a"]);
    node.pulled("a");
    node.read(mk_inventory(&["a"]));
    node.assign(vec![always(4)]);
    assert_eq!(node.read(mk_inventory(&["a"])).pulls(), ["a"]);
    node.pulled("a");
    node.read(mk_inventory(&["a"]));
    assert_eq!(node.report("a").revision, Some(4));
    // Where it is not, what is there will do.
    node.assign(vec![mk_asked("a", 5)]);
    assert_eq!(node.read_next(mk_inventory(&["a"])).pulls(), NONE);
    assert_eq!(node.report("a").revision, Some(5));
}
