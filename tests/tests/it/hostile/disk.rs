//! The words of a registry do not make the disk of a node full.

use std::sync::Arc;

use fledged_cri::cri::CriRuntime;
use fledged_tests::kube::World;
use fledged_tests::{Containerd, require};

use super::layout_node::{RealNode, layout_node};
use super::scripted_registry::{ScriptedRegistry, answer};
use super::{Tenant, failures};

const NO_SPACE: &str =
    r#"{"errors":[{"code":"UNKNOWN","message":"write /data: no space left on device"}]}"#;

/// Six images of a registry that claims a full disk, then an image of another registry.
async fn a_full_registry_holds_no_other_image(world: &World, full: &ScriptedRegistry) {
    let (attacker, victim) = Tenant::attacker_and_victim(world).await;
    let good = ScriptedRegistry::start(|_| None).await;
    let evil: Vec<String> = (0..6)
        .map(|n| full.reference(&format!("evil{n}")))
        .collect();
    let evil: Vec<&str> = evil.iter().map(String::as_str).collect();
    attacker.create_images("full", &evil).await;
    let status = attacker
        .status_when("full", "failing", |status| !status.failures.is_empty())
        .await;
    assert!(!failures(&status).contains("DiskFull"), "{status:#?}");
    victim.create_images("web", &[&good.reference("app")]).await;
    let status = victim.converges("web").await;
    assert!(!format!("{status:?}").contains("evil"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_space_stops_no_other_pull() {
    let full = ScriptedRegistry::start(|asked| {
        let json = ("content-type", "application/json");
        (asked.path != "/v2/").then(|| answer(507, json, NO_SPACE))
    })
    .await;
    let world = World::start().await;
    let (_node, _folder) = layout_node(&world, "a").await;
    a_full_registry_holds_no_other_image(&world, &full).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_blob_stops_no_other_pull_of_containerd() {
    if !require(&["containerd"]) {
        return;
    }
    let full = ScriptedRegistry::start(|asked| {
        let json = ("content-type", "application/json");
        let is_blob = asked.path.contains("/blobs/");
        is_blob.then(|| answer(500, json, NO_SPACE))
    })
    .await;
    let containerd = tokio::task::block_in_place(Containerd::start);
    let world = World::start().await;
    let runtime = Arc::new(CriRuntime::connect(containerd.socket()));
    let _node = RealNode::start(&world, "a", runtime).await;
    a_full_registry_holds_no_other_image(&world, &full).await;
}
