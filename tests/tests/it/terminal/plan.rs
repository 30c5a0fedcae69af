//! `fledged plan`.

use fledged_tests::kube::{World, cache_object};
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::terminal::support::{APP, DB, fledged, stderr_has};

/// Writes a manifest without a namespace and returns its path.
fn manifest(world: &World, folder: &tempfile::TempDir, images: &[&str]) -> String {
    let spec = json!({ "cacheSpec": [{ "images": images }] });
    let mut cache = cache_object("", "web", world.cluster().tag(), spec);
    cache["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("namespace");
    let path = folder.path().join("images.json");
    std::fs::write(&path, cache.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn changes(document: &Value) -> Vec<(String, String, Value)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let changes = document["changes"].as_array().unwrap();
    let change = |c: &Value| (text(&c["action"]), text(&c["image"]), c["nodes"].clone());
    changes.iter().map(change).collect()
}

fn change(action: &str, image: &str, nodes: Value) -> (String, String, Value) {
    (action.to_owned(), image.to_owned(), nodes)
}

/// The annotations and specs of the test's ImageCaches, and the specs of its nodes' records.
async fn specs(world: &World) -> Vec<Value> {
    let caches = world.caches().list(&ListParams::default()).await.unwrap();
    let caches = caches
        .into_iter()
        .map(|cache| json!([cache.metadata.annotations, cache.spec]));
    let records = world.records().list(&ListParams::default()).await.unwrap();
    let of_test = |name: &String| name.starts_with(world.cluster().tag());
    let records = records
        .into_iter()
        .filter(|record| record.metadata.name.as_ref().is_some_and(of_test))
        .map(|record| json!(record.spec));
    caches.chain(records).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_shows_all_changes_and_writes_nothing() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    world.publish(&[APP, DB]);
    let (a, b) = (world.node("a").await, world.node("b").await);
    let both = json!([a.name(), b.name()]);

    // New.
    let file = manifest(&world, &folder, &[APP]);
    let planned = fledged(&world, &["plan", "-f", &file, "-o", "json"], 0).json();
    assert_eq!(changes(&planned), [change("Pull", APP, both.clone())]);
    assert_eq!(planned["summary"]["pull"], 2);
    let name = format!("{}/web", world.cluster().namespace());
    assert_eq!(planned["changes"][0]["imageCaches"], json!([name]));
    assert!(world.caches().get_opt("web").await.unwrap().is_none());
    let code = fledged(&world, &["plan", "-f", &file, "--exit-code"], 1);
    assert!(
        code.stdout
            .contains("2 to pull on 2 nodes; nothing was written"),
        "{code}"
    );

    world.apply("web", &[APP]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    let same = fledged(&world, &["plan", "-f", &file, "--exit-code"], 0);
    assert_eq!(same.stdout, "no changes\n");

    // One image is new, one is dropped, and one is dropped but kept for a second cache.
    world.apply("other", &[DB]).await;
    world.ended("other", "ImageCacheCreate", "Succeeded").await;
    world.apply("web", &[APP, DB]).await;
    world.ended("web", "ImageCacheUpdate", "Succeeded").await;
    let before = specs(&world).await;
    let file = manifest(&world, &folder, &["registry.test/new:1"]);
    let planned = fledged(&world, &["plan", "-f", &file, "-o", "json"], 0).json();
    assert_eq!(
        changes(&planned),
        [
            change("Pull", "registry.test/new:1", both.clone()),
            change("Remove", APP, both.clone()),
            change("Keep", DB, both),
        ]
    );
    let yaml = fledged(&world, &["plan", "-f", &file, "-o", "yaml"], 0).stdout;
    assert!(yaml.starts_with("changes:\n"), "{yaml}");

    // `plan` wrote nothing, and the controller did not react.
    if let Some(server) = world.cluster().embedded() {
        let ours = |key: &fledged_apiserver::RequestKey| key.field_manager.contains("cli");
        assert_eq!(server.count(|key| ours(key) && key.is_write()), 0);
    }
    assert_eq!(specs(&world).await, before);
    a.holds_exactly(&[APP, DB]).await;
    assert!(b.runtime.pulls("registry.test/new:1") == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_file_is_named_with_exit_code_2() {
    let world = World::without_controller(Default::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = manifest(&world, &folder, &["UPPER:1"]);
    let output = fledged(&world, &["plan", "-f", &file], 2);
    stderr_has(&output, &["spec.cacheSpec[0].images[0]", "UPPER:1"]);
    stderr_has(
        &fledged(&world, &["plan", "-f", "/nowhere"], 2),
        &["/nowhere"],
    );
    stderr_has(&fledged(&world, &["plan"], 2), &["--filename"]);
}
