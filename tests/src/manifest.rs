//! ImageCache manifests in files, as users of kube-fledged have them.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A file with one ImageCache of `kubefledged.io/v1alpha2`, in a folder of its own.
#[derive(Debug)]
pub struct ManifestFile {
    folder: TempDir,
}

impl ManifestFile {
    /// With these images for every node.
    ///
    /// # Panics
    ///
    /// When it can't be written.
    #[must_use]
    pub fn new<S: AsRef<str>>(images: &[S]) -> Self {
        let file = Self {
            folder: TempDir::with_prefix("manifest-").expect("a temporary folder"),
        };
        file.rewrite(images);
        file
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("imagecache.yaml")
    }

    /// Replaces it by one with these images, the way an editor does: a new file takes its name.
    ///
    /// # Panics
    ///
    /// When it can't be written.
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

    /// Replaces it by that text.
    ///
    /// # Panics
    ///
    /// When it can't be written.
    pub fn replace(&self, text: &str) {
        let next = self.folder.path().join("next");
        std::fs::write(&next, text).expect("a manifest that can be written");
        std::fs::rename(&next, self.path()).expect("a manifest that can be replaced");
    }

    /// Its folder, for other files of the test.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
