//! The simulation: clock, bandwidth, disk, registry, faults.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fledged_core::error::Reason;
use fledged_core::model::{ByteSize, ImageRef};
use fledged_core::port::{
    Clock, ImageRuntime, ProgressSink, PullRequest, RegistryAuth, Removal, RemovalScope,
};
use fledged_core::sim::{
    Fault, Faults, SimClock, SimImage, SimRegistry, SimRuntime, TraceEntry, TraceEvent,
};
use futures_util::future::{join, join_all, select};

const MB: u64 = 1_000_000;

fn mk_ref(text: &str) -> ImageRef {
    text.parse().unwrap()
}

fn mk_image(name: &str, megabytes: u64) -> SimImage {
    SimImage::new(name, &[(name, ByteSize::new(megabytes * MB))])
}

fn mk_registry() -> SimRegistry {
    SimRegistry::new()
        .with("a", mk_image("a", 80))
        .with("b", mk_image("b", 80))
        .with("alias", mk_image("a", 80))
        .with("private", mk_image("private", 1).private())
        .with(
            "layered",
            SimImage::new(
                "layered",
                &[
                    ("a", ByteSize::new(80 * MB)),
                    ("top", ByteSize::new(8 * MB)),
                ],
            ),
        )
}

fn mk_runtime(clock: &SimClock) -> SimRuntime {
    SimRuntime::new(clock.clone(), mk_registry(), 1).with_bandwidth(8 * MB)
}

fn seconds(clock: &SimClock) -> f64 {
    clock.elapsed().as_secs_f64()
}

async fn pull(runtime: &SimRuntime, name: &str) -> Result<(), Reason> {
    let pulled = runtime.pull(PullRequest::new(mk_ref(name))).await;
    pulled.map(|_| ()).map_err(|e| e.reason)
}

#[test]
fn time_jumps_from_timer_to_timer() {
    let clock = SimClock::new();
    let start = clock.now();
    let begun = std::time::Instant::now();
    let timers = [3_600, 1, 60].map(|s| clock.sleep(Duration::from_secs(s)));
    clock.block_on(join_all(timers)).unwrap();
    assert_eq!(clock.elapsed(), Duration::from_secs(3_600));
    assert_eq!(clock.now(), start + Duration::from_secs(3_600));
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn timers_end_in_their_order() {
    let clock = SimClock::new();
    let ended = std::sync::Mutex::new(Vec::new());
    let sleeps = [5, 2, 9, 2].map(|s| {
        let (clock, ended) = (clock.clone(), &ended);
        async move {
            clock.sleep(Duration::from_secs(s)).await;
            ended.lock().unwrap().push((s, clock.elapsed().as_secs()));
        }
    });
    clock.block_on(join_all(sleeps)).unwrap();
    assert_eq!(*ended.lock().unwrap(), [(2, 2), (2, 2), (5, 5), (9, 9)]);
}

#[test]
fn block_on_reports_a_deadlock_if_no_timer_is_left() {
    let clock = SimClock::new();
    clock.block_on(clock.sleep(Duration::from_secs(7))).unwrap();
    let deadlock = clock.block_on(std::future::pending::<()>()).unwrap_err();
    assert_eq!(deadlock.at, clock.now());
    assert!(deadlock.to_string().contains("deadlock"), "{deadlock}");
}

#[test]
fn a_dropped_timer_does_not_advance_time() {
    let clock = SimClock::new();
    let long = clock.sleep(Duration::from_secs(1_000));
    let short = clock.sleep(Duration::from_secs(1));
    clock.block_on(select(long, short)).map(drop).unwrap();
    assert_eq!(clock.elapsed(), Duration::from_secs(1));
    clock.block_on(std::future::pending::<()>()).unwrap_err();
    assert_eq!(clock.elapsed(), Duration::from_secs(1));
}

#[test]
fn zero_and_endless_sleeps_end() {
    let clock = SimClock::new();
    clock.block_on(clock.sleep(Duration::ZERO)).unwrap();
    assert_eq!(clock.elapsed(), Duration::ZERO);
    clock.block_on(clock.sleep(Duration::MAX)).unwrap();
    assert_eq!(clock.now(), jiff::Timestamp::MAX);
}

#[test]
fn concurrent_pulls_share_the_bandwidth() {
    let clock = SimClock::new();
    let runtime = mk_runtime(&clock);
    clock.block_on(pull(&runtime, "a")).unwrap().unwrap();
    assert!(
        (10.0..10.1).contains(&seconds(&clock)),
        "{}",
        seconds(&clock)
    );

    let clock = SimClock::new();
    let runtime = mk_runtime(&clock);
    let both = join(pull(&runtime, "a"), pull(&runtime, "b"));
    assert_eq!(clock.block_on(both).unwrap(), (Ok(()), Ok(())));
    assert!(
        (20.0..20.2).contains(&seconds(&clock)),
        "{}",
        seconds(&clock)
    );
}

#[test]
fn present_layers_are_not_fetched_again() {
    let clock = SimClock::new();
    let runtime = mk_runtime(&clock);
    runtime.preload(&mk_ref("a"));
    let last = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&last);
    let request = PullRequest::new(mk_ref("layered")).with_progress(ProgressSink::new(move |p| {
        assert_eq!(p.total, Some(ByteSize::new(8 * MB)));
        seen.store(usize::try_from(p.done.bytes()).unwrap(), Ordering::SeqCst);
    }));
    clock.block_on(runtime.pull(request)).unwrap().unwrap();
    assert!((1.0..1.1).contains(&seconds(&clock)), "{}", seconds(&clock));
    assert_eq!(last.load(Ordering::SeqCst), 8_000_000);
}

#[test]
fn a_disk_never_exceeds_its_capacity() {
    let clock = SimClock::new();
    let runtime = mk_runtime(&clock).with_capacity(ByteSize::new(100 * MB));
    let both = join(pull(&runtime, "a"), pull(&runtime, "b"));
    let (a, b) = clock.block_on(both).unwrap();
    assert_eq!((a, b), (Ok(()), Err(Reason::DiskFull)));
    let usage = clock.block_on(runtime.filesystems()).unwrap().unwrap();
    assert_eq!(usage[0].used, ByteSize::new(80 * MB));
    assert_eq!(usage[0].available, Some(ByteSize::new(20 * MB)));
    clock
        .block_on(runtime.remove(&mk_ref("a")))
        .unwrap()
        .unwrap();
    assert_eq!(clock.block_on(pull(&runtime, "b")).unwrap(), Ok(()));
}

#[test]
fn a_registry_refuses_anonymous_pulls_and_unknown_names() {
    let clock = SimClock::new();
    let runtime = mk_runtime(&clock);
    let reason = |name| clock.block_on(pull(&runtime, name)).unwrap();
    assert_eq!(reason("private"), Err(Reason::Unauthorized));
    assert_eq!(reason("missing"), Err(Reason::ImageNotFound));
    let request =
        PullRequest::new(mk_ref("private")).with_auth(RegistryAuth::RegistryToken("t".into()));
    clock.block_on(runtime.pull(request)).unwrap().unwrap();
    assert!(runtime.holds(&mk_ref("private")));
}

#[test]
fn the_removal_scope_decides_which_names_go() {
    for (scope, left) in [
        (RemovalScope::Image, false),
        (RemovalScope::Reference, true),
    ] {
        let clock = SimClock::new();
        let runtime = mk_runtime(&clock).with_removal(scope);
        let (a, alias) = (mk_ref("a"), mk_ref("alias"));
        runtime.preload(&a);
        runtime.preload(&alias);
        let listed = clock.block_on(runtime.list()).unwrap().unwrap();
        assert_eq!((listed.len(), listed[0].references.len()), (1, 2));
        let remove = |image| clock.block_on(runtime.remove(image)).unwrap().unwrap();
        assert_eq!(remove(&a), Removal::Removed);
        assert_eq!(runtime.holds(&alias), left);
        assert_eq!(remove(&a), Removal::Absent);
        let found = clock.block_on(runtime.lookup(&alias)).unwrap().unwrap();
        assert_eq!(found.is_some(), left);
    }
}

#[test]
fn used_and_pinned_images_are_not_removed() {
    let clock = SimClock::new();
    let runtime = mk_runtime(&clock);
    let (a, b) = (mk_ref("a"), mk_ref("b"));
    for image in [&a, &b] {
        runtime.preload(image);
    }
    runtime.set_in_use(&a, true);
    runtime.pin(&b);
    for image in [&a, &b] {
        let removal = clock.block_on(runtime.remove(image)).unwrap().unwrap();
        assert!(matches!(removal, Removal::InUse(_)));
        assert!(runtime.holds(image));
    }
    assert_eq!(clock.block_on(runtime.in_use()).unwrap().unwrap().len(), 1);
    runtime.set_in_use(&a, false);
    let removal = clock.block_on(runtime.remove(&a)).unwrap().unwrap();
    assert_eq!(removal, Removal::Removed);
}

#[test]
fn a_moved_tag_keeps_the_old_image() {
    let clock = SimClock::new();
    let runtime = mk_runtime(&clock);
    let (a, alias) = (mk_ref("a"), mk_ref("alias"));
    runtime.preload(&a);
    runtime.preload(&alias);
    runtime.publish(a.clone(), mk_image("a-2", 8));
    clock.block_on(pull(&runtime, "a")).unwrap().unwrap();
    let listed = clock.block_on(runtime.list()).unwrap().unwrap();
    let named = |name: &ImageRef| listed.iter().find(|i| i.references.contains(name)).unwrap();
    assert_eq!(named(&a).id.to_string(), "a-2");
    assert_eq!(named(&alias).id.to_string(), "a");
}

#[test]
fn faults_end_at_their_time() {
    let clock = SimClock::new();
    let runtime = mk_runtime(&clock).with_faults(
        Faults::until(Duration::from_secs(60))
            .with_pulls(vec![Fault::fail(Reason::RegistryError)])
            .with_calls(vec![Fault::fail(Reason::RuntimeUnavailable)]),
    );
    assert_eq!(
        clock.block_on(pull(&runtime, "a")).unwrap(),
        Err(Reason::RegistryError)
    );
    let listed = clock.block_on(runtime.list()).unwrap();
    assert_eq!(listed.unwrap_err().reason, Reason::RuntimeUnavailable);
    clock
        .block_on(clock.sleep(Duration::from_secs(60)))
        .unwrap();
    assert_eq!(clock.block_on(pull(&runtime, "a")).unwrap(), Ok(()));
    assert!(clock.block_on(runtime.list()).unwrap().is_ok());
}

#[test]
fn faults_can_fail_midway_or_delay_a_pull() {
    let time = |fault| {
        let clock = SimClock::new();
        let runtime =
            mk_runtime(&clock).with_faults(Faults::until(Duration::MAX).with_pulls(vec![fault]));
        let result = clock.block_on(pull(&runtime, "a")).unwrap();
        (result, seconds(&clock))
    };
    let reset = fledged_core::error::Failure::new(Reason::ConnectionFailed, "reset");
    let (result, after) = time(Fault::FailMidway(reset));
    assert_eq!(result, Err(Reason::ConnectionFailed));
    assert!(after > 1.0, "{after}");
    let (result, after) = time(Fault::Slow(Duration::from_secs(30)));
    assert_eq!(result, Ok(()));
    assert!((40.0..40.1).contains(&after), "{after}");
}

fn play(seed: u64) -> Vec<TraceEntry> {
    let clock = SimClock::new();
    let runtime = SimRuntime::new(clock.clone(), mk_registry(), seed)
        .with_bandwidth(8 * MB)
        .with_faults(
            Faults::until(Duration::MAX)
                .with_pulls(vec![
                    Fault::fail(Reason::RegistryError),
                    Fault::Slow(Duration::from_secs(3)),
                ])
                .with_chance(0.5),
        );
    let pulls = ["a", "b", "alias", "layered"].map(|name| pull(&runtime, name));
    clock.block_on(join_all(pulls)).unwrap();
    runtime.trace()
}

#[test]
fn the_trace_depends_only_on_the_seed() {
    assert_eq!(play(5), play(5));
    assert!((0..20).any(|seed| play(seed) != play(5)));
}

#[test]
fn a_dropped_pull_no_longer_counts() {
    let clock = SimClock::new();
    let runtime = mk_runtime(&clock);
    let dropped = select(
        Box::pin(pull(&runtime, "a")),
        clock.sleep(Duration::from_secs(1)),
    );
    clock.block_on(dropped).map(drop).unwrap();
    clock.block_on(pull(&runtime, "b")).unwrap().unwrap();
    let began = TraceEvent::PullBegan(mk_ref("b"), 1);
    assert!(runtime.trace().iter().any(|e| e.event == began));
    assert!(!runtime.holds(&mk_ref("a")));
}
