//! The example `custom-driver`: a driver that pulls into a folder for each node.
use std::collections::BTreeSet;
use std::path::Path;

use crate::support::Example;
use fledged_tests::kube::{TestNode, World, WorldOptions, eventually};
use fledged_tests::{ImageBuilder, Registry, check_layout, require};
use serde_json::json;
use tempfile::TempDir;

fn start(world: &World, folder: &TempDir) -> Example {
    let folder = folder.path().to_str().unwrap();
    let program = env!("CARGO_BIN_EXE_custom-driver");
    Example::start(program, &[folder], world.cluster())
}

/// A node without an agent.
async fn node(world: &World, name: &str) -> TestNode {
    let node = world.unresponsive_node(name, &[]).await;
    node.object.set_ready(true).await;
    node
}

/// Waits until the folder of a node is a valid layout with exactly these images.
async fn holds(folder: &Path, node: &TestNode, images: &[&str]) {
    let folder = folder.join(node.name());
    let wanted: BTreeSet<String> = images.iter().map(|image| (*image).to_owned()).collect();
    eventually(&format!("{} to hold {images:?}", node.name()), || async {
        let index = std::fs::read_to_string(folder.join("index.json")).unwrap_or_default();
        let named = images.iter().all(|image| index.contains(image));
        let count = index.matches("org.opencontainers.image.ref.name").count();
        (named && count == images.len()).then_some(()).ok_or(index)
    })
    .await;
    assert_eq!(check_layout(&folder).references, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_is_a_folder_that_follows_the_image_caches() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let push = |tag: &str| {
        let image = ImageBuilder::new().files(&[("version", tag.as_bytes())]);
        image.push(&registry, "edge/app", tag).reference
    };
    let (one, two) = (push("1"), push("2"));
    let world = World::without_controller(WorldOptions::default()).await;
    let (a, b) = (node(&world, "a").await, node(&world, "b").await);
    let folder = tempfile::tempdir().unwrap();
    let example = start(&world, &folder);

    world.apply("edge", &[&one]).await;
    let status = world.ended("edge", "ImageCacheCreate", "Succeeded").await;
    assert_eq!(status.cached.as_deref(), Some("2/2"));
    for node in [&a, &b] {
        holds(folder.path(), node, &[&one]).await;
        let record = world.records().get_opt(node.name()).await.unwrap();
        assert!(record.is_none(), "no agent, no record");
    }

    // An edit removes dropped images, and reports a failed pull with the registry's message.
    let missing = format!("{}/edge/app:3", registry.addr());
    world.apply("edge", &[&two, &missing]).await;
    let status = world.ended("edge", "ImageCacheUpdate", "Failed").await;
    let failures = &status.failures[&missing];
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert!(
        failures[0].message.contains("manifest unknown"),
        "{failures:?}"
    );
    for node in [&a, &b] {
        holds(folder.path(), node, &[&two]).await;
    }
    push("3");
    world
        .annotate("edge", "kubefledged.io/refresh-imagecache")
        .await;
    world.ended("edge", "ImageCacheRefresh", "Succeeded").await;

    // A new node gets the images. A deleted node leaves the counts; its folder stays.
    let c = node(&world, "c").await;
    holds(folder.path(), &c, &[&two, &missing]).await;
    b.object.delete().await;
    world
        .status_when("edge", "on two nodes", |status| {
            status.cached.as_deref() == Some("4/4")
        })
        .await;
    holds(folder.path(), &b, &[&two, &missing]).await;

    world
        .annotate("edge", "kubefledged.io/purge-imagecache")
        .await;
    world.ended("edge", "ImageCachePurge", "Succeeded").await;
    holds(folder.path(), &a, &[]).await;
    assert!(example.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn images_in_folders_survive_a_restart() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let image = ImageBuilder::new().random_layer("data", 1, 1_000);
    let image = image.push(&registry, "edge/app", "1").reference;
    let world = World::without_controller(WorldOptions::default()).await;
    let a = node(&world, "a").await;
    let folder = tempfile::tempdir().unwrap();
    let example = start(&world, &folder);
    world.apply("edge", &[&image]).await;
    world.ended("edge", "ImageCacheCreate", "Succeeded").await;
    assert!(example.stop().await.success());
    let before = registry.requests_matching("GET", "/blobs/").len();
    assert!(before > 0);

    let example = start(&world, &folder);
    // A second cache with the same image is cached without another pull.
    let spec = json!({ "cacheSpec": [{ "images": [&image] }] });
    world.apply_spec("more", spec).await;
    world.ended("more", "ImageCacheCreate", "Succeeded").await;
    holds(folder.path(), &a, &[&image]).await;
    let since = registry.requests_matching("GET", "/blobs/").len() - before;
    assert_eq!(since, 0);
    assert!(example.stop().await.success());
}
