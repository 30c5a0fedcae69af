//! Pulls: references, credentials, concurrency, progress.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use fledged_core::error::Reason;
use fledged_core::port::{ImageRuntime, ProgressSink, PullProgress, PullRequest};
use fledged_tests::{
    Compression, ImageBuilder, Layer, Registry, check_layout, images_with_shared_base, require,
};
use futures_util::future::join_all;
use tempfile::TempDir;

use crate::oci_layout::support::{auth, blobs_read, image, open, pull, skopeo};
use crate::oci_layout::writer::start_writer;

#[tokio::test]
async fn pulls_by_tag_by_digest_and_without_either() {
    if !require(&["docker-registry", "skopeo"]) {
        return;
    }
    let registry = Registry::start();
    let build = || ImageBuilder::new().random_layer("data", 1, 300_000);
    let tagged = build().push(&registry, "team/app", "1.0");
    build().push(&registry, "team/app", "latest");
    let folder = TempDir::new().unwrap();
    let runtime = open(folder.path());
    assert_eq!(runtime.list().await.unwrap(), [], "nothing is there yet");

    let untagged = format!("{}/team/app", registry.addr());
    for reference in [&tagged.reference, &tagged.by_digest(), &untagged] {
        assert_eq!(runtime.lookup(&image(reference)).await.unwrap(), None);
        let pulled = pull(&runtime, reference).await.unwrap();
        assert_eq!(pulled.digest.as_ref(), Some(&tagged.digest));
        assert_eq!(pulled.size.bytes(), tagged.size);
        assert!(pulled.references.contains(&image(reference)));
        let found = runtime.lookup(&image(reference)).await.unwrap();
        assert_eq!(found, Some(pulled));

        let name = image(reference).as_str().to_owned();
        let source = format!("oci:{}:{name}", folder.path().display());
        let inspected: serde_json::Value =
            serde_json::from_str(&skopeo(&["inspect", &source])).unwrap();
        assert_eq!(inspected["Digest"], tagged.digest.as_str());
        let copy = TempDir::new().unwrap();
        let target = format!("dir:{}", copy.path().display());
        skopeo(&["copy", "--quiet", &source, &target]);
        assert!(copy.path().join(tagged.layers[0].hex()).is_file());
    }
    let listed = runtime.list().await.unwrap();
    assert_eq!(listed.len(), 1, "one image by three names");
    assert_eq!(listed[0].references.len(), 3);
    assert_eq!(check_layout(folder.path()).references.len(), 3);
    let blobs = blobs_read(&registry);
    assert_eq!(blobs.len(), 2, "layer and configuration, once: {blobs:?}");

    let usage = runtime.filesystems().await.unwrap();
    assert_eq!(usage[0].used.bytes(), tagged.size);
    assert!(usage[0].available.unwrap().bytes() > 0);
}

#[tokio::test]
async fn a_private_registry_needs_the_right_password() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start_with_htpasswd("user", "right");
    let pushed = ImageBuilder::new().push(&registry, "team/app", "1");
    let folder = TempDir::new().unwrap();
    let runtime = open(folder.path());
    let request = |auth| PullRequest::new(pushed.image()).with_auth(auth);
    for wrong in [None, auth(registry.addr(), "user", "wr0ng").await] {
        let error = runtime.pull(request(wrong)).await.unwrap_err();
        assert_eq!(error.reason, Reason::Unauthorized, "{error}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("wr0ng"), "{shown}");
    }
    assert_eq!(runtime.list().await.unwrap(), []);
    let right = auth(registry.addr(), "user", "right").await;
    runtime.pull(request(right.clone())).await.unwrap();
    check_layout(folder.path());

    let error = runtime
        .pull(PullRequest::new(image(&format!("{}/team/none:1", registry.addr()))).with_auth(right))
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::ImageNotFound, "{error}");
}

#[tokio::test]
async fn ten_images_fetch_shared_blobs_once() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let base: Vec<Layer> = (0..3)
        .map(|n| Layer::random("base", n, 400_000, Compression::Stored))
        .collect();
    let pushed = images_with_shared_base(&registry, "app", 10, &base, 50_000);
    let folder = TempDir::new().unwrap();
    let runtime = open(folder.path());
    let pulls = pushed.iter().map(|p| pull(&runtime, &p.reference));
    for result in join_all(pulls).await {
        result.unwrap();
    }
    let mut blobs = blobs_read(&registry);
    let digests: BTreeSet<_> = blobs
        .drain(..)
        .map(|path| path.rsplit('/').next().unwrap().to_owned())
        .collect();
    let read = registry.requests_matching("GET", "/blobs/").len();
    assert_eq!(
        digests.len(),
        3 + 10 + 10,
        "base, own layers, configurations"
    );
    assert_eq!(read, digests.len(), "each once");
    let content = check_layout(folder.path());
    assert_eq!(content.references.len(), 10);
    assert_eq!(content.blobs.len(), 3 + 10 + 10 + 10);
}

#[tokio::test]
async fn progress_adds_up_to_the_fetched_bytes() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let base = [Layer::random("base", 1, 200_000, Compression::Stored)];
    let pushed = images_with_shared_base(&registry, "app", 2, &base, 100_000);
    let folder = TempDir::new().unwrap();
    let runtime = open(folder.path());
    pull(&runtime, &pushed[0].reference).await.unwrap();
    let seen: Arc<Mutex<Vec<PullProgress>>> = Arc::default();
    let progress = {
        let seen = Arc::clone(&seen);
        ProgressSink::new(move |p| seen.lock().unwrap().push(p))
    };
    let request = PullRequest::new(pushed[1].image()).with_progress(progress);
    runtime.pull(request).await.unwrap();
    let seen = seen.lock().unwrap();
    let last = seen.last().unwrap();
    assert_eq!(Some(last.done), last.total);
    assert!(
        last.done.bytes() > 100_000 && last.done.bytes() < 200_000,
        "{last:?}"
    );
    assert!(seen.windows(2).all(|w| w[0].done <= w[1].done), "{seen:?}");
}

#[tokio::test]
async fn a_registry_on_this_machine_is_reached_without_proxy() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let pushed = ImageBuilder::new().push(&registry, "app", "1");
    let folder = TempDir::new().unwrap();
    // Port 9 (discard): this proxy never answers.
    let proxy = [("http_proxy", "http://127.0.0.1:9"), ("no_proxy", "")];
    let mut child = start_writer(folder.path(), &[pushed], &proxy);
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(blobs_read(&registry).len(), 2);
}
