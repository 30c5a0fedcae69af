//! `fledged node apply` with faulty registries and runtimes: it converges, or reports the reason.
use std::time::Duration;

use fledged_tests::{
    Containerd, Fault, FaultProxy, Fledged, ImageBuilder, ManifestFile, Pushed, Registry, Rule,
    SOON, poll_until, require,
};
use serde_json::Value;
use tempfile::TempDir;

/// A registry with one image of two layers, behind a proxy that injects faults.
struct Stage {
    _registry: Registry,
    proxy: FaultProxy,
    image: Pushed,
    manifest: ManifestFile,
}

impl Stage {
    fn new(bytes: usize) -> Self {
        let registry = Registry::start();
        let proxy = FaultProxy::start(registry.addr());
        let image = ImageBuilder::new()
            .random_layer("one", 1, bytes)
            .random_layer("two", 2, bytes)
            .push(&registry, "app", "1");
        let manifest = ManifestFile::new(&[image.reference_at(proxy.addr())]);
        Self {
            _registry: registry,
            proxy,
            image,
            manifest,
        }
    }

    fn apply(&self, runtime: &str) -> Fledged {
        Fledged::new()
            .args(["node", "apply", "-o", "json", "--runtime", runtime, "-f"])
            .arg(self.manifest.path())
    }

    /// Applies the manifest, asserts success, and returns the image's JSON.
    fn converges(&self, runtime: &str) -> Value {
        let output = self.apply(runtime).run();
        assert_eq!(output.code, Some(0), "{output}");
        let image = output.json()["images"][0].clone();
        assert_eq!(image["phase"], "Cached", "{output}");
        assert_eq!(image["digest"], self.image.digest.as_str(), "{output}");
        image
    }
}

/// Asserts that `apply` succeeds through each transient fault.
fn survives_passing_faults(runtime: impl Fn() -> (String, Box<dyn std::any::Any>)) {
    let cut = Rule::new(Fault::CutAfter(40_000)).path("/blobs/").times(2);
    let wrong = Rule::new(Fault::CorruptAt(1_000))
        .path("/blobs/")
        .method("GET");
    let faults = [
        (
            "500s",
            vec![Rule::new(Fault::status(500)).path("/manifests/").times(4)],
        ),
        (
            "503 on a blob",
            vec![Rule::new(Fault::status(503)).path("/blobs/").times(2)],
        ),
        ("a connection cut in a blob", vec![cut]),
        ("a blob with wrong bytes", vec![wrong]),
        ("no answer at all", vec![Rule::new(Fault::Hangup).times(2)]),
    ];
    for (name, rules) in faults {
        let stage = Stage::new(300_000);
        let (uri, _keep) = runtime();
        for rule in rules {
            stage.proxy.add(rule);
        }
        let image = stage.converges(&uri);
        let struck = stage
            .proxy
            .requests()
            .iter()
            .filter(|r| r.fault.is_some())
            .count();
        assert!(struck > 0, "{name}: no fault was injected");
        println!("{name}: {} attempts", image["attempts"]);
    }
}

#[test]
fn containerd_converges_through_passing_faults() {
    if !require(&["containerd", "runc", "docker-registry"]) {
        return;
    }
    survives_passing_faults(|| {
        let containerd = Containerd::start();
        (containerd.uri(), Box::new(containerd))
    });
}

#[test]
fn a_layout_converges_through_passing_faults() {
    if !require(&["docker-registry"]) {
        return;
    }
    survives_passing_faults(|| {
        let folder = TempDir::new().unwrap();
        (format!("oci:{}", folder.path().display()), Box::new(folder))
    });
}

#[test]
fn retry_after_of_a_registry_is_respected() {
    if !require(&["docker-registry"]) {
        return;
    }
    const DELAY: u64 = 3;
    let stage = Stage::new(1_000);
    let throttled = Rule::new(Fault::too_many_requests(DELAY))
        .path("/manifests/")
        .times(2);
    stage.proxy.add(throttled);
    let folder = TempDir::new().unwrap();
    stage.converges(&format!("oci:{}", folder.path().display()));
    let mut requests = stage.proxy.requests();
    requests.retain(|request| request.path.contains("/manifests/"));
    let last_refused = requests.iter().rfind(|r| r.fault.is_some()).unwrap().at;
    let first_served = requests.iter().find(|r| r.fault.is_none()).unwrap().at;
    assert!(
        first_served - last_refused >= Duration::from_secs(DELAY),
        "retried after {:?}",
        first_served - last_refused
    );
}

#[test]
fn containerd_converges_after_throttling_ends() {
    if !require(&["containerd", "runc", "docker-registry"]) {
        return;
    }
    let stage = Stage::new(1_000);
    let containerd = Containerd::start();
    let throttled = Rule::new(Fault::too_many_requests(1))
        .path("/manifests/")
        .always();
    stage.proxy.add(throttled);
    let output = stage
        .apply(&containerd.uri())
        .args(["--deadline", "2s"])
        .run();
    assert_eq!(output.code, Some(1), "{output}");
    assert_eq!(
        output.json()["images"][0]["reason"],
        "TooManyRequests",
        "{output}"
    );
    stage.proxy.clear();
    stage.converges(&containerd.uri());
}

#[test]
fn a_stalled_pull_fails_at_its_deadline() {
    if !require(&["containerd", "runc", "docker-registry"]) {
        return;
    }
    let stage = Stage::new(300_000);
    let containerd = Containerd::start();
    stage.proxy.add(
        Rule::new(Fault::StallAfter(10_000))
            .path("/blobs/")
            .always(),
    );
    let output = stage
        .apply(&containerd.uri())
        .args(["--deadline", "2s"])
        .run();
    assert_eq!(output.code, Some(1), "{output}");
    let image = &output.json()["images"][0];
    assert_eq!(image["phase"], "Failed");
    assert_eq!(image["reason"], "DeadlineExceeded", "{output}");
}

#[test]
fn apply_converges_after_containerd_is_killed_during_a_pull() {
    if !require(&["containerd", "runc", "docker-registry"]) {
        return;
    }
    let stage = Stage::new(2_000_000);
    let mut containerd = Containerd::start();
    let slow = Fault::Throttle {
        bytes_per_second: 400_000,
    };
    stage
        .proxy
        .add(Rule::new(slow).method("GET").path("/blobs/").always());
    let running = stage.apply(&containerd.uri()).spawn();
    poll_until("a pull in progress", SOON, || {
        let blobs = stage.proxy.requests_matching("GET", "/blobs/");
        blobs
            .iter()
            .any(|blob| blob.sent > 100_000 && !blob.finished)
            .then_some(())
    });
    containerd.kill9();
    stage.proxy.clear();
    containerd.restart();
    let output = running.wait(Duration::from_secs(120));
    assert_eq!(output.code, Some(0), "{output}");
    let image = &output.json()["images"][0];
    assert_eq!(image["phase"], "Cached");
    assert!(image["attempts"].as_u64().unwrap() > 1, "{output}");
}
