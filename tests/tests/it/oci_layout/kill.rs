//! SIGKILL at any moment leaves a valid layout.

use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

use fledged_tests::{
    Compression, Fault, FaultProxy, ImageBuilder, Layer, Pushed, Registry, Rule, SOON,
    check_layout, images_with_shared_base, poll_until, require,
};
use tempfile::TempDir;

use crate::oci_layout::faults::{length_of, partial_file};
use crate::oci_layout::support::{open, pull};
use crate::oci_layout::writer::start_writer;

/// Number of kills, at moments spread over a whole run: start, downloads, index,
/// removal.
const KILLS: u32 = 30;
/// Time limit of the test, with a wide margin for a loaded machine.
const DEADLINE: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_leaves_a_valid_layout() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let base = [Layer::random("base", 1, 2_000_000, Compression::Stored)];
    let pushed = images_with_shared_base(&registry, "app", 3, &base, 500_000);
    // Duration of a run, updated because the machine's load changes.
    let mut span = {
        let folder = TempDir::new().unwrap();
        let start = Instant::now();
        let status = start_writer(folder.path(), &pushed, &[]).wait().unwrap();
        assert!(status.success(), "a writer that is not killed: {status}");
        assert_eq!(check_layout(folder.path()).blobs.len(), 0, "all removed");
        start.elapsed()
    };
    let folder = TempDir::new().unwrap();
    let deadline = Instant::now() + DEADLINE;
    // Kills that hit a running writer; layouts found empty, and with images.
    let (mut killed, mut empty, mut filled) = (0, 0, 0);
    for round in 0_u32.. {
        if killed >= KILLS && empty > 0 && filled > 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{killed} {empty} {filled}");
        let mut child = start_writer(folder.path(), &pushed, &[]);
        // No condition to poll: the moments are spread over the whole run.
        tokio::time::sleep_until((Instant::now() + span * (round % 10) / 10).into()).await;
        // The child may have ended by itself just now.
        child.kill().unwrap();
        let alive = !child.wait().unwrap().success();
        killed += u32::from(alive);
        span = if alive { span * 21 / 20 } else { span * 4 / 5 };
        if folder.path().join("oci-layout").exists() {
            match check_layout(folder.path()).references.len() {
                0 => empty += 1,
                _ => filled += 1,
            }
        }
    }

    // The next process completes the pull.
    let runtime = open(folder.path());
    for pushed in &pushed {
        pull(&runtime, &pushed.reference).await.unwrap();
    }
    assert_eq!(check_layout(folder.path()).references.len(), 3);
    let left = fs::read_dir(folder.path().join(".fledged/unfinished"));
    assert_eq!(left.unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_after_a_killed_one_goes_on_with_its_layer() {
    if !require(&["docker-registry"]) {
        return;
    }
    // The first part, of 8 MiB, is complete; the second stops in its middle, and so do those after it.
    const STALL: u64 = 3_000_000;
    const WRITTEN: u64 = (8 << 20) + STALL;
    let registry = Registry::start();
    let pushed = ImageBuilder::new()
        .random_layer("data", 1, 40_000_000)
        .push(&registry, "app", "1");
    let layer = &pushed.layers[0];
    let proxy = FaultProxy::start(registry.addr());
    let stall = Rule::new(Fault::StallAfter(STALL)).path(layer.as_str());
    proxy.add(stall.skip(1).always());
    let through_proxy = Pushed {
        reference: pushed.reference_at(proxy.addr()),
        ..pushed.clone()
    };
    let folder = TempDir::new().unwrap();
    let mut child = start_writer(folder.path(), &[through_proxy], &[]);
    let partial = partial_file(folder.path(), layer);
    poll_until("the start of the layer", SOON, || {
        (length_of(&partial) == WRITTEN).then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    proxy.clear();
    let before = proxy.requests().len();
    let reference = pushed.reference_at(proxy.addr());
    pull(&open(folder.path()), &reference).await.unwrap();
    check_layout(folder.path());
    let requests = proxy.requests();
    let sent = requests[before..]
        .iter()
        .filter(|r| r.path.contains(layer.as_str()));
    let sent: u64 = sent.map(|request| request.sent).sum();
    let size = length_of(&folder.path().join("blobs/sha256").join(layer.hex()));
    assert_eq!(sent, size - WRITTEN, "no byte twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_take_turns() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let base = [Layer::random("base", 1, 500_000, Compression::Stored)];
    let pushed = images_with_shared_base(&registry, "app", 6, &base, 10_000);
    let folder = TempDir::new().unwrap();
    // Each process removes its images while the other pulls images with the same layers.
    let children: Vec<Child> = pushed
        .chunks(2)
        .map(|chunk| start_writer(folder.path(), chunk, &[]))
        .collect();
    for mut child in children {
        let ended = poll_until("a writer to end", SOON + Duration::from_secs(60), || {
            child.try_wait().unwrap()
        });
        assert!(ended.success(), "{ended}");
    }
    assert_eq!(check_layout(folder.path()).blobs.len(), 0);
}
