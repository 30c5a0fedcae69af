//! `fledged` as a plugin of kubectl.

use std::os::unix::fs::symlink;
use std::process::Command;

use fledged_tests::kube::World;
use fledged_tests::{fledged_binary, require};

use crate::terminal::support::APP;

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_fledged_runs_as_a_plugin() {
    if !require(&["kubectl"]) {
        return;
    }
    let world = World::without_controller(Default::default()).await;
    world.apply("web", &[APP]).await;
    let folder = tempfile::tempdir().unwrap();
    symlink(fledged_binary(), folder.path().join("kubectl-fledged")).unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = vec![folder.path().to_owned()];
    folders.extend(std::env::split_paths(&path));
    let kubectl = |args: &[&str]| {
        let mut command = Command::new("kubectl");
        command
            .args(args)
            .env("PATH", std::env::join_paths(&folders).unwrap())
            .env("KUBECONFIG", world.cluster().kubeconfig())
            .env("HOME", folder.path());
        let output = tokio::task::block_in_place(|| command.output().unwrap());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let namespace = world.cluster().namespace();
    let (code, table, errors) = kubectl(&["fledged", "get", "-n", namespace]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(table.contains("web"), "{table}");
    let (code, _, errors) = kubectl(&["fledged", "get", "--nonsense"]);
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("Usage: kubectl fledged get"), "{errors}");
    let (code, help, errors) = kubectl(&["fledged", "get", "--help"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(help.contains("\n  kubectl fledged get -A"), "{help}");
}
