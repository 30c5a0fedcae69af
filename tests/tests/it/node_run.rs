//! `fledged node run` on real containerd: it repairs drift and follows edits.
use std::time::{Duration, Instant};

use fledged_tests::{
    Containerd, Fault, FaultProxy, Fledged, ImageBuilder, ManifestFile, Registry, Rule, Running,
    SOON, poll_until, require,
};

fn run(manifest: &ManifestFile, containerd: &Containerd) -> Running {
    Fledged::new()
        .args(["node", "run", "--inventory-interval", "1s", "--runtime"])
        .arg(containerd.uri())
        .arg("-f")
        .arg(manifest.path())
        .spawn()
}

fn wait_until_held(containerd: &Containerd, reference: &str) {
    poll_until(&format!("{reference} to be present"), SOON, || {
        containerd
            .image_names()
            .iter()
            .any(|name| name == reference)
            .then_some(())
    });
}

fn wait_until_gone(containerd: &Containerd, reference: &str) {
    poll_until(&format!("{reference} to be gone"), SOON, || {
        (!containerd
            .image_names()
            .iter()
            .any(|name| name == reference))
        .then_some(())
    });
}

#[test]
fn removed_images_return_and_edits_are_followed() {
    if !require(&["containerd", "runc", "docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let containerd = Containerd::start();
    let first = ImageBuilder::new()
        .label("first")
        .push(&registry, "first", "1");
    let second = ImageBuilder::new()
        .label("second")
        .push(&registry, "second", "1");
    let manifest = ManifestFile::new(&[&first.reference]);
    let running = run(&manifest, &containerd);
    wait_until_held(&containerd, &first.reference);

    containerd.remove_all_images();
    wait_until_held(&containerd, &first.reference);

    // An invalid edit leaves the last valid one in force, and is reported.
    manifest.replace("apiVersion: kubefledged.io/v1alpha2\nkind: ImageCache\nspec: {");
    poll_until("the invalid edit to be reported", SOON, || {
        running.stderr().contains("imagecache.yaml").then_some(())
    });
    containerd.remove_all_images();
    wait_until_held(&containerd, &first.reference);

    manifest.rewrite(&[&second.reference]);
    wait_until_held(&containerd, &second.reference);
    wait_until_gone(&containerd, &first.reference);

    let asked = Instant::now();
    running.terminate();
    let output = running.wait(Duration::from_secs(10));
    assert!(asked.elapsed() < Duration::from_secs(10));
    assert_eq!(output.code, Some(0), "{output}");
}

#[test]
fn run_survives_a_runtime_crash_and_stops_during_a_pull() {
    if !require(&["containerd", "runc", "docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let proxy = FaultProxy::start(registry.addr());
    let mut containerd = Containerd::start();
    let small = ImageBuilder::new()
        .label("small")
        .push(&registry, "small", "1");
    let manifest = ManifestFile::new(&[&small.reference]);
    let mut running = run(&manifest, &containerd);
    wait_until_held(&containerd, &small.reference);

    containerd.kill9();
    poll_until("the unavailable runtime to be reported", SOON, || {
        running
            .stderr()
            .contains("RuntimeUnavailable")
            .then_some(())
    });
    assert!(!running.has_ended(), "{}", running.stderr());
    containerd.restart();
    containerd.remove_all_images();
    wait_until_held(&containerd, &small.reference);

    let large = ImageBuilder::new()
        .random_layer("large", 3, 1_000_000)
        .push(&registry, "large", "1");
    proxy.add(
        Rule::new(Fault::StallAfter(1_000))
            .method("GET")
            .path("/blobs/")
            .always(),
    );
    manifest.rewrite(&[large.reference_at(proxy.addr())]);
    poll_until("a pull in progress", SOON, || {
        let blobs = proxy.requests_matching("GET", "/blobs/");
        blobs.iter().any(|blob| blob.sent > 0).then_some(())
    });
    running.terminate();
    let output = running.wait(Duration::from_secs(10));
    assert_eq!(output.code, Some(0), "{output}");
}
