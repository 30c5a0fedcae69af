//! Private images: credentials from the kubelet's credential-provider plugins.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use fledged_tests::kube::{World, WorldOptions};
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use tempfile::TempDir;

const APP: &str = "registry.test/private/app:1";

/// A directory with a configuration, and a plugin that runs this script.
fn plugin(script: &str) -> (TempDir, WorldOptions) {
    let folder = tempfile::tempdir().unwrap();
    let (config, program) = (
        folder.path().join("config.yaml"),
        folder.path().join("login"),
    );
    let text = "
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: login
  matchImages: ['*.test']
  defaultCacheDuration: 1h
  apiVersion: credentialprovider.kubelet.k8s.io/v1
";
    fs::write(&config, text).unwrap();
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let options = WorldOptions {
        credential_providers: Some((config, folder.path().to_owned())),
        ..WorldOptions::default()
    };
    (folder, options)
}

fn prints(password: &str) -> String {
    let response = json!({
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "kind": "CredentialProviderResponse",
        "cacheKeyType": "Registry",
        "auth": {"registry.test": {"username": "robot", "password": password}},
    });
    format!("cat <<'END'\n{response}\nEND")
}

async fn private_world(options: WorldOptions) -> World {
    let world = World::start_with(options).await;
    world.publish(&[APP]);
    world.registry().protect(APP, "robot", "hunter2");
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_pulls_with_a_credential_provider_only() {
    let (_folder, options) = plugin(&prints("hunter2"));
    let world = private_world(options).await;
    let a = world.node("a").await;
    world.apply("web", &[APP]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    a.holds_exactly(&[APP]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_is_used_if_the_pull_secret_is_refused() {
    let (_folder, options) = plugin(&prints("hunter2"));
    let world = private_world(options).await;
    let a = world.node("a").await;
    let login = json!({"auths": {"registry.test": {"username": "robot", "password": "old"}}});
    let secret = json!({
        "metadata": {"name": "login"},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": login.to_string()},
    });
    world.create::<Secret>(secret).await;
    let spec = json!({"cacheSpec": [{"images": [APP]}], "imagePullSecrets": [{"name": "login"}]});
    world.apply_spec("web", spec).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    a.holds_exactly(&[APP]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_provider_is_named_in_the_status() {
    let (_folder, options) = plugin("echo 'no role on this node' >&2; exit 1");
    let world = private_world(options).await;
    world.publish(&["registry.test/public/app:1"]);
    let a = world.node("a").await;
    world
        .apply("web", &[APP, "registry.test/public/app:1"])
        .await;
    let status = world.ended("web", "ImageCacheCreate", "Failed").await;
    let failure = &status.failures[APP][0];
    assert_eq!(failure.reason, "CredentialsUnavailable");
    let message = &failure.message;
    assert!(
        message.contains(
            "credential provider \"login\": failed (exit status: 1): no role on this node"
        ),
        "{message}"
    );
    // Without credentials, a public image is pulled all the same.
    a.holds_exactly(&["registry.test/public/app:1"]).await;
}
