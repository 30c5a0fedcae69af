//! Deterministic OCI images, built in memory and pushed to a registry over HTTP.

use bytes::Bytes;
use fledged_core::model::Digest;
use serde_json::{Value, json};

use crate::layers::{Compression, Layer, digest_of};
use crate::push::{Pushed, Target};
use crate::registry::RegistryEndpoint;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Operating system and architecture of an image, as Go names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `linux`, ...
    pub os: String,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
}

impl Platform {
    /// Returns the platform with this operating system and architecture.
    #[must_use]
    pub fn new(os: &str, architecture: &str) -> Self {
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
        }
    }

    /// Returns the platform of this machine.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self::new("linux", architecture)
    }

    /// Returns a platform that this machine can't run.
    #[must_use]
    pub fn foreign() -> Self {
        Self::new("linux", "s390x")
    }
}

/// A builder of an image. An image without a layer gets one with a small file.
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    platform: Platform,
    layers: Vec<Layer>,
    label: Option<String>,
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageBuilder {
    /// An image for this machine's platform.
    #[must_use]
    pub fn new() -> Self {
        Self {
            platform: Platform::host(),
            layers: Vec::new(),
            label: None,
        }
    }

    /// For another platform.
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Adds a layer on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Adds layers on top that other images may share.
    #[must_use]
    pub fn base(mut self, layers: &[Layer]) -> Self {
        self.layers.extend_from_slice(layers);
        self
    }

    /// Adds a compressed layer with these files (path, content) on top.
    #[must_use]
    pub fn files(self, files: &[(&str, &[u8])]) -> Self {
        self.layer(Layer::files(files, Compression::Gzip))
    }

    /// Adds a layer with `bytes` incompressible bytes on top, in the folder `name`.
    #[must_use]
    pub fn random_layer(self, name: &str, seed: u64, bytes: usize) -> Self {
        self.layer(Layer::random(name, seed, bytes, Compression::Stored))
    }

    /// Sets a label in the configuration, which makes another image (and ID) of the same layers.
    #[must_use]
    pub fn label(mut self, value: &str) -> Self {
        self.label = Some(value.to_owned());
        self
    }

    /// Builds configuration and manifest.
    #[must_use]
    pub fn build(mut self) -> Image {
        if self.layers.is_empty() {
            self = self.files(&[("hello.txt", b"hello\n")]);
        }
        let diff_ids: Vec<&str> = self.layers.iter().map(|l| l.diff_id.as_str()).collect();
        let mut config = json!({
            "created": "2020-01-01T00:00:00Z",
            "architecture": self.platform.architecture,
            "os": self.platform.os,
            "config": {"Cmd": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        if let Some(label) = &self.label {
            config["config"]["Labels"] = json!({"label": label});
        }
        let config = bytes_of(&config);
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|l| descriptor(l.media_type, &l.digest, l.blob.len()))
            .collect();
        let manifest = bytes_of(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &digest_of(&config), config.len()),
            "layers": layers,
        }));
        Image {
            platform: self.platform,
            config,
            manifest,
            layers: self.layers,
        }
    }

    /// Builds and pushes the image.
    ///
    /// # Panics
    ///
    /// When the registry refuses.
    #[allow(clippy::must_use_candidate)]
    pub fn push(self, registry: &dyn RegistryEndpoint, repository: &str, tag: &str) -> Pushed {
        self.build().push(registry, repository, tag)
    }
}

/// An image, complete, in memory.
#[derive(Debug, Clone)]
pub struct Image {
    platform: Platform,
    config: Bytes,
    manifest: Bytes,
    layers: Vec<Layer>,
}

impl Image {
    /// Digest of its manifest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        digest_of(&self.manifest)
    }

    /// Digest of its configuration: the image's ID for containerd and Docker.
    #[must_use]
    pub fn config_digest(&self) -> Digest {
        digest_of(&self.config)
    }

    /// What a registry serves of the image: manifest, configuration and layers, each with its media type.
    #[must_use]
    pub fn contents(&self) -> Vec<(Digest, &'static str, Bytes)> {
        let mut contents = vec![
            (self.digest(), MANIFEST, self.manifest.clone()),
            (self.config_digest(), CONFIG, self.config.clone()),
        ];
        let layers = self.layers.iter();
        contents.extend(layers.map(|l| (l.digest.clone(), l.media_type, l.blob.clone())));
        contents
    }

    /// Pushes the image under a tag.
    ///
    /// # Panics
    ///
    /// When the registry refuses.
    #[allow(clippy::must_use_candidate)]
    pub fn push(&self, registry: &dyn RegistryEndpoint, repository: &str, tag: &str) -> Pushed {
        let target = Target::new(registry, repository);
        self.push_blobs(&target);
        target.put_manifest(tag, MANIFEST, &self.manifest);
        self.pushed_to(&target, tag, &self.digest())
    }

    fn pushed_to(&self, target: &Target, tag: &str, digest: &Digest) -> Pushed {
        Pushed {
            reference: format!("{}/{}:{tag}", target.addr, target.repository),
            digest: digest.clone(),
            config_digest: self.config_digest(),
            layers: self.layers.iter().map(|l| l.digest.clone()).collect(),
            size: self.size(),
            registry: target.addr.clone(),
            repository: target.repository.clone(),
            tag: tag.to_owned(),
        }
    }

    fn push_blobs(&self, target: &Target) {
        for layer in &self.layers {
            target.put_blob(&layer.digest, layer.blob.clone());
        }
        target.put_blob(&self.config_digest(), self.config.clone());
    }

    fn size(&self) -> u64 {
        let layers: u64 = self.layers.iter().map(Layer::size).sum();
        layers + (self.config.len() + self.manifest.len()) as u64
    }
}

/// A builder of a multi-platform index.
#[derive(Debug, Clone, Default)]
pub struct ImageIndexBuilder {
    images: Vec<Image>,
}

impl ImageIndexBuilder {
    /// Returns an empty index.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an image for its platform.
    #[must_use]
    pub fn image(mut self, image: Image) -> Self {
        self.images.push(image);
        self
    }

    /// Pushes the images and the index. The result has the digest of the index, and the size and configuration of the
    /// image for this machine, or of the first image if none matches.
    ///
    /// # Panics
    ///
    /// When the index is empty, or the registry refuses.
    #[allow(clippy::must_use_candidate)]
    pub fn push(self, registry: &dyn RegistryEndpoint, repository: &str, tag: &str) -> Pushed {
        let target = Target::new(registry, repository);
        let manifests: Vec<Value> = self
            .images
            .iter()
            .map(|image| {
                image.push_blobs(&target);
                let digest = image.digest();
                target.put_manifest(digest.as_str(), MANIFEST, &image.manifest);
                let mut entry = descriptor(MANIFEST, &digest, image.manifest.len());
                entry["platform"] = json!({
                    "os": image.platform.os,
                    "architecture": image.platform.architecture,
                });
                entry
            })
            .collect();
        let index = bytes_of(&json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": manifests,
        }));
        target.put_manifest(tag, INDEX, &index);
        let host = Platform::host();
        let chosen = self
            .images
            .iter()
            .find(|image| image.platform == host)
            .unwrap_or(&self.images[0]);
        chosen.pushed_to(&target, tag, &digest_of(&index))
    }
}

/// Pushes `count` images to `PREFIX-0:1`, `PREFIX-1:1`, …: the same base layers, and `own_bytes` bytes for each image.
#[allow(clippy::must_use_candidate)]
pub fn images_with_shared_base(
    registry: &dyn RegistryEndpoint,
    prefix: &str,
    count: usize,
    base: &[Layer],
    own_bytes: usize,
) -> Vec<Pushed> {
    (0..count)
        .map(|number| {
            ImageBuilder::new()
                .base(base)
                .random_layer(&format!("own-{number}"), 1_000 + number as u64, own_bytes)
                .push(registry, &format!("{prefix}-{number}"), "1")
        })
        .collect()
}

fn descriptor(media_type: &str, digest: &Digest, size: usize) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

fn bytes_of(value: &Value) -> Bytes {
    serde_json::to_vec(value).expect("JSON of our own").into()
}
