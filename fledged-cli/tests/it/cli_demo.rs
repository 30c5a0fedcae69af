//! The demo needs nothing and leaves nothing.
use std::path::Path;
use std::process::Command;

use crate::support::{Run, Staying, command, fledged, text_of};
use tempfile::TempDir;

/// Of SIGINT and SIGTERM.
const INTERRUPTED: i32 = 130;
const TERMINATED: i32 = 143;

/// A call in a temporary folder of its own, by somebody without a home and with a cluster that is none of
/// the demo's business.
fn demo(args: &[&str], folder: &Path) -> Command {
    let kubeconfig = folder.with_extension("kubeconfig");
    std::fs::write(&kubeconfig, "not for the demo").unwrap();
    let mut call = command(&[&["demo"], args].concat());
    call.env("TMPDIR", folder)
        .env("KUBECONFIG", &kubeconfig)
        // Nothing that listens: whatever went through a proxy would fail.
        .env("HTTP_PROXY", "http://127.0.0.1:9")
        .env("HTTPS_PROXY", "http://127.0.0.1:9")
        .env_remove("HOME");
    call
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn run(args: &[&str], folder: &TempDir) -> Run {
    Run::from(demo(args, folder.path()).output().unwrap())
}

#[track_caller]
fn nothing_is_left(folder: &TempDir, said: &str) {
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}\n{said}");
    let kubeconfig = folder.path().with_extension("kubeconfig");
    let foreign = std::fs::read_to_string(&kubeconfig).unwrap();
    assert_eq!(foreign, "not for the demo");
    std::fs::remove_file(kubeconfig).unwrap();
}

#[track_caller]
fn shows(run: &Run, parts: &[&str]) {
    let mut rest = run.stdout.as_str();
    for part in parts {
        let Some(at) = rest.find(part) else {
            panic!("{part:?} is not in, or not in its place:\n{}", run.stdout);
        };
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn the_demo_shows_every_act_and_leaves_nothing() {
    let folder = folder();
    let run = run(&["--no-wait"], &folder).expect_code(0);
    shows(
        &run,
        &[
            "1. A cluster in this process",
            "API server   http://127.0.0.1:",
            "/kubeconfig",
            "with 3 generated images",
            "holds the Lease kube-fledged/kubefledged-controller",
            "5 Ready, each with an agent",
            "tier=backend: node-1, node-3, node-5",
            "2. An ImageCache is applied",
            "kind: ImageCache",
            "$ kubectl apply --server-side -f ",
            "imagecache.kubefledged.io/storefront serverside-applied",
            "$ fledged get -w",
            "Succeeded    ImageCacheCreate         13       13",
            "$ fledged status storefront",
            "node-1   C   C   C\nnode-2   C   C   .\n",
            "3 images on 5 nodes, 13 times in all, cached ",
            "3. A node joins: node-6",
            "node-6 was warm ",
            "$ fledged get storefront",
            "15       15",
            "4. An image gets lost: 127.0.0.1:",
            "Noticed after ",
            "Back after ",
            "$ fledged why storefront node-1 127.0.0.1:",
            "yes: 127.0.0.1:",
            "5. Purge",
            "$ fledged purge storefront --wait",
            "ImageCachePurge Succeeded: removed from 6 nodes",
            "no layout of the 6 nodes holds an image",
            "Done: 3 images put on 5 nodes, a node that joined was warmed, 1 image repaired, 6 nodes purged",
        ],
    );
    assert!(!run.stdout.contains('\u{1b}'), "{:?}", run.stdout);
    assert_eq!(run.stderr, "");
    nothing_is_left(&folder, &run.stdout);
}

#[test]
fn without_a_terminal_it_ends_by_itself() {
    let folder = folder();
    let run = run(&["--nodes", "1"], &folder).expect_code(0);
    shows(&run, &["Done: 3 images put on 1 node,"]);
    nothing_is_left(&folder, &run.stdout);
}

const OWN: &str = "\
apiVersion: kubefledged.io/v1alpha2
kind: ImageCache
metadata: {name: shop, namespace: store}
spec:
  imagePullSecrets: [{name: none-such}]
  cacheSpec:
  - images: ['nginx:1.27', 'quay.io/org/app:1', 'ghcr.io/org/app:1']
  - images: [redis]
    nodeSelector: {disk: ssd}
  - images: ['mainframe:1']
    nodeSelector: {kubernetes.io/arch: s390x}
---
apiVersion: kubefledged.io/v1alpha2
kind: ImageCache
metadata: {name: nobody}
spec:
  cacheSpec:
  - images: ['desktop:1']
    nodeSelector: {kubernetes.io/os: windows}
";

#[test]
fn images_of_a_file_are_served_under_their_own_names() {
    let (folder, files) = (folder(), folder());
    let file = files.path().join("own.yaml");
    std::fs::write(&file, OWN).unwrap();
    let file = text_of(&file);
    let run = run(&["--nodes", "2", "-f", &file], &folder).expect_code(0);
    shows(
        &run,
        &[
            "with 6 generated images",
            "disk=ssd: node-1\n",
            "nginx:1.27 is 127.0.0.1:",
            "/library/nginx:1.27\n",
            "quay.io/org/app:1 is 127.0.0.1:",
            "/org/app:1\n",
            "ghcr.io/org/app:1 is 127.0.0.1:",
            "/ghcr.io/org/app:1\n",
            "/library/redis:latest\n",
            "$ fledged get -A -w",
            "$ fledged status shop -n store",
            "NODE     1   2   3   4   5\nnode-1   C   C   C   C   .\nnode-2   C   C   C   .   .\n",
            "$ fledged status nobody",
            "no node is meant by it",
            "4 images on 2 nodes, 7 times in all",
            "$ fledged purge shop -n store --wait",
            "Done: 4 images put on 2 nodes",
        ],
    );
    let run = run.says(&[
        "ImageCache store/shop: spec.imagePullSecrets and spec.serviceAccountName are left out",
        "ImageCache store/shop: spec.cacheSpec[2]: nodeSelector kubernetes.io/arch=s390x matches none of the demo's nodes",
        "ImageCache default/nobody: spec.cacheSpec[0]: nodeSelector kubernetes.io/os=windows matches none",
    ]);
    nothing_is_left(&folder, &run.stdout);
}

#[test]
fn bad_input_is_named_before_anything_is_started() {
    let (folder, files) = (folder(), folder());
    let file = files.path().join("bad.yaml");
    let file = text_of(&file);
    for (from, to, says) in [
        (
            "nginx:1.27",
            "Not An Image",
            "spec.cacheSpec[0].images[0]: \"Not An Image\"",
        ),
        ("v1alpha2", "v9", "apiVersion: \"kubefledged.io/v9\""),
    ] {
        std::fs::write(&file, OWN.replace(from, to)).unwrap();
        let run = run(&["-f", &file], &folder).expect_code(2);
        let run = run.says(&[&file, says]);
        nothing_is_left(&folder, &run.stdout);
    }
    let (_, nobody) = OWN.split_once("---\n").unwrap();
    std::fs::write(&file, nobody).unwrap();
    let unmet = run(&["-f", &file], &folder).expect_code(2).says(&[
        "there is nothing to show",
        &file,
        "ImageCache default/nobody: spec.cacheSpec[0]: nodeSelector kubernetes.io/os=windows",
    ]);
    assert_eq!(unmet.stdout, "");
    for (args, says) in [
        (
            ["--nodes", "0"],
            "invalid value '0' for '--nodes <N>': 0 is not in 1..=50",
        ),
        (
            ["--nodes", "51"],
            "invalid value '51' for '--nodes <N>': 51 is not in 1..=50",
        ),
        (
            ["--keep", "--no-wait"],
            "'--keep' cannot be used with '--no-wait'",
        ),
    ] {
        run(&args, &folder).expect_code(2).says(&[says]);
    }
}

#[test]
fn a_folder_that_can_not_be_had_is_named() {
    let folder = folder();
    let missing = folder.path().join("missing");
    let output = demo(&[], folder.path()).env("TMPDIR", &missing).output();
    let run = Run::from(output.unwrap());
    run.expect_code(1).says(&[
        "cannot create a folder for the demo in",
        &text_of(&missing),
        "$TMPDIR",
    ]);
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let logs = folder();
    for (signal, words, code) in [
        // In the middle of a rollout, of a repair, and of whatever comes first.
        ("INT", "ImageCacheCreate", INTERRUPTED),
        ("TERM", "4. An image gets lost", TERMINATED),
        ("INT", "1. A cluster", INTERRUPTED),
    ] {
        let folder = folder();
        let mut call = demo(&[], folder.path());
        let mut staying = Staying::spawn(&mut call, logs.path().join("log"));
        staying.wait_for(words);
        staying.signal(signal);
        let (ended, _) = staying.end();
        assert_eq!(ended, Some(code), "{}", staying.said());
        assert!(staying.said().contains("interrupted"), "{}", staying.said());
        nothing_is_left(&folder, &staying.said());
    }
}

#[test]
fn a_kept_cluster_answers_until_a_signal() {
    let (folder, logs) = (folder(), folder());
    let mut call = demo(&["--keep", "--nodes", "2"], folder.path());
    let mut staying = Staying::spawn(&mut call, logs.path().join("log"));
    staying.wait_for("stays up until SIGINT or SIGTERM");
    staying.wait_for("   fledged status storefront\n");
    let said = staying.said();
    let (_, rest) = said.rsplit_once("export KUBECONFIG=").unwrap();
    let kubeconfig = rest.lines().next().unwrap();
    let status = fledged(&["status", "storefront", "--kubeconfig", kubeconfig]).expect_code(0);
    let rows = "node-1   C   C   C\nnode-2   C   C   .\nnode-3   C   C   C\n";
    assert!(status.stdout.contains(rows), "{}", status.stdout);
    staying.signal("TERM");
    let (code, _) = staying.end();
    assert_eq!(code, Some(0), "{}", staying.said());
    nothing_is_left(&folder, &staying.said());
}
