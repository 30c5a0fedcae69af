//! The warmer while the inventory can't be read.
use std::time::Duration;

use crate::warmer_node::{TestNode, mk_absent, mk_failure, mk_inventory, mk_present};
use fledged_core::error::Reason;
use fledged_core::model::ImagePhase;

const SECOND: Duration = Duration::from_secs(1);

fn unavailable() -> fledged_core::error::Failure {
    mk_failure(Reason::RuntimeUnavailable)
}

#[test]
fn failed_readings_are_retried_with_backoff() {
    let mut node = TestNode::new(1);
    node.assign(vec![mk_present("a")]);
    let mut waits = Vec::new();
    for _ in 0..7 {
        assert_eq!(node.answer(Err(unavailable())).pulls(), [""; 0]);
        assert_eq!(node.phase("a"), ImagePhase::Pending);
        let before = node.now;
        node.wake();
        assert!(node.is_reading());
        waits.push(node.now.duration_since(before).as_secs());
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    assert_eq!(node.read(mk_inventory(&[])).pulls(), ["a"]);
    assert_eq!(node.report("a").reason, None);
}

#[test]
fn images_fail_at_their_own_deadline_and_recover() {
    let hasty = mk_present("hasty").with_deadline(20 * SECOND);
    let mut node = TestNode::new(1);
    node.assign(vec![hasty, mk_present("patient"), mk_absent("old")]);
    for _ in 0..1_000 {
        if node.phase("hasty") == ImagePhase::Failed {
            break;
        }
        match node.is_reading() {
            true => node.answer(Err(unavailable())),
            false => node.wake(),
        };
    }
    assert!((20.0..21.0).contains(&node.seconds()), "{}", node.seconds());
    let report = node.report("hasty");
    assert_eq!(report.reason, Some(Reason::RuntimeUnavailable));
    assert_eq!(report.attempts, 0);
    assert_eq!(node.phase("patient"), ImagePhase::Pending);
    assert!(!node.is_settled());
    for _ in 0..1_000 {
        if node.is_settled() {
            break;
        }
        match node.is_reading() {
            true => node.answer(Err(unavailable())),
            false => node.wake(),
        };
    }
    assert!(
        (300.0..301.0).contains(&node.seconds()),
        "{}",
        node.seconds()
    );

    // The runtime answers again: the reports contain no failure any more.
    let asked = node.read_next(mk_inventory(&["old", "patient"]));
    assert_eq!(asked.removals(), ["old"]);
    assert_eq!(node.phase("patient"), ImagePhase::Cached);
    let report = node.report("hasty");
    assert_eq!(report.phase, ImagePhase::Pending);
    assert_eq!((report.reason, report.message), (None, None));
}

#[test]
fn images_fail_while_the_runtime_does_not_answer() {
    let mut node = TestNode::new(1);
    node.assign(vec![mk_present("a")]);
    node.wake();
    assert_eq!(node.seconds(), 300.0);
    let report = node.report("a");
    assert_eq!(report.phase, ImagePhase::Failed);
    assert_eq!(report.reason, Some(Reason::RuntimeUnavailable));
    assert!(node.is_settled());
}

#[test]
fn images_fail_at_once_on_an_unsupported_runtime() {
    let mut node = TestNode::new(1);
    node.assign(vec![mk_present("a"), mk_absent("b")]);
    node.answer(Err(mk_failure(Reason::RuntimeUnsupported)));
    assert!(node.is_settled());
    for name in ["a", "b"] {
        let report = node.report(name);
        assert_eq!(report.phase, ImagePhase::Failed);
        assert_eq!(report.reason, Some(Reason::RuntimeUnsupported));
        assert_eq!(report.finished_at, Some(node.now));
    }
    // The runtime may be replaced later, so the reading is repeated.
    assert_eq!(node.read_next(mk_inventory(&[])).pulls(), ["a"]);
}

#[test]
fn phases_are_kept_while_the_runtime_is_unavailable() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a"), mk_present("b")], &["a"]);
    let read_at = node.warmer.report().inventory_at;
    while !node.is_reading() {
        node.wake();
    }
    assert_eq!(node.answer(Err(unavailable())).0, []);
    assert_eq!(node.phase("a"), ImagePhase::Cached);
    assert_eq!(node.phase("b"), ImagePhase::Pulling);
    assert_eq!(node.warmer.report().inventory_at, read_at);
}

#[test]
fn the_inventory_is_read_once_the_runtime_is_back() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a"), mk_present("b")], &["a"]);
    // A failed pull shows that the runtime is unavailable.
    assert!(node.failed("b", Reason::RuntimeUnavailable).reads());
    node.answer(Err(unavailable()));
    let asked = node.read_next(mk_inventory(&[]));
    assert!(node.seconds() <= 2.0, "{}", node.seconds());
    assert_eq!(node.report("a").reason, Some(Reason::Evicted), "{asked:?}");
    // While the runtime is unavailable, readings are retried with back-off.
    let (mut node, _) = TestNode::warmed(2, vec![mk_present("a"), mk_present("b")], &[]);
    node.failed("a", Reason::RuntimeUnavailable);
    node.answer(Err(unavailable()));
    assert!(!node.failed("b", Reason::RuntimeUnavailable).reads());
}

#[test]
fn an_edit_reads_the_inventory_at_once() {
    let mut node = TestNode::new(1);
    node.assign(vec![mk_present("a")]);
    for _ in 0..6 {
        node.answer(Err(unavailable()));
        node.wake();
    }
    node.answer(Err(unavailable()));
    assert!(node.assign(vec![mk_present("a"), mk_present("b")]).reads());
}

#[test]
fn the_deadline_for_a_reading_begins_with_the_reading() {
    let mut node = TestNode::new(1);
    let impatient = |name: &str| mk_present(name).with_deadline(15 * SECOND);
    node.assign(vec![mk_present("a")]);
    // `b` is assigned during a reading, which does not cover it.
    node.assign(vec![mk_present("a"), impatient("b")]);
    node.pass(14);
    // The first reading ends when the deadline of `b` would pass if it had begun with the assignment.
    node.now += SECOND;
    assert!(node.read(mk_inventory(&["a"])).reads());
    assert_eq!(
        node.phase("b"),
        ImagePhase::Pending,
        "{:?}",
        node.report("b")
    );
    node.read(mk_inventory(&["a", "b"]));
    assert_eq!(node.phase("b"), ImagePhase::Cached);
}

#[test]
fn a_possible_change_causes_a_reading_at_once() {
    let mut node = TestNode::new(1);
    node.assign(vec![mk_present("a")]);
    node.read(mk_inventory(&["a"]));
    assert!(!node.is_reading() && node.phase("a") == ImagePhase::Cached);
    node.inventory_changed();
    assert!(node.is_reading());
    assert_eq!(node.read(mk_inventory(&[])).pulls(), ["a"]);
}
