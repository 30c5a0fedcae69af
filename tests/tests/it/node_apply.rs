//! `fledged node apply` and `purge` on real containerd and real registries.
use fledged_tests::{
    Compression, Containerd, Fledged, ImageBuilder, Layer, ManifestFile, Output, Registry,
    images_with_shared_base, require,
};
use serde_json::Value;

fn parts() -> bool {
    require(&["containerd", "runc", "docker-registry"])
}

fn node(command: &str, manifest: &ManifestFile, containerd: &Containerd) -> Fledged {
    Fledged::new()
        .args([
            "node",
            command,
            "-o",
            "json",
            "--runtime",
            &containerd.uri(),
            "-f",
        ])
        .arg(manifest.path())
}

/// Returns the image of the JSON output with this reference in the manifest.
fn image_of(output: &Output, reference: &str) -> Value {
    let json = output.json();
    let images = json["images"].as_array().unwrap();
    let found = images.iter().find(|image| image["reference"] == reference);
    found
        .unwrap_or_else(|| panic!("no {reference} in {output}"))
        .clone()
}

#[test]
fn apply_pulls_once_by_tag_digest_and_without_tag() {
    if !parts() {
        return;
    }
    let registry = Registry::start();
    let containerd = Containerd::start();
    let tagged = ImageBuilder::new()
        .random_layer("a", 1, 200_000)
        .push(&registry, "team/app", "1.2");
    let digested =
        ImageBuilder::new()
            .random_layer("b", 2, 200_000)
            .push(&registry, "team/tool", "x");
    let by_digest = digested.by_digest();
    let manifest = ManifestFile::new(&[tagged.reference.as_str(), &by_digest]);

    let output = node("apply", &manifest, &containerd).run();
    assert_eq!(output.code, Some(0), "{output}");
    let json = output.json();
    assert_eq!(json["summary"]["desired"], 2);
    assert_eq!(json["summary"]["cached"], 2);
    assert_eq!(json["summary"]["failed"], 0);
    let app = image_of(&output, &tagged.reference);
    assert_eq!(app["phase"], "Cached");
    assert_eq!(app["digest"], tagged.digest.as_str());
    assert_eq!(app["attempts"], 1);
    assert!(app["sizeBytes"].as_u64().unwrap() > 200_000, "{output}");
    assert_eq!(
        image_of(&output, &by_digest)["digest"],
        digested.digest.as_str()
    );
    let held = containerd.image_names();
    assert!(
        held.contains(&tagged.reference) && held.contains(&by_digest),
        "{held:?}"
    );

    let before = registry.requests().len();
    let again = node("apply", &manifest, &containerd).run();
    assert_eq!(again.code, Some(0), "{again}");
    assert_eq!(image_of(&again, &tagged.reference)["attempts"], 0);
    assert_eq!(
        registry.requests().len(),
        before,
        "a second apply sent requests"
    );

    // A reference that has another one as its prefix is a different image.
    let longer = format!("{}1", tagged.reference);
    let output = node("apply", &ManifestFile::new(&[&longer]), &containerd).run();
    assert_eq!(output.code, Some(1), "{output}");
    assert_eq!(image_of(&output, &longer)["reason"], "ImageNotFound");

    // Without a tag, the tag is `latest`, which is mutable: every apply pulls it.
    let untagged = format!("{}/plain", registry.addr());
    ImageBuilder::new()
        .label("old")
        .push(&registry, "plain", "latest");
    let manifest = ManifestFile::new(&[&untagged]);
    let first = node("apply", &manifest, &containerd).run();
    assert_eq!(first.code, Some(0), "{first}");
    let moved = ImageBuilder::new()
        .label("new")
        .push(&registry, "plain", "latest");
    let second = node("apply", &manifest, &containerd).run();
    assert_eq!(second.code, Some(0), "{second}");
    assert_eq!(
        image_of(&second, &untagged)["digest"],
        moved.digest.as_str()
    );
}

#[test]
fn private_images_need_the_right_credentials() {
    if !parts() {
        return;
    }
    let registry = Registry::start_with_htpasswd("reader", "correct-horse");
    let containerd = Containerd::start();
    let pushed = ImageBuilder::new().push(&registry, "private/app", "1");
    let manifest = ManifestFile::new(&[&pushed.reference]);
    let config = |name: &str, password: &str| {
        let path = manifest.folder().join(name);
        let auths = serde_json::json!({
            "auths": { registry.addr(): { "username": "reader", "password": password } }
        });
        std::fs::write(&path, auths.to_string()).unwrap();
        path
    };

    let none = node("apply", &manifest, &containerd).run();
    let wrong = node("apply", &manifest, &containerd)
        .arg("--registry-config")
        .arg(config("wrong.json", "battery-staple"))
        .run();
    for refused in [&none, &wrong] {
        assert_eq!(refused.code, Some(1), "{refused}");
        let app = image_of(refused, &pushed.reference);
        assert_eq!(app["phase"], "Failed");
        assert_eq!(app["reason"], "Unauthorized", "{refused}");
        assert_eq!(
            app["attempts"], 1,
            "refused credentials are not tried twice"
        );
        assert!(!app["message"].as_str().unwrap().is_empty());
        assert!(!refused.to_string().contains("battery-staple"), "{refused}");
    }

    let right = node("apply", &manifest, &containerd)
        .args(["-vv", "--registry-config"])
        .arg(config("right.json", "correct-horse"))
        .run();
    assert_eq!(right.code, Some(0), "{right}");
    assert_eq!(
        image_of(&right, &pushed.reference)["digest"],
        pushed.digest.as_str()
    );
    assert!(
        !right.to_string().contains("correct-horse"),
        "the password is in the log: {right}"
    );
}

#[test]
fn a_missing_image_does_not_stop_the_others() {
    if !parts() {
        return;
    }
    let registry = Registry::start();
    let containerd = Containerd::start();
    let there = ImageBuilder::new().push(&registry, "there", "1");
    let missing = format!("{}/there:2", registry.addr());
    let nowhere = "127.0.0.1:1/unreachable:1".to_owned();
    let manifest = ManifestFile::new(&[&missing, &nowhere, &there.reference]);
    let output = node("apply", &manifest, &containerd)
        .args(["--deadline", "3s"])
        .run();
    assert_eq!(output.code, Some(1), "{output}");
    assert_eq!(image_of(&output, &there.reference)["phase"], "Cached");
    assert_eq!(image_of(&output, &missing)["reason"], "ImageNotFound");
    let unreachable = image_of(&output, &nowhere);
    assert_eq!(unreachable["reason"], "ConnectionFailed", "{output}");
    assert!(
        unreachable["attempts"].as_u64().unwrap() > 1,
        "a transient failure is retried"
    );
    assert_eq!(output.json()["summary"]["failed"], 2);
}

#[test]
fn ten_images_fetch_shared_layers_once() {
    if !parts() {
        return;
    }
    let registry = Registry::start();
    let containerd = Containerd::start();
    let base = [Layer::random("base", 1, 2_000_000, Compression::Stored)];
    let pushed = images_with_shared_base(&registry, "fleet", 10, &base, 100_000);
    let references: Vec<_> = pushed.iter().map(|image| image.reference.clone()).collect();
    let manifest = ManifestFile::new(&references);
    let output = node("apply", &manifest, &containerd).run();
    assert_eq!(output.code, Some(0), "{output}");
    assert_eq!(output.json()["summary"]["cached"], 10);
    // One base, and for each image a layer and a configuration.
    let fetched = registry.requests_matching("GET", "/blobs/");
    let mut paths: Vec<_> = fetched
        .iter()
        .map(|r| r.path.rsplit('/').next().unwrap())
        .collect();
    let all = paths.len();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!((all, paths.len()), (21, 21), "{fetched:?}");
}

#[test]
fn purge_keeps_images_with_names_outside_the_manifest() {
    if !parts() {
        return;
    }
    let registry = Registry::start();
    let containerd = Containerd::start();
    let image = ImageBuilder::new().label("twice").build();
    let one = image.push(&registry, "app", "1");
    let other = image.push(&registry, "app", "stable");
    let alone = ImageBuilder::new()
        .label("alone")
        .push(&registry, "alone", "1");
    let all = ManifestFile::new(&[&one.reference, &other.reference, &alone.reference]);
    let output = node("apply", &all, &containerd).run();
    assert_eq!(output.code, Some(0), "{output}");

    // containerd can only remove an image with all its names, and this manifest does not list all of them.
    let some = ManifestFile::new(&[&one.reference, &alone.reference]);
    let output = node("purge", &some, &containerd).run();
    let kept = image_of(&output, &one.reference);
    assert_eq!(kept["phase"], "InUse", "{output}");
    assert_eq!(kept["reason"], "SharedImage");
    assert!(
        kept["message"].as_str().unwrap().contains(&other.reference),
        "{output}"
    );
    assert_eq!(image_of(&output, &alone.reference)["phase"], "Removed");
    let held = containerd.image_names();
    assert!(
        held.contains(&one.reference) && held.contains(&other.reference),
        "{held:?}"
    );
    assert!(!held.contains(&alone.reference), "{held:?}");

    let output = node("purge", &all, &containerd).run();
    assert_eq!(output.code, Some(0), "{output}");
    assert_eq!(containerd.image_names(), Vec::<String>::new(), "{output}");
}
