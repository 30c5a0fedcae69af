//! What a warmer does while the runtime can't say what it holds.
use std::time::Duration;

use crate::rig::{Rig, mk_absent, mk_failure, mk_inventory, mk_present};
use fledged_core::error::Reason;
use fledged_core::model::ImagePhase;

const SECOND: Duration = Duration::from_secs(1);

fn unavailable() -> fledged_core::error::Failure {
    mk_failure(Reason::RuntimeUnavailable)
}

#[test]
fn a_reading_that_fails_is_repeated_ever_more_slowly() {
    let mut rig = Rig::new(1);
    rig.assign(vec![mk_present("a")]);
    let mut waits = Vec::new();
    for _ in 0..7 {
        assert_eq!(rig.answer(Err(unavailable())).pulls(), [""; 0]);
        assert_eq!(rig.phase("a"), ImagePhase::Pending);
        let before = rig.now;
        rig.wake();
        assert!(rig.is_reading());
        waits.push(rig.now.duration_since(before).as_secs());
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    assert_eq!(rig.read(mk_inventory(&[])).pulls(), ["a"]);
    assert_eq!(rig.report("a").reason, None);
}

#[test]
fn images_give_up_after_their_own_deadline_and_recover() {
    let hasty = mk_present("hasty").with_deadline(20 * SECOND);
    let mut rig = Rig::new(1);
    rig.assign(vec![hasty, mk_present("patient"), mk_absent("old")]);
    for _ in 0..1_000 {
        if rig.phase("hasty") == ImagePhase::Failed {
            break;
        }
        match rig.is_reading() {
            true => rig.answer(Err(unavailable())),
            false => rig.wake(),
        };
    }
    assert!((20.0..21.0).contains(&rig.seconds()), "{}", rig.seconds());
    let report = rig.report("hasty");
    assert_eq!(report.reason, Some(Reason::RuntimeUnavailable));
    assert_eq!(report.attempts, 0);
    assert_eq!(rig.phase("patient"), ImagePhase::Pending);
    assert!(!rig.is_settled());
    for _ in 0..1_000 {
        if rig.is_settled() {
            break;
        }
        match rig.is_reading() {
            true => rig.answer(Err(unavailable())),
            false => rig.wake(),
        };
    }
    assert!((300.0..301.0).contains(&rig.seconds()), "{}", rig.seconds());

    // It answers again: nothing of the trouble is left in what is told.
    let asked = rig.read_next(mk_inventory(&["old", "patient"]));
    assert_eq!(asked.removals(), ["old"]);
    assert_eq!(rig.phase("patient"), ImagePhase::Cached);
    let report = rig.report("hasty");
    assert_eq!(report.phase, ImagePhase::Pending);
    assert_eq!((report.reason, report.message), (None, None));
}

#[test]
fn a_runtime_that_never_answers_is_given_up_on_as_well() {
    let mut rig = Rig::new(1);
    rig.assign(vec![mk_present("a")]);
    rig.wake();
    assert_eq!(rig.seconds(), 300.0);
    let report = rig.report("a");
    assert_eq!(report.phase, ImagePhase::Failed);
    assert_eq!(report.reason, Some(Reason::RuntimeUnavailable));
    assert!(rig.is_settled());
}

#[test]
fn a_runtime_that_can_never_answer_fails_at_once() {
    let mut rig = Rig::new(1);
    rig.assign(vec![mk_present("a"), mk_absent("b")]);
    rig.answer(Err(mk_failure(Reason::RuntimeUnsupported)));
    assert!(rig.is_settled());
    for name in ["a", "b"] {
        let report = rig.report(name);
        assert_eq!(report.phase, ImagePhase::Failed);
        assert_eq!(report.reason, Some(Reason::RuntimeUnsupported));
        assert_eq!(report.finished_at, Some(rig.now));
    }
    // It may have been replaced meanwhile.
    assert_eq!(rig.read_next(mk_inventory(&[])).pulls(), ["a"]);
}

#[test]
fn what_is_known_stays_while_the_runtime_is_away() {
    let (mut rig, _) = Rig::warmed(1, vec![mk_present("a"), mk_present("b")], &["a"]);
    let read_at = rig.warmer.report().inventory_at;
    while !rig.is_reading() {
        rig.wake();
    }
    assert_eq!(rig.answer(Err(unavailable())).0, []);
    assert_eq!(rig.phase("a"), ImagePhase::Cached);
    assert_eq!(rig.phase("b"), ImagePhase::Pulling);
    assert_eq!(rig.warmer.report().inventory_at, read_at);
}

#[test]
fn a_runtime_that_was_away_is_looked_into_as_soon_as_it_is_back() {
    let (mut rig, _) = Rig::warmed(1, vec![mk_present("a"), mk_present("b")], &["a"]);
    // A pull is the first to notice.
    assert!(rig.failed("b", Reason::RuntimeUnavailable).reads());
    rig.answer(Err(unavailable()));
    let asked = rig.read_next(mk_inventory(&[]));
    assert!(rig.seconds() <= 2.0, "{}", rig.seconds());
    assert_eq!(rig.report("a").reason, Some(Reason::Evicted), "{asked:?}");
    // While it is known to be away, the reading has its own delays.
    let (mut rig, _) = Rig::warmed(2, vec![mk_present("a"), mk_present("b")], &[]);
    rig.failed("a", Reason::RuntimeUnavailable);
    rig.answer(Err(unavailable()));
    assert!(!rig.failed("b", Reason::RuntimeUnavailable).reads());
}

#[test]
fn an_edit_asks_the_runtime_at_once() {
    let mut rig = Rig::new(1);
    rig.assign(vec![mk_present("a")]);
    for _ in 0..6 {
        rig.answer(Err(unavailable()));
        rig.wake();
    }
    rig.answer(Err(unavailable()));
    assert!(rig.assign(vec![mk_present("a"), mk_present("b")]).reads());
}

#[test]
fn the_wait_for_a_reading_begins_with_the_reading() {
    let mut rig = Rig::new(1);
    let impatient = |name: &str| mk_present(name).with_deadline(15 * SECOND);
    rig.assign(vec![mk_present("a")]);
    // Assigned while a reading is under way, which says nothing about it.
    rig.assign(vec![mk_present("a"), impatient("b")]);
    rig.pass(14);
    // The first reading ends at the moment at which the wait of `b` is over.
    rig.now += SECOND;
    assert!(rig.read(mk_inventory(&["a"])).reads());
    assert_eq!(rig.phase("b"), ImagePhase::Pending, "{:?}", rig.report("b"));
    rig.read(mk_inventory(&["a", "b"]));
    assert_eq!(rig.phase("b"), ImagePhase::Cached);
}

#[test]
fn whoever_knows_of_a_change_need_not_wait_for_the_interval() {
    let mut rig = Rig::new(1);
    rig.assign(vec![mk_present("a")]);
    rig.read(mk_inventory(&["a"]));
    assert!(!rig.is_reading() && rig.phase("a") == ImagePhase::Cached);
    rig.look();
    assert!(rig.is_reading());
    assert_eq!(rig.read(mk_inventory(&[])).pulls(), ["a"]);
}
