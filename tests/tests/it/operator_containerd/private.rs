//! Private images on real containerd, with a pull secret and with a ServiceAccount.

use base64::Engine as _;
use fledged_kube::crd::PURGE_ANNOTATION;
use fledged_tests::kube::{ServerKind, World, WorldOptions, eventually};
use fledged_tests::{Containerd, Fledged, ImageBuilder, Registry, Running, require, skipped};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::{Value, json};

fn secret(registry: &Registry) -> Value {
    let auth = base64::engine::general_purpose::STANDARD.encode("robot:hunter2");
    let config = json!({ "auths": { registry.addr(): { "auth": auth } } }).to_string();
    json!({
        "metadata": { "name": "login" },
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": { ".dockerconfigjson": config },
    })
}

/// Starts controller and agent.
fn start(world: &World, node: &str, containerd: &Containerd) -> [Running; 2] {
    start_with(world, node, containerd, &["--inventory-interval=2s"])
}

/// Starts controller and agent, the agent with these flags.
pub(crate) fn start_with(
    world: &World,
    node: &str,
    containerd: &Containerd,
    flags: &[&str],
) -> [Running; 2] {
    let kubeconfig = world.cluster().kubeconfig();
    let program = |command: &str| {
        Fledged::operator()
            .arg(command)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--metrics-bind-address=0", "--health-probe-bind-address=0"])
    };
    let controller = program("controller").arg("--leader-elect=false");
    let agent = program("agent").args(flags.iter().copied()).args([
        "--node-name",
        node,
        "--runtime",
        &containerd.uri(),
        // Whatever the disk of this machine holds.
        "--image-fs-high-threshold=100%",
    ]);
    [controller.spawn(), agent.spawn()]
}

#[tokio::test(flavor = "multi_thread")]
async fn private_images_are_pulled_and_purged() {
    if !require(&["containerd", "docker-registry"]) {
        return;
    }
    let world = World::without_controller(WorldOptions::default()).await;
    let (registry, containerd) = tokio::task::spawn_blocking(|| {
        let registry = Registry::start_with_htpasswd("robot", "hunter2");
        (registry, Containerd::start())
    })
    .await
    .unwrap();
    let push = |name: &str, seed| {
        let image = ImageBuilder::new().random_layer("data", seed, 64 * 1024);
        image.push(&registry, name, "v1").reference
    };
    let (by_secret, by_account) = (push("team/one", 1), push("team/two", 2));
    let node = world.unresponsive_node("a", &[]).await;
    let programs = start(&world, node.name(), &containerd);
    node.object.set_ready(true).await;
    let spec = |image: &str| json!({ "cacheSpec": [{ "images": [image] }] });
    // First without credentials: the registry's refusal is reported.
    world.apply_spec("anonymous", spec(&by_secret)).await;
    let status = world.ended("anonymous", "ImageCacheCreate", "Failed").await;
    assert_eq!(status.failures[&by_secret][0].reason, "Unauthorized");
    world.delete("anonymous").await;
    world.create::<Secret>(secret(&registry)).await;
    let account =
        json!({ "metadata": { "name": "puller" }, "imagePullSecrets": [{ "name": "login" }] });
    world.create::<ServiceAccount>(account).await;
    let mut one = spec(&by_secret);
    one["imagePullSecrets"] = json!([{ "name": "login" }]);
    let mut two = spec(&by_account);
    two["serviceAccountName"] = "puller".into();
    world.apply_spec("one", one).await;
    world.apply_spec("two", two).await;
    for name in ["one", "two"] {
        world.ended(name, "ImageCacheCreate", "Succeeded").await;
    }
    let held = containerd.image_names();
    assert!(
        held.contains(&by_secret) && held.contains(&by_account),
        "{held:?}"
    );
    let record = world.records().get(node.name()).await.unwrap();
    let images = record.status.unwrap().images;
    assert!(
        images
            .iter()
            .all(|image| image.digest.is_some() && image.bytes > Some(0)),
        "{images:?}"
    );
    world.annotate("one", PURGE_ANNOTATION).await;
    world.ended("one", "ImageCachePurge", "Succeeded").await;
    assert!(!containerd.image_names().contains(&by_secret));
    for program in &programs {
        let text = program.stderr();
        assert!(
            !text.contains("hunter2") && !text.contains("cm9ib3Q6"),
            "{text}"
        );
        program.terminate();
    }
    for program in programs {
        let output = program.wait(std::time::Duration::from_secs(60));
        assert_eq!(output.code, Some(0), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_repairs_images_without_an_api_server() {
    if !require(&["containerd", "docker-registry"]) {
        return;
    }
    let mut world = World::without_controller(WorldOptions::default()).await;
    if world.cluster().kind() == ServerKind::Cluster {
        return skipped("the API server of a cluster can't be stopped by a test");
    }
    let (registry, containerd) =
        tokio::task::spawn_blocking(|| (Registry::start(), Containerd::start()))
            .await
            .unwrap();
    let push = |tag: &str, seed| {
        let image = ImageBuilder::new().random_layer("data", seed, 64 * 1024);
        image.push(&registry, "app", tag).reference
    };
    let (first, second) = (push("v1", 1), push("v2", 2));
    let node = world.unresponsive_node("a", &[]).await;
    let _programs = start(&world, node.name(), &containerd);
    node.object.set_ready(true).await;
    world.apply("web", &[&first]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    world.cluster_mut().stop_server().await;
    containerd.remove_all_images();
    eventually(
        "the image to be pulled again without an API server",
        || async {
            let held = containerd.image_names();
            held.contains(&first)
                .then_some(())
                .ok_or(format!("{held:?}"))
        },
    )
    .await;
    world.cluster_mut().start_server().await;
    world.apply("web", &[&first, &second]).await;
    world.ended("web", "ImageCacheUpdate", "Succeeded").await;
    assert!(containerd.image_names().contains(&second));
}
