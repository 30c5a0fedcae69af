//! Credentials of one namespace neither replace nor delay those of another, and nobody else reads them.

use std::fs;

use base64::Engine as _;
use fledged_tests::kube::{Way, World};
use fledged_tests::{Fledged, ManifestFile};
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::layout_node::layout_node;
use super::scripted_registry::{ScriptedRegistry, answer};
use super::{Tenant, failures};

fn basic(user: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(format!("{user}:PASSWORD"))
}

/// A pull secret for a registry or a part of it.
fn login(scope: &str, user: &str) -> Value {
    let config = json!({ "auths": { scope: { "auth": basic(user) } } });
    json!({
        "metadata": { "name": "login" },
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": { ".dockerconfigjson": config.to_string() },
    })
}

fn private(images: &[&str]) -> Value {
    json!({ "cacheSpec": [{ "images": images }], "imagePullSecrets": [{ "name": "login" }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_account_does_not_delay_another_namespace() {
    let registry = ScriptedRegistry::start(|asked| {
        let user = |name: &str| Some(format!("Basic {}", basic(name)));
        if asked.authorization == user("bob") {
            return None;
        }
        if asked.authorization == user("mallory") {
            return Some(answer(429, ("retry-after", "3600"), "slow down"));
        }
        let challenge = ("www-authenticate", "Basic realm=\"test\"");
        Some(answer(401, challenge, ""))
    })
    .await;
    let world = World::start().await;
    let (attacker, victim) = Tenant::attacker_and_victim(&world).await;
    let (_node, _folder) = layout_node(&world, "a").await;
    let (shared, own) = (registry.reference("team/shared"), registry.reference("own"));
    // The longer path is the more specific entry.
    let scope = format!("{}/team/shared", registry.addr());
    attacker
        .create_object::<Secret>(login(&scope, "mallory"))
        .await;
    attacker.create("spy", private(&[&shared])).await;
    attacker
        .status_when("spy", "throttled", |status| {
            failures(status).contains("TooManyRequests")
        })
        .await;
    victim
        .create_object::<Secret>(login(registry.addr(), "bob"))
        .await;
    victim.create("web", private(&[&shared, &own])).await;
    victim.converges("web").await;
}

#[test]
fn a_redirect_target_gets_no_credentials() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let elsewhere = runtime.block_on(ScriptedRegistry::start(|asked| {
        // The host to which the registry redirects asks for credentials, and names itself as the server of tokens.
        let realm = format!("http://{}/token", asked.host);
        let challenge = format!("Bearer realm=\"{realm}\",service=\"elsewhere\"");
        (asked.path != "/token").then(|| answer(401, ("www-authenticate", &challenge), ""))
    }));
    let target = format!("http://{}", elsewhere.addr());
    let registry = runtime.block_on(ScriptedRegistry::start(move |asked| {
        let location = format!("{target}{}", asked.path);
        Some(answer(307, ("location", &location), ""))
    }));
    let image = registry.reference("team/app");
    let manifest = ManifestFile::new(&[image]);
    let config = manifest.folder().join("config.json");
    let entries = [
        json!({ "identitytoken": "IDENTITY" }),
        json!({ "username": "robot", "password": "PASSWORD" }),
    ];
    for entry in entries {
        let content = json!({ "auths": { registry.addr(): entry } });
        fs::write(&config, content.to_string()).unwrap();
        let output = Fledged::new()
            .args(["check", "--registry-config"])
            .arg(&config)
            .arg("-f")
            .arg(manifest.path())
            .run();
        assert_ne!(output.code, Some(0), "{output}");
    }
    let asked = elsewhere.asked();
    assert!(!asked.is_empty(), "no request followed the redirect");
    for request in asked {
        assert_eq!(request.authorization, None, "{request:?}");
        assert!(!request.body.contains("IDENTITY"), "{request:?}");
    }
}

async fn a_status_conceals_names_of_other_namespaces(way: Way) {
    const SHARED: &str = "registry.test/shared:1";
    let world = World::start_by(way).await;
    let (attacker, victim) = Tenant::attacker_and_victim(&world).await;
    let _a = world.node("a").await;
    let spec = json!({
        "cacheSpec": [{ "images": [SHARED, "registry.test/payments:1"] }],
        "imagePullSecrets": [{ "name": "production-robot" }],
        "serviceAccountName": "payments-account",
    });
    victim.create("payments", spec).await;
    attacker.create_images("spy", &[SHARED]).await;
    let spied = attacker.ended("spy", "ImageCacheCreate", "Failed").await;
    let own = victim.ended("payments", "ImageCacheCreate", "Failed").await;
    // A kubelet's words name no secrets.
    if way == Way::Agents {
        assert!(failures(&own).contains("production-robot"), "{own:#?}");
    }
    let spied = serde_json::to_string(&spied).unwrap();
    for name in [victim.namespace.as_str(), "production-robot", "payments"] {
        assert!(!spied.contains(name), "{name} in {spied}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_conceal_names_of_other_namespaces() {
    a_status_conceals_names_of_other_namespaces(Way::Agents).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_conceal_names_of_other_namespaces() {
    a_status_conceals_names_of_other_namespaces(Way::Jobs).await;
}
