//! Generated images: a shared base, a runtime that most share, and an application each.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const KIB: usize = 1024;
/// The first layer of every image.
const BASE: usize = 2048 * KIB;
/// The second of all images but every third.
const RUNTIME: usize = 1024 * KIB;
/// The last layer of each image, in turn.
const OWN: [usize; 3] = [1536 * KIB, 1024 * KIB, 2048 * KIB];
/// What the last layers of many images come to together, so that any number of them fits in memory and
/// on a disk for each node.
const OWN_MAX: usize = 24 * 1024 * KIB;
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of an OCI image manifest.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What a registry stores for the generated images.
#[derive(Debug, Clone, Default)]
pub struct DemoContent {
    /// Manifests by `repository:tag` and by `repository@digest`.
    pub(super) manifests: BTreeMap<String, Bytes>,
    /// Blobs and configurations by digest.
    pub(super) blobs: BTreeMap<String, Bytes>,
}

/// One generated image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DemoImage {
    /// Its repository.
    pub repository: String,
    /// Its tag.
    pub tag: String,
}

impl DemoImage {
    /// An image of that name.
    pub fn new(repository: impl Into<String>, tag: impl Into<String>) -> Self {
        Self {
            repository: repository.into(),
            tag: tag.into(),
        }
    }
}

/// Content and its digest, which takes long enough to compute it only once.
#[derive(Debug, Clone)]
struct Blob {
    digest: String,
    bytes: Bytes,
}

impl Blob {
    fn new(bytes: Bytes) -> Self {
        Self {
            digest: digest(&bytes),
            bytes,
        }
    }
}

impl DemoContent {
    /// Bytes of all layers and configurations, each once.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blobs
            .values()
            .map(|blob| u64::try_from(blob.len()).unwrap_or(u64::MAX))
            .sum()
    }
}

/// The images that the demo has by itself.
#[must_use]
pub fn storefront() -> Vec<DemoImage> {
    ["demo/web", "demo/api", "demo/batch"]
        .map(|repository| DemoImage::new(repository, "v1"))
        .into()
}

/// Generates these images for that operating system and architecture; the same bytes each time.
#[must_use]
pub fn generate(images: &[DemoImage], os: &str, architecture: &str) -> DemoContent {
    let mut content = DemoContent::default();
    let base = layer("base/system.bin", BASE, 1);
    let runtime = layer("opt/runtime.bin", RUNTIME, 2);
    let most = OWN_MAX / images.len().max(1);
    let sizes = OWN.iter().cycle().map(|size| *size.min(&most).max(&KIB));
    for ((image, size), seed) in images.iter().zip(sizes).zip(3..) {
        let own = layer("app/main.bin", size, seed);
        let layers = match seed % 3 {
            2 => vec![base.clone(), own],
            _ => vec![base.clone(), runtime.clone(), own],
        };
        content.add(image, &layers, os, architecture);
    }
    content
}

impl DemoContent {
    fn add(&mut self, image: &DemoImage, layers: &[Blob], os: &str, architecture: &str) {
        // An uncompressed layer's diff ID is its digest.
        let digests: Vec<&String> = layers.iter().map(|layer| &layer.digest).collect();
        let config = json!({
            "architecture": architecture,
            "os": os,
            "config": {"Entrypoint": ["/app/main.bin"]},
            "rootfs": {"type": "layers", "diff_ids": digests},
        });
        let config = Bytes::from(config.to_string());
        let config = Blob::new(config);
        let described = |media_type: &str, blob: &Blob| -> Value {
            json!({"mediaType": media_type, "digest": blob.digest, "size": blob.bytes.len()})
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described(CONFIG, &config),
            "layers": layers.iter().map(|layer| described(LAYER, layer)).collect::<Vec<_>>(),
        });
        let manifest = Bytes::from(manifest.to_string());
        for blob in layers.iter().chain([&config]) {
            self.blobs.insert(blob.digest.clone(), blob.bytes.clone());
        }
        let (repository, tag) = (&image.repository, &image.tag);
        let by_digest = format!("{repository}@{}", digest(&manifest));
        self.manifests
            .insert(format!("{repository}:{tag}"), manifest.clone());
        self.manifests.insert(by_digest, manifest);
    }
}

/// The digest of content, `sha256:` and hexadecimal digits.
pub(super) fn digest(content: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(content) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// A layer: a tar archive with one file of that size, of bytes that do not compress.
fn layer(path: &str, size: usize, seed: u64) -> Blob {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut archive = tar_header(path, size);
    let content = archive.len();
    // Padded to a whole record, and ended by two empty ones (POSIX ustar).
    archive.resize(content + size.next_multiple_of(512) + 1024, 0);
    if let Some(file) = archive.get_mut(content..content + size) {
        random.fill(file);
    }
    Blob::new(Bytes::from(archive))
}

/// One header record of a POSIX ustar archive, for a regular file.
fn tar_header(path: &str, size: usize) -> Vec<u8> {
    let fields: [(usize, String); 9] = [
        (0, path.to_owned()),
        (100, "0000755\0".to_owned()),
        (108, "0000000\0".to_owned()),
        (116, "0000000\0".to_owned()),
        (124, format!("{size:011o}\0")),
        (136, format!("{:011o}\0", 0)),
        // The checksum counts as spaces while it is computed.
        (148, " ".repeat(8)),
        (156, "0".to_owned()),
        (257, "ustar\x0000".to_owned()),
    ];
    let mut record = vec![0_u8; 512];
    let mut put = |offset: usize, text: &str| {
        for (place, byte) in record.iter_mut().skip(offset).zip(text.bytes()) {
            *place = byte;
        }
    };
    for (offset, text) in &fields {
        put(*offset, text);
    }
    let sum: u32 = record.iter().map(|byte| u32::from(*byte)).sum();
    for (place, byte) in record
        .iter_mut()
        .skip(148)
        .zip(format!("{sum:06o}\0 ").bytes())
    {
        *place = byte;
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_the_same_each_time_and_share_their_base() {
        let images = storefront();
        let content = generate(&images, "linux", "amd64");
        let again = generate(&images, "linux", "amd64");
        assert_eq!(content.manifests, again.manifests);
        // Base, runtime, three applications, three configurations.
        assert_eq!(content.blobs.len(), 8);
        assert_eq!(content.manifests.len(), 6);
        for (name, blob) in &content.blobs {
            assert_eq!(*name, digest(blob));
        }
    }

    #[test]
    fn many_images_are_small_ones() {
        let images: Vec<DemoImage> = (0..200)
            .map(|n| DemoImage::new(format!("app-{n}"), "v1"))
            .collect();
        let content = generate(&images, "linux", "amd64");
        assert_eq!(content.manifests.len(), 400);
        assert!(content.bytes() < 32 * 1024 * 1024, "{}", content.bytes());
    }

    #[test]
    fn a_layer_is_a_tar_archive() {
        let archive = layer("a/b.bin", 700, 1).bytes;
        assert_eq!(archive.len(), 512 + 1024 + 1024);
        assert_eq!(&archive[257..262], b"ustar");
        let mut unsummed = archive[..512].to_vec();
        unsummed[148..156].fill(b' ');
        let sum: u32 = unsummed.iter().map(|b| u32::from(*b)).sum();
        assert_eq!(&archive[148..156], format!("{sum:06o}\0 ").as_bytes());
        assert_eq!(&archive[124..136], b"00000001274\0");
    }
}
