//! The command line with a fake CRI runtime, for behaviour that cannot be provoked in containerd.
use std::path::Path;

use fledged_tests::{Code, FakeCri, Fledged, Interface, ManifestFile, Output};

fn node(command: &str, manifest: &ManifestFile, fake: &FakeCri) -> Output {
    Fledged::new()
        .args([
            "node",
            command,
            "-o",
            "json",
            "--runtime",
            &fake.uri(),
            "-f",
        ])
        .arg(manifest.path())
        .run()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_use_is_never_purged() {
    let fake = FakeCri::start();
    let used = fake.put("registry.example/used:1");
    fake.put("registry.example/idle:1");
    fake.use_image(&used.id);
    let manifest = ManifestFile::new(&["registry.example/used:1", "registry.example/idle:1"]);
    let output = node("purge", &manifest, &fake);
    let json = output.json();
    assert_eq!(json["images"][0]["phase"], "InUse", "{output}");
    assert_eq!(json["images"][0]["reason"], "InUse");
    assert_eq!(json["images"][1]["phase"], "Removed", "{output}");
    assert!(fake.holds("registry.example/used:1"));
    assert!(!fake.holds("registry.example/idle:1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_image_is_never_purged() {
    let fake = FakeCri::start();
    fake.put("registry.example/dns:3");
    fake.set_pinned("registry.example/dns:3", true);
    let output = node(
        "purge",
        &ManifestFile::new(&["registry.example/dns:3"]),
        &fake,
    );
    assert_eq!(output.json()["images"][0]["reason"], "Pinned", "{output}");
    assert!(fake.holds("registry.example/dns:3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_image_is_never_purged() {
    let fake = FakeCri::start();
    fake.put("registry.example/pause:3");
    let output = node(
        "purge",
        &ManifestFile::new(&["registry.example/pause:3"]),
        &fake,
    );
    assert_eq!(
        output.json()["images"][0]["reason"],
        "Protected",
        "{output}"
    );
    assert!(fake.holds("registry.example/pause:3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsupported_runtime_is_named_by_its_socket() {
    let fake = FakeCri::start();
    fake.serve(Interface::V1Alpha2);
    let output = node(
        "apply",
        &ManifestFile::new(&["registry.example/app:1"]),
        &fake,
    );
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.stderr.contains("CRI v1 is needed"), "{output}");
    assert!(
        output.stderr.contains(&fake.socket().display().to_string()),
        "{output}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_with_room_concerns_one_image() {
    let fake = FakeCri::start();
    fake.put_filesystem(Path::new("/"), 1);
    let text = "failed to copy: write /var/lib/containerd/ingest: no space left on device";
    fake.fail_pulls(1, Code::Unknown, text);
    let images = ["registry.example/app0:1", "registry.example/app1:1"].map(str::to_owned);
    let manifest = ManifestFile::new(&images);
    let output = Fledged::new()
        .args(["node", "apply", "-o", "json", "--max-parallel-pulls", "1"])
        .args(["--runtime", &fake.uri()])
        .arg("-f")
        .arg(manifest.path())
        .run();
    let json = output.json();
    assert_eq!(json["images"][0]["reason"], "DiskFull", "{output}");
    assert_eq!(json["images"][1]["phase"], "Cached", "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_new_pulls_of_every_image() {
    let fake = FakeCri::start();
    let text = "failed to copy: write /var/lib/containerd/ingest: no space left on device";
    fake.fail_pulls(1, Code::Unknown, text);
    let images: Vec<String> = (0..6)
        .map(|n| format!("registry.example/app{n}:1"))
        .collect();
    let manifest = ManifestFile::new(&images);
    let output = Fledged::new()
        .args([
            "node",
            "apply",
            "-o",
            "json",
            "--max-parallel-pulls",
            "1",
            "--runtime",
            &fake.uri(),
        ])
        .arg("-f")
        .arg(manifest.path())
        .run();
    assert_eq!(output.code, Some(1), "{output}");
    let json = output.json();
    for image in json["images"].as_array().unwrap() {
        assert_eq!(image["phase"], "Failed", "{output}");
        assert_eq!(image["reason"], "DiskFull", "{output}");
    }
    let message = |n: usize| json["images"][n]["message"].as_str().unwrap();
    assert!(message(0).contains("no space left"), "{output}");
    // Another tenant's image and registry are not named.
    let held = "not started: no room on the node's image file system";
    assert_eq!(message(5), held, "{output}");
    assert_eq!(json["images"][0]["attempts"], 1);
    assert_eq!(
        json["images"][5]["attempts"], 0,
        "no further pull starts while the disk is full"
    );
    assert!(fake.images().is_empty());
}
