//! The documented commands of kube-fledged, run with the real kubectl.

use fledged_tests::kube::{Kubectl, Way, World, cache_object, eventually};
use fledged_tests::require;
use serde_json::{Value, json};

scenarios! {
    kubectl_commands_of_kube_fledged_work,
    kubectl_apply_names_the_invalid_field_and_value,
}

const APP: &str = "registry.test/app:1";
const DB: &str = "registry.test/db:1";

fn manifest(world: &World, images: &[&str]) -> String {
    let spec = json!({ "cacheSpec": [{ "images": images }] });
    let (namespace, tag) = (world.cluster().namespace(), world.cluster().tag());
    cache_object(namespace, "imagecache1", tag, spec).to_string()
}

async fn apply(kubectl: &Kubectl, manifest: &str) -> String {
    kubectl
        .run_with(&["apply", "-f", "-"], manifest, &[])
        .await
        .ok()
}

async fn json_of(kubectl: &Kubectl, args: &[&str]) -> Value {
    let args = [args, &["-o", "json"]].concat();
    serde_json::from_str(&kubectl.run(&args).await.ok()).unwrap()
}

async fn kubectl_commands_of_kube_fledged_work(way: Way) {
    if !require(&["kubectl"]) {
        return;
    }
    let world = World::start_by(way).await;
    world.publish(&[APP, DB]);
    let a = world.node("a").await;
    let kubectl = Kubectl::new(world.cluster());
    let none = kubectl.run(&["get", "imagecaches"]).await;
    assert!(
        none.success && none.stderr.contains("No resources found"),
        "{none:?}"
    );

    // Create.
    let created = apply(&kubectl, &manifest(&world, &[APP])).await;
    assert_eq!(
        created.trim(),
        "imagecache.kubefledged.io/imagecache1 created"
    );
    let succeeded = ["wait", "ic/imagecache1", "--timeout=60s"];
    let wait_for = |what: &'static str| {
        let args = [succeeded.as_slice(), &[what]].concat();
        let kubectl = kubectl.clone();
        async move { kubectl.run(&args).await.ok() }
    };
    wait_for("--for=condition=Ready").await;
    wait_for("--for=jsonpath={.status.status}=Succeeded").await;
    a.holds_exactly(&[APP]).await;

    // Show.
    let table = kubectl.run(&["get", "ic"]).await.ok();
    let words = |line: &str| -> Vec<String> { line.split_whitespace().map(Into::into).collect() };
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(
        words(lines[0]),
        [
            "NAME", "STATUS", "CACHED", "FAILED", "PULLING", "READY", "ACTION", "AGE"
        ]
    );
    assert_eq!(
        words(lines[1])[..7],
        [
            "imagecache1",
            "Succeeded",
            "1/1",
            "0",
            "0",
            "True",
            "ImageCacheCreate"
        ]
    );
    let wide = kubectl
        .run(&["get", "imagecache", "imagecache1", "-o", "wide"])
        .await
        .ok();
    assert!(
        wide.contains("MESSAGE") && wide.contains("1 of 1 cached on 1 node"),
        "{wide}"
    );
    let record = kubectl.run(&["get", "nic", a.name()]).await.ok();
    let record: Vec<&str> = record.lines().collect();
    assert_eq!(
        words(record[0]),
        ["NAME", "DESIRED", "CACHED", "FAILED", "PENDING", "AGE"]
    );
    assert_eq!(words(record[1])[1..4], ["1", "1", "0"]);
    eventually("the events to be described", || async {
        let text = kubectl
            .run(&["describe", "imagecaches", "imagecache1"])
            .await
            .ok();
        let normal = text.contains("ImageCacheCreate") && text.contains("Normal");
        (normal && text.contains("1 of 1 cached"))
            .then_some(())
            .ok_or(text)
    })
    .await;
    let explained = kubectl
        .run(&["explain", "imagecache.spec.cacheSpec"])
        .await
        .ok();
    assert!(explained.contains("nodeSelector"), "{explained}");

    // Update: apply, edit, patch.
    let configured = apply(&kubectl, &manifest(&world, &[APP, DB])).await;
    assert_eq!(
        configured.trim(),
        "imagecache.kubefledged.io/imagecache1 configured"
    );
    world
        .ended("imagecache1", "ImageCacheUpdate", "Succeeded")
        .await;
    a.holds_exactly(&[APP, DB]).await;
    let unchanged = apply(&kubectl, &manifest(&world, &[APP, DB])).await;
    assert!(unchanged.contains("unchanged"), "{unchanged}");
    let editor = [("KUBE_EDITOR", "sed -i /registry.test.db:1$/d")];
    let edit = ["edit", "imagecaches", "imagecache1"];
    let edited = kubectl.run_with(&edit, "", &editor).await.ok();
    assert!(edited.contains("edited"), "{edited}");
    a.holds_exactly(&[APP]).await;

    // Refresh on demand.
    let generation =
        json_of(&kubectl, &["get", "ic", "imagecache1"]).await["metadata"]["generation"].clone();
    let refresh = "kubefledged.io/refresh-imagecache=";
    let args = ["annotate", "imagecaches", "imagecache1", refresh];
    let _ = kubectl.run(&args).await.ok();
    world
        .ended("imagecache1", "ImageCacheRefresh", "Succeeded")
        .await;
    // Purge.
    let purge = "kubefledged.io/purge-imagecache=";
    eventually("the purge annotation to be accepted", || async {
        // kubectl refuses to overwrite an annotation, so wait until the controller has removed the first one.
        let asked = kubectl
            .run(&["annotate", "imagecaches", "imagecache1", purge])
            .await;
        asked.success.then_some(()).ok_or(asked.stderr)
    })
    .await;
    world
        .ended("imagecache1", "ImageCachePurge", "Succeeded")
        .await;
    a.holds_exactly(&[]).await;
    eventually("the annotations to be gone", || async {
        let cache = json_of(&kubectl, &["get", "ic", "imagecache1"]).await;
        let annotations = cache["metadata"]["annotations"].clone();
        let text = annotations.to_string();
        assert_eq!(
            cache["metadata"]["generation"], generation,
            "annotations do not change the generation"
        );
        (!text.contains("-imagecache\"")).then_some(()).ok_or(text)
    })
    .await;

    // Delete.
    let deleted = kubectl
        .run(&["delete", "imagecache", "imagecache1"])
        .await
        .ok();
    assert!(deleted.contains("\"imagecache1\" deleted"), "{deleted}");
    let gone = kubectl.run(&["get", "ic", "imagecache1"]).await;
    assert!(
        !gone.success && gone.stderr.contains("NotFound"),
        "{gone:?}"
    );
}

async fn kubectl_apply_names_the_invalid_field_and_value(way: Way) {
    if !require(&["kubectl"]) {
        return;
    }
    let world = World::start_by(way).await;
    let kubectl = Kubectl::new(world.cluster());
    let twice = manifest(&world, &[APP, APP]);
    let refused = kubectl.run_with(&["apply", "-f", "-"], &twice, &[]).await;
    let wanted = format!("spec.cacheSpec[0].images[1]: Duplicate value: \"{APP}\"");
    assert!(
        !refused.success && refused.stderr.contains(&wanted),
        "{refused:?}"
    );
    let mut misspelt: Value = serde_json::from_str(&manifest(&world, &[APP])).unwrap();
    misspelt["spec"]["imagePullSecret"] = json!([{ "name": "login" }]);
    let misspelt = misspelt.to_string();
    let refused = kubectl
        .run_with(&["apply", "-f", "-"], &misspelt, &[])
        .await;
    let wanted = "unknown field \"spec.imagePullSecret\"";
    assert!(
        !refused.success && refused.stderr.contains(wanted),
        "{refused:?}"
    );
}
