//! Superseded versions of mutable tags, on every runtime that can be started here.
use std::sync::Arc;

use fledged_core::model::{AssignedImage, Assignment, ImagePhase, ImagePullPolicy, ImageRef};
use fledged_core::port::ImageRuntime;
use fledged_core::runner::NodeLoop;
use fledged_core::tokio::TokioClock;
use fledged_core::warmer::{Warmer, WarmerConfig};
use fledged_cri::cri::CriRuntime;
use fledged_cri::docker::DockerRuntime;
use fledged_cri::oci::{OciLayoutOptions, OciLayoutRuntime};
use fledged_tests::{Containerd, Dockerd, ImageBuilder, Pushed, Registry, check_layout, require};

fn push(registry: &Registry, repository: &str, tag: &str, seed: u64) -> Pushed {
    let image = ImageBuilder::new().random_layer("data", seed, 64 * 1024);
    image.push(registry, repository, tag)
}

fn assignment(revision: u64, images: &[&Pushed]) -> Assignment {
    let images = images.iter().map(|pushed| {
        let image = AssignedImage::present(pushed.image());
        let image = image.with_pull_policy(ImagePullPolicy::Always);
        image.with_revision(revision)
    });
    Assignment::new(revision, images)
}

/// Pulls two tags, again after both name another image, and purges them. A third tag keeps one of the old images.
async fn replace(runtime: Arc<dyn ImageRuntime>, registry: &Registry) {
    let old = push(registry, "moved", "latest", 1);
    let kept = push(registry, "kept", "latest", 2);
    let keeper = push(registry, "kept", "1", 2);
    let warmer = Warmer::new(WarmerConfig::default(), 1);
    let mut node = NodeLoop::new(warmer, Arc::clone(&runtime), Arc::new(TokioClock::new()));
    let tags = [&old, &kept, &keeper];
    node.settle(assignment(1, &tags)).await;

    let new = push(registry, "moved", "latest", 3);
    push(registry, "kept", "latest", 4);
    let report = node.settle(assignment(2, &tags)).await;
    for image in &report.images {
        assert_eq!(image.phase, ImagePhase::Cached, "{image:?}");
        assert_eq!(image.superseded, [], "{image:?}");
    }
    assert_eq!(report.images[0].digest.as_ref(), Some(&new.digest));
    assert_eq!(report.images[2].digest.as_ref(), Some(&keeper.digest));
    let listed = runtime.list().await.unwrap();
    assert_eq!(listed.len(), 3, "{listed:?}");
    let superseded: ImageRef = old.by_digest().parse().unwrap();
    assert_eq!(runtime.lookup(&superseded).await, Ok(None));

    let report = node.settle(assignment(3, &tags).into_absent()).await;
    for image in &report.images {
        assert_eq!(image.phase, ImagePhase::Removed, "{image:?}");
    }
    assert_eq!(runtime.list().await, Ok(vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_loses_superseded_versions() {
    if !require(&["containerd", "docker-registry"]) {
        return;
    }
    let (registry, containerd) = (Registry::start(), Containerd::start());
    replace(
        Arc::new(CriRuntime::connect(containerd.socket())),
        &registry,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_engine_loses_superseded_versions() {
    if !require(&["dockerd", "containerd", "runc", "docker-registry"]) {
        return;
    }
    let (registry, engine) = (Registry::start(), Dockerd::start());
    replace(Arc::new(DockerRuntime::new(engine.socket())), &registry).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oci_layout_keeps_one_version_of_a_tag() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let [folder, another] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let open = |folder: &tempfile::TempDir| {
        let options = OciLayoutOptions::default();
        Arc::new(OciLayoutRuntime::open(folder.path(), options).unwrap())
    };
    let old = push(&registry, "app", "latest", 1);
    let warmer = Warmer::new(WarmerConfig::default(), 1);
    let mut node = NodeLoop::new(warmer, open(&folder), Arc::new(TokioClock::new()));
    node.settle(assignment(1, &[&old])).await;
    assert!(check_layout(folder.path()).blobs.contains(&old.digest));
    let new = push(&registry, "app", "latest", 2);
    let report = node.settle(assignment(2, &[&old])).await;
    assert_eq!(report.images[0].digest.as_ref(), Some(&new.digest));
    assert_eq!(report.images[0].superseded, []);
    // Manifest, configuration and layer of the new version.
    assert_eq!(check_layout(folder.path()).blobs.len(), 3);

    replace(open(&another), &registry).await;
}
