//! Present, lost and removed blobs.

use std::fs;
use std::path::Path;

use fledged_core::port::{ImageRuntime, Removal};
use fledged_tests::{
    Compression, ImageBuilder, Layer, Registry, check_layout, images_with_shared_base, require,
};
use tempfile::TempDir;

use crate::oci_layout::support::{blobs_read, image, open, pull};

#[tokio::test]
async fn a_second_pull_reads_no_blob_and_writes_nothing() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let pushed = ImageBuilder::new().push(&registry, "app", "1");
    let folder = TempDir::new().unwrap();
    let runtime = open(folder.path());
    let first = pull(&runtime, &pushed.reference).await.unwrap();
    let state = || {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(folder.path().join("index.json")).unwrap();
        (metadata.ino(), metadata.mtime_nsec())
    };
    let (before, requests) = (state(), registry.requests().len());
    let again = pull(&runtime, &pushed.reference).await.unwrap();
    assert_eq!(again, first);
    assert_eq!(state(), before, "index.json was not touched");
    let since: Vec<String> = registry.requests()[requests..]
        .iter()
        .map(|r| r.method.clone())
        .collect();
    assert_eq!(
        since,
        ["HEAD"],
        "the registry is asked, and nothing is read"
    );

    // Another process, without state in memory.
    pull(&open(folder.path()), &pushed.reference).await.unwrap();
    assert_eq!(blobs_read(&registry).len(), 2);
}

#[tokio::test]
async fn a_lost_blob_is_noticed_and_fetched_again() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let pushed = ImageBuilder::new()
        .random_layer("a", 1, 1000)
        .random_layer("b", 2, 1000)
        .push(&registry, "app", "1");
    let folder = TempDir::new().unwrap();
    let runtime = open(folder.path());
    pull(&runtime, &pushed.reference).await.unwrap();
    let path = |hex: &str| folder.path().join("blobs/sha256").join(hex);
    let layer = path(pushed.layers[1].hex());
    type Loss<'a> = &'a dyn Fn(&Path);
    let losses: [Loss<'_>; 2] = [&|p| fs::remove_file(p).unwrap(), &|p| {
        fs::write(p, "cut").unwrap();
    }];
    for (times, lose) in losses.into_iter().enumerate() {
        lose(&layer);
        assert_eq!(runtime.lookup(&pushed.image()).await.unwrap(), None);
        assert_eq!(runtime.list().await.unwrap(), []);
        pull(&runtime, &pushed.reference).await.unwrap();
        check_layout(folder.path());
        assert_eq!(blobs_read(&registry).len(), 3 + times + 1, "only that blob");
    }
    fs::remove_file(path(pushed.digest.hex())).unwrap();
    assert_eq!(runtime.list().await.unwrap(), [], "the manifest is gone");
    pull(&runtime, &pushed.reference).await.unwrap();
    check_layout(folder.path());
    assert_eq!(blobs_read(&registry).len(), 5, "blobs were all there");
}

#[tokio::test]
async fn a_removal_deletes_unshared_blobs() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let base = [Layer::random("base", 1, 5000, Compression::Stored)];
    let pushed = images_with_shared_base(&registry, "app", 2, &base, 1000);
    let folder = TempDir::new().unwrap();
    let runtime = open(folder.path());
    let elsewhere = TempDir::new().unwrap();
    let nowhere = open(&elsewhere.path().join("new"));
    let removal = nowhere.remove(&pushed[0].image()).await.unwrap();
    assert_eq!(removal, Removal::Absent);
    assert!(!nowhere.folder().exists(), "nothing was created for that");

    for p in &pushed {
        pull(&runtime, &p.reference).await.unwrap();
    }
    pull(&runtime, &pushed[0].by_digest()).await.unwrap();
    let all = check_layout(folder.path());

    // The image has a second name: every blob is still needed.
    let by_digest = image(&pushed[0].by_digest());
    assert_eq!(runtime.remove(&by_digest).await.unwrap(), Removal::Removed);
    assert_eq!(runtime.remove(&by_digest).await.unwrap(), Removal::Absent);
    assert_eq!(check_layout(folder.path()).blobs, all.blobs);

    let removal = runtime.remove(&pushed[0].image()).await.unwrap();
    assert_eq!(removal, Removal::Removed);
    let left = check_layout(folder.path());
    assert_eq!(left.references.len(), 1);
    assert!(left.blobs.contains(&base[0].digest), "shared");
    let gone: Vec<_> = all.blobs.difference(&left.blobs).collect();
    assert_eq!(
        gone.len(),
        3,
        "manifest, configuration, own layer: {gone:?}"
    );

    runtime.remove(&pushed[1].image()).await.unwrap();
    assert_eq!(check_layout(folder.path()).blobs.len(), 0);
    assert_eq!(runtime.filesystems().await.unwrap()[0].used.bytes(), 0);
}

#[tokio::test]
async fn a_moved_tag_leaves_no_unused_blob() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let push = |seed| {
        ImageBuilder::new()
            .random_layer("data", seed, 1000)
            .push(&registry, "app", "latest")
    };
    let old = push(1);
    let folder = TempDir::new().unwrap();
    let runtime = open(folder.path());
    pull(&runtime, &old.reference).await.unwrap();
    let new = push(2);
    let pulled = pull(&runtime, &new.reference).await.unwrap();
    assert_eq!(pulled.digest, Some(new.digest));
    let content = check_layout(folder.path());
    assert_eq!(content.blobs.len(), 3);
    assert!(!content.blobs.contains(&old.layers[0]));
}
