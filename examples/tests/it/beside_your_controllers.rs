//! The example `beside-your-controllers`: two controllers in one program.
use crate::support::Example;
use fledged_tests::http;
use fledged_tests::kube::{World, WorldOptions, eventually};
use hyper::Method;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

const APP: [&str; 2] = ["registry.test/team/app:1", "registry.test/team/app:2"];

fn deployments(world: &World) -> Api<Deployment> {
    Api::namespaced(world.cluster().client(), world.cluster().namespace())
}

async fn deploy(world: &World, annotations: serde_json::Value, name: &str) {
    let labels = json!({ "app": name });
    let object = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name, "annotations": annotations },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [{ "name": "app", "image": APP[0] }] },
            },
        },
    });
    let params = PatchParams::apply("a-user");
    let patch = Patch::Apply(object);
    let applied = deployments(world).patch(name, &params, &patch).await;
    applied.unwrap();
}

async fn paused(world: &World, name: &str) -> bool {
    let found = deployments(world).get(name).await.unwrap();
    found.spec.unwrap().paused.unwrap_or_default()
}

async fn paused_is(world: &World, wanted: bool) {
    eventually(&format!("paused to be {wanted}"), || async {
        let paused = paused(world, "web").await;
        (paused == wanted).then_some(()).ok_or(paused.to_string())
    })
    .await;
}

/// Sends a GET request to the program's server and returns status and text.
fn get(address: &str, path: &str) -> (u16, String) {
    let answer = http::send(address, Method::GET, path, &[], None, Default::default());
    let answer = answer.unwrap();
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    (answer.status.as_u16(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_controllers_work_and_end_together() {
    let world = World::without_controller(WorldOptions::default()).await;
    world.publish(&APP);
    let node = world.node("a").await;
    let namespace = world.cluster().namespace();
    let args = ["--listen", "127.0.0.1:0", "--lease-namespace", namespace];
    let program = env!("CARGO_BIN_EXE_beside-your-controllers");
    let example = Example::start(program, &args, world.cluster());
    let address = example.logged("serving metrics and probes address=").await;
    eventually("readiness", || async {
        let (status, text) = get(&address, "/readyz");
        (status == 200).then_some(()).ok_or(text)
    })
    .await;
    assert_eq!(get(&address, "/livez").0, 200);
    assert_eq!(get(&address, "/else").0, 404);

    // The gate waits until the cache exists, and then until its images are cached.
    deploy(&world, json!({}), "other").await;
    deploy(&world, json!({ "fledged.example/wait-for": "web" }), "web").await;
    paused_is(&world, true).await;
    node.runtime.hold_pulls(true);
    world.apply("web", &[APP[0]]).await;
    world
        .status_when("web", "processed", |status| status.status == "Processing")
        .await;
    paused_is(&world, true).await;
    node.runtime.hold_pulls(false);
    paused_is(&world, false).await;
    node.holds_exactly(&[APP[0]]).await;

    // The next version: the cache first, then the Deployment.
    node.runtime.hold_pulls(true);
    world.apply("web", &[APP[1]]).await;
    paused_is(&world, true).await;
    node.runtime.hold_pulls(false);
    paused_is(&world, false).await;
    node.holds_exactly(&[APP[1]]).await;
    assert!(
        !paused(&world, "other").await,
        "a Deployment without the annotation was paused"
    );

    eventually("the metrics of both", || async {
        let (status, text) = get(&address, "/metrics");
        let wanted = [
            "fledged_leader 1",
            "fledged_image_caches{status=\"Succeeded\"} 1",
            "image_gate_opened_total 2",
        ];
        let all = wanted.iter().all(|line| text.contains(line));
        (status == 200 && all).then_some(()).ok_or(text)
    })
    .await;
    assert!(example.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_occupied_port_is_an_error() {
    let world = World::without_controller(WorldOptions::default()).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let program = env!("CARGO_BIN_EXE_beside-your-controllers");
    let example = Example::start(program, &["--listen", &address], world.cluster());
    let error = example.logged("cannot listen on ").await;
    assert!(error.starts_with(&address), "{error}");
    assert!(!example.ended().await.success());
}
