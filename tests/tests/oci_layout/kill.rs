//! SIGKILL at any moment leaves a valid layout.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fledged_core::ports::ImageRuntime;
use fledged_tests::{
    Compression, Layer, Pushed, Registry, SOON, check_layout, images_with_shared_base, poll_until,
    require,
};
use futures_util::future::join_all;
use tempfile::TempDir;

use crate::support::{image, open, pull};

/// Tells the child what to do: the folder, then references, separated by spaces.
const ORDER: &str = "FLEDGED_TEST_WRITER";
/// How often the child is killed. Moments are spread evenly over a whole run, so that each phase
/// (start, downloads, index, removal) is met several times.
const KILLS: u32 = 40;

/// Not a test of its own: what the child does when the test below starts this binary again.
#[tokio::test(flavor = "multi_thread")]
async fn writer() {
    let Ok(order) = std::env::var(ORDER) else {
        return;
    };
    let mut words = order.split(' ');
    let runtime = open(Path::new(words.next().unwrap()));
    let references: Vec<&str> = words.collect();
    for result in join_all(references.iter().map(|r| pull(&runtime, r))).await {
        result.unwrap();
    }
    for reference in references {
        runtime.remove(&image(reference)).await.unwrap();
    }
}

fn start_writer(folder: &Path, pushed: &[Pushed]) -> Child {
    let mut order = folder.display().to_string();
    for pushed in pushed {
        order.push(' ');
        order.push_str(&pushed.reference);
    }
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::writer", "--nocapture"])
        .env(ORDER, order)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_leaves_a_valid_layout() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let base = [Layer::random("base", 1, 2_000_000, Compression::Stored)];
    let pushed = images_with_shared_base(&registry, "app", 3, &base, 500_000);
    let whole_run = {
        let folder = TempDir::new().unwrap();
        let start = Instant::now();
        let status = start_writer(folder.path(), &pushed).wait().unwrap();
        assert!(status.success(), "a writer that nobody kills: {status}");
        assert_eq!(check_layout(folder.path()).blobs.len(), 0, "all removed");
        start.elapsed()
    };
    let folder = TempDir::new().unwrap();
    let (mut killed, mut met) = (0, [0_u32; 4]);
    for round in 0..KILLS {
        let mut child = start_writer(folder.path(), &pushed);
        let moment = Instant::now() + whole_run * round / KILLS;
        tokio::time::sleep_until(moment.into()).await;
        // A child of this test, by its handle; it may have ended by itself just now.
        child.kill().unwrap();
        let status = child.wait().unwrap();
        killed += u32::from(!status.success());
        if folder.path().join("oci-layout").exists() {
            let content = check_layout(folder.path());
            met[content.references.len()] += 1;
        }
    }
    assert!(
        killed > KILLS / 2,
        "only {killed} of {KILLS} were met alive"
    );
    assert!(met[0] > 0 && met[1..].iter().sum::<u32>() > 0, "{met:?}");

    // Whoever comes next makes it whole, and sweeps what the dead left.
    let runtime = open(folder.path());
    for pushed in &pushed {
        pull(&runtime, &pushed.reference).await.unwrap();
    }
    assert_eq!(check_layout(folder.path()).references.len(), 3);
    let left = fs::read_dir(folder.path().join(".fledged/unfinished"));
    assert_eq!(left.unwrap().count(), 0);
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
    // Each removes what it pulled, while the others pull what shares it.
    let children: Vec<Child> = pushed
        .chunks(2)
        .map(|chunk| start_writer(folder.path(), chunk))
        .collect();
    for mut child in children {
        let ended = poll_until("a writer to end", SOON + Duration::from_secs(60), || {
            child.try_wait().unwrap()
        });
        assert!(ended.success(), "{ended}");
    }
    assert_eq!(check_layout(folder.path()).blobs.len(), 0);
}
