//! The rate of an ImageCache, where fledged fetches layers and where the runtime pulls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fledged_core::model::{CacheId, PullLimit, PulledVia};
use fledged_core::port::{ImageRuntime, ProgressSink, PullRequest, SharedPullLimit};
use fledged_cri::cri::CriRuntime;
use fledged_cri::{FetcherOptions, PressureLimits, RegistryOptions, SlowedBy};
use fledged_tests::{Containerd, FakeCri, ImageBuilder, Pushed, SOON};

use super::fetcher::{Setup, left_to_the_runtime, options, setup};
use super::image;

/// A fetcher as users have it, which leaves small images to the runtime, and also those that come fast enough.
fn fetching(containerd: &Containerd) -> CriRuntime {
    let mut options = FetcherOptions::default();
    options.registry = RegistryOptions::default();
    options.config_dirs = vec![containerd.config_dir()];
    options.pressure = PressureLimits::none();
    CriRuntime::connect(containerd.socket()).with_fetcher(options)
}

fn limit(rate: &str) -> SharedPullLimit {
    let cache = CacheId::new("shop", "web", "u");
    SharedPullLimit::new(Some(PullLimit::new(cache, rate.parse().unwrap())))
}

fn push(setup: &Setup, name: &str, seed: u64, bytes: usize) -> Pushed {
    ImageBuilder::new()
        .random_layer("data", seed, bytes)
        .push(&setup.registry, name, "1")
}

fn request(setup: &Setup, pushed: &Pushed, limit: SharedPullLimit) -> PullRequest {
    let name = pushed.reference_at(setup.proxy.addr());
    PullRequest::new(image(&name)).with_limit(limit)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pulls_of_a_cache_share_its_rate() {
    let Some(setup) = setup() else { return };
    let runtime = fetching(&setup.containerd);
    let images = [
        push(&setup, "team/app", 1, 6_000_000),
        push(&setup, "team/db", 2, 4_000_000),
    ];
    let began = Instant::now();
    let [app, db] = images
        .each_ref()
        .map(|pushed| runtime.pull(request(&setup, pushed, limit("5M"))));
    let (app, db) = tokio::join!(app, db);
    let ended = began.elapsed();
    for pulled in [app, db] {
        assert_eq!(pulled.unwrap().via, Some(PulledVia::Fetcher));
    }
    // 10 MB at 5 MB/s, but for the burst and what arrived last.
    assert!(ended > Duration::from_millis(1_700), "{ended:?}");
    for pushed in &images {
        setup.assert_each_byte_once(pushed);
    }
    setup.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_pull_follows_a_new_rate() {
    let Some(setup) = setup() else { return };
    let runtime = fetching(&setup.containerd);
    let pushed = push(&setup, "team/app", 1, 20_000_000);
    // Five minutes at this rate.
    let limit = limit("64Ki");
    let began = Arc::new(AtomicBool::new(false));
    let progress = {
        let (limit, began) = (limit.clone(), Arc::clone(&began));
        ProgressSink::new(move |progress| {
            if progress.done.bytes() > 0 && !began.swap(true, Ordering::Relaxed) {
                limit.set(None);
            }
        })
    };
    let request = request(&setup, &pushed, limit).with_progress(progress);
    let pulled = tokio::time::timeout(SOON, runtime.pull(request)).await;
    let pulled = pulled.expect("the old rate still counts").unwrap();
    assert_eq!(pulled.via, Some(PulledVia::Fetcher));
    assert!(began.load(Ordering::Relaxed));
    setup.assert_each_byte_once(&pushed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetcher_slows_down_under_pressure() {
    let Some(setup) = setup() else { return };
    let pushed = push(&setup, "team/app", 1, 600_000);
    let root = tempfile::tempdir().unwrap();
    let pressure = root.path().join("proc/pressure");
    std::fs::create_dir_all(&pressure).unwrap();
    // Above twice the limit: 1 MiB a second, so that this image takes longer than the burst.
    let text = "some avg10=21.00 avg60=0.00 avg300=0.00 total=1\n";
    std::fs::write(pressure.join("memory"), text).unwrap();
    let mut options = options(&setup.containerd);
    options.pressure = PressureLimits::default();
    options.pressure.root = root.path().to_owned();
    let slowdowns = options.slowdowns.clone();
    let runtime = CriRuntime::connect(setup.containerd.socket()).with_fetcher(options);
    let request = request(&setup, &pushed, SharedPullLimit::default());
    let pulled = runtime.pull(request).await.unwrap();
    assert_eq!(pulled.via, Some(PulledVia::Fetcher));
    assert_eq!(slowdowns.memory_pressure(), Some(21.0));
    assert_eq!(slowdowns.io_pressure(), None);
    for by in SlowedBy::ALL {
        let waited = slowdowns.time(by) > Duration::ZERO;
        assert_eq!(waited, by == SlowedBy::Memory, "{by:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_pulls_by_itself_reports_the_rate_that_is_not_kept() {
    let Some(setup) = setup() else { return };
    let pushed = push(&setup, "team/app", 1, 1_000_000);
    let runtime = CriRuntime::connect(setup.containerd.socket());
    let pull = |limit| runtime.pull(request(&setup, &pushed, limit));
    let why = left_to_the_runtime(pull(limit("64Ki")).await.unwrap());
    assert_eq!(
        why,
        "fledged does not fetch layers for this runtime; not limited to 64.0 KiB/s"
    );
    // Nothing is fetched now.
    assert_eq!(pull(limit("64Ki")).await.unwrap().via, None);
    runtime
        .remove(&image(&pushed.reference_at(setup.proxy.addr())))
        .await
        .unwrap();
    assert_eq!(pull(SharedPullLimit::default()).await.unwrap().via, None);
}

#[tokio::test]
async fn a_runtime_without_content_store_reports_the_rate_that_is_not_kept() {
    let fake = FakeCri::start();
    let runtime = CriRuntime::connect(fake.socket()).with_fetcher(FetcherOptions::default());
    let request = PullRequest::new(image("127.0.0.1:9/app:1")).with_limit(limit("20Mi"));
    let why = left_to_the_runtime(runtime.pull(request).await.unwrap());
    assert_eq!(
        why,
        "the runtime has no content store; not limited to 20.0 MiB/s"
    );
}
