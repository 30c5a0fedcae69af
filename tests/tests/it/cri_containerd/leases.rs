//! How long containerd keeps what fledged writes into its content store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fledged_core::model::PulledVia;
use fledged_core::port::ImageRuntime;
use fledged_cri::cri::CriRuntime;
use fledged_tests::{
    Containerd, Fault, Fledged, ImageBuilder, ManifestFile, Pushed, Rule, Running, SOON, poll_until,
};

use crate::cri_containerd::fetcher::{
    Setup, assert_continued, collect_garbage, fetching, ingests, leases, options, pull_that_stalls,
    setup, stall, wait_until_stalled,
};
use crate::cri_containerd::{image, pull};

/// A runtime that keeps what pulls that ended early have left for a time only.
fn keeping(containerd: &Containerd, time: Duration) -> CriRuntime {
    let mut options = options(containerd);
    options.keep_unfinished = time;
    CriRuntime::connect(containerd.socket()).with_fetcher(options)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_outlasts_its_lease_renews_it() {
    let Some(mut setup) = setup() else { return };
    // Long enough for a renewal on a busy machine.
    let lasting = Duration::from_secs(10);
    setup.runtime = keeping(&setup.containerd, lasting);
    let pushed = ImageBuilder::new()
        .random_layer("base", 1, 2_000_000)
        .random_layer("data", 2, 8_000_000)
        .push(&setup.registry, "team/app", "1");
    let slow = Fault::Throttle {
        bytes_per_second: 500_000,
    };
    setup
        .proxy
        .add(Rule::new(slow).path(pushed.layers[1].as_str()).always());
    let began = Instant::now();
    let pulling = setup.pull(&pushed);
    tokio::pin!(pulling);
    let mut collections = 0;
    let pulled = loop {
        match tokio::time::timeout(Duration::from_secs(1), &mut pulling).await {
            Ok(pulled) => break pulled.unwrap(),
            Err(_) => tokio::task::block_in_place(|| collect_garbage(&setup.containerd)),
        }
        collections += u32::from(began.elapsed() > lasting);
    };
    assert!(collections > 1, "{collections} in {:?}", began.elapsed());
    assert_eq!(pulled.via, Some(PulledVia::Fetcher));
    setup.assert_each_byte_once(&pushed);
    setup.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_abandoned_pull_left_expires() {
    let Some(mut setup) = setup() else { return };
    setup.runtime = keeping(&setup.containerd, Duration::from_secs(3));
    let setup = Arc::new(setup);
    let pushed = setup.one_layer();
    let pulling = pull_that_stalls(&setup, &pushed);
    pulling.abort();
    assert!(pulling.await.unwrap_err().is_cancelled());
    // With the copy of a renewal that was cut.
    assert!(!leases(&setup.containerd).is_empty());
    poll_until("the lease to expire", SOON, || {
        collect_garbage(&setup.containerd);
        leases(&setup.containerd).is_empty().then_some(())
    });
    assert_eq!(ingests(&setup.containerd), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pulls_have_left_can_be_discarded() {
    let Some(setup) = setup().map(Arc::new) else {
        return;
    };
    let pushed = setup.one_layer();
    let pulling = pull_that_stalls(&setup, &pushed);
    pulling.abort();
    assert!(pulling.await.unwrap_err().is_cancelled());
    // Also by a program that fetches nothing itself.
    let runtime = CriRuntime::connect(setup.containerd.socket());
    let other = image("registry.invalid/team/app:1");
    runtime.discard_unfinished(&other).await.unwrap();
    assert_eq!(leases(&setup.containerd).len(), 1);
    let name = image(&pushed.reference_at(setup.proxy.addr()));
    runtime.discard_unfinished(&name).await.unwrap();
    // At once.
    assert_eq!(ingests(&setup.containerd), [""; 0]);
    assert_eq!(leases(&setup.containerd), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_of_a_running_pull_is_not_deleted_by_others() {
    let Some(setup) = setup().map(Arc::new) else {
        return;
    };
    let pushed = setup.one_layer();
    let pulling = pull_that_stalls(&setup, &pushed);
    let running = leases(&setup.containerd);
    assert_eq!(running.len(), 1);
    let name = pushed.reference_at(setup.proxy.addr());
    let other = fetching(&setup.containerd);
    other.discard_unfinished(&image(&name)).await.unwrap();
    assert_eq!(leases(&setup.containerd), running);

    // The tag names another image now, which another process pulls.
    ImageBuilder::new()
        .random_layer("data", 2, 1_000_000)
        .push(&setup.registry, "team/app", "1");
    pull(&other, &name).await.unwrap();
    assert_eq!(leases(&setup.containerd), running);
    pulling.abort();
    assert!(pulling.await.unwrap_err().is_cancelled());
    other.discard_unfinished(&image(&name)).await.unwrap();
    setup.assert_nothing_left();
}

/// Starts another process that pulls the image, and waits until the start of the layer is in containerd.
fn stalled_apply(setup: &Setup, manifest: &ManifestFile, pushed: &Pushed) -> Running {
    stall(setup, pushed);
    let apply = Fledged::new()
        .args(["node", "apply", "--runtime", &setup.containerd.uri(), "-f"])
        .arg(manifest.path())
        .env("FLEDGED_PULL_VIA", "auto")
        // So that it does not leave the layer to containerd.
        .env("FLEDGED_MAX_PULL_RATE", "50Mi")
        .spawn();
    wait_until_stalled(setup, pushed);
    apply
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pull_of_a_killed_process_is_continued() {
    let Some(setup) = setup() else { return };
    let pushed = setup.one_layer();
    let manifest = ManifestFile::new(&[&pushed.reference_at(setup.proxy.addr())]);
    let killed = stalled_apply(&setup, &manifest, &pushed);
    let output = killed.kill9();
    assert_eq!(output.code, None, "{output}");
    assert_continued(&setup, &pushed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_deletes_what_a_killed_process_has_fetched() {
    let Some(setup) = setup() else { return };
    let pushed = setup.one_layer();
    let manifest = ManifestFile::new(&[&pushed.reference_at(setup.proxy.addr())]);
    let killed = stalled_apply(&setup, &manifest, &pushed);
    let output = killed.kill9();
    assert_eq!(output.code, None, "{output}");
    assert_eq!(leases(&setup.containerd).len(), 1);
    let purge = Fledged::new()
        .args(["node", "purge", "--runtime", &setup.containerd.uri(), "-f"])
        .arg(manifest.path())
        .run();
    assert_eq!(purge.code, Some(0), "{purge}");
    setup.assert_nothing_left();
}
