//! Bytes of running pulls in `fledged status` and `fledged get -w`.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use bytes::Bytes;
use fledged_apiserver::{Failure, RequestFilter, RequestKey};
use fledged_core::model::ImagePhase;
use fledged_kube::serve::{BindAddress, Routes, Server};
use fledged_tests::kube::{TestNode, World, eventually};
use fledged_tests::{Fledged, ImageBuilder, Registry, find_fledged, http, require};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::terminal::support::{APP, call, fledged, words};

const MIB: u64 = 1024 * 1024;
/// The address of the agent's pod.
const POD: &str = "10.9.8.7";
const PORT: u16 = 8082;

/// A world on the embedded server with a node whose pull of [`APP`] has received 3 of 12 MiB. `None` on other servers,
/// which reach no pod of a test.
async fn pulling() -> Option<(World, TestNode)> {
    let world = World::start().await;
    world.cluster().embedded()?;
    world.publish(&[APP]);
    let node = world.node("a").await;
    node.runtime.hold_pulls(true);
    node.runtime.report_progress(3 * MIB, 12 * MIB);
    world.apply("web", &[APP]).await;
    let pulls = |record: &fledged_kube::crd::NodeImageCache| {
        let mut images = record.status.iter().flat_map(|status| &status.images);
        images.any(|image| image.phase == ImagePhase::Pulling)
    };
    world.record_when(&node, "pulling", pulls).await;
    Some((world, node))
}

/// Registers the pod of the node's agent.
async fn agent_pod(world: &World, node: &TestNode) {
    let port = json!({ "name": "metrics", "containerPort": PORT });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "agent-a", "labels": { "kubefledged": "kubefledged-agent" } },
        "spec": { "nodeName": node.name(),
            "containers": [{ "name": "agent", "image": "agent:1", "ports": [port] }] },
    });
    world.create::<Pod>(pod).await;
    let pods: Api<Pod> = Api::namespaced(world.cluster().client(), world.cluster().namespace());
    let status = json!({ "status": { "podIP": POD, "podIPs": [{ "ip": POD }] } });
    pods.patch_status("agent-a", &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
}

/// Sends requests to the agent's pod to this place.
fn route(world: &World, place: SocketAddr) {
    let address = SocketAddr::new(POD.parse().unwrap(), PORT);
    world
        .cluster()
        .embedded()
        .unwrap()
        .route_pod(address, place);
}

/// Serves the running pulls as the agent's program does.
async fn serve(world: &World, node: &TestNode) {
    let pulls = node.running_pulls();
    let routes = Routes::new().with_document("/pulls", move || pulls.to_json());
    let address = BindAddress::parse("127.0.0.1:0").unwrap().unwrap();
    let server = Server::bind(&address, routes).await.unwrap();
    route(world, server.address());
    tokio::spawn(server.run(std::future::pending()));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_the_bytes_of_running_pulls() {
    let Some((world, node)) = pulling().await else {
        return;
    };
    agent_pod(&world, &node).await;
    serve(&world, &node).await;
    let document = fledged(&world, &["status", "web", "-o", "json"], 0).json();
    let image = &document["nodes"][0]["images"][0];
    assert_eq!(image["state"], "Pulling");
    assert_eq!(image["pull"]["doneBytes"], 3 * MIB, "{document}");
    assert_eq!(image["pull"]["totalBytes"], 12 * MIB);
    assert!(image["pull"]["startedAt"].is_string());
    assert_eq!(document["bytesUnavailable"], json!(null));
    let text = fledged(&world, &["status", "web"], 0).stdout;
    let sums = "\n1 pull, 3.0 MiB of 12.0 MiB";
    assert!(text.contains(sums), "{text}");
    let own = format!("\n  1 on {}: 3.0 MiB of 12.0 MiB", node.name());
    assert!(text.contains(&own), "{text}");

    node.runtime.hold_pulls(false);
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    let server = world.cluster().embedded().unwrap();
    server.reset_requests();
    let after = fledged(&world, &["status", "web"], 0).stdout;
    assert!(!after.contains("MiB"), "{after}");
    let of_pods = |key: &RequestKey| key.resource == "pods";
    assert_eq!(server.count(of_pods), 0, "nothing is pulled");
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_print_a_line_for_each_change() {
    let Some((world, node)) = pulling().await else {
        return;
    };
    agent_pod(&world, &node).await;
    serve(&world, &node).await;
    let status = call(&world, &["status", "web", "-w"]).spawn();
    let get = call(&world, &["get", "-w"]).spawn();
    let printed = |what: &'static str| {
        let status = &status;
        eventually(what, move || async move {
            let seen = status.stdout();
            let mut lines = seen.lines().map(|line| words(line).join(" "));
            let found = lines.any(|line| line.ends_with(what) || line.contains(what));
            found.then_some(()).ok_or(seen)
        })
    };
    printed("NODE IMAGE STATE WHY BYTES").await;
    printed("pulling - 3.0 MiB of 12.0 MiB").await;
    let line = format!(
        "{}/web: 1 pull, 3.0 MiB of 12.0 MiB",
        world.cluster().namespace()
    );
    eventually("the line of get", || async {
        let seen = get.stderr();
        seen.contains(&line).then_some(()).ok_or(seen)
    })
    .await;
    node.runtime.hold_pulls(false);
    printed("cached -").await;
    assert!(
        !status.stdout().contains('\u{1b}'),
        "colours without a terminal"
    );
    world.delete("web").await;
    let ended = tokio::task::block_in_place(|| status.wait(fledged_tests::SOON));
    assert_eq!(ended.code, Some(1), "{ended}");
    assert!(ended.stderr.contains("/web was deleted"), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_redrawn_until_the_cache_is_deleted() {
    if !require(&["script"]) {
        return;
    }
    let Some((world, node)) = pulling().await else {
        return;
    };
    agent_pod(&world, &node).await;
    serve(&world, &node).await;
    let program = find_fledged().unwrap();
    let namespace = world.cluster().namespace();
    let line = format!("{} status web -w -n {namespace}", program.display());
    let mut script = Command::new("script");
    script
        .args(["--quiet", "--return", "--flush", "--command", &line])
        .arg("/dev/null");
    let script = script
        .env("TERM", "xterm")
        .env("KUBECONFIG", world.cluster().kubeconfig())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let server = world.cluster().embedded().unwrap();
    let asked = |key: &RequestKey| key.subresource == "proxy";
    eventually("two rounds", || async {
        let count = server.count(asked);
        (count >= 2).then_some(()).ok_or(count.to_string())
    })
    .await;
    world.delete("web").await;
    let output = tokio::task::block_in_place(|| script.wait_with_output().unwrap());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let shown = String::from_utf8_lossy(&output.stdout);
    let own = format!("1 on {}: 3.0 MiB of 12.0 MiB", node.name());
    assert!(shown.matches(&own).count() >= 2, "{shown:?}");
    assert!(shown.contains("\u{1b}[2K"), "{shown:?}");
    assert!(shown.contains("/web was deleted"), "{shown:?}");
    node.runtime.hold_pulls(false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_the_right_sees_no_bytes() {
    let Some((world, node)) = pulling().await else {
        return;
    };
    agent_pod(&world, &node).await;
    serve(&world, &node).await;
    let filter = RequestFilter {
        resource: Some("pods".to_owned()),
        subresource: Some("proxy".to_owned()),
        ..RequestFilter::default()
    };
    let server = world.cluster().embedded().unwrap();
    server.fail_next(2, filter, Failure::forbidden("not you"));
    let text = fledged(&world, &["status", "web"], 0).stdout;
    let line = "bytes of pulls are missing: agents cannot be asked (needs get on pods/proxy): ";
    assert!(text.contains(line) && text.contains("not you"), "{text}");
    assert!(text.contains("P pulling"), "{text}");
    let document = fledged(&world, &["status", "web", "-o", "json"], 0).json();
    assert_eq!(document["nodes"][0]["images"][0]["pull"], json!(null));
    let why = document["bytesUnavailable"].as_str().unwrap();
    assert!(why.contains("pods/proxy"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_answer_is_named() {
    let Some((world, node)) = pulling().await else {
        return;
    };
    let text = fledged(&world, &["status", "web"], 0).stdout;
    let none = format!(
        "bytes of pulls are missing: {} has no pod of an agent\n",
        node.name()
    );
    assert!(text.contains(&none), "{text}");
    agent_pod(&world, &node).await;
    // The port was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    route(&world, listener.local_addr().unwrap());
    drop(listener);
    let text = fledged(&world, &["status", "web"], 0).stdout;
    let silent = format!(
        "bytes of pulls are missing: the agent of {} does not answer: 503: error trying to reach service",
        node.name()
    );
    assert!(text.contains(&silent), "{text}");
    node.runtime.hold_pulls(false);
}

/// The agent's program, on a runtime that fetches layers itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_of_an_agent_serves_its_pulls() {
    if !require(&["docker-registry"]) {
        return;
    }
    let world = World::start().await;
    if world.cluster().embedded().is_none() {
        return;
    }
    let registry = tokio::task::spawn_blocking(Registry::start).await.unwrap();
    let image = ImageBuilder::new().random_layer("data", 1, 20_000_000);
    let image = image.push(&registry, "large", "v1").reference;
    let node = world.unresponsive_node("a", &[]).await;
    let folder = tempfile::tempdir().unwrap();
    // The port was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let agent = Fledged::operator()
        .args(["agent", "--node-name", node.name()])
        .arg(format!("--runtime=oci:{}/images", folder.path().display()))
        .arg("--kubeconfig")
        .arg(world.cluster().kubeconfig())
        .arg(format!("--metrics-bind-address={address}"))
        .args([
            "--health-probe-bind-address=0",
            "--image-fs-high-threshold=100%",
        ])
        // Much slower than the test needs.
        .arg("--max-pull-rate=256Ki")
        .spawn();
    route(&world, address);
    agent_pod(&world, &node).await;
    node.object.set_ready(true).await;
    world.apply("web", &[&image]).await;
    let pull = eventually("bytes with a rate", || async {
        let document = fledged(&world, &["status", "web", "-o", "json"], 0).json();
        let pull = document["nodes"][0]["images"][0]["pull"].clone();
        match pull["secondsLeft"].is_u64() {
            true => Ok(pull),
            false => Err(document.to_string()),
        }
    })
    .await;
    let number = |field: &str| pull[field].as_u64().unwrap();
    let total = number("totalBytes");
    assert!((20_000_000..21_000_000).contains(&total), "{pull}");
    assert!(
        number("doneBytes") > 0 && number("doneBytes") < total,
        "{pull}"
    );
    assert!(number("bytesPerSecond") < 5 * MIB, "{pull}");
    let get = |path: &'static str| {
        let address = address.to_string();
        tokio::task::block_in_place(|| {
            let answer = http::send(&address, hyper::Method::GET, path, &[], None, Bytes::new());
            String::from_utf8(answer.unwrap().body.to_vec()).unwrap()
        })
    };
    assert!(!get("/pulls").contains("large"), "no names");
    let metrics = get("/metrics");
    assert!(
        metrics.contains("fledged_agent_pulls_running 1\n"),
        "{metrics}"
    );
    let received = "fledged_agent_pull_received_bytes_total ";
    let received = metrics.lines().find_map(|line| line.strip_prefix(received));
    assert!(received.unwrap().parse::<u64>().unwrap() > 0);
    agent.terminate();
    let output = tokio::task::block_in_place(|| agent.wait(fledged_tests::SOON));
    assert_eq!(output.code, Some(0), "{output}");
}
