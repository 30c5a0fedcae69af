//! What follows a failed pull: when it is repeated, what it holds back, and what is said of it.
use std::time::Duration;

use crate::rig::{
    Rig, mk_absent, mk_config, mk_failure, mk_inventory, mk_present, mk_secret, mk_throttled,
};
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ImagePhase, ImagePullPolicy};
use fledged_core::port::Removal;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Fails the pull of `a` that way and tells how long it takes to be pulled again.
fn wait_after(rig: &mut Rig, reason: Reason) -> Duration {
    rig.failed("a", reason);
    let (waited, pulled) = rig.until_pull(&[]);
    assert_eq!(pulled, ["a"]);
    waited
}

#[test]
fn passing_failures_are_repeated_soon_and_within_the_round() {
    let (mut rig, _) = Rig::warmed(3, vec![mk_present("a")], &[]);
    let started = rig.now;
    for (attempt, seconds) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (7, 30)] {
        rig.failed("a", Reason::ConnectionFailed);
        let report = rig.report("a");
        assert_eq!(report.phase, ImagePhase::BackingOff);
        assert_eq!(report.attempts, attempt);
        assert_eq!(report.reason, Some(Reason::ConnectionFailed));
        assert_eq!(
            report.message.as_deref(),
            Some("the runtime said ConnectionFailed")
        );
        assert_eq!(report.next_attempt_at, Some(rig.now + seconds * SECOND));
        assert_eq!(
            (report.started_at, report.finished_at),
            (Some(started), None)
        );
        assert!(!rig.is_settled());
        let (waited, _) = rig.until_pull(&[]);
        assert_eq!(waited, seconds * SECOND);
    }
    rig.pulled("a");
    let report = rig.report("a");
    assert_eq!(report.attempts, 8);
    assert_eq!(report.started_at, Some(started));
    assert_eq!(report.finished_at, Some(rig.now));
    assert_eq!((report.reason, report.message), (None, None));
}

#[test]
fn a_round_ends_when_the_next_attempt_would_miss_its_deadline() {
    let image = mk_present("a").with_deadline(2 * SECOND);
    let (mut rig, _) = Rig::warmed(3, vec![image], &[]);
    rig.failed("a", Reason::RegistryError);
    assert_eq!(rig.phase("a"), ImagePhase::BackingOff);
    rig.until_pull(&[]);
    rig.failed("a", Reason::RegistryError);
    let report = rig.report("a");
    assert_eq!(report.phase, ImagePhase::Failed);
    assert_eq!(report.reason, Some(Reason::RegistryError));
    assert_eq!(report.next_attempt_at, Some(rig.now + 30 * SECOND));
    assert!(rig.is_settled());

    let (waited, _) = rig.until_pull(&[]);
    assert_eq!(waited, 30 * SECOND);
    let report = rig.report("a");
    assert_eq!((report.attempts, report.started_at), (1, Some(rig.now)));
    assert_eq!((report.finished_at, report.reason), (None, None));
}

#[test]
fn rounds_that_failed_for_good_wait_long_and_longer() {
    for (reason, minutes) in [
        (Reason::Unauthorized, [1, 2, 4, 8, 15, 15]),
        (Reason::CredentialsUnavailable, [1, 2, 4, 8, 15, 15]),
        (Reason::ImageNotFound, [1, 2, 4, 8, 15, 15]),
        (Reason::PlatformNotFound, [1, 2, 4, 8, 15, 15]),
        (Reason::InvalidImage, [5, 10, 20, 40, 60, 60]),
        (Reason::RuntimeUnsupported, [5, 10, 20, 40, 60, 60]),
    ] {
        let (mut rig, _) = Rig::warmed(3, vec![mk_present("a")], &[]);
        for minutes in minutes {
            assert_eq!(wait_after(&mut rig, reason), minutes * MINUTE, "{reason}");
            assert_eq!(rig.report("a").attempts, 1);
        }
        rig.failed("a", reason);
        assert_eq!(rig.phase("a"), ImagePhase::Failed);
        assert!(rig.is_settled());
    }
}

#[test]
fn a_success_starts_the_backoff_anew() {
    let (mut rig, _) = Rig::warmed(3, vec![mk_present("a")], &[]);
    wait_after(&mut rig, Reason::ImageNotFound);
    wait_after(&mut rig, Reason::ImageNotFound);
    rig.pulled("a");
    let (_, pulled) = rig.until_pull(&[]);
    assert_eq!(pulled, ["a"]);
    assert_eq!(wait_after(&mut rig, Reason::ImageNotFound), MINUTE);
}

#[test]
fn a_registry_that_names_a_delay_is_left_alone_that_long() {
    let names = ["quay.io/a", "quay.io/b", "ghcr.io/c", "ghcr.io/d"];
    let images = names.iter().map(|name| mk_present(name)).collect();
    let (mut rig, _) = Rig::warmed(1, images, &[]);
    let asked = rig.ended("quay.io/a", Err(mk_throttled(90)));
    // The other registry goes on; nothing more is asked of the one that throttles.
    assert_eq!(asked.pulls(), ["ghcr.io/c"]);
    assert_eq!(rig.pulled("ghcr.io/c").pulls(), ["ghcr.io/d"]);
    assert_eq!(rig.pulled("ghcr.io/d").pulls(), [""; 0]);
    let held = rig.report("quay.io/b");
    assert_eq!(held.phase, ImagePhase::Pending);
    assert_eq!(held.reason, Some(Reason::TooManyRequests));
    assert!(held.message.unwrap().contains("quay.io"));
    assert!(held.next_attempt_at >= Some(rig.now + 90 * SECOND));
    assert_eq!(rig.phase("quay.io/a"), ImagePhase::BackingOff);
    let own = rig.report("quay.io/a").message.unwrap();
    assert_eq!(own, "the runtime said TooManyRequests");

    let (waited, _) = rig.until_pull(&["ghcr.io/c", "ghcr.io/d"]);
    assert!(waited >= 90 * SECOND && waited <= 99 * SECOND, "{waited:?}");
}

#[test]
fn the_longest_delay_of_a_registry_counts() {
    let (mut rig, _) = Rig::warmed(
        2,
        vec![mk_present("a"), mk_present("b"), mk_present("c")],
        &[],
    );
    rig.ended("a", Err(mk_throttled(200)));
    rig.ended("b", Err(mk_throttled(5)));
    let (waited, _) = rig.until_pull(&[]);
    assert!(waited >= 200 * SECOND, "{waited:?}");
}

#[test]
fn waiting_for_a_place_does_not_use_up_the_patience_with_a_registry() {
    let slow = mk_present("a").with_deadline(10 * MINUTE);
    let (mut rig, _) = Rig::warmed(1, vec![slow, mk_present("b")], &[]);
    rig.pass(400);
    rig.ended("a", Err(mk_throttled(10)));
    // `b` has waited for longer than its deadline, but never had its turn.
    assert_eq!(rig.phase("b"), ImagePhase::Pending);
    let (waited, _) = rig.until_pull(&[]);
    assert!(waited <= 11 * SECOND);
}

#[test]
fn a_registry_that_asks_for_more_than_the_deadline_fails_its_images_for_now() {
    let (mut rig, _) = Rig::warmed(1, vec![mk_present("a"), mk_present("b")], &[]);
    rig.ended("a", Err(mk_throttled(600)));
    for name in ["a", "b"] {
        let report = rig.report(name);
        assert_eq!(report.phase, ImagePhase::Failed);
        assert_eq!(report.reason, Some(Reason::TooManyRequests));
        assert!(report.next_attempt_at >= Some(rig.now + 600 * SECOND));
    }
    let waiting = rig.report("b");
    assert_eq!((waiting.attempts, waiting.started_at), (0, None));
    assert!(rig.is_settled());
}

#[test]
fn a_registry_that_keeps_throttling_is_not_waited_for_longer_than_the_deadline() {
    let (mut rig, _) = Rig::warmed(
        1,
        vec![mk_present("a"), mk_present("b"), mk_present("c")],
        &[],
    );
    let mut pulled = vec!["a".to_owned()];
    for _ in 0..100 {
        if rig.is_settled() {
            break;
        }
        rig.ended(&pulled[0], Err(mk_throttled(70)));
        if !rig.is_settled() {
            (_, pulled) = rig.until_pull(&[]);
        }
    }
    assert!(rig.is_settled());
    assert!(rig.seconds() < 3.0 * 300.0 + 80.0, "{}", rig.seconds());
}

#[test]
fn an_absurd_delay_is_not_believed_for_ever() {
    let (mut rig, _) = Rig::warmed(1, vec![mk_present("a")], &[]);
    let absurd = mk_failure(Reason::TooManyRequests).with_retry_after(Some(Duration::MAX));
    rig.ended("a", Err(absurd));
    let next = rig.report("a").next_attempt_at.unwrap();
    assert!(next <= rig.now + Duration::from_secs(27 * 3600), "{next}");
}

#[test]
fn throttling_without_a_delay_backs_off_by_itself() {
    let (mut rig, _) = Rig::warmed(1, vec![mk_present("a")], &[]);
    assert_eq!(wait_after(&mut rig, Reason::TooManyRequests), 5 * SECOND);
    assert_eq!(wait_after(&mut rig, Reason::TooManyRequests), 10 * SECOND);
}

#[test]
fn a_full_disk_stops_new_pulls_and_is_then_probed_with_one() {
    let names = ["a", "b", "c", "d"];
    let images = names.iter().map(|name| mk_present(name)).collect();
    let (mut rig, _) = Rig::warmed(2, images, &[]);
    assert_eq!(rig.failed("a", Reason::DiskFull).pulls(), [""; 0]);
    for name in ["c", "d"] {
        let report = rig.report(name);
        assert_eq!(report.phase, ImagePhase::Failed, "{name}");
        assert_eq!(report.reason, Some(Reason::DiskFull));
        assert!(report.message.unwrap().contains("no room"));
        assert_eq!(report.next_attempt_at, Some(rig.now + MINUTE));
        assert_eq!(report.attempts, 0);
    }
    rig.failed("b", Reason::DiskFull);
    assert!(rig.is_settled());

    // Found full twice: two minutes. Then one pull at a time, until one succeeds.
    let (waited, pulled) = rig.until_pull(&[]);
    assert_eq!(waited, 2 * MINUTE);
    assert_eq!(pulled.len(), 1);
    let next = rig.pulled(&pulled[0]).pulls();
    assert_eq!(next.len(), 2, "{next:?}");
}

#[test]
fn a_disk_that_stays_full_is_probed_ever_more_rarely() {
    let (mut rig, _) = Rig::warmed(2, vec![mk_present("a"), mk_present("b")], &[]);
    rig.failed("a", Reason::DiskFull);
    rig.failed("b", Reason::DiskFull);
    let mut waits = Vec::new();
    for _ in 0..4 {
        let (waited, pulled) = rig.until_pull(&[]);
        assert_eq!(pulled.len(), 1);
        waits.push(waited.as_secs() / 60);
        rig.failed(&pulled[0], Reason::DiskFull);
    }
    assert_eq!(waits, [2, 4, 8, 10]);
}

#[test]
fn a_removal_that_makes_room_lifts_the_hold() {
    let (mut rig, _) = Rig::warmed(2, vec![mk_present("a"), mk_present("b")], &["old"]);
    rig.failed("a", Reason::DiskFull);
    rig.failed("b", Reason::DiskFull);
    let images = vec![mk_present("a"), mk_present("b"), mk_absent("old")];
    rig.assign(images);
    assert_eq!(rig.read(mk_inventory(&["old"])).removals(), ["old"]);
    let asked = rig.removal("old", Ok(Removal::Removed));
    assert_eq!(asked.pulls().len(), 1, "one at a time");
    let waiting = if asked.pulls() == ["a"] { "b" } else { "a" };
    let report = rig.report(waiting);
    assert_eq!((report.phase, report.reason), (ImagePhase::Pending, None));
}

#[test]
fn a_refresh_tries_a_full_disk_again() {
    let (mut rig, _) = Rig::warmed(2, vec![mk_present("a"), mk_present("b")], &[]);
    rig.failed("a", Reason::DiskFull);
    rig.failed("b", Reason::DiskFull);
    assert_eq!(rig.refresh().pulls().len(), 2);
}

#[test]
fn changed_secrets_are_tried_at_once() {
    let with = |secret: &str| mk_present("a").with_pull_secrets(vec![mk_secret(secret)]);
    let (mut rig, _) = Rig::warmed(2, vec![with("old")], &[]);
    for _ in 0..4 {
        wait_after(&mut rig, Reason::Unauthorized);
    }
    rig.failed("a", Reason::Unauthorized);
    assert_eq!(rig.assign(vec![with("old")]).pulls(), [""; 0]);
    assert_eq!(rig.assign(vec![with("new")]).pulls(), ["a"]);
    // And what went before is forgotten.
    assert_eq!(wait_after(&mut rig, Reason::Unauthorized), MINUTE);
}

#[test]
fn secrets_that_change_during_a_pull_are_tried_when_it_fails() {
    let with = |secret: &str| mk_present("a").with_pull_secrets(vec![mk_secret(secret)]);
    let (mut rig, _) = Rig::warmed(2, vec![with("old")], &[]);
    rig.pass(5);
    assert_eq!(rig.assign(vec![with("new")]).cancels(), 0);
    assert_eq!(rig.failed("a", Reason::Unauthorized).pulls(), ["a"]);
    assert_eq!(rig.failed("a", Reason::Unauthorized).pulls(), [""; 0]);
}

#[test]
fn delays_are_spread_by_the_jitter() {
    let mut config = mk_config(1);
    config.backoff.jitter = 0.25;
    let mut rig = Rig::with(config);
    rig.assign(vec![mk_present("a")]);
    rig.read(mk_inventory(&[]));
    let mut waits = Vec::new();
    for _ in 0..8 {
        waits.push(wait_after(&mut rig, Reason::InvalidImage).as_secs_f64());
    }
    let longest = &waits[5..];
    assert!(
        longest.iter().all(|w| (2_700.0..=4_500.0).contains(w)),
        "{longest:?}"
    );
    assert!(
        longest.windows(2).all(|w| (w[0] - w[1]).abs() > 0.001),
        "{longest:?}"
    );
}

#[test]
fn a_failed_refresh_says_that_an_earlier_copy_is_there() {
    let image = mk_present("a").with_pull_policy(ImagePullPolicy::Always);
    let (mut rig, asked) = Rig::warmed(1, vec![image], &["a"]);
    assert_eq!(asked.pulls(), ["a"]);
    let failure = Failure::new(Reason::ImageNotFound, "manifest unknown");
    rig.ended("a", Err(failure));
    let report = rig.report("a");
    assert_eq!(report.phase, ImagePhase::Failed);
    assert!(report.size.is_some());
    let message = report.message.unwrap();
    assert!(message.contains("earlier copy"), "{message}");
    assert!(message.contains("manifest unknown"), "{message}");
}
