//! The targets of kube-fledged's Makefile, and its variables.

use std::path::Path;
use std::process::{Command, Output};

use fledged_tests::kube::TestCluster;
use fledged_tests::require;

use super::rendered::{deploy, text};

/// Returns the commands that make would run for a target.
fn dry_run(args: &[&str]) -> String {
    let output = Command::new("make")
        .args(["--dry-run", "--directory", deploy("").to_str().unwrap()])
        .args(args)
        .env_remove("MAKEFLAGS")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a target on the cluster, in the test's namespace. `kubectl rollout` does nothing, because no pods start here.
pub(crate) async fn make(cluster: &TestCluster, args: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = cluster.kubeconfig().display();
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = rollout ] || exec kubectl --kubeconfig='{kubeconfig}' \"$@\"\n"
    );
    let kubectl = executable(&folder.path().join("kubectl"), &script);
    let kubectl = format!("KUBECTL={kubectl}");
    let namespace = format!("KUBEFLEDGED_NAMESPACE={}", cluster.namespace());
    let mut command = Command::new("make");
    command
        .args(["--directory", deploy("").to_str().unwrap()])
        .args(args)
        .args([kubectl, namespace])
        .env_remove("MAKEFLAGS");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    output.await.unwrap()
}

/// Writes an executable script and returns its path.
fn executable(path: &Path, script: &str) -> String {
    std::fs::write(path, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(path, mode).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn every_make_target_of_kube_fledged_exists() {
    if !require(&["make"]) {
        return;
    }
    for target in [
        "deploy-using-yaml",
        "deploy-using-operator",
        "remove-kubefledged",
        "remove-kubefledged-and-operator",
        "install-buildx",
        "release-amd64",
    ] {
        assert!(!dry_run(&[target]).is_empty(), "{target}");
    }
}

#[test]
fn release_pushes_to_the_given_repositories() {
    if !require(&["make"]) {
        return;
    }
    let commands = dry_run(&[
        "release-amd64",
        "RELEASE_VERSION=v9",
        "CONTROLLER_IMAGE_REPO=r.example/controller",
        "WEBHOOK_SERVER_IMAGE_REPO=r.example/webhook",
        "CRI_CLIENT_IMAGE_REPO=r.example/cri",
        "OPERATOR_IMAGE_REPO=r.example/operator",
    ]);
    for name in ["controller", "webhook", "cri", "operator"] {
        assert!(
            commands.contains(&format!("-t r.example/{name}:v9")),
            "{commands}"
        );
    }
    assert!(commands.contains("--platform=linux/amd64 "), "{commands}");
    assert!(!commands.contains("arm64"), "{commands}");
}

/// Deleting an ImageCache may remove images, for which the controller and the agents must still run.
#[test]
fn image_caches_are_deleted_before_their_definition() {
    if !require(&["make"]) {
        return;
    }
    for target in ["remove-kubefledged", "remove-kubefledged-and-operator"] {
        let commands = dry_run(&[target]);
        let at = |what: &str| {
            commands
                .find(what)
                .unwrap_or_else(|| panic!("{target}: no {what} in {commands}"))
        };
        assert!(at("delete imagecaches --all --all-namespaces") < at("kubefledged-crd.yaml"));
    }
}

/// The Helm operator can only install over definitions that carry the owner annotations of its release.
#[test]
fn definitions_are_adopted_before_the_kubefledged_is_made() {
    if !require(&["make"]) {
        return;
    }
    let commands = dry_run(&["deploy-using-operator"]);
    let at = |what: &str| {
        commands
            .find(what)
            .unwrap_or_else(|| panic!("no {what} in {commands}"))
    };
    assert!(at("meta.helm.sh/release-name=kube-fledged") < at("_kubefledged_cr.yaml"));
    let version = env!("CARGO_PKG_VERSION");
    at(&format!("helm\\.sh/chart}}'=kube-fledged-{version} "));
}

/// The Makefile replaces the namespace by its text, so `kube-fledged` must not occur with another meaning.
#[test]
fn plain_yaml_has_kube_fledged_only_as_namespace() {
    for file in ["kubefledged.yaml", "webhook/kubefledged-webhook.yaml"] {
        for line in text(file).lines().filter(|line| !line.starts_with('#')) {
            let Some((before, after)) = line.split_once("kube-fledged") else {
                continue;
            };
            let place = before.ends_with("namespace: ") || before.ends_with("-namespace=");
            let account = before.ends_with("system:serviceaccount:") && after.starts_with(':');
            assert!((place && after.is_empty()) || account, "{file}: {line}");
        }
    }
}

#[test]
fn namespace_and_image_variables_change_every_object() {
    if !require(&["make", "kubectl"]) {
        return;
    }
    // A kubectl that prints the objects instead of applying them.
    let fake = tempfile::tempdir().unwrap();
    let script = "#!/bin/sh\ncase \"$1 $2\" in 'kustomize '*) exec kubectl \"$@\";; 'apply '*) exec cat;; esac\n";
    let program = executable(&fake.path().join("kubectl"), script);
    let output = Command::new("make")
        .args([
            "--silent",
            "--directory",
            deploy("").to_str().unwrap(),
            "deploy-using-yaml",
        ])
        .arg(format!("KUBECTL={}", program))
        .args([
            "KUBEFLEDGED_NAMESPACE=elsewhere",
            "CONTROLLER_IMAGE_REPO=r.example/ours",
            "WEBHOOK_SERVER_IMAGE_REPO=r.example/webhook",
            "RELEASE_VERSION=9",
        ])
        .env_remove("MAKEFLAGS")
        .output()
        .unwrap();
    let applied = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{applied}");
    let left: Vec<&str> = applied
        .lines()
        .filter(|line| line.contains(": kube-fledged") || line.contains(":kube-fledged"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    for (image, count) in [("r.example/ours:9", 2), ("r.example/webhook:9", 1)] {
        let found = applied.matches(&format!("image: {image}")).count();
        assert_eq!(found, count, "{image}: {applied}");
    }
}

#[test]
fn allow_pull_secrets_binds_the_agents_of_the_namespace() {
    if !require(&["make"]) {
        return;
    }
    let fake = tempfile::tempdir().unwrap();
    let script = "#!/bin/sh\necho \"# $*\"; exec cat\n";
    let program = executable(&fake.path().join("kubectl"), script);
    let make = |variables: &[&str]| {
        let mut command = Command::new("make");
        command.args(["--silent", "--directory", deploy("").to_str().unwrap()]);
        command.arg("allow-pull-secrets").args(variables);
        command.arg(format!("KUBECTL={program}"));
        command.env_remove("MAKEFLAGS").output().unwrap()
    };
    let output = make(&[
        "PULL_SECRETS_NAMESPACE=shop",
        "KUBEFLEDGED_NAMESPACE=elsewhere",
    ]);
    let applied = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{applied}");
    assert!(applied.contains("# apply -n shop -f -"), "{applied}");
    assert!(applied.contains("namespace: elsewhere"), "{applied}");
    assert!(!applied.contains(": kube-fledged"), "{applied}");
    assert!(!make(&[]).status.success());
}
