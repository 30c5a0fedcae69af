//! Other tools that read and write a layout.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use fledged_core::error::Reason;
use fledged_core::port::{ImageRuntime, Removal};
use fledged_cri::oci::{OciLayoutOptions, OciLayoutRuntime};
use fledged_tests::{
    Containerd, ImageBuilder, ImageIndexBuilder, Platform, Registry, check_layout, http, require,
};
use hyper::Method;
use tempfile::TempDir;

use crate::oci_layout::support::{image, open, pull, reason, skopeo, umoci};

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

    // Another platform in the same layout: both are present then.
    let options = OciLayoutOptions::default().with_platform("linux/s390x".parse().unwrap());
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
    assert_eq!(error.reason, Reason::PlatformNotFound);
    assert!(error.to_string().contains("linux/s390x"), "{error}");
    assert_eq!(runtime.list().await.unwrap(), []);

    // Also if another process has pulled it for its own platform into the same layout.
    pull(&other, &single.reference).await.unwrap();
    assert!(other.lookup(&single.image()).await.unwrap().is_some());
    assert_eq!(runtime.lookup(&single.image()).await.unwrap(), None);
    assert_eq!(runtime.list().await.unwrap(), []);
}

#[tokio::test]
async fn docker_manifests_are_stored_unchanged() {
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
    // Two spaces: a rewritten manifest would have another digest.
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

#[tokio::test]
async fn a_tag_added_by_umoci_is_kept() {
    if !require(&["docker-registry", "umoci"]) {
        return;
    }
    let registry = Registry::start();
    let pushed = ImageBuilder::new()
        .random_layer("data", 1, 1000)
        .push(&registry, "app", "1");
    let folder = TempDir::new().unwrap();
    let runtime = open(folder.path());
    pull(&runtime, &pushed.reference).await.unwrap();
    // Copies the entry with every annotation, and changes only the specification's name.
    let source = format!("{}:{}", folder.path().display(), pushed.reference);
    umoci(&["tag", "--image", &source, "keepme"]);
    let blobs = check_layout(folder.path()).blobs;

    pull(&runtime, &pushed.reference).await.unwrap();
    assert_eq!(tags(folder.path()), ["keepme", &pushed.reference]);
    let removed = runtime.remove(&pushed.image()).await.unwrap();
    assert_eq!(removed, Removal::Removed);
    assert_eq!(runtime.lookup(&pushed.image()).await.unwrap(), None);
    assert_eq!(runtime.list().await.unwrap(), []);
    assert_eq!(tags(folder.path()), ["keepme"]);
    assert_eq!(check_layout(folder.path()).blobs, blobs);
    let kept = format!("{}:keepme", folder.path().display());
    umoci(&["stat", "--image", &kept]);

    // Conversely, an image that only fledged has named stays.
    pull(&runtime, &pushed.reference).await.unwrap();
    umoci(&["rm", "--image", &kept]);
    assert!(runtime.lookup(&pushed.image()).await.unwrap().is_some());
}

/// The names that umoci lists, sorted.
fn tags(folder: &Path) -> Vec<String> {
    let layout = folder.to_str().unwrap();
    let mut tags: Vec<String> = umoci(&["list", "--layout", layout])
        .lines()
        .map(str::to_owned)
        .collect();
    tags.sort_by_key(|tag| tag.contains('/'));
    tags
}
