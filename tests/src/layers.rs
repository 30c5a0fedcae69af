//! Image layers: deterministic tar archives, compressed or not.

use std::io::Write as _;

use bytes::Bytes;
use flate2::write::GzEncoder;
use fledged_core::model::Digest;
use sha2::{Digest as _, Sha256};

/// Largest file in a generated layer; larger layers hold several files.
const FILE_MAX: usize = 8 * 1024 * 1024;

/// The compression of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip without compression, which is fast for large layers.
    #[default]
    Stored,
    /// gzip that compresses.
    Gzip,
}

/// A layer: its blob as stored in a registry, and the digest of its uncompressed tar.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The blob.
    pub blob: Bytes,
    /// Its media type.
    pub media_type: &'static str,
    /// Digest of the blob.
    pub digest: Digest,
    /// Digest of the uncompressed tar, as the image's configuration names it.
    pub diff_id: Digest,
}

impl Layer {
    /// Returns a layer with these files (path, content).
    ///
    /// # Panics
    ///
    /// When a path cannot be stored in a tar archive.
    #[must_use]
    pub fn files(files: &[(&str, &[u8])], compression: Compression) -> Self {
        let size: usize = files.iter().map(|(_, content)| content.len()).sum();
        let mut archive = tar::Builder::new(Vec::with_capacity(size + 4096));
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            archive
                .append_data(&mut header, path, *content)
                .expect("a path that fits a tar archive");
        }
        Self::pack(archive.into_inner().expect("an archive"), compression)
    }

    /// Returns a layer of about `bytes` incompressible bytes, determined by the seed.
    #[must_use]
    pub fn random(name: &str, seed: u64, bytes: usize, compression: Compression) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut content = vec![0; bytes];
        rng.fill(&mut content);
        let names: Vec<String> = (0..bytes.div_ceil(FILE_MAX).max(1))
            .map(|number| format!("{name}/{number}.bin"))
            .collect();
        let files: Vec<(&str, &[u8])> = names
            .iter()
            .map(String::as_str)
            .zip(content.chunks(FILE_MAX))
            .collect();
        Self::files(&files, compression)
    }

    fn pack(tar: Vec<u8>, compression: Compression) -> Self {
        let diff_id = digest_of(&tar);
        let gzip = |level| {
            let mut encoder = GzEncoder::new(Vec::with_capacity(tar.len() + 4096), level);
            encoder.write_all(&tar).expect("compressing in memory");
            encoder.finish().expect("compressing in memory")
        };
        let (blob, media_type) = match compression {
            Compression::None => (tar, "application/vnd.oci.image.layer.v1.tar"),
            Compression::Stored => (
                gzip(flate2::Compression::none()),
                "application/vnd.oci.image.layer.v1.tar+gzip",
            ),
            Compression::Gzip => (
                gzip(flate2::Compression::default()),
                "application/vnd.oci.image.layer.v1.tar+gzip",
            ),
        };
        Self {
            digest: digest_of(&blob),
            blob: blob.into(),
            media_type,
            diff_id,
        }
    }

    /// Bytes on the wire.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.blob.len() as u64
    }
}

/// The SHA-256 digest of some content.
pub(crate) fn digest_of(content: &[u8]) -> Digest {
    use std::fmt::Write as _;
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(content) {
        let _ = write!(text, "{byte:02x}");
    }
    text.parse().expect("a digest of our own making")
}
