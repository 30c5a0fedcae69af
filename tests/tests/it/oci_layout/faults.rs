//! Faulty registries and full disks.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use fledged_core::error::{Failure, Reason};
use fledged_core::model::Digest;
use fledged_core::port::{ImageRuntime, PullRequest};
use fledged_cri::oci::{OciLayoutOptions, OciLayoutRuntime};
use fledged_cri::registry::RegistryOptions;
use fledged_tests::{
    Compression, Fault, FaultProxy, ImageBuilder, Layer, Pushed, Registry, Rule, SOON,
    check_layout, images_with_shared_base, poll_until, require,
};
use tempfile::TempDir;

use crate::oci_layout::support::{Unmount, image, open, pull};

struct Setup {
    _registry: Registry,
    proxy: FaultProxy,
    pushed: Pushed,
    reference: String,
    folder: TempDir,
    runtime: OciLayoutRuntime,
}

/// An image of two layers behind a proxy, and an empty layout.
fn setup() -> Option<Setup> {
    if !require(&["docker-registry"]) {
        return None;
    }
    let registry = Registry::start();
    let pushed = ImageBuilder::new()
        .random_layer("small", 1, 10_000)
        .random_layer("large", 2, 3_000_000)
        .push(&registry, "team/app", "1");
    let proxy = FaultProxy::start(registry.addr());
    let folder = TempDir::new().unwrap();
    Some(Setup {
        reference: pushed.reference_at(proxy.addr()),
        runtime: open(folder.path()),
        _registry: registry,
        proxy,
        pushed,
        folder,
    })
}

impl Setup {
    async fn fails(&self, rule: Rule) -> Failure {
        self.proxy.add(rule);
        let error = pull(&self.runtime, &self.reference).await.unwrap_err();
        self.proxy.clear();
        assert_eq!(self.runtime.list().await.unwrap(), []);
        error
    }

    async fn works(&self) {
        pull(&self.runtime, &self.reference).await.unwrap();
        check_layout(self.folder.path());
    }

    fn large(&self) -> &str {
        self.large_digest().as_str()
    }

    fn large_digest(&self) -> &Digest {
        &self.pushed.layers[1]
    }
}

/// The file of a blob that is not complete.
pub(crate) fn partial_file(folder: &Path, digest: &Digest) -> PathBuf {
    let name = format!("fledged-part-sha256-{}", digest.hex());
    folder.join(".fledged/unfinished").join(name)
}

/// The length of a file, 0 if it does not exist.
pub(crate) fn length_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// The number of unfinished downloads.
fn unfinished(folder: &Path) -> usize {
    std::fs::read_dir(folder.join(".fledged/unfinished"))
        .unwrap()
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_reported() {
    let Some(setup) = setup() else { return };
    let error = setup
        .fails(Rule::new(Fault::too_many_requests(17)).path("/manifests/"))
        .await;
    assert_eq!(error.reason, Reason::TooManyRequests);
    let delay = error.retry_after;
    assert_eq!(delay, Some(Duration::from_secs(17)), "{error}");

    // As a date, and for a layer.
    let date = "Fri, 31 Dec 2100 23:59:59 GMT";
    let fault = Fault::Status {
        status: 429,
        retry_after: Some(date.to_owned()),
    };
    let error = setup.fails(Rule::new(fault).path("/blobs/")).await;
    assert_eq!(error.reason, Reason::TooManyRequests);
    let longest = Duration::from_secs(3600);
    assert_eq!(error.retry_after, Some(longest), "{error}");
    setup.works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_failure_has_its_reason() {
    let Some(setup) = setup() else { return };
    for (fault, expected) in [
        (Fault::status(500), Reason::RegistryError),
        (Fault::status(503), Reason::RegistryError),
        (Fault::status(403), Reason::Unauthorized),
        (Fault::status(404), Reason::ImageNotFound),
        (Fault::Hangup, Reason::ConnectionFailed),
        (Fault::CutAfter(20), Reason::ConnectionFailed),
        (Fault::CorruptAt(20), Reason::DigestMismatch),
    ] {
        for path in ["/manifests/", "/blobs/"] {
            // Always, because requests for blobs are repeated.
            let rule = Rule::new(fault.clone()).method("GET").path(path).always();
            let error = setup.fails(rule).await;
            assert_eq!(error.reason, expected, "{fault:?} on {path}: {error}");
        }
        let left = unfinished(setup.folder.path());
        assert!(
            expected != Reason::DigestMismatch || left == 0,
            "{left} corrupt files"
        );
    }
    let error = setup
        .fails(Rule::new(Fault::status(503)).path("/manifests/"))
        .await;
    let shown = error.to_string();
    assert!(
        shown.contains("this registry is scripted to fail"),
        "{shown}"
    );
    setup.works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_pull_fetches_only_missing_blobs() {
    let Some(setup) = setup() else { return };
    let large = setup.large().to_owned();
    let blob = |digest: &Digest| {
        let blobs = setup.folder.path().join("blobs").join("sha256");
        blobs.join(digest.hex()).exists()
    };
    let others = || {
        let there = blob(&setup.pushed.layers[0]) && blob(&setup.pushed.config_digest);
        there.then_some(())
    };
    // The large layer stalls, so that the others are complete before it is cut off.
    setup
        .proxy
        .add(Rule::new(Fault::StallAfter(1_000_000)).path(&large));
    let running = tokio::spawn({
        let (runtime, reference) = (setup.runtime.clone(), setup.reference.clone());
        async move { pull(&runtime, &reference).await }
    });
    tokio::task::block_in_place(|| poll_until("the other blobs", SOON, others));
    let partial = partial_file(setup.folder.path(), setup.large_digest());
    let half = || (length_of(&partial) == 1_000_000).then_some(());
    tokio::task::block_in_place(|| poll_until("the half layer", SOON, half));
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    assert_eq!(setup.runtime.list().await.unwrap(), []);
    setup.works().await;
    let requests = setup.proxy.requests_matching("GET", "/blobs/");
    assert_eq!(requests.len(), 4, "three, and one again: {requests:?}");
    assert!(requests[3].path.contains(&large));
    let range = requests[3].range.as_deref();
    assert!(
        range.is_some_and(|range| range.starts_with("bytes=1000000-")),
        "{range:?}"
    );
    assert_eq!(unfinished(setup.folder.path()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_half_is_fetched_again() {
    let Some(setup) = setup() else { return };
    // Requests are repeated; each repetition brings some more.
    let cut = Fault::CutAfter(100_000);
    let error = setup
        .fails(Rule::new(cut).path(setup.large()).always())
        .await;
    assert_eq!(error.reason, Reason::ConnectionFailed, "{error}");
    let partial = partial_file(setup.folder.path(), setup.large_digest());
    let mut content = std::fs::read(&partial).unwrap();
    content[1000] ^= 1;
    std::fs::write(&partial, &content).unwrap();
    setup.works().await;
    assert_eq!(unfinished(setup.folder.path()), 0);
    let requests = setup.proxy.requests_matching("GET", setup.large());
    let last = requests.last().unwrap();
    assert_eq!(last.range, None, "from the start: {requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_registry_fails_the_pull() {
    let Some(setup) = setup() else { return };
    let hasty = RegistryOptions::default().with_read_timeout(Duration::from_millis(300));
    let options = OciLayoutOptions::default().with_registry(hasty);
    let impatient = OciLayoutRuntime::open(setup.folder.path(), options).unwrap();
    for fault in [Fault::Stall, Fault::StallAfter(100_000)] {
        setup
            .proxy
            .add(Rule::new(fault).path(setup.large()).always());
        let error = pull(&impatient, &setup.reference).await.unwrap_err();
        assert_eq!(error.reason, Reason::ConnectionFailed, "{error}");
        setup.proxy.clear();
    }
    // A slow registry is not stalled.
    let slow = Fault::Throttle {
        bytes_per_second: 3_000_000,
    };
    setup.proxy.add(Rule::new(slow).path(setup.large()));
    pull(&impatient, &setup.reference).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_pull_takes_over_a_layer_whose_pull_is_dropped() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let base = [Layer::random("base", 1, 2_000_000, Compression::Stored)];
    let pushed = images_with_shared_base(&registry, "app", 2, &base, 1000);
    let proxy = FaultProxy::start(registry.addr());
    let shared = base[0].digest.as_str();
    proxy.add(Rule::new(Fault::StallAfter(500_000)).path(shared));
    let folder = TempDir::new().unwrap();
    let runtime = open(folder.path());
    let start = |pushed: &Pushed| {
        let (runtime, reference) = (runtime.clone(), pushed.reference_at(proxy.addr()));
        tokio::spawn(async move { pull(&runtime, &reference).await })
    };
    let first = start(&pushed[0]);
    let wait = |what: &str, part: &str| {
        tokio::task::block_in_place(|| proxy.wait_for(what, |r| r.path.contains(part)));
    };
    wait("a request for the shared layer", shared);
    let second = start(&pushed[1]);
    wait("the second pull", pushed[1].layers[1].as_str());
    assert_eq!(proxy.requests_matching("GET", shared).len(), 1, "it waits");
    first.abort();
    second.await.unwrap().unwrap();
    assert_eq!(proxy.requests_matching("GET", shared).len(), 2);
    check_layout(folder.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_parallel_layers_is_limited() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let builder = (0..8).fold(ImageBuilder::new(), |builder, n| {
        builder.random_layer("data", n, 100_000)
    });
    let pushed = builder.push(&registry, "app", "1");
    let proxy = FaultProxy::start(registry.addr());
    let slow = Fault::Throttle {
        bytes_per_second: 1_000_000,
    };
    proxy.add(Rule::new(slow).path("/blobs/").always());
    let folder = TempDir::new().unwrap();
    pull(&open(folder.path()), &pushed.reference_at(proxy.addr()))
        .await
        .unwrap();
    assert_eq!(proxy.peak_downloads(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_reported_and_unused_blobs_go() {
    if !require(&["docker-registry", "mount"]) {
        return;
    }
    let registry = Registry::start();
    let small = ImageBuilder::new().push(&registry, "small", "1");
    let large = ImageBuilder::new()
        .random_layer("a", 1, 1_000_000)
        .random_layer("b", 2, 2_000_000)
        .push(&registry, "large", "1");
    let folder = TempDir::new().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
        .arg(folder.path())
        .status()
        .unwrap();
    if !mounted.success() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "cannot mount");
        println!("skipped: a file system can only be mounted by root");
        return;
    }
    let unmount = Unmount(folder.path());
    let runtime = open(folder.path());
    pull(&runtime, &small.reference).await.unwrap();
    // A blob of another tool's running copy, and one of a copy that was aborted long ago.
    let [young, old] = [8, 9].map(|seed| {
        let layer = Layer::random("other", seed, 1000, Compression::Stored);
        let path = folder.path().join("blobs/sha256").join(layer.digest.hex());
        std::fs::write(&path, &layer.blob).unwrap();
        (path, layer.digest)
    });
    let mut before = check_layout(folder.path());
    let hour_ago = SystemTime::now() - Duration::from_secs(60 * 60);
    let opened = File::options().write(true).open(&old.0).unwrap();
    opened.set_modified(hour_ago).unwrap();
    drop(opened);
    let error = pull(&runtime, &large.reference).await.unwrap_err();
    assert_eq!(error.reason, Reason::DiskFull, "{error}");
    assert!(error.to_string().contains("No space left"), "{error}");
    assert_eq!(unfinished(folder.path()), 0);
    assert!(before.blobs.contains(&young.1) && before.blobs.remove(&old.1));
    assert_eq!(
        check_layout(folder.path()),
        before,
        "what cannot serve went"
    );
    let found = runtime.lookup(&image(&small.reference)).await.unwrap();
    assert!(found.is_some());
    runtime.pull(PullRequest::new(small.image())).await.unwrap();
    drop(unmount);
}
