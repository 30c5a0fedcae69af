//! What a warmer does when the node or the assignment turns out to be different from before.
use std::time::Duration;

use crate::rig::{Rig, mk_absent, mk_config, mk_image, mk_inventory, mk_present, mk_ref};
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
    let (mut rig, _) = Rig::warmed(1, vec![mk_present("a")], &["a"]);
    assert!(!rig.pass(53).reads());
    assert!(rig.pass(7).reads());
    assert_eq!(
        rig.read(mk_inventory(&["a"])).0,
        [],
        "nothing changed, nothing is told"
    );
    assert!(!rig.pass(53).reads());
}

#[test]
fn nodes_that_were_assigned_together_do_not_go_on_reading_together() {
    let mut readings: Vec<i64> = (0..1_000)
        .map(|seed| {
            let mut rig = Rig::with(mk_config(1));
            rig.warmer = Warmer::new(mk_config(1), seed);
            rig.assign(vec![mk_present("a")]);
            for _ in 0..3 {
                rig.read(mk_inventory(&["a"]));
                rig.wake();
            }
            rig.at(0)
                .duration_until(rig.now)
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
    let (mut rig, _) = Rig::warmed(1, vec![mk_present("a"), mk_present("b")], &["a", "b"]);
    rig.pass(60);
    let asked = rig.read(mk_inventory(&[]));
    assert_eq!(asked.pulls(), ["a"]);
    let waiting = rig.report("b");
    assert_eq!(waiting.phase, ImagePhase::Pending);
    assert_eq!(waiting.reason, Some(Reason::Evicted));
    assert_eq!(waiting.size, None);
    assert!(!rig.is_settled());
    let pulling = rig.report("a");
    assert_eq!(
        (pulling.phase, pulling.reason),
        (ImagePhase::Pulling, Some(Reason::Evicted))
    );
    rig.pulled("a");
    rig.pulled("b");
    assert_eq!(rig.report("b").reason, None);
    rig.answer(Ok(mk_inventory(&["a", "b"])));
    assert!(rig.is_settled());
}

#[test]
fn repeated_evictions_are_repaired_ever_more_slowly() {
    let (mut rig, _) = Rig::warmed(1, vec![mk_present("a")], &["a"]);
    let mut waits = Vec::new();
    for _ in 0..7 {
        // A reading that was under way during the pull does not count.
        while rig.phase("a") == ImagePhase::Cached {
            rig.read_next(mk_inventory(&[]));
        }
        let vanished = rig.now;
        if rig.phase("a") == ImagePhase::Failed {
            // Something that goes on takes it away; that is told, and ends a round.
            assert_eq!(rig.report("a").reason, Some(Reason::Evicted));
            assert!(rig.is_settled());
            assert!(rig.report("a").next_attempt_at > Some(rig.now));
            rig.until_pull(&[]);
        }
        let waited = Duration::try_from(rig.now.duration_since(vanished)).unwrap();
        waits.push(waited.as_secs());
        rig.pulled("a");
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 320]);
}

#[test]
fn a_refresh_repairs_repeated_evictions_at_once() {
    let (mut rig, _) = Rig::warmed(1, vec![mk_present("a")], &["a"]);
    rig.read_next(mk_inventory(&[]));
    rig.pulled("a");
    rig.read_next(mk_inventory(&[]));
    assert_eq!(rig.phase("a"), ImagePhase::Failed);
    assert_eq!(rig.refresh().pulls(), ["a"]);
}

#[test]
fn an_eviction_long_after_is_no_repetition() {
    let mut config = mk_config(1);
    config.eviction_window = 2 * MINUTE;
    let mut rig = Rig::with(config);
    rig.assign(vec![mk_present("a")]);
    rig.read(mk_inventory(&["a"]));
    for _ in 0..5 {
        for _ in 0..3 {
            rig.read_next(mk_inventory(&["a"]));
        }
        assert_eq!(rig.read_next(mk_inventory(&[])).pulls(), ["a"]);
        rig.pulled("a");
    }
}

#[test]
fn a_copy_that_could_not_be_refreshed_is_replaced_when_it_vanishes() {
    let (mut rig, _) = Rig::warmed(1, vec![mk_always("a")], &["a"]);
    rig.failed("a", Reason::InvalidImage);
    assert_eq!(rig.phase("a"), ImagePhase::Failed);
    assert_eq!(rig.read_next(mk_inventory(&["a"])).pulls(), [""; 0]);
    assert_eq!(rig.read_next(mk_inventory(&[])).pulls(), ["a"]);
}

#[test]
fn an_image_that_somebody_else_brought_ends_the_backoff() {
    let (mut rig, _) = Rig::warmed(1, vec![mk_present("a")], &[]);
    rig.failed("a", Reason::Unauthorized);
    rig.assign(vec![mk_present("a"), mk_present("b")]);
    rig.read(mk_inventory(&["a", "b"]));
    let report = rig.report("a");
    assert_eq!(report.phase, ImagePhase::Cached);
    assert_eq!((report.reason, report.message), (None, None));
    assert_eq!((report.attempts, report.started_at), (0, None));
    assert_eq!(report.next_attempt_at, None);
}

#[test]
fn a_reading_older_than_a_pull_does_not_count() {
    let (mut rig, _) = Rig::warmed(1, vec![mk_present("a")], &[]);
    while !rig.is_reading() {
        rig.wake();
    }
    rig.pulled("a");
    // That reading was asked for before the pull ended.
    assert_eq!(rig.read(mk_inventory(&[])).pulls(), [""; 0]);
    assert_eq!(rig.phase("a"), ImagePhase::Cached);
}

#[test]
fn an_image_assigned_during_a_reading_waits_for_the_next() {
    let mut rig = Rig::new(1);
    rig.assign(vec![mk_present("a")]);
    rig.assign(vec![mk_present("a"), mk_present("b")]);
    let asked = rig.read(mk_inventory(&["a"]));
    assert_eq!(asked.pulls(), [""; 0]);
    assert!(asked.reads());
    assert_eq!(rig.read(mk_inventory(&["a"])).pulls(), ["b"]);
}

#[test]
fn a_new_revision_is_pulled_although_present() {
    let (mut rig, _) = Rig::warmed(1, vec![mk_revision("a", 3)], &["a"]);
    rig.pulled("a");
    rig.read(mk_inventory(&["a"]));
    assert_eq!(rig.report("a").revision, Some(3));
    assert!(rig.assign(vec![mk_revision("a", 4)]).reads());
    assert!(!rig.is_settled());
    assert_eq!(rig.read(mk_inventory(&["a"])).pulls(), ["a"]);
    assert_eq!(rig.report("a").revision, Some(3), "not satisfied yet");
    rig.pulled("a");
    assert_eq!(rig.report("a").revision, Some(4));
    assert_eq!(rig.assign(vec![mk_revision("a", 4)]).0, []);
}

#[test]
fn a_revision_that_comes_during_a_pull_asks_for_another() {
    let (mut rig, _) = Rig::warmed(1, vec![mk_revision("a", 1)], &[]);
    assert_eq!(rig.assign(vec![mk_revision("a", 2)]).cancels(), 0);
    rig.read(mk_inventory(&[]));
    assert_eq!(rig.pulled("a").pulls(), ["a"]);
    assert_eq!(rig.report("a").revision, Some(1));
    assert_eq!(rig.pulled("a").pulls(), [""; 0]);
    assert_eq!(rig.report("a").revision, Some(2));
}

#[test]
fn a_new_revision_forgets_why_the_last_one_failed() {
    let (mut rig, _) = Rig::warmed(1, vec![mk_revision("a", 1), mk_present("b")], &[]);
    rig.failed("a", Reason::ImageNotFound);
    rig.assign(vec![mk_revision("a", 2), mk_present("b")]);
    let report = rig.report("a");
    assert_eq!(report.phase, ImagePhase::Pending);
    assert_eq!((report.reason, report.message), (None, None));
}

#[test]
fn policy_always_pulls_once_for_each_refresh() {
    let (mut rig, asked) = Rig::warmed(2, vec![mk_always("a"), mk_present("b")], &["a", "b"]);
    assert_eq!(asked.pulls(), ["a"]);
    rig.pulled("a");
    assert_eq!(rig.read(mk_inventory(&["a", "b"])).pulls(), [""; 0]);
    assert!(rig.is_settled());
    assert!(rig.refresh().reads());
    assert_eq!(rig.read(mk_inventory(&["a", "b"])).pulls(), ["a"]);
}

#[test]
fn a_refresh_tries_again_what_has_failed() {
    let (mut rig, _) = Rig::warmed(2, vec![mk_present("a"), mk_present("b")], &[]);
    rig.failed("a", Reason::ImageNotFound);
    rig.failed("b", Reason::RegistryError);
    assert_eq!(rig.refresh().pulls(), ["b", "a"]);
}

#[test]
fn a_refresh_leaves_a_throttling_registry_alone() {
    let (mut rig, _) = Rig::warmed(1, vec![mk_present("a")], &[]);
    rig.ended("a", Err(crate::rig::mk_throttled(100)));
    assert_eq!(rig.refresh().pulls(), [""; 0]);
    let (waited, _) = rig.until_pull(&[]);
    assert!(waited >= Duration::from_secs(100));
}

#[test]
fn a_pull_that_nobody_wants_any_more_is_cancelled() {
    let (mut rig, _) = Rig::warmed(1, vec![mk_present("a"), mk_present("b")], &[]);
    let asked = rig.assign(vec![mk_present("b")]);
    assert_eq!(asked.cancels(), 1);
    assert_eq!(asked.pulls(), ["b"]);
    assert_eq!(rig.warmer.report().images.len(), 1);
}

#[test]
fn a_pull_of_what_is_now_to_be_absent_is_cancelled_and_undone() {
    let (mut rig, _) = Rig::warmed(1, vec![mk_present("a")], &[]);
    let asked = rig.assign(vec![mk_absent("a")]);
    assert_eq!(asked.cancels(), 1);
    // It may have been complete before it was cancelled.
    assert_eq!(rig.read(mk_inventory(&["a"])).removals(), ["a"]);
}

#[test]
fn after_a_restart_satisfied_revisions_are_not_pulled_again() {
    let past =
        |name: &str, phase, revision| ImageReport::new(mk_ref(name), phase).with_revision(revision);
    let mut rig = Rig::new(3);
    rig.tell(NodeEvent::Resumed(vec![
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
    rig.assign(images);
    let held = ["a", "b", "new", "gone", "again"];
    let asked = rig.read(mk_inventory(&held));
    assert_eq!(rig.phase("a"), ImagePhase::Cached);
    // Somebody brought it back after it was removed; that is left alone.
    assert_eq!(rig.phase("gone"), ImagePhase::Removed);
    assert_eq!(asked.removals(), ["again"]);
    let asked = rig.removal("again", Ok(fledged_core::port::Removal::Removed));
    assert_eq!(asked.pulls(), ["b", "new"]);
}

#[test]
fn after_a_restart_what_is_still_there_is_told_as_before() {
    let mut rig = Rig::new(3);
    let digest = |n: u8| Digest::parse(&format!("sha256:{n:064x}")).unwrap();
    let past = |name: &str| {
        ImageReport::new(mk_ref(name), ImagePhase::Cached)
            .with_digest(digest(1))
            .with_size(mk_image(&[name]).size)
            .with_attempts(2)
            .with_started_at(rig.at(0))
            .with_finished_at(rig.at(10))
            .with_revision(0)
    };
    let reports = ["same", "moved", "lost"].map(past);
    rig.tell(NodeEvent::Resumed(reports.to_vec()));
    rig.assign(["same", "moved", "lost"].map(mk_present).to_vec());
    let mk_held = |name: &str, n| mk_image(&[name]).with_digest(digest(n));
    let held = vec![mk_held("same", 1), mk_held("moved", 2)];
    let asked = rig.read(Inventory::new(held, [], RemovalScope::Image));
    assert_eq!(rig.report("same"), reports[0]);
    let moved = rig.report("moved");
    assert_eq!((moved.attempts, moved.finished_at), (0, None));
    assert_eq!(asked.pulls(), ["lost"]);
    rig.pulled("lost");
    assert_eq!(rig.report("lost").attempts, 1);
}

#[test]
fn after_an_interruption_nothing_is_believed() {
    let (mut rig, _) = Rig::warmed(1, vec![mk_present("a"), mk_present("b")], &["a"]);
    assert_eq!(rig.phase("b"), ImagePhase::Pulling);
    rig.forget();
    assert!(rig.tell(NodeEvent::Interrupted).reads());
    assert!(!rig.is_settled());
    assert_eq!(rig.warmer.pulls_under_way(), 0);
    let asked = rig.read(mk_inventory(&["b"]));
    assert_eq!(rig.phase("b"), ImagePhase::Cached);
    assert_eq!(asked.pulls(), ["a"]);
    assert_eq!(rig.warmer.pulls_under_way(), 1);
}
