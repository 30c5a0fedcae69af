//! `fledged node doctor` on a real containerd, and on fake runtimes with the files of other machines.
use std::fs;
use std::path::Path;

use fledged_tests::{Containerd, FakeCri, Fledged, Output, require};
use serde_json::Value;

/// Every check, in the order of the report.
const CHECKS: [&str; 20] = [
    "runtime-answers",
    "containerd-settings",
    "layer-downloads",
    "layer-ranges",
    "parallel-unpack",
    "snapshotter",
    "unpacked-layers",
    "registry-config-path",
    "registry-hosts-files",
    "registry-old-form",
    "kubelet-settings",
    "image-gc-threshold",
    "image-gc-age",
    "kubelet-image-pulls",
    "image-disk-space",
    "image-disk-eviction",
    "image-disk-inodes",
    "pressure-io",
    "pressure-memory",
    "pressure-cpu",
];

fn doctor(uri: &str, root: &Path) -> Output {
    Fledged::new()
        .args(["node", "doctor", "-o", "json", "--runtime", uri, "--root"])
        .arg(root)
        .run()
}

/// Returns the check of that name, after a look at the whole report.
fn check(output: &Output, name: &str) -> Value {
    let json = output.json();
    let checks = json["checks"].as_array().unwrap();
    let names: Vec<&str> = checks
        .iter()
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, CHECKS, "{output}");
    assert_eq!(json["summary"]["checks"], CHECKS.len());
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap().clone()
}

fn text<'a>(check: &'a Value, field: &str) -> &'a str {
    check[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field} in {check}"))
}

/// The root of a machine with these files.
fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

#[test]
fn settings_of_a_real_containerd_are_found() {
    if !require(&["containerd", "runc"]) {
        return;
    }
    let containerd = Containerd::start_with("max_concurrent_downloads = 2");
    containerd.configure_registry("good.lan", Some("server = \"https://good.lan\"\n"));
    containerd.configure_registry("bad.lan", Some("server = \n"));
    let output = doctor(&containerd.uri(), Path::new("/"));
    let answers = check(&output, "runtime-answers");
    assert_eq!(answers["result"], "ok", "{output}");
    assert!(
        text(&answers, "found").starts_with("containerd "),
        "{answers}"
    );

    let downloads = check(&output, "layer-downloads");
    assert_eq!(downloads["result"], "advice", "{downloads}");
    assert!(
        text(&downloads, "found").contains("max_concurrent_downloads is 2"),
        "{downloads}"
    );
    let file = containerd.folder().join("config.toml");
    let remedy = text(&downloads, "remedy");
    assert!(remedy.contains(&file.display().to_string()), "{remedy}");
    assert!(
        remedy.contains(r#"[plugins."io.containerd.grpc.v1.cri"]"#),
        "{remedy}"
    );

    assert_eq!(
        check(&output, "snapshotter")["found"],
        "snapshotter is overlayfs"
    );
    let path = check(&output, "registry-config-path");
    assert!(text(&path, "found").contains("certs.d"), "{path}");
    let hosts = check(&output, "registry-hosts-files");
    assert_eq!(hosts["result"], "advice", "{hosts}");
    assert!(
        text(&hosts, "found").contains("bad.lan/hosts.toml: line 1"),
        "{hosts}"
    );
    assert_eq!(check(&output, "image-disk-inodes")["category"], "disk");
    let space = check(&output, "image-disk-space");
    assert!(
        text(&space, "found").contains(&containerd.root().display().to_string()),
        "{space}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_containerd_2_come_from_its_file() {
    let fake = FakeCri::start();
    fake.set_runtime("containerd", "v2.2.3");
    fake.put_filesystem(Path::new("/"), 1);
    let socket = fake.socket().display().to_string();
    let command = format!("/usr/bin/containerd\0--address={socket}\0");
    let root = machine(&[
        ("proc/7/cmdline", &command),
        (
            "etc/containerd/config.toml",
            "version = 3\n[plugins.'io.containerd.transfer.v1.local']\nmax_concurrent_unpacks = 4\nmax_concurrent_downloads = 1\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/etc/certs.d'\n",
        ),
        ("proc/9/cmdline", "kubelet\0--config=/etc/kubelet.yaml\0"),
        (
            "etc/kubelet.yaml",
            "kind: KubeletConfiguration\nimageGCHighThresholdPercent: 100\nimageMaximumGCAge: 12h\nevictionHard:\n  memory.available: 100Mi\n",
        ),
        (
            "proc/pressure/io",
            "some avg10=50.00 avg60=40.00 avg300=1.00 total=1\n",
        ),
    ]);
    let output = doctor(&fake.uri(), root.path());
    assert_eq!(output.code, Some(0), "advice is no failure: {output}");
    assert_eq!(
        check(&output, "parallel-unpack")["result"],
        "ok",
        "{output}"
    );
    let downloads = check(&output, "layer-downloads");
    let table = r#"[plugins."io.containerd.transfer.v1.local"]"#;
    assert!(text(&downloads, "remedy").contains(table), "{downloads}");
    let settings = check(&output, "containerd-settings");
    assert_eq!(settings["result"], "advice", "{settings}");
    assert!(
        text(&settings, "found").contains("io.containerd.grpc.v1.cri"),
        "{settings}"
    );
    let age = check(&output, "image-gc-age");
    assert_eq!(age["result"], "advice", "{age}");
    assert!(text(&age, "remedy").contains("/etc/kubelet.yaml"), "{age}");
    assert_eq!(check(&output, "pressure-io")["result"], "advice");
    let cpu = check(&output, "pressure-cpu");
    assert_eq!(cpu["result"], "skipped");
    assert!(text(&cpu, "found").contains("/proc/pressure/cpu"), "{cpu}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_over_the_kubelets_threshold_fails() {
    let fake = FakeCri::start();
    fake.put_filesystem(Path::new("/"), 1);
    // Any disk in use is over a threshold of 1 %.
    let root = machine(&[(
        "proc/9/cmdline",
        "kubelet\0--image-gc-high-threshold=1\0--image-gc-low-threshold=0\0",
    )]);
    let output = doctor(&fake.uri(), root.path());
    assert_eq!(output.code, Some(1), "{output}");
    let space = check(&output, "image-disk-space");
    assert_eq!(space["result"], "failed", "{space}");
    assert!(
        text(&space, "remedy").contains("--image-gc-high-threshold"),
        "{space}"
    );
    // The runtime is not containerd.
    let downloads = check(&output, "layer-downloads");
    assert_eq!(downloads["result"], "skipped", "{downloads}");
    assert!(
        text(&downloads, "found").contains("the runtime is fake"),
        "{downloads}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_files_are_named() {
    let fake = FakeCri::start();
    fake.set_runtime("containerd", "v2.1.0\u{1b}[31m");
    let socket = fake.socket().display().to_string();
    let command = format!("containerd\0-a\0{socket}\0");
    let root = machine(&[
        ("proc/7/cmdline", &command),
        ("etc/containerd/config.toml", "version = 3\n= \u{1b}[31m\n"),
        ("var/lib/kubelet/config.yaml", "a: [\n"),
    ]);
    let output = doctor(&fake.uri(), root.path());
    for (name, result, file) in [
        (
            "containerd-settings",
            "advice",
            "/etc/containerd/config.toml: line 2",
        ),
        (
            "layer-downloads",
            "skipped",
            "/etc/containerd/config.toml: line 2",
        ),
        (
            "kubelet-settings",
            "advice",
            "/var/lib/kubelet/config.yaml: ",
        ),
        ("image-gc-age", "skipped", "/var/lib/kubelet/config.yaml: "),
    ] {
        let check = check(&output, name);
        assert_eq!(check["result"], result, "{check}");
        assert!(text(&check, "found").contains(file), "{check}");
    }
    let table = Fledged::new()
        .args(["node", "doctor", "--runtime", &fake.uri(), "--root"])
        .arg(root.path())
        .run();
    assert_eq!(table.code, Some(0), "{table}");
    assert!(table.stdout.contains(r"v2.1.0\u{1b}[31m"), "{table}");
    assert!(!table.stdout.contains('\u{1b}'), "{table}");
    assert!(table.stdout.contains("20 checks: "), "{table}");
}

#[test]
fn a_runtime_that_does_not_answer_fails() {
    let root = machine(&[]);
    let uri = format!("unix://{}", root.path().join("none.sock").display());
    let output = doctor(&uri, root.path());
    assert_eq!(output.code, Some(1), "{output}");
    let answers = check(&output, "runtime-answers");
    assert_eq!(answers["result"], "failed", "{answers}");
    assert!(text(&answers, "found").contains("none.sock"), "{answers}");
    for (uri, root) in [
        ("oci:/images", "/"),
        ("unix:///none.sock", "/no/such/folder"),
    ] {
        let output = doctor(uri, Path::new(root));
        assert_eq!(output.code, Some(2), "{output}");
    }
}
