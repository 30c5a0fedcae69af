//! `demo`: its output, and that it leaves no files.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::{Run, RunningProgram, command, fledged, text_of};
use tempfile::TempDir;

/// Exit codes after SIGINT and SIGTERM.
const INTERRUPTED: i32 = 130;
const TERMINATED: i32 = 143;

/// The demo with its own $TMPDIR, without a home directory, and with a kubeconfig that it must not touch.
fn demo(args: &[&str], folder: &Path) -> Command {
    let kubeconfig = folder.with_extension("kubeconfig");
    std::fs::write(&kubeconfig, "not for the demo").unwrap();
    let mut call = command(&[&["demo"], args].concat());
    call.env("TMPDIR", folder)
        .env("KUBECONFIG", &kubeconfig)
        // Nothing listens here: a request through the proxy fails.
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
fn assert_no_files(folder: &TempDir, output: &str) {
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}\n{output}");
    let kubeconfig = folder.path().with_extension("kubeconfig");
    let content = std::fs::read_to_string(&kubeconfig).unwrap();
    assert_eq!(content, "not for the demo");
    std::fs::remove_file(kubeconfig).unwrap();
}

#[track_caller]
fn assert_in_order(run: &Run, parts: &[&str]) {
    let mut rest = run.stdout.as_str();
    for part in parts {
        let Some(at) = rest.find(part) else {
            panic!("{part:?} is missing or out of order:\n{}", run.stdout);
        };
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn the_demo_shows_every_step_and_leaves_no_files() {
    let folder = folder();
    let run = run(&["--no-wait"], &folder).expect_code(0);
    assert_in_order(
        &run,
        &[
            "1. A cluster in this process",
            "API server   http://127.0.0.1:",
            "/kubeconfig",
            "3 generated images, ",
            "holds the Lease kube-fledged/kubefledged-controller",
            "5 Ready, each with an agent",
            "tier=backend: node-1, node-3, node-5",
            "2. Rollout: an ImageCache is applied.",
            "kind: ImageCache",
            "$ kubectl apply --server-side -f ",
            "imagecache.kubefledged.io/storefront serverside-applied",
            "$ fledged get -w",
            "Succeeded    ImageCacheCreate         13       13",
            "$ fledged status storefront",
            "node-1   C   C   C\nnode-2   C   C   .\n",
            "3 images on 5 nodes (13 pulls) after ",
            "3. New node: node-6 joins the cluster.",
            "node-6 has 2 images ",
            "$ fledged get storefront",
            "15       15",
            "4. Repair: 127.0.0.1:",
            "Noticed after ",
            "Pulled again after ",
            "$ fledged why storefront node-1 127.0.0.1:",
            "yes: 127.0.0.1:",
            "5. Purge",
            "$ fledged purge storefront --wait",
            "ImageCachePurge Succeeded: removed from 6 nodes",
            "6 nodes empty after ",
            ": 3 images on 5 nodes, 1 new node warmed, 1 image repaired, 6 nodes purged.",
        ],
    );
    assert!(!run.stdout.contains('\u{1b}'), "{:?}", run.stdout);
    assert_eq!(run.stderr, "");
    assert_no_files(&folder, &run.stdout);
}

#[test]
fn the_demo_exits_without_a_terminal() {
    let folder = folder();
    let run = run(&["--nodes", "1"], &folder).expect_code(0);
    assert_in_order(&run, &[": 3 images on 1 node,"]);
    assert_no_files(&folder, &run.stdout);
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
metadata: {name: desktop}
spec:
  cacheSpec:
  - images: ['desktop:1']
    nodeSelector: {kubernetes.io/os: windows}
";

#[test]
fn images_of_a_file_keep_their_names() {
    let (folder, files) = (folder(), folder());
    let file = files.path().join("own.yaml");
    std::fs::write(&file, OWN).unwrap();
    let file = text_of(&file);
    let run = run(&["--nodes", "2", "-f", &file], &folder).expect_code(0);
    assert_in_order(
        &run,
        &[
            "6 generated images, ",
            "disk=ssd: node-1\n",
            "nginx:1.27 -> 127.0.0.1:",
            "/library/nginx:1.27\n",
            "quay.io/org/app:1 -> 127.0.0.1:",
            "/org/app:1\n",
            "ghcr.io/org/app:1 -> 127.0.0.1:",
            "/ghcr.io/org/app:1\n",
            "/library/redis:latest\n",
            "$ fledged get -A -w",
            "$ fledged status shop -n store",
            "NODE     1   2   3   4   5\nnode-1   C   C   C   C   .\nnode-2   C   C   C   .   .\n",
            "$ fledged status desktop",
            "it selects no node",
            "4 images on 2 nodes (7 pulls)",
            "$ fledged purge shop -n store --wait",
            ": 4 images on 2 nodes",
        ],
    );
    let run = run.expect_stderr(&[
        "ImageCache store/shop: spec.imagePullSecrets and spec.serviceAccountName are ignored",
        "ImageCache store/shop: spec.cacheSpec[2]: nodeSelector kubernetes.io/arch=s390x matches no node of the demo",
        "ImageCache default/desktop: spec.cacheSpec[0]: nodeSelector kubernetes.io/os=windows matches no node",
    ]);
    assert_no_files(&folder, &run.stdout);
}

#[test]
fn nodes_that_no_entry_selects_stay_empty() {
    let (folder, files) = (folder(), folder());
    let file = files.path().join("own.yaml");
    let text = "\
apiVersion: kubefledged.io/v1alpha2
kind: ImageCache
metadata: {name: one}
spec:
  cacheSpec:
  - images: ['redis:7']
    nodeSelector: {kubernetes.io/hostname: node-1}
";
    std::fs::write(&file, text).unwrap();
    let run = run(&["--nodes", "3", "-f", &text_of(&file)], &folder).expect_code(0);
    assert_in_order(
        &run,
        &["No entry of the ImageCaches selects it", "5. Purge", "Done"],
    );
    assert_no_files(&folder, &run.stdout);
}

#[test]
fn invalid_input_is_reported_before_anything_starts() {
    let (folder, files) = (folder(), folder());
    let file = files.path().join("bad.yaml");
    let file = text_of(&file);
    for (from, to, message) in [
        (
            "nginx:1.27",
            "Not An Image",
            "spec.cacheSpec[0].images[0]: \"Not An Image\"",
        ),
        ("v1alpha2", "v9", "apiVersion: \"kubefledged.io/v9\""),
    ] {
        std::fs::write(&file, OWN.replace(from, to)).unwrap();
        let run = run(&["-f", &file], &folder).expect_code(2);
        let run = run.expect_stderr(&[&file, message]);
        assert_no_files(&folder, &run.stdout);
    }
    let (_, unmatched) = OWN.split_once("---\n").unwrap();
    std::fs::write(&file, unmatched).unwrap();
    let run_unmatched = run(&["-f", &file], &folder).expect_code(2).expect_stderr(&[
        "nothing to show",
        &file,
        "ImageCache default/desktop: spec.cacheSpec[0]: nodeSelector kubernetes.io/os=windows",
    ]);
    assert_eq!(run_unmatched.stdout, "");
    for (args, message) in [
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
        run(&args, &folder).expect_code(2).expect_stderr(&[message]);
    }
}

#[test]
fn a_directory_that_cannot_be_created_is_named() {
    let folder = folder();
    let missing = folder.path().join("missing");
    let output = demo(&[], folder.path()).env("TMPDIR", &missing).output();
    let run = Run::from(output.unwrap());
    run.expect_code(1).expect_stderr(&[
        "cannot create a directory for the demo in",
        &text_of(&missing),
        "$TMPDIR",
    ]);
}

#[test]
fn an_interrupted_demo_leaves_no_files() {
    let logs = folder();
    for (signal, words, code) in [
        // During the rollout, the repair, and the start.
        ("INT", "ImageCacheCreate", INTERRUPTED),
        ("TERM", "4. Repair", TERMINATED),
        ("INT", "1. A cluster", INTERRUPTED),
    ] {
        let folder = folder();
        let mut call = demo(&[], folder.path());
        let mut program = RunningProgram::spawn(&mut call, logs.path().join("log"));
        program.wait_for(words);
        program.signal(signal);
        let (ended, _) = program.end();
        assert_eq!(ended, Some(code), "{}", program.output());
        assert!(
            program.output().contains("interrupted"),
            "{}",
            program.output()
        );
        assert_no_files(&folder, &program.output());
    }
}

/// The kubeconfig holds the token that every request needs, and other users cannot read it.
#[track_caller]
fn assert_only_the_user_reaches_the_cluster(kubeconfig: &Path) {
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(kubeconfig), 0o600);
    assert_eq!(mode(kubeconfig.parent().unwrap()), 0o700);
    let text = std::fs::read_to_string(kubeconfig).unwrap();
    let (_, address) = text.split_once("server: http://").unwrap();
    // The token follows the address.
    let (address, _) = address.split_once('/').unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!(
        "GET /apis/kubefledged.io/v1alpha2/imagecaches HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[test]
fn a_kept_cluster_runs_until_a_signal() {
    let (folder, logs) = (folder(), folder());
    let mut call = demo(&["--keep", "--nodes", "2"], folder.path());
    let mut program = RunningProgram::spawn(&mut call, logs.path().join("log"));
    program.wait_for("stays up until SIGINT or SIGTERM");
    program.wait_for("   fledged status storefront\n");
    let output = program.output();
    let (_, rest) = output.rsplit_once("export KUBECONFIG=").unwrap();
    let kubeconfig = rest.lines().next().unwrap();
    let status = fledged(&["status", "storefront", "--kubeconfig", kubeconfig]).expect_code(0);
    let rows = "node-1   C   C   C\nnode-2   C   C   .\nnode-3   C   C   C\n";
    assert!(status.stdout.contains(rows), "{}", status.stdout);
    assert_only_the_user_reaches_the_cluster(Path::new(kubeconfig));
    program.signal("TERM");
    let (code, _) = program.end();
    assert_eq!(code, Some(0), "{}", program.output());
    assert_no_files(&folder, &program.output());
}
