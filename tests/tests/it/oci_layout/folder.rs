//! Folders that cannot be written to, which is not retried.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use fledged_core::error::{ErrorClass, Failure, Reason};
use fledged_core::port::ImageRuntime;
use fledged_cri::oci::{OciLayoutOptions, OciLayoutRuntime};
use fledged_tests::{ImageBuilder, Registry, check_layout, require};
use tempfile::TempDir;

use crate::oci_layout::support::{Unmount, image, open, pull};

/// Environment variable for the child: folder and reference, separated by a space.
const ORDER: &str = "FLEDGED_TEST_STRANGER";
/// User and group `nobody` of most distributions; any unprivileged user would do.
const NOBODY: u32 = 65534;

fn assert_final(error: &Failure, path: &Path) {
    assert_eq!(error.reason, Reason::StoreUnusable, "{error}");
    assert_eq!(error.class(), ErrorClass::Fatal);
    let path = path.display().to_string();
    assert!(error.to_string().contains(&path), "{error}");
}

/// Not a test by itself: the child process, as the user `nobody`.
#[tokio::test]
async fn stranger() {
    let Ok(order) = std::env::var(ORDER) else {
        return;
    };
    let (folder, reference) = order.split_once(' ').unwrap();
    let folder = Path::new(folder);
    let runtime = open(folder);
    let error = pull(&runtime, reference).await.unwrap_err();
    assert_final(&error, folder);
    assert!(error.to_string().contains("ermission denied"), "{error}");
}

/// Pulls as an unprivileged user, because permissions do not apply to root.
fn pull_as_stranger(folder: &Path, reference: &str) {
    let mut child = if rustix::process::geteuid().is_root() {
        // A copy, because other users may not reach this binary.
        let program = folder.with_file_name("program");
        if !program.exists() {
            fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        }
        let mut child = Command::new(program);
        child.uid(NOBODY).gid(NOBODY).current_dir("/");
        child
    } else {
        Command::new(std::env::current_exe().unwrap())
    };
    let output = child
        .args(["--exact", "oci_layout::folder::stranger", "--nocapture"])
        .env(ORDER, format!("{} {reference}", folder.display()))
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("1 passed"), "{stdout}");
}

#[tokio::test]
async fn a_permission_error_is_final() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let pushed = ImageBuilder::new().push(&registry, "app", "1");
    let place = TempDir::new().unwrap();
    let chmod = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    chmod(place.path(), 0o755);
    let folder = place.path().join("images");

    fs::create_dir(&folder).unwrap();
    chmod(&folder, 0o555);
    pull_as_stranger(&folder, &pushed.reference);

    chmod(&folder, 0o755);
    pull(&open(&folder), &pushed.reference).await.unwrap();
    for path in [".fledged", ".fledged/unfinished", "blobs/sha256"] {
        chmod(&folder.join(path), 0o777);
    }
    chmod(&folder.join(".fledged/lock"), 0o666);
    let manifest = folder.join("blobs/sha256").join(pushed.digest.hex());
    chmod(&manifest, 0);
    pull_as_stranger(&folder, &pushed.reference);
    chmod(&manifest, 0o644);
    check_layout(&folder);
}

#[tokio::test]
async fn a_read_only_mount_is_final() {
    if !require(&["docker-registry", "mount"]) {
        return;
    }
    let registry = Registry::start();
    let [one, two] = ["one", "two"].map(|name| ImageBuilder::new().push(&registry, name, "1"));
    let folder = TempDir::new().unwrap();
    let mount = |options: &str| {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]);
        mount.arg(folder.path()).status().unwrap().success()
    };
    if !mount("size=2m") {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "cannot mount");
        println!("skipped: a file system can only be mounted by root");
        return;
    }
    let unmount = Unmount(folder.path());
    let runtime = open(folder.path());
    pull(&runtime, &one.reference).await.unwrap();
    assert!(mount("remount,ro"));
    // Opened again, as by another process.
    let runtime = open(folder.path());
    let error = pull(&runtime, &two.reference).await.unwrap_err();
    assert_final(&error, folder.path());
    assert!(
        error.to_string().contains("Read-only file system"),
        "{error}"
    );
    let error = runtime.remove(&one.image()).await.unwrap_err();
    assert_final(&error, folder.path());
    assert!(runtime.lookup(&one.image()).await.unwrap().is_some());
    drop(unmount);
}

#[tokio::test]
async fn an_obstructing_file_is_named() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let pushed = ImageBuilder::new()
        .random_layer("data", 1, 1000)
        .push(&registry, "app", "1");
    let place = TempDir::new().unwrap();
    for blob in [&pushed.digest, &pushed.layers[0]] {
        let folder = place.path().join(blob.hex());
        let in_the_way = folder.join("blobs/sha256").join(blob.hex());
        let runtime = open(&folder);
        pull(&runtime, &pushed.reference).await.unwrap();
        fs::remove_file(&in_the_way).unwrap();
        fs::create_dir(&in_the_way).unwrap();
        let error = pull(&runtime, &pushed.reference).await.unwrap_err();
        assert_final(&error, &in_the_way);
        fs::remove_dir(&in_the_way).unwrap();
        pull(&runtime, &pushed.reference).await.unwrap();
        assert!(
            runtime
                .lookup(&image(&pushed.reference))
                .await
                .unwrap()
                .is_some()
        );
        check_layout(&folder);
    }

    let link = place.path().join("link");
    symlink(place.path().join("nowhere"), &link).unwrap();
    let error = OciLayoutRuntime::open(&link, OciLayoutOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{} is a link to nothing", link.display())
    );
}
