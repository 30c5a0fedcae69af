//! Private images: credentials from pull secrets and ServiceAccounts.

use base64::Engine as _;
use fledged_kube::crd::REFRESH_ANNOTATION;
use fledged_tests::kube::{Way, World};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::{Value, json};

scenarios! {
    a_private_image_is_pulled_with_a_pull_secret,
    a_private_image_is_pulled_with_a_service_account,
    a_missing_secret_is_named_and_later_used,
    a_malformed_secret_is_named_but_not_shown,
    a_missing_secret_beside_a_public_image_is_a_warning,
}

const APP: &str = "registry.test/private/app:1";

fn login(user: &str, password: &str) -> String {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    json!({ "auths": { "registry.test": { "auth": auth } } }).to_string()
}

fn secret(name: &str, content: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": { ".dockerconfigjson": content },
    })
}

fn spec() -> Value {
    json!({ "cacheSpec": [{ "images": [APP] }], "imagePullSecrets": [{ "name": "login" }] })
}

/// Returns the expected reason of a pull without its credentials. A kubelet pulls anonymously, so with Jobs the reason
/// is the registry's refusal.
fn unavailable(way: Way) -> &'static str {
    match way {
        Way::Agents => "CredentialsUnavailable",
        Way::Jobs => "Unauthorized",
    }
}

async fn private_world(way: Way) -> World {
    let world = World::start_by(way).await;
    world.publish(&[APP]);
    world.registry().protect(APP, "robot", "hunter2");
    world
}

async fn a_private_image_is_pulled_with_a_pull_secret(way: Way) {
    let world = private_world(way).await;
    let a = world.node("a").await;
    world
        .create::<Secret>(secret("login", &login("robot", "hunter2")))
        .await;
    world.apply_spec("web", spec()).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    a.holds_exactly(&[APP]).await;
}

async fn a_private_image_is_pulled_with_a_service_account(way: Way) {
    let world = private_world(way).await;
    let a = world.node("a").await;
    world
        .create::<Secret>(secret("login", &login("robot", "hunter2")))
        .await;
    let account = json!({
        "metadata": { "name": "puller" },
        "imagePullSecrets": [{ "name": "login" }],
    });
    world.create::<ServiceAccount>(account).await;
    let spec = json!({ "cacheSpec": [{ "images": [APP] }], "serviceAccountName": "puller" });
    world.apply_spec("web", spec).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    a.holds_exactly(&[APP]).await;
}

async fn a_missing_secret_is_named_and_later_used(way: Way) {
    let world = private_world(way).await;
    let a = world.node("a").await;
    world.apply_spec("web", spec()).await;
    let status = world.ended("web", "ImageCacheCreate", "Failed").await;
    let failure = &status.failures[APP][0];
    assert_eq!(failure.reason, unavailable(way));
    let name = format!("{}/login", world.cluster().namespace());
    assert!(failure.message.contains(&name), "{}", failure.message);
    world
        .create::<Secret>(secret("login", &login("robot", "hunter2")))
        .await;
    world.annotate("web", REFRESH_ANNOTATION).await;
    // The back-off takes minutes; an edit retries at once.
    world.apply_spec("web", edited()).await;
    world
        .status_when("web", "cached", |s| s.cached.as_deref() == Some("1/1"))
        .await;
    a.holds_exactly(&[APP]).await;
}

/// The same images with a second secret: a change of credentials is retried at once.
fn edited() -> Value {
    json!({
        "cacheSpec": [{ "images": [APP] }],
        "imagePullSecrets": [{ "name": "login" }, { "name": "another" }],
    })
}

async fn a_malformed_secret_is_named_but_not_shown(way: Way) {
    let world = private_world(way).await;
    let _a = world.node("a").await;
    let opaque = json!({
        "metadata": { "name": "login" },
        "stringData": { "password": "hunter2" },
    });
    world.create::<Secret>(opaque).await;
    world.apply_spec("web", spec()).await;
    let status = world.ended("web", "ImageCacheCreate", "Failed").await;
    let failure = &status.failures[APP][0];
    assert_eq!(failure.reason, unavailable(way));
    assert!(failure.message.contains("login"), "{}", failure.message);
    assert!(!format!("{status:?}").contains("hunter2"));
}

async fn a_missing_secret_beside_a_public_image_is_a_warning(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP]);
    let a = world.node("a").await;
    world.apply_spec("web", spec()).await;
    let status = world.ended("web", "ImageCacheCreate", "Succeeded").await;
    a.holds_exactly(&[APP]).await;
    let namespace = world.cluster().namespace();
    let warning = format!("pull secret {namespace}/login: not found (on 1 node; a refresh ends");
    // The kubelet pulls without a word in the status of its pod.
    assert_eq!(
        status.message.contains(&warning),
        way == Way::Agents,
        "{}",
        status.message
    );
}
