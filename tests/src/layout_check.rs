//! Checks that a folder is a valid OCI image layout.

use std::collections::BTreeSet;
use std::path::Path;

use fledged_core::model::Digest;
use serde_json::Value;

use crate::layers::digest_of;

/// What a valid layout holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LayoutContent {
    /// The names in `index.json`.
    pub references: BTreeSet<String>,
    /// Every blob on disk.
    pub blobs: BTreeSet<Digest>,
}

/// Checks the whole layout: each blob's content matches the digest in its name, and each entry of the index leads to a
/// manifest, its configuration and all its layers.
///
/// # Panics
///
/// When the layout is invalid; the message names the blob or entry.
#[allow(clippy::must_use_candidate)]
pub fn check_layout(folder: &Path) -> LayoutContent {
    let marker = json_at(&folder.join("oci-layout"));
    assert_eq!(marker["imageLayoutVersion"], "1.0.0");
    let index = json_at(&folder.join("index.json"));
    assert_eq!(index["schemaVersion"], 2);
    let mut content = LayoutContent::default();
    for algorithm in std::fs::read_dir(folder.join("blobs")).expect("a folder of blobs") {
        let algorithm = algorithm.expect("an entry");
        for blob in std::fs::read_dir(algorithm.path()).expect("blobs") {
            let blob = blob.expect("an entry");
            let (kind, hex) = (algorithm.file_name(), blob.file_name());
            let name = format!("{}:{}", kind.display(), hex.display());
            let digest = digest_of(&std::fs::read(blob.path()).expect("a readable blob"));
            assert_eq!(digest.as_str(), name, "a blob with other content");
            content.blobs.insert(digest);
        }
    }
    for entry in index["manifests"].as_array().expect("a list of manifests") {
        let name = entry["annotations"]["org.opencontainers.image.ref.name"]
            .as_str()
            .expect("a name");
        assert!(
            content.references.insert(name.to_owned()),
            "{name} occurs twice"
        );
        check_manifest(folder, entry, name);
    }
    content
}

fn check_manifest(folder: &Path, descriptor: &Value, name: &str) {
    let bytes = check_blob(folder, descriptor, name);
    let manifest: Value = serde_json::from_slice(&bytes).expect("a manifest");
    if let Some(manifests) = manifest["manifests"].as_array() {
        // Not all platforms of an index must be present, but at least one.
        let there: Vec<&Value> = manifests
            .iter()
            .filter(|entry| blob_path(folder, entry).exists())
            .collect();
        assert!(!there.is_empty(), "{name}: an index of nothing");
        for entry in there {
            check_manifest(folder, entry, name);
        }
        return;
    }
    check_blob(folder, &manifest["config"], name);
    for layer in manifest["layers"].as_array().expect("layers") {
        check_blob(folder, layer, name);
    }
}

fn check_blob(folder: &Path, descriptor: &Value, name: &str) -> Vec<u8> {
    let path = blob_path(folder, descriptor);
    let bytes = std::fs::read(&path)
        .unwrap_or_else(|e| panic!("{name}: {} is missing: {e}", path.display()));
    assert_eq!(descriptor["size"], bytes.len(), "{name}: {descriptor}");
    bytes
}

fn blob_path(folder: &Path, descriptor: &Value) -> std::path::PathBuf {
    let digest = descriptor["digest"].as_str().expect("a digest");
    folder.join("blobs").join(digest.replace(':', "/"))
}

fn json_at(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
