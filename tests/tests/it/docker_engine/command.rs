//! The `fledged` binary with Docker Engine.

use fledged_tests::{Dockerd, Fledged, ImageBuilder, Registry};

use crate::docker_engine::parts;

#[test]
fn an_image_cache_is_applied_kept_and_purged() {
    if !parts() {
        return;
    }
    let registry = Registry::start();
    let engine = Dockerd::start();
    let folder = tempfile::tempdir().unwrap();
    let images: Vec<String> = (0..3)
        .map(|number| {
            let name = format!("app-{number}");
            let built = ImageBuilder::new().random_layer(&name, number, 20_000);
            built.push(&registry, &name, "1").reference
        })
        .collect();
    let file = folder.path().join("cache.yaml");
    let manifest = format!(
        "apiVersion: kubefledged.io/v1alpha2\nkind: ImageCache\nmetadata:\n  name: apps\n\
         spec:\n  cacheSpec:\n  - images: [{}]\n",
        images.join(", ")
    );
    std::fs::write(&file, manifest).unwrap();
    let fledged = |command: &str| {
        Fledged::new()
            .args(["node", command, "-o", "json", "--runtime", &engine.uri()])
            .arg("-f")
            .arg(&file)
            .run()
    };
    let phases = |output: &fledged_tests::Output| -> Vec<String> {
        let json = output.json();
        let images = json["images"].as_array().unwrap();
        images
            .iter()
            .map(|image| image["phase"].as_str().unwrap().to_owned())
            .collect()
    };

    let first = fledged("apply");
    assert_eq!(first.code, Some(0), "{first}");
    assert_eq!(phases(&first), ["Cached"; 3], "{first}");
    let asked = registry.requests().len();
    let again = fledged("apply");
    assert_eq!(again.code, Some(0), "{again}");
    assert_eq!(phases(&again), ["Cached"; 3], "{again}");
    assert_eq!(registry.requests().len(), asked, "nothing was missing");

    let purged = fledged("purge");
    assert_eq!(purged.code, Some(0), "{purged}");
    assert_eq!(phases(&purged), ["Removed"; 3], "{purged}");
    assert_eq!(phases(&fledged("apply")), ["Cached"; 3]);
}
