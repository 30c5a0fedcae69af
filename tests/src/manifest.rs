//! ImageCache manifests in files.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A file with one ImageCache of `kubefledged.io/v1alpha2`, in a folder of its own.
#[derive(Debug)]
pub struct ManifestFile {
    folder: TempDir,
}

impl ManifestFile {
    /// Writes an ImageCache with these images for all nodes.
    ///
    /// # Panics
    ///
    /// When the file can't be written.
    #[must_use]
    pub fn new<S: AsRef<str>>(images: &[S]) -> Self {
        let file = Self {
            folder: TempDir::with_prefix("manifest-").expect("a temporary folder"),
        };
        file.rewrite(images);
        file
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("imagecache.yaml")
    }

    /// Replaces the manifest by one with these images, as editors do: a new file is renamed over the old one.
    ///
    /// # Panics
    ///
    /// When the file can't be written.
    pub fn rewrite<S: AsRef<str>>(&self, images: &[S]) {
        let list: String = images
            .iter()
            .map(|image| format!("    - {}\n", image.as_ref()))
            .collect();
        let text = format!(
            "---\napiVersion: kubefledged.io/v1alpha2\nkind: ImageCache\nmetadata:\n  name: imagecache1\n  \
             namespace: kube-fledged\n  labels:\n    app: kubefledged\n    kubefledged: imagecache\n\
             spec:\n  cacheSpec:\n  - images:\n{list}"
        );
        self.replace(&text);
    }

    /// Replaces the manifest by a text.
    ///
    /// # Panics
    ///
    /// When the file can't be written.
    pub fn replace(&self, text: &str) {
        let next = self.folder.path().join("next");
        std::fs::write(&next, text).expect("a manifest that can be written");
        std::fs::rename(&next, self.path()).expect("a manifest that can be replaced");
    }

    /// The folder of the file, for other files of the test.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
