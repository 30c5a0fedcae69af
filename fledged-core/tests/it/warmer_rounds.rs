//! The warmer after failed pulls: retries, back-off, holds on registries and disks, reports.
use std::time::Duration;

use crate::warmer_node::{
    TestNode, mk_absent, mk_config, mk_failure, mk_inventory, mk_present, mk_secret, mk_throttled,
};
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ImagePhase, ImagePullPolicy};
use fledged_core::port::Removal;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Fails the pull of `a` and returns the time until the next attempt.
fn wait_after(node: &mut TestNode, reason: Reason) -> Duration {
    node.failed("a", reason);
    let (waited, pulled) = node.until_pull(&[]);
    assert_eq!(pulled, ["a"]);
    waited
}

#[test]
fn transient_failures_are_retried_within_the_round() {
    let (mut node, _) = TestNode::warmed(3, vec![mk_present("a")], &[]);
    let started = node.now;
    for (attempt, seconds) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (7, 30)] {
        node.failed("a", Reason::ConnectionFailed);
        let report = node.report("a");
        assert_eq!(report.phase, ImagePhase::BackingOff);
        assert_eq!(report.attempts, attempt);
        assert_eq!(report.reason, Some(Reason::ConnectionFailed));
        assert_eq!(
            report.message.as_deref(),
            Some("the runtime failed with ConnectionFailed")
        );
        assert_eq!(report.next_attempt_at, Some(node.now + seconds * SECOND));
        assert_eq!(
            (report.started_at, report.finished_at),
            (Some(started), None)
        );
        assert!(!node.is_settled());
        let (waited, _) = node.until_pull(&[]);
        assert_eq!(waited, seconds * SECOND);
    }
    node.pulled("a");
    let report = node.report("a");
    assert_eq!(report.attempts, 8);
    assert_eq!(report.started_at, Some(started));
    assert_eq!(report.finished_at, Some(node.now));
    assert_eq!((report.reason, report.message), (None, None));
}

#[test]
fn a_round_ends_when_the_next_attempt_would_miss_its_deadline() {
    let image = mk_present("a").with_deadline(2 * SECOND);
    let (mut node, _) = TestNode::warmed(3, vec![image], &[]);
    node.failed("a", Reason::RegistryError);
    assert_eq!(node.phase("a"), ImagePhase::BackingOff);
    node.until_pull(&[]);
    node.failed("a", Reason::RegistryError);
    let report = node.report("a");
    assert_eq!(report.phase, ImagePhase::Failed);
    assert_eq!(report.reason, Some(Reason::RegistryError));
    assert_eq!(report.next_attempt_at, Some(node.now + 30 * SECOND));
    assert!(node.is_settled());

    let (waited, _) = node.until_pull(&[]);
    assert_eq!(waited, 30 * SECOND);
    let report = node.report("a");
    assert_eq!((report.attempts, report.started_at), (1, Some(node.now)));
    assert_eq!((report.finished_at, report.reason), (None, None));
}

#[test]
fn an_exceeded_deadline_keeps_the_failure_before_it() {
    let image = mk_present("a").with_deadline(5 * MINUTE);
    let (mut node, _) = TestNode::warmed(3, vec![image], &[]);
    node.failed("a", Reason::RegistryError);
    node.until_pull(&[]);
    node.pass(300);
    let report = node.report("a");
    assert_eq!(report.phase, ImagePhase::Failed);
    assert_eq!(report.reason, Some(Reason::DeadlineExceeded));
    assert_eq!(
        report.message.as_deref(),
        Some(
            "not complete within its deadline of 5m, at attempt 2; the attempt before failed: the runtime failed with RegistryError"
        )
    );
    // The first attempt of the next round has no failure before it.
    node.until_pull(&[]);
    node.pass(300);
    assert_eq!(
        node.report("a").message.as_deref(),
        Some("not complete within its deadline of 5m, at attempt 1")
    );
}

#[test]
fn permanent_failures_wait_for_minutes_and_double() {
    for (reason, minutes) in [
        (Reason::Unauthorized, [1, 2, 4, 8, 15, 15]),
        (Reason::CredentialsUnavailable, [1, 2, 4, 8, 15, 15]),
        (Reason::ImageNotFound, [1, 2, 4, 8, 15, 15]),
        (Reason::PlatformNotFound, [1, 2, 4, 8, 15, 15]),
        (Reason::RegistryMisconfigured, [1, 2, 4, 8, 15, 15]),
        (Reason::InvalidImage, [5, 10, 20, 40, 60, 60]),
        (Reason::RuntimeUnsupported, [5, 10, 20, 40, 60, 60]),
    ] {
        let (mut node, _) = TestNode::warmed(3, vec![mk_present("a")], &[]);
        for minutes in minutes {
            assert_eq!(wait_after(&mut node, reason), minutes * MINUTE, "{reason}");
            assert_eq!(node.report("a").attempts, 1);
        }
        node.failed("a", reason);
        assert_eq!(node.phase("a"), ImagePhase::Failed);
        assert!(node.is_settled());
    }
}

#[test]
fn a_success_resets_the_backoff() {
    let (mut node, _) = TestNode::warmed(3, vec![mk_present("a")], &[]);
    wait_after(&mut node, Reason::ImageNotFound);
    wait_after(&mut node, Reason::ImageNotFound);
    node.pulled("a");
    let (_, pulled) = node.until_pull(&[]);
    assert_eq!(pulled, ["a"]);
    assert_eq!(wait_after(&mut node, Reason::ImageNotFound), MINUTE);
}

#[test]
fn the_delay_of_a_registry_holds_all_its_images() {
    let names = ["quay.io/a", "quay.io/b", "ghcr.io/c", "ghcr.io/d"];
    let images = names.iter().map(|name| mk_present(name)).collect();
    let (mut node, _) = TestNode::warmed(1, images, &[]);
    let asked = node.ended("quay.io/a", Err(mk_throttled(90)));
    // Pulls from the other registry continue; pulls from the throttling one wait.
    assert_eq!(asked.pulls(), ["ghcr.io/c"]);
    assert_eq!(node.pulled("ghcr.io/c").pulls(), ["ghcr.io/d"]);
    assert_eq!(node.pulled("ghcr.io/d").pulls(), [""; 0]);
    let held = node.report("quay.io/b");
    assert_eq!(held.phase, ImagePhase::Pending);
    assert_eq!(held.reason, Some(Reason::TooManyRequests));
    assert!(held.message.unwrap().contains("quay.io"));
    assert!(held.next_attempt_at >= Some(node.now + 90 * SECOND));
    assert_eq!(node.phase("quay.io/a"), ImagePhase::BackingOff);
    let own = node.report("quay.io/a").message.unwrap();
    assert_eq!(own, "the runtime failed with TooManyRequests");

    let (waited, _) = node.until_pull(&["ghcr.io/c", "ghcr.io/d"]);
    assert!(waited >= 90 * SECOND && waited <= 99 * SECOND, "{waited:?}");
}

#[test]
fn the_longest_delay_of_a_registry_counts() {
    let (mut node, _) = TestNode::warmed(
        2,
        vec![mk_present("a"), mk_present("b"), mk_present("c")],
        &[],
    );
    node.ended("a", Err(mk_throttled(200)));
    node.ended("b", Err(mk_throttled(5)));
    let (waited, _) = node.until_pull(&[]);
    assert!(waited >= 200 * SECOND, "{waited:?}");
}

#[test]
fn waiting_in_the_queue_does_not_count_as_throttling() {
    let slow = mk_present("a").with_deadline(10 * MINUTE);
    let (mut node, _) = TestNode::warmed(1, vec![slow, mk_present("b")], &[]);
    node.pass(400);
    node.ended("a", Err(mk_throttled(10)));
    // `b` has waited for longer than its deadline, but its pull has not started.
    assert_eq!(node.phase("b"), ImagePhase::Pending);
    let (waited, _) = node.until_pull(&[]);
    assert!(waited <= 11 * SECOND);
}

#[test]
fn a_delay_beyond_the_deadline_fails_the_round() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a"), mk_present("b")], &[]);
    node.ended("a", Err(mk_throttled(600)));
    for name in ["a", "b"] {
        let report = node.report(name);
        assert_eq!(report.phase, ImagePhase::Failed);
        assert_eq!(report.reason, Some(Reason::TooManyRequests));
        assert!(report.next_attempt_at >= Some(node.now + 600 * SECOND));
    }
    let waiting = node.report("b");
    assert_eq!((waiting.attempts, waiting.started_at), (0, None));
    assert!(node.is_settled());
}

#[test]
fn repeated_throttling_fails_images_at_their_deadline() {
    let (mut node, _) = TestNode::warmed(
        1,
        vec![mk_present("a"), mk_present("b"), mk_present("c")],
        &[],
    );
    let mut pulled = vec!["a".to_owned()];
    for _ in 0..100 {
        if node.is_settled() {
            break;
        }
        node.ended(&pulled[0], Err(mk_throttled(70)));
        if !node.is_settled() {
            (_, pulled) = node.until_pull(&[]);
        }
    }
    assert!(node.is_settled());
    assert!(node.seconds() < 3.0 * 300.0 + 80.0, "{}", node.seconds());
}

#[test]
fn very_long_delays_are_capped() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &[]);
    let absurd = mk_failure(Reason::TooManyRequests).with_retry_after(Some(Duration::MAX));
    node.ended("a", Err(absurd));
    let next = node.report("a").next_attempt_at.unwrap();
    assert!(next <= node.now + Duration::from_secs(27 * 3600), "{next}");
}

#[test]
fn throttling_without_a_delay_uses_the_backoff() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &[]);
    assert_eq!(wait_after(&mut node, Reason::TooManyRequests), 5 * SECOND);
    assert_eq!(wait_after(&mut node, Reason::TooManyRequests), 10 * SECOND);
}

#[test]
fn a_full_disk_stops_pulls_and_is_probed_by_one() {
    let names = ["a", "b", "c", "d"];
    let images = names.iter().map(|name| mk_present(name)).collect();
    let (mut node, _) = TestNode::warmed(2, images, &[]);
    assert_eq!(node.failed("a", Reason::DiskFull).pulls(), [""; 0]);
    for name in ["c", "d"] {
        let report = node.report(name);
        assert_eq!(report.phase, ImagePhase::Failed, "{name}");
        assert_eq!(report.reason, Some(Reason::DiskFull));
        assert!(report.message.unwrap().contains("no room"));
        assert_eq!(report.next_attempt_at, Some(node.now + MINUTE));
        assert_eq!(report.attempts, 0);
    }
    node.failed("b", Reason::DiskFull);
    assert!(node.is_settled());

    // The second pull began before the hold and does not prolong it: one pull probes the disk after a minute.
    let (waited, pulled) = node.until_pull(&[]);
    assert_eq!(waited, MINUTE);
    assert_eq!(pulled.len(), 1);
    let next = node.pulled(&pulled[0]).pulls();
    assert_eq!(next.len(), 2, "{next:?}");
}

#[test]
fn a_full_disk_is_probed_with_backoff() {
    let (mut node, _) = TestNode::warmed(2, vec![mk_present("a"), mk_present("b")], &[]);
    node.failed("a", Reason::DiskFull);
    node.failed("b", Reason::DiskFull);
    let mut waits = Vec::new();
    for _ in 0..5 {
        let (waited, pulled) = node.until_pull(&[]);
        assert_eq!(pulled.len(), 1);
        waits.push(waited.as_secs() / 60);
        node.failed(&pulled[0], Reason::DiskFull);
    }
    assert_eq!(waits, [1, 2, 4, 8, 10]);
}

#[test]
fn a_pull_that_never_ends_does_not_stop_others_after_a_full_disk() {
    let names = ["a", "b", "c", "d"];
    let images = names.iter().map(|name| mk_present(name)).collect();
    let (mut node, asked) = TestNode::warmed(2, images, &[]);
    assert_eq!(asked.pulls(), ["a", "b"]);
    node.failed("a", Reason::DiskFull);
    // The other pull goes on, for hours.
    let (waited, pulled) = node.until_pull(&[]);
    assert_eq!((waited, pulled.len()), (MINUTE, 1));
    let next = node.pulled(&pulled[0]).pulls();
    assert_eq!(next.len(), 1, "{next:?}");
}

#[test]
fn a_removal_ends_the_hold_on_a_full_disk() {
    let (mut node, _) = TestNode::warmed(2, vec![mk_present("a"), mk_present("b")], &["old"]);
    node.failed("a", Reason::DiskFull);
    node.failed("b", Reason::DiskFull);
    let images = vec![mk_present("a"), mk_present("b"), mk_absent("old")];
    node.assign(images);
    assert_eq!(node.read(mk_inventory(&["old"])).removals(), ["old"]);
    let asked = node.removal("old", Ok(Removal::Removed));
    assert_eq!(asked.pulls().len(), 1, "one at a time");
    let waiting = if asked.pulls() == ["a"] { "b" } else { "a" };
    let report = node.report(waiting);
    assert_eq!((report.phase, report.reason), (ImagePhase::Pending, None));
}

#[test]
fn a_refresh_ends_the_hold_on_a_full_disk() {
    let (mut node, _) = TestNode::warmed(2, vec![mk_present("a"), mk_present("b")], &[]);
    node.failed("a", Reason::DiskFull);
    node.failed("b", Reason::DiskFull);
    assert_eq!(node.refresh().pulls().len(), 2);
}

#[test]
fn a_newer_revision_ends_the_hold_on_a_full_disk() {
    let with = |revision| ["a", "b"].map(|name| mk_present(name).with_revision(revision));
    let (mut node, _) = TestNode::warmed(2, with(1).to_vec(), &[]);
    node.failed("a", Reason::DiskFull);
    node.failed("b", Reason::DiskFull);
    node.assign(with(2).to_vec());
    let asked = node.read(mk_inventory(&[]));
    assert_eq!(asked.pulls().len(), 1, "one at a time");
    assert_eq!(node.pulled(&asked.pulls()[0]).pulls().len(), 1);
}

#[test]
fn an_image_that_a_cancelled_pull_adds_is_removed() {
    let (mut node, asked) = TestNode::warmed(1, vec![mk_present("a")], &[]);
    assert_eq!(asked.pulls(), ["a"]);
    node.assign(vec![mk_absent("a")]);
    node.read(mk_inventory(&[]));
    assert_eq!(node.phase("a"), ImagePhase::Removing);
    let cancelled = node.now;
    assert_eq!(node.read_next(mk_inventory(&["a"])).removals(), ["a"]);
    assert_eq!(node.now, cancelled + 10 * SECOND);
    node.removal("a", Ok(Removal::Removed));
    assert_eq!(node.phase("a"), ImagePhase::Removed);
}

#[test]
fn a_cancelled_pull_that_adds_nothing_ends_with_removed() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &["a"]);
    node.assign(vec![mk_present("a").with_revision(1)]);
    node.read(mk_inventory(&[]));
    assert_eq!(node.phase("a"), ImagePhase::Pulling);
    node.assign(vec![mk_absent("a")]);
    // The image of before the pull is removed at once, and what the pull adds after that.
    assert_eq!(node.read(mk_inventory(&["a"])).removals(), ["a"]);
    node.removal("a", Ok(Removal::Removed));
    assert_eq!(node.phase("a"), ImagePhase::Removing);
    node.read_next(mk_inventory(&[]));
    assert_eq!(node.phase("a"), ImagePhase::Removed);
    assert!(node.is_settled());
}

#[test]
fn changed_secrets_are_used_at_once() {
    let with = |secret: &str| mk_present("a").with_pull_secrets(vec![mk_secret(secret)]);
    let (mut node, _) = TestNode::warmed(2, vec![with("old")], &[]);
    for _ in 0..4 {
        wait_after(&mut node, Reason::Unauthorized);
    }
    node.failed("a", Reason::Unauthorized);
    assert_eq!(node.assign(vec![with("old")]).pulls(), [""; 0]);
    assert_eq!(node.assign(vec![with("new")]).pulls(), ["a"]);
    // The back-off has been reset.
    assert_eq!(wait_after(&mut node, Reason::Unauthorized), MINUTE);
}

#[test]
fn secrets_changed_during_a_pull_are_used_after_its_failure() {
    let with = |secret: &str| mk_present("a").with_pull_secrets(vec![mk_secret(secret)]);
    let (mut node, _) = TestNode::warmed(2, vec![with("old")], &[]);
    node.pass(5);
    assert_eq!(node.assign(vec![with("new")]).cancels(), 0);
    assert_eq!(node.failed("a", Reason::Unauthorized).pulls(), ["a"]);
    assert_eq!(node.failed("a", Reason::Unauthorized).pulls(), [""; 0]);
}

#[test]
fn delays_are_spread_by_the_jitter() {
    let mut config = mk_config(1);
    config.backoff.jitter = 0.25;
    let mut node = TestNode::with(config);
    node.assign(vec![mk_present("a")]);
    node.read(mk_inventory(&[]));
    let mut waits = Vec::new();
    for _ in 0..8 {
        waits.push(wait_after(&mut node, Reason::InvalidImage).as_secs_f64());
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
fn a_failed_refresh_mentions_the_earlier_copy() {
    let image = mk_present("a").with_pull_policy(ImagePullPolicy::Always);
    let (mut node, asked) = TestNode::warmed(1, vec![image], &["a"]);
    assert_eq!(asked.pulls(), ["a"]);
    let failure = Failure::new(Reason::ImageNotFound, "manifest unknown");
    node.ended("a", Err(failure));
    let report = node.report("a");
    assert_eq!(report.phase, ImagePhase::Failed);
    assert!(report.size.is_some());
    let message = report.message.unwrap();
    assert!(message.contains("earlier copy"), "{message}");
    assert!(message.contains("manifest unknown"), "{message}");
}

#[test]
fn wrong_content_is_fetched_once_more_in_a_round() {
    let image = mk_present("a").with_deadline(10 * MINUTE);
    let (mut node, _) = TestNode::warmed(1, vec![image], &[]);
    for _ in 0..2 {
        node.failed("a", Reason::DigestMismatch);
        assert_eq!(node.report("a").phase, ImagePhase::BackingOff);
        // Another failure between does not count.
        node.until_pull(&[]);
        node.failed("a", Reason::RegistryError);
        node.until_pull(&[]);
        node.failed("a", Reason::DigestMismatch);
        let report = node.report("a");
        assert_eq!(
            (report.phase, report.reason, report.attempts),
            (ImagePhase::Failed, Some(Reason::DigestMismatch), 3)
        );
        // The next round counts from zero.
        node.until_pull(&[]);
    }
}

#[test]
fn a_pull_that_receives_bytes_gets_another_deadline() {
    let image = mk_present("a").with_deadline(MINUTE);
    let (mut node, _) = TestNode::warmed(1, vec![image], &[]);
    let started = node.now;
    node.received("a", 5 << 20);
    assert_eq!(node.pass(60).cancels(), 0);
    let report = node.report("a");
    assert_eq!((report.phase, report.attempts), (ImagePhase::Pulling, 1));
    let message = report.message.unwrap();
    assert_eq!(message, "still pulling after 1m: 5.0 MiB received");
    // Less than a megabyte more is no progress.
    node.received("a", (6 << 20) - 1);
    assert_eq!(node.pass(59).cancels(), 0);
    assert_eq!(node.pass(1).cancels(), 1);
    let report = node.report("a");
    assert_eq!(report.reason, Some(Reason::DeadlineExceeded));
    assert_eq!(report.started_at, Some(started));
    let message = report.message.unwrap();
    let expected = "not complete within its deadline of 1m, at attempt 1; \
                    extended once while bytes arrived, 6.0 MiB received";
    assert_eq!(message, expected);
}

#[test]
fn a_round_is_extended_at_most_twelve_times() {
    let image = mk_present("a").with_deadline(MINUTE);
    let (mut node, _) = TestNode::warmed(1, vec![image], &[]);
    for extension in 1..=12_u64 {
        node.received("a", extension << 20);
        assert_eq!(node.pass(60).cancels(), 0, "{extension}");
    }
    node.received("a", 13 << 20);
    assert_eq!(node.pass(60).cancels(), 1);
    let message = node.report("a").message.unwrap();
    assert!(message.contains("; extended 12 times while"), "{message}");
    // The next round counts from zero.
    node.until_pull(&[]);
    assert_eq!(node.pass(60).cancels(), 1);
}

#[test]
fn an_extended_pull_keeps_the_failure_before_it() {
    let image = mk_present("a").with_deadline(MINUTE);
    let (mut node, _) = TestNode::warmed(1, vec![image], &[]);
    node.failed("a", Reason::RegistryError);
    node.until_pull(&[]);
    // Bytes of the first attempt do not count for the second.
    node.received("a", 1 << 20);
    assert_eq!(node.pass(60).cancels(), 0);
    let message = node.report("a").message.unwrap();
    assert!(message.ends_with("the attempt before failed: the runtime failed with RegistryError"));
    assert_eq!(node.pass(60).cancels(), 1);
    let message = node.report("a").message.unwrap();
    assert!(message.ends_with("the attempt before failed: the runtime failed with RegistryError"));
}
