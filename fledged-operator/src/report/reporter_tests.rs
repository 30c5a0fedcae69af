//! What is written, and when, told by simulated nodes.

use std::time::Duration;

use fledged_core::error::Reason;
use fledged_core::model::{ImagePhase, ImageReport, NodeReport};

use super::pace::after;
use super::reporter::Heard;
use super::reporter_rig::{Rig, mk_failing, mk_image, mk_report, mk_source};
use crate::crd::NodeImageCacheStatus;

/// Images 1 to `count`, three at a time, done `seconds` after the start.
fn roll_out(rig: &mut Rig, count: usize, seconds: f64) {
    let pending = (1..=count).map(|n| mk_image(n, ImagePhase::Pending));
    rig.assign(mk_report(1, pending.collect()));
    let rounds = count.div_ceil(3);
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let each = seconds / rounds as f64;
    for round in 0..rounds {
        let images = (1..=count).skip(round * 3).take(3);
        for number in images.clone() {
            rig.change(mk_image(number, ImagePhase::Pulling));
        }
        rig.pass_seconds(each);
        for number in images {
            rig.change(mk_image(number, ImagePhase::Cached));
        }
    }
    rig.pass_seconds(600.0);
}

#[test]
fn a_rollout_of_20_images_in_14_seconds_takes_three_writes() {
    for seed in 0..50 {
        let mut rig = Rig::with_seed(seed);
        roll_out(&mut rig, 20, 14.0);
        let times: Vec<u64> = rig.writes.iter().map(|(at, _)| *at).collect();
        assert!(times.len() <= 3, "{times:?}");
        assert!((800..=1_200).contains(&times[0]), "{times:?}");
        assert!(
            (14_000..=15_100).contains(times.last().unwrap()),
            "{times:?}"
        );
        assert_eq!(rig.last().cached, Some(20));
        assert_eq!(rig.writes[0].1.observed_generation, Some(1));
    }
}

#[test]
fn the_longer_it_takes_the_rarer_the_writes() {
    let mut rig = Rig::new();
    roll_out(&mut rig, 300, 300.0);
    let gaps = rig.gaps();
    assert!((8_000..=12_000).contains(&gaps[0]), "{gaps:?}");
    assert!((16_000..=24_000).contains(&gaps[1]), "{gaps:?}");
    for gap in &gaps[2..gaps.len() - 1] {
        assert!((24_000..=36_000).contains(gap), "{gaps:?}");
    }
    assert_eq!(rig.last().cached, Some(300));
}

#[test]
fn what_is_there_already_is_answered_at_once() {
    let mut rig = Rig::new();
    rig.assign(mk_report(1, vec![mk_image(1, ImagePhase::Pending)]));
    rig.change(mk_image(1, ImagePhase::Cached));
    rig.pass_seconds(60.0);
    assert_eq!(rig.writes.len(), 1);
    assert!((50..=100).contains(&rig.writes[0].0));
    // The same images in a new assignment, a second after the last write at the soonest.
    rig.assign(mk_report(2, vec![mk_image(1, ImagePhase::Cached)]));
    rig.assign(mk_report(3, vec![mk_image(1, ImagePhase::Cached)]));
    rig.pass_seconds(60.0);
    assert_eq!(rig.writes.len(), 2);
    assert_eq!(rig.last().observed_generation, Some(3));
    rig.assign(mk_report(4, vec![]));
    rig.assign(mk_report(5, vec![]));
    rig.pass_seconds(600.0);
    assert_eq!(rig.writes.len(), 3, "an idle node writes nothing");
    assert_eq!(rig.last().desired, Some(0));
}

#[test]
fn a_restart_on_an_unchanged_node_writes_nothing() {
    let mut rig = Rig::new();
    let found = mk_report(4, vec![mk_image(1, ImagePhase::Cached)]);
    let pending = mk_report(4, vec![mk_image(1, ImagePhase::Pending)]);
    rig.hear(Heard::Assigned(mk_source("uid-1", Some(found)), pending));
    rig.pass_seconds(0.5);
    rig.change(mk_image(1, ImagePhase::Cached));
    rig.pass_seconds(600.0);
    assert_eq!(rig.writes, []);
}

#[test]
fn failures_are_told_soon_but_not_one_by_one() {
    let mut rig = Rig::new();
    let pending = (1..=20).map(|n| mk_image(n, ImagePhase::Pending));
    rig.assign(mk_report(1, pending.collect()));
    for number in 1..=20 {
        rig.pass_seconds(0.3);
        let reason = Reason::Unauthorized;
        rig.change(mk_failing(number, ImagePhase::Failed, reason, 1));
    }
    assert!(rig.writes[0].0 <= 500, "{:?}", rig.gaps());
    rig.pass_seconds(60.0);
    assert!(rig.gaps().iter().all(|gap| *gap >= 800), "{:?}", rig.gaps());
    assert!(rig.writes.len() <= 5, "{:?}", rig.gaps());
    assert_eq!(rig.last().failed, Some(20));
}

#[test]
fn an_image_that_goes_on_failing_is_told_of_twice_a_minute_at_most() {
    let mut rig = Rig::new();
    let reason = Reason::TooManyRequests;
    rig.assign(mk_report(1, vec![mk_image(1, ImagePhase::Pending)]));
    for attempt in 1..=120 {
        rig.change(mk_image(1, ImagePhase::Pulling));
        rig.pass_seconds(1.0);
        rig.change(mk_failing(1, ImagePhase::BackingOff, reason, attempt));
        rig.pass_seconds(4.0);
    }
    let told = |status: &NodeImageCacheStatus| status.images[0].reason.is_some();
    let first = rig.writes.iter().position(|(_, s)| told(s)).unwrap();
    assert!(rig.writes[first].0 <= 2_500);
    let gaps = &rig.gaps()[first..];
    assert!(gaps.iter().all(|gap| *gap >= 24_000), "{gaps:?}");
    assert!(gaps.len() <= 25);
    // That the round is over ends the wait of whoever waits for the node.
    let writes = rig.writes.len();
    rig.change(mk_failing(1, ImagePhase::Failed, reason, 120));
    rig.pass_seconds(2.0);
    assert_eq!(rig.writes.len(), writes + 1);
    assert_eq!(rig.last().failed, Some(1));
}

#[test]
fn rounds_that_fail_again_are_told_without_haste() {
    let mut rig = Rig::new();
    let reason = Reason::ImageNotFound;
    rig.assign(mk_report(1, vec![mk_image(1, ImagePhase::Pending)]));
    for round in 1..=20 {
        rig.change(mk_image(1, ImagePhase::Pulling));
        rig.pass_seconds(0.2);
        rig.change(mk_failing(1, ImagePhase::Failed, reason, round));
        rig.pass_seconds(59.8);
    }
    assert!(rig.writes.len() <= 21, "{:?}", rig.gaps());
    assert!(rig.gaps().iter().all(|gap| *gap >= 24_000));
}

#[test]
fn an_image_that_was_lost_is_told_when_it_is_back() {
    let mut rig = Rig::new();
    rig.assign(mk_report(1, vec![mk_image(1, ImagePhase::Cached)]));
    rig.pass_seconds(60.0);
    rig.change(mk_image(1, ImagePhase::Pulling));
    rig.pass_seconds(2.0);
    let mut back = mk_image(1, ImagePhase::Cached);
    back.attempts = 1;
    rig.change(back);
    rig.pass_seconds(60.0);
    let counts: Vec<_> = rig.writes.iter().map(|(_, s)| s.cached).collect();
    assert_eq!(counts, [Some(1), Some(1)]);
    // Where that takes longer, so does the node lack it.
    rig.change(mk_image(1, ImagePhase::Pulling));
    rig.pass_seconds(20.0);
    assert_eq!(rig.last().cached, Some(0));
}

#[test]
fn the_larger_the_object_the_longer_the_wait() {
    let mut rig = Rig::new();
    rig.bytes = 1_200_000;
    rig.assign(mk_report(1, vec![mk_image(1, ImagePhase::Cached)]));
    rig.pass_seconds(1.0);
    rig.assign(mk_report(2, vec![mk_image(1, ImagePhase::Cached)]));
    rig.pass_seconds(60.0);
    assert_eq!(rig.gaps(), [12_000]);
}

#[test]
fn a_write_that_failed_is_repeated_with_what_is_true_by_then() {
    let mut rig = Rig::new();
    rig.assign(mk_report(1, vec![mk_image(1, ImagePhase::Pending)]));
    rig.now = after(rig.now, Duration::from_secs(2));
    assert!(rig.reporter.poll(rig.now).is_some());
    rig.change(mk_image(1, ImagePhase::Cached));
    assert_eq!(rig.reporter.next_wakeup(), None, "one at a time");
    rig.hear(Heard::Failed(after(rig.now, Duration::from_secs(20))));
    rig.pass_seconds(60.0);
    assert_eq!(rig.writes.len(), 1);
    assert_eq!(rig.writes[0].0, 22_000);
    assert_eq!(rig.last().cached, Some(1));
}

#[test]
fn what_changes_during_a_write_is_written_next() {
    let mut rig = Rig::new();
    rig.assign(mk_report(1, vec![mk_image(1, ImagePhase::Pending)]));
    rig.now = after(rig.now, Duration::from_secs(2));
    assert!(rig.reporter.poll(rig.now).is_some());
    rig.change(mk_image(1, ImagePhase::Cached));
    rig.hear(Heard::Written(100));
    rig.pass_seconds(60.0);
    assert_eq!(rig.writes.len(), 1);
    assert_eq!(rig.last().cached, Some(1));
}

#[test]
fn an_object_that_is_gone_is_left_alone_until_there_is_another() {
    let mut rig = Rig::new();
    rig.assign(mk_report(1, vec![mk_image(1, ImagePhase::Cached)]));
    rig.now = after(rig.now, Duration::from_secs(1));
    assert_eq!(rig.reporter.poll(rig.now).unwrap().uid, "uid-1");
    rig.hear(Heard::Gone);
    rig.change(mk_failing(1, ImagePhase::Failed, Reason::Evicted, 1));
    rig.pass_seconds(60.0);
    assert_eq!(rig.writes, []);
    let report = mk_report(1, vec![mk_image(1, ImagePhase::Cached)]);
    rig.hear(Heard::Assigned(mk_source("uid-2", None), report));
    rig.now = after(rig.now, Duration::from_secs(1));
    assert_eq!(rig.reporter.poll(rig.now).unwrap().uid, "uid-2");
    rig.hear(Heard::Written(100));
    rig.hear(Heard::Assigned(None, NodeReport::default()));
    assert_eq!(
        (rig.reporter.next_wakeup(), rig.reporter.rest()),
        (None, None)
    );
}

#[test]
fn an_answer_to_an_older_object_counts_for_nothing() {
    let mut rig = Rig::new();
    rig.assign(mk_report(1, vec![mk_image(1, ImagePhase::Cached)]));
    rig.now = after(rig.now, Duration::from_secs(1));
    assert!(rig.reporter.poll(rig.now).is_some());
    let report = mk_report(1, vec![mk_image(1, ImagePhase::Cached)]);
    rig.hear(Heard::Assigned(mk_source("uid-2", None), report));
    rig.hear(Heard::Written(100));
    rig.pass_seconds(60.0);
    assert_eq!(rig.writes.len(), 1, "the new object is answered too");
}

#[test]
fn an_object_that_was_set_back_is_written_again() {
    let mut rig = Rig::new();
    let report = mk_report(1, vec![mk_image(1, ImagePhase::Cached)]);
    rig.assign(report.clone());
    rig.pass_seconds(60.0);
    rig.hear(Heard::Read(mk_source("uid-1", Some(report)).unwrap()));
    rig.pass_seconds(60.0);
    assert_eq!(rig.writes.len(), 1, "it says what was written");
    rig.hear(Heard::Read(mk_source("uid-1", None).unwrap()));
    rig.pass_seconds(60.0);
    assert_eq!(rig.writes.len(), 2);
}

#[test]
fn what_is_too_large_is_written_in_fewer_words() {
    let mut rig = Rig::new();
    let mut image = mk_failing(1, ImagePhase::Failed, Reason::Unauthorized, 1);
    image.message = Some("x".repeat(300));
    rig.assign(mk_report(1, vec![image]));
    let mut lengths = Vec::new();
    for _ in 0..3 {
        rig.now = after(rig.now, Duration::from_secs(40));
        let write = rig.reporter.poll(rig.now).unwrap();
        let message = write.status.images[0].message.as_ref();
        lengths.push(message.map(|text| text.chars().count()));
        rig.hear(Heard::TooLarge(after(rig.now, Duration::from_secs(1))));
    }
    assert_eq!(lengths, [Some(300), Some(81), None]);
    rig.pass_seconds(600.0);
    assert_eq!(rig.writes.len(), 1, "what was left out is no news");
}

#[test]
fn whatever_happens_the_last_state_is_written_and_never_two_in_a_second() {
    use ImagePhase::{BackingOff, Cached, Failed, Pending, Pulling};
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut rig = Rig::with_seed(seed);
        let mut images: Vec<ImageReport> = (1..=6).map(|n| mk_image(n, Pending)).collect();
        let mut generation = 1;
        rig.assign(mk_report(generation, images.clone()));
        for _ in 0..200 {
            rig.pass(Duration::from_millis(rng.u64(0..5_000)));
            if rng.u8(..) < 10 {
                generation += 1;
                rig.assign(mk_report(generation, images.clone()));
                continue;
            }
            let number = rng.usize(0..6);
            let phase = [Pending, Pulling, BackingOff, Cached, Failed][rng.usize(0..5)];
            images[number] = match phase {
                BackingOff | Failed => {
                    let reason = [Reason::RegistryError, Reason::ConnectionFailed];
                    mk_failing(number + 1, phase, reason[rng.usize(0..2)], rng.u32(0..9))
                }
                _ => mk_image(number + 1, phase),
            };
            rig.change(images[number].clone());
        }
        rig.pass_seconds(120.0);
        let expected = NodeImageCacheStatus::from_report(&mk_report(generation, images));
        assert_eq!(rig.last(), &expected, "seed {seed}");
        assert!(rig.gaps().iter().all(|gap| *gap >= 1_000), "seed {seed}");
        let before = rig.writes.len();
        rig.pass_seconds(3_600.0);
        assert_eq!(rig.writes.len(), before, "seed {seed}");
    }
}
