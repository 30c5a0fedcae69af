//! Which manifests are container images, and which are other artifacts: charts, signatures, models.
//!
//! The media types of the configuration and of the layers decide, as in containerd. A runtime fetches
//! an artifact and then fails to unpack it.

use fledged_core::error::plain_text;
use oci_spec::image as spec;

/// Configurations of container images.
const IMAGE_CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];
/// Configurations whose type says nothing. Old registries served them so, and Docker accepts them.
const GENERAL_CONFIGS: [&str; 2] = ["application/octet-stream", "application/json"];
/// How the media types of container image layers begin.
const IMAGE_LAYERS: [&str; 3] = [
    "application/vnd.oci.image.layer.",
    "application/vnd.docker.image.rootfs.",
    "application/vnd.docker.container.image.rootfs.",
];
/// Part of the layer types of WebAssembly modules, which containerd's shims for them run.
const WASM: &str = "wasm";
/// Names for common artifacts, by a part of their type.
const NAMES: [(&str, &str); 6] = [
    ("vnd.cncf.helm", "a Helm chart"),
    ("vnd.dev.cosign", "a signature"),
    ("vnd.cncf.notary", "a signature"),
    ("vnd.in-toto", "an attestation"),
    ("vnd.buildkit.cacheconfig", "a build cache"),
    ("vnd.cncf.model", "a model"),
];

/// What a manifest holds, if that is no container image.
pub(super) fn kind_of(image: &spec::ImageManifest) -> Option<String> {
    let config = image.config().media_type().as_ref();
    let layers: Vec<&str> = image
        .layers()
        .iter()
        .map(|layer| layer.media_type().as_ref())
        .collect();
    let unpacks = |layer: &&str| IMAGE_LAYERS.iter().any(|known| layer.starts_with(known));
    if IMAGE_CONFIGS.contains(&config) {
        let image = layers.is_empty()
            || layers
                .iter()
                .any(|layer| unpacks(layer) || layer.contains(WASM));
        return layers.first().filter(|_| !image).map(|layer| name(layer));
    }
    if GENERAL_CONFIGS.contains(&config) && !layers.is_empty() && layers.iter().all(unpacks) {
        return None;
    }
    let stated = image.artifact_type().as_ref().map(AsRef::as_ref);
    Some(name(stated.unwrap_or(config)))
}

/// Whether an index marks an entry as an artifact.
pub(super) fn is_marked(descriptor: &spec::Descriptor) -> bool {
    let stated = descriptor.artifact_type().as_ref().map(AsRef::as_ref);
    stated.is_some_and(|stated: &str| !stated.is_empty() && !IMAGE_CONFIGS.contains(&stated))
}

/// An artifact of that media type, as messages name it.
fn name(media_type: &str) -> String {
    let shown = plain_text(media_type, 100);
    let known = NAMES.iter().find(|(part, _)| media_type.contains(part));
    match known {
        Some((_, name)) => format!("{name} ({shown})"),
        None => format!("an artifact of type {shown:?}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    fn kind(config: &str, layers: &[&str], artifact_type: Option<&str>) -> Option<String> {
        let digest = format!("sha256:{}", "a".repeat(64));
        let descriptor = |t: &str| json!({"mediaType": t, "digest": digest, "size": 2});
        let manifest = json!({
            "schemaVersion": 2,
            "artifactType": artifact_type,
            "config": descriptor(config),
            "layers": layers.iter().map(|t| descriptor(t)).collect::<Vec<_>>(),
        });
        let text = manifest.to_string();
        kind_of(&spec::ImageManifest::from_reader(text.as_bytes()).unwrap())
    }

    #[test]
    fn container_images_are_no_artifacts() {
        for (config, layers) in [
            (CONFIG, &[LAYER][..]),
            (CONFIG, &[]),
            (CONFIG, &["application/vnd.oci.image.layer.v1.tar+zstd"]),
            (
                CONFIG,
                &["application/vnd.oci.image.layer.v1.tar+gzip+encrypted"],
            ),
            (
                CONFIG,
                &["application/vnd.oci.image.layer.nydus.blob.v1", LAYER],
            ),
            (
                CONFIG,
                &["application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"],
            ),
            (
                CONFIG,
                &["application/vnd.bytecodealliance.wasm.component.layer.v0+wasm"],
            ),
            (CONFIG, &[LAYER, "application/vnd.example"]),
            (
                "application/vnd.docker.container.image.v1+json",
                &["application/vnd.docker.image.rootfs.diff.tar.gzip"],
            ),
            (
                "application/octet-stream",
                &["application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"],
            ),
        ] {
            assert_eq!(kind(config, layers, None), None, "{config} {layers:?}");
        }
    }

    #[test]
    fn artifacts_are_named() {
        for (config, layers, expected) in [
            (
                "application/vnd.cncf.helm.config.v1+json",
                &["application/vnd.cncf.helm.chart.content.v1.tar+gzip"][..],
                "a Helm chart (application/vnd.cncf.helm.config.v1+json)",
            ),
            (
                CONFIG,
                &["application/vnd.dev.cosign.simplesigning.v1+json"],
                "a signature (application/vnd.dev.cosign.simplesigning.v1+json)",
            ),
            (
                "application/vnd.unknown.config.v1+json",
                &[LAYER],
                "an artifact of type \"application/vnd.unknown.config.v1+json\"",
            ),
            (
                "application/json",
                &["text/plain"],
                "an artifact of type \"application/json\"",
            ),
        ] {
            assert_eq!(kind(config, layers, None).as_deref(), Some(expected));
        }
        let empty = "application/vnd.oci.empty.v1+json";
        let found = kind(empty, &[empty], Some("application/vnd.example.sbom"));
        assert_eq!(
            found.as_deref(),
            Some("an artifact of type \"application/vnd.example.sbom\"")
        );
    }
}
