//! `fledged why`.

use fledged_core::error::Reason;
use fledged_core::model::CountOrPercent;
use fledged_core::planner::PlannerConfig;
use fledged_tests::kube::{TestNode, World, WorldOptions};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::terminal::support::{APP, DB, NOPE, fledged, stderr_has};

fn explain(world: &World, node: &str, image: &str, code: i32) -> Value {
    fledged(world, &["why", "web", node, image, "-o", "json"], code).json()
}

fn reason(world: &World, node: &TestNode, image: &str) -> Value {
    explain(world, node.name(), image, 1)["reason"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn why_explains_cached_failed_and_unlisted_images() {
    let world = World::start().await;
    world.publish(&[APP]);
    let a = world.node("a").await;
    world.apply("web", &[APP, NOPE]).await;
    world.ended("web", "ImageCacheCreate", "Failed").await;

    let cached = explain(&world, a.name(), APP, 0);
    assert_eq!(
        (&cached["cached"], &cached["reason"]),
        (&json!(true), &json!("Cached"))
    );
    let digest = cached["digest"].as_str().unwrap();
    assert!(digest.starts_with("sha256:"), "{digest}");
    let table = fledged(&world, &["why", "web", a.name(), APP], 0).stdout;
    let start = format!(
        "yes: {APP} is cached on {}: the node has it, {digest}\n",
        a.name()
    );
    assert!(table.starts_with(&start), "{table}");

    let failed = explain(&world, a.name(), NOPE, 1);
    assert_eq!(failed["reason"], "Failed");
    assert_eq!(failed["failure"], "ImageNotFound");
    assert_eq!(failed["message"], "manifest unknown");
    assert_eq!(failed["attempts"], 1);
    assert!(failed["nextAttempt"].is_string(), "{failed}");
    let evidence = &failed["evidence"][0];
    assert_eq!(evidence["object"], format!("NodeImageCache {}", a.name()));
    assert_eq!(evidence["field"], "status.images[1].phase");
    let table = fledged(&world, &["why", "web", a.name(), NOPE], 1).stdout;
    for part in [
        format!("no: {NOPE} is not cached on {}: the last round of pulls failed: ImageNotFound\n", a.name()),
        "  message: manifest unknown\n".to_owned(),
        "  what to do: push the image, or correct its reference in spec.cacheSpec; fledged refresh web -n ".to_owned(),
    ] {
        assert!(table.contains(&part), "{part:?} is not in {table}");
    }

    assert_eq!(reason(&world, &a, DB), "ImageNotInCache");
    let similar = explain(&world, a.name(), "registry.test/app:9", 1);
    assert_eq!(similar["evidence"][0]["value"], APP);
    assert_eq!(explain(&world, "nowhere", APP, 1)["reason"], "NodeNotFound");
    stderr_has(
        &fledged(&world, &["why", "wep", a.name(), APP], 1),
        &["no ImageCache \"wep\""],
    );
    stderr_has(&fledged(&world, &["why", "web", "A_b", APP], 2), &["A_b"]);
    stderr_has(
        &fledged(&world, &["why", "web", a.name(), "UPPER"], 2),
        &["UPPER"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn why_explains_selectors_purges_and_not_ready_nodes() {
    let world = World::start().await;
    world.publish(&[APP, DB]);
    let a = world.node_with("a", &[("tier", "frontend")]).await;
    let groups = json!({ "cacheSpec": [
        { "images": [APP], "nodeSelector": { "tier": "backend" } },
        { "images": [DB] },
    ] });
    world.apply_spec("web", groups).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    let elsewhere = explain(&world, a.name(), APP, 1);
    assert_eq!(elsewhere["reason"], "NodeNotSelected");
    let because = elsewhere["because"].as_str().unwrap();
    assert!(
        because.ends_with("it requires tier=backend, and the node has tier=frontend"),
        "{because}"
    );
    assert_eq!(explain(&world, a.name(), DB, 0)["reason"], "Cached");

    world
        .annotate("web", "kubefledged.io/purge-imagecache")
        .await;
    world.ended("web", "ImageCachePurge", "Succeeded").await;
    let purged = explain(&world, a.name(), DB, 1);
    assert_eq!(purged["reason"], "CachePurged");
    let advice = purged["advice"].as_str().unwrap();
    assert!(advice.starts_with("fledged refresh web -n "), "{advice}");

    let b = world.unresponsive_node("b", &[("tier", "backend")]).await;
    world
        .annotate("web", "kubefledged.io/refresh-imagecache")
        .await;
    world.ended("web", "ImageCacheRefresh", "Succeeded").await;
    assert_eq!(reason(&world, &b, DB), "NodeNotReady");
}

#[tokio::test(flavor = "multi_thread")]
async fn why_explains_running_and_waiting_pulls() {
    let mut options = WorldOptions::default();
    options.planner.max_concurrent_nodes = CountOrPercent::Count(1);
    let world = World::start_with(options).await;
    world.publish(&[APP]);
    let a = world.node("a").await;
    a.runtime.hold_pulls(true);
    world.apply("web", &[APP]).await;
    let pulling = |record: &fledged_kube::crd::NodeImageCache| {
        let status = record.status.as_ref();
        let first = status.and_then(|status| status.images.first());
        first.is_some_and(|image| image.phase.as_str() == "Pulling")
    };
    world.record_when(&a, "pulling", pulling).await;
    assert_eq!(reason(&world, &a, APP), "Pulling");
    let b = world.node("b").await;
    world
        .status_when("web", "waiting for another node", |status| {
            status.counts.is_some_and(|counts| counts.desired == 2)
        })
        .await;
    let waiting = explain(&world, b.name(), APP, 1);
    assert_eq!(waiting["reason"], "NotAssigned");
    assert!(
        waiting["advice"]
            .as_str()
            .unwrap()
            .contains("maxConcurrentNodes")
    );
    a.runtime.hold_pulls(false);
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    assert_eq!(explain(&world, b.name(), APP, 0)["reason"], "Cached");
}

#[tokio::test(flavor = "multi_thread")]
async fn why_explains_backoff_and_unresponsive_nodes() {
    let world = World::start_with(WorldOptions {
        planner: PlannerConfig::default(),
        ..WorldOptions::default()
    })
    .await;
    world.publish(&[APP]);
    world.registry().fail(APP, Reason::ConnectionFailed);
    let a = world.node("a").await;
    world.apply("web", &[APP]).await;
    let backing_off = |record: &fledged_kube::crd::NodeImageCache| {
        let status = record.status.as_ref();
        let first = status.and_then(|status| status.images.first());
        first.is_some_and(|image| image.phase.as_str() == "BackingOff")
    };
    world.record_when(&a, "backing off", backing_off).await;
    let failing = explain(&world, a.name(), APP, 1);
    assert!(failing["message"].is_null() || failing["message"] == "injected: ConnectionFailed");
    assert!(["BackingOff", "Pulling"].contains(&failing["reason"].as_str().unwrap()));

    // A Ready node without an agent.
    let b = world.unresponsive_node("b", &[]).await;
    b.object.set_ready(true).await;
    world
        .record_when(&b, "written", |record| !record.spec.images.is_empty())
        .await;
    let waiting = explain(&world, b.name(), APP, 1);
    assert_eq!(waiting["reason"], "Waiting");
    assert_eq!(waiting["evidence"][1]["value"], "none");
}

#[tokio::test(flavor = "multi_thread")]
async fn why_names_the_trouble_of_the_agents_pod() {
    let world = World::start().await;
    let b = world.unresponsive_node("b", &[]).await;
    b.object.set_ready(true).await;
    world.apply("web", &[APP]).await;
    world
        .record_when(&b, "written", |record| !record.spec.images.is_empty())
        .await;
    let answer = || explain(&world, b.name(), APP, 1);
    let because = || answer()["because"].as_str().unwrap().to_owned();
    assert!(!because().contains("pod"), "no agents run in pods");

    let namespace = world.cluster().namespace();
    let pods: Api<Pod> = Api::namespaced(world.cluster().client(), namespace);
    let pod = |name: &str, node: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "labels": { "kubefledged": "kubefledged-agent" } },
            "spec": { "nodeName": node, "containers": [{ "name": "agent", "image": "agent:1" }] },
        })
    };
    world
        .create::<Pod>(pod("agent-elsewhere", "elsewhere"))
        .await;
    assert!(
        because().ends_with("; the node has no agent pod"),
        "{}",
        because()
    );

    world.create::<Pod>(pod("agent-b", b.name())).await;
    let waiting =
        json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 5m0s" } });
    let container = json!({ "name": "agent", "image": "agent:1", "imageID": "", "ready": false,
        "restartCount": 7, "state": waiting });
    let status = Patch::Merge(json!({ "status": { "containerStatuses": [container] } }));
    pods.patch_status("agent-b", &PatchParams::default(), &status)
        .await
        .unwrap();
    let crashing = answer();
    let evidence = crashing["evidence"].as_array().unwrap().last().unwrap();
    assert_eq!(evidence["object"], format!("Pod {namespace}/agent-b"));
    assert_eq!(evidence["value"], "CrashLoopBackOff: back-off 5m0s");
    let advice = crashing["advice"].as_str().unwrap();
    assert!(
        advice.contains(&format!("kubectl logs -n {namespace} agent-b")),
        "{advice}"
    );
    for name in ["agent-b", "agent-elsewhere"] {
        pods.delete(name, &DeleteParams::default().grace_period(0))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn why_explains_an_unprocessed_edit() {
    let mut world = World::start().await;
    world.publish(&[APP]);
    let a = world.node("a").await;
    world.apply("web", &[APP]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    world.stop_controller().await;
    world.apply("web", &[APP, DB]).await;
    let answer = explain(&world, a.name(), DB, 1);
    assert_eq!(answer["reason"], "NotTakenUp");
    assert_eq!(answer["evidence"][0]["value"], "2");
    assert_eq!(answer["evidence"][1]["value"], "1");
}
