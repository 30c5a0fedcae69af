//! The OCI layout runtime against a real registry, read back by skopeo and containerd.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fledged_core::error::{Reason, RuntimeError};
use fledged_core::model::ImageRef;
use fledged_core::ports::{
    Credentials, CredentialsRequest, ImageRuntime, ProgressSink, PullProgress, PullRequest,
    RegistryAuth, Removal, RuntimeImage,
};
use fledged_cri::credentials::DockerConfig;
use fledged_cri::oci::{OciLayoutOptions, OciLayoutRuntime};
use fledged_tests::{
    Compression, Containerd, ImageBuilder, ImageIndexBuilder, Layer, Platform, Registry,
    check_layout, http, images_with_shared_base, require,
};
use futures_util::future::join_all;
use hyper::Method;
use tempfile::TempDir;

fn open(folder: &Path) -> OciLayoutRuntime {
    OciLayoutRuntime::open(folder, OciLayoutOptions::default()).unwrap()
}

fn image(reference: &str) -> ImageRef {
    reference.parse().unwrap()
}

async fn pull(runtime: &OciLayoutRuntime, reference: &str) -> Result<RuntimeImage, RuntimeError> {
    runtime.pull(PullRequest::new(image(reference))).await
}

async fn reason(runtime: &OciLayoutRuntime, reference: &str) -> Reason {
    pull(runtime, reference).await.unwrap_err().reason()
}

async fn auth(registry: &str, username: &str, password: &str) -> Option<RegistryAuth> {
    let config = serde_json::json!({
        "auths": {registry: {"username": username, "password": password}}
    });
    let request = CredentialsRequest {
        image: image(&format!("{registry}/any")),
        pull_secrets: Vec::new(),
        service_accounts: Vec::new(),
    };
    let credentials = DockerConfig::from_json(config.to_string().as_bytes()).unwrap();
    credentials
        .resolve(&request)
        .await
        .unwrap()
        .into_iter()
        .next()
}

fn skopeo(args: &[&str]) -> String {
    let output = Command::new("skopeo").args(args).output().unwrap();
    assert!(
        output.status.success(),
        "skopeo {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Paths of the blobs that were read from the registry.
fn blobs_read(registry: &Registry) -> Vec<String> {
    let requests = registry.requests_matching("GET", "/blobs/");
    requests.into_iter().map(|r| r.path).collect()
}

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
async fn a_private_registry_wants_the_right_password() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start_with_htpasswd("user", "right");
    let pushed = ImageBuilder::new().push(&registry, "team/app", "1");
    let folder = TempDir::new().unwrap();
    let runtime = open(folder.path());
    let request = |auth| PullRequest {
        auth,
        ..PullRequest::new(pushed.image())
    };
    for wrong in [None, auth(registry.addr(), "user", "wr0ng").await] {
        let error = runtime.pull(request(wrong)).await.unwrap_err();
        assert_eq!(error.reason(), Reason::Unauthorized, "{error}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("wr0ng"), "{shown}");
    }
    assert_eq!(runtime.list().await.unwrap(), []);
    let right = auth(registry.addr(), "user", "right").await;
    runtime.pull(request(right.clone())).await.unwrap();
    check_layout(folder.path());

    let error = runtime
        .pull(PullRequest {
            auth: right,
            ..PullRequest::new(image(&format!("{}/team/none:1", registry.addr())))
        })
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::ImageNotFound, "{error}");
}

#[tokio::test]
async fn ten_images_fetch_what_they_share_once() {
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
    let digests: std::collections::BTreeSet<_> = blobs
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
async fn a_pull_of_what_is_there_reads_and_writes_nothing() {
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

    // Another process, which remembers nothing.
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
async fn removing_takes_what_nothing_else_needs() {
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

    // By one of two names: everything is still needed.
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
async fn a_tag_that_moved_leaves_nothing_behind() {
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

#[tokio::test]
async fn an_index_keeps_its_digest_and_one_platform() {
    if !require(&["docker-registry", "skopeo"]) {
        return;
    }
    let registry = Registry::start();
    let build = |seed, platform| {
        ImageBuilder::new()
            .platform(platform)
            .random_layer("data", seed, 1000)
            .build()
    };
    let (ours, theirs) = (build(1, Platform::host()), build(2, Platform::foreign()));
    let pushed = ImageIndexBuilder::new()
        .image(theirs.clone())
        .image(ours.clone())
        .push(&registry, "app", "1");
    let folder = TempDir::new().unwrap();
    let runtime = open(folder.path());
    let by_digest = pushed.by_digest();
    for reference in [&pushed.reference, &by_digest] {
        let pulled = pull(&runtime, reference).await.unwrap();
        assert_eq!(pulled.digest.as_ref(), Some(&pushed.digest));
        assert!(runtime.lookup(&image(reference)).await.unwrap().is_some());
        let source = format!("oci:{}:{reference}", folder.path().display());
        skopeo(&["inspect", &source]);
        let copy = TempDir::new().unwrap();
        let target = format!("dir:{}", copy.path().display());
        skopeo(&["copy", "--quiet", &source, &target]);
        assert!(copy.path().join(ours.config_digest().hex()).is_file());
    }
    let content = check_layout(folder.path());
    assert!(content.blobs.contains(&ours.digest()));
    assert!(!content.blobs.contains(&theirs.digest()), "not for us");

    // Another platform into the same layout: both are there then.
    let options = OciLayoutOptions {
        platform: "linux/s390x".parse().unwrap(),
        ..OciLayoutOptions::default()
    };
    let other = OciLayoutRuntime::open(folder.path(), options).unwrap();
    assert_eq!(other.lookup(&pushed.image()).await.unwrap(), None);
    pull(&other, &pushed.reference).await.unwrap();
    assert!(check_layout(folder.path()).blobs.contains(&theirs.digest()));
    runtime.remove(&pushed.image()).await.unwrap();
    runtime.remove(&image(&by_digest)).await.unwrap();
    assert_eq!(check_layout(folder.path()).blobs.len(), 0);

    let foreign = ImageIndexBuilder::new()
        .image(theirs.clone())
        .push(&registry, "foreign", "1");
    assert_eq!(
        reason(&runtime, &foreign.reference).await,
        Reason::PlatformNotFound
    );
    let single = theirs.push(&registry, "single", "1");
    let error = pull(&runtime, &single.reference).await.unwrap_err();
    assert_eq!(error.reason(), Reason::PlatformNotFound);
    assert!(error.to_string().contains("linux/s390x"), "{error}");
    assert_eq!(runtime.list().await.unwrap(), []);
}

#[tokio::test]
async fn docker_manifests_are_kept_as_they_are() {
    if !require(&["docker-registry", "skopeo"]) {
        return;
    }
    let registry = Registry::start();
    ImageBuilder::new().push(&registry, "app", "oci");
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let send = |method, tag: &str, media_type, body| {
        let target = format!("/v2/app/manifests/{tag}");
        let headers = [("accept", media_type), ("content-type", media_type)];
        http::send(registry.addr(), method, &target, &headers, None, body).unwrap()
    };
    let manifest = send(Method::GET, "oci", oci, Bytes::new()).body;
    // Two spaces: a manifest that were written anew would have another digest.
    let manifest = String::from_utf8(manifest.to_vec())
        .unwrap()
        .replace(oci, docker)
        .replace("\"schemaVersion\":2", "\"schemaVersion\":  2")
        .replace(
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.docker.container.image.v1+json",
        );
    let stored = send(Method::PUT, "docker", docker, manifest.clone().into());
    assert_eq!(stored.status, 201, "{stored:?}");
    let digest = stored.headers["docker-content-digest"].to_str().unwrap();
    let folder = TempDir::new().unwrap();
    let reference = format!("{}/app:docker", registry.addr());
    let pulled = pull(&open(folder.path()), &reference).await.unwrap();
    assert_eq!(pulled.digest.unwrap().as_str(), digest);
    check_layout(folder.path());
    let source = format!("oci:{}", folder.path().display());
    assert_eq!(skopeo(&["inspect", "--raw", &source]).trim_end(), manifest);
}

#[tokio::test]
async fn progress_adds_up_to_what_was_fetched() {
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
    let request = PullRequest {
        progress,
        ..PullRequest::new(pushed[1].image())
    };
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
async fn containerd_imports_the_layout() {
    if !require(&["docker-registry", "containerd"]) {
        return;
    }
    let registry = Registry::start();
    let single = ImageBuilder::new().push(&registry, "single", "1");
    let index = ImageIndexBuilder::new()
        .image(ImageBuilder::new().platform(Platform::foreign()).build())
        .image(ImageBuilder::new().label("host").build())
        .push(&registry, "index", "1");
    let folder = TempDir::new().unwrap();
    let runtime = open(folder.path());
    for pushed in [&single, &index] {
        pull(&runtime, &pushed.reference).await.unwrap();
    }
    let archives = TempDir::new().unwrap();
    let archive = archives.path().join("layout.tar");
    let packed = Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(folder.path())
        .arg(".")
        .status();
    assert!(packed.unwrap().success());
    let containerd = Containerd::start();
    containerd.ctr(&["images", "import", archive.to_str().unwrap()]);
    let names = containerd.image_names();
    for pushed in [&single, &index] {
        assert!(names.contains(&pushed.reference), "{names:?}");
    }
}
