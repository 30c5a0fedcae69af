//! `fledged demo --keep`: the real kubectl works on the cluster.

use std::path::Path;
use std::process::Command;

use fledged_tests::{Fledged, Running, SOON, poll_until, require};
use serde_json::Value;

/// Returns the rest of the last line of stdout that contains `words`.
fn after(running: &Running, words: &str) -> Option<String> {
    let stdout = running.stdout();
    let (_, rest) = stdout.rsplit_once(words)?;
    let (line, _) = rest.split_once('\n')?;
    Some(line.to_owned())
}

#[track_caller]
fn kubectl(kubeconfig: &str, home: &Path, args: &[&str]) -> String {
    let mut call = Command::new("kubectl");
    let call = call.args(args).env("KUBECONFIG", kubeconfig);
    // kubectl caches API discovery in $HOME; another server may reuse the address.
    let output = call.env("HOME", home).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{args:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

#[test]
fn kubectl_works_with_the_demo_kubeconfig() {
    if !require(&["kubectl"]) {
        return;
    }
    let (folder, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let running = Fledged::new()
        .args(["demo", "--keep", "--nodes", "2"])
        .env("TMPDIR", folder.path())
        .spawn();
    let kubeconfig = poll_until("the demo to stay up", SOON, || {
        after(&running, "stays up until SIGINT or SIGTERM")?;
        after(&running, "   fledged status ")?;
        after(&running, "export KUBECONFIG=")
    });
    let kubectl = |args: &[&str]| kubectl(&kubeconfig, home.path(), args);
    let nodes = kubectl(&["get", "nodes", "--no-headers"]);
    let ready: Vec<Vec<&str>> = nodes
        .lines()
        .map(|line| line.split_whitespace().take(2).collect())
        .collect();
    assert_eq!(
        ready,
        [
            ["node-1", "Ready"],
            ["node-2", "Ready"],
            ["node-3", "Ready"]
        ]
    );
    let status = |path: &str| {
        let json = kubectl(&["get", "ic", "storefront", "-o", "json"]);
        let cache: Value = serde_json::from_str(&json).unwrap();
        cache.pointer(path).cloned().unwrap_or_default()
    };
    assert_eq!(status("/status/cached"), "8/8");
    // The controllers run: a new label causes a pull on the node.
    kubectl(&["label", "node", "node-2", "tier=backend"]);
    poll_until("the image to be cached on node-2", SOON, || {
        (status("/status/cached") == "9/9").then_some(())
    });
    let manifest = after(&running, "apply --server-side -f ").unwrap();
    let applied = kubectl(&["apply", "--server-side", "-f", &manifest]);
    assert_eq!(
        applied,
        "imagecache.kubefledged.io/storefront serverside-applied\n"
    );
    running.terminate();
    let output = running.wait(SOON);
    assert_eq!(output.code, Some(0), "{output}");
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 0, "{output}");
}
