//! The folder: where things are, and how a file is replaced in one step.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fledged_core::model::Digest;
use serde::Deserialize;
use tempfile::NamedTempFile;

use super::LayoutError;
use crate::registry::Digester;

/// The version written, and the only major one known (image specification, `oci-layout`).
pub(crate) const LAYOUT_VERSION: &str = "1.0.0";
const EMPTY_INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// What is at the path of a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing yet, or an empty folder.
    Vacant,
    /// A layout.
    Ready,
}

/// The paths of one layout. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: Arc<Path>,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index.json")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.algorithm()).join(digest.hex())
    }

    /// Our own corner, which no reader of layouts looks into.
    pub(crate) fn corner(&self) -> PathBuf {
        self.root.join(".fledged")
    }

    pub(crate) fn lock_file(&self) -> PathBuf {
        self.corner().join("lock")
    }

    pub(crate) fn unfinished(&self) -> PathBuf {
        self.corner().join("unfinished")
    }

    fn marker(&self) -> PathBuf {
        self.root.join("oci-layout")
    }

    /// What is there now.
    ///
    /// # Errors
    ///
    /// [`LayoutError::NotALayout`] for a folder that holds other things: nothing may be deleted in
    /// it, let alone collected.
    pub(crate) fn state(&self) -> Result<State, LayoutError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Marker {
            image_layout_version: String,
        }
        let marker = self.marker();
        match fs::read(&marker) {
            Ok(bytes) => {
                let parsed: Marker =
                    serde_json::from_slice(&bytes).map_err(|error| LayoutError::Malformed {
                        path: marker,
                        problem: error.to_string(),
                    })?;
                let version = parsed.image_layout_version;
                if version.starts_with("1.") {
                    Ok(State::Ready)
                } else {
                    Err(LayoutError::UnsupportedVersion {
                        path: self.root.to_path_buf(),
                        version,
                    })
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.vacant(),
            Err(error) => Err(LayoutError::io("read", &marker)(error)),
        }
    }

    fn vacant(&self) -> Result<State, LayoutError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return match dangling_link(&self.root) {
                    Some(path) => Err(LayoutError::DanglingLink { path }),
                    None => Ok(State::Vacant),
                };
            }
            Err(error) => return Err(LayoutError::io("read", &self.root)(error)),
        };
        // A start that was cut short leaves our corner, and perhaps the first files.
        let ours = self.corner().is_dir();
        for entry in entries {
            let name = entry
                .map_err(LayoutError::io("read", &self.root))?
                .file_name();
            let known = match name.to_str() {
                Some(".fledged" | "lost+found") => true,
                Some("blobs" | "index.json") => ours,
                _ => false,
            };
            if !known {
                return Err(LayoutError::NotALayout {
                    path: self.root.to_path_buf(),
                });
            }
        }
        Ok(State::Vacant)
    }

    /// Creates our corner, all that is needed to take the lock, and the folder with those above it
    /// where they are missing, so that they outlive a power failure.
    pub(crate) fn create_corner(&self) -> Result<(), LayoutError> {
        let path = self.unfinished();
        let missing: Vec<&Path> = path.ancestors().take_while(|part| !part.exists()).collect();
        fs::create_dir_all(&path).map_err(LayoutError::io("create", &path))?;
        for parent in missing.iter().filter_map(|created| created.parent()) {
            match sync_folder(parent) {
                // Folders may be created in what may not be read, but it cannot be synced then.
                Err(LayoutError::Io { source, .. })
                    if source.kind() == io::ErrorKind::PermissionDenied => {}
                synced => synced?,
            }
        }
        Ok(())
    }

    /// Makes a vacant folder a layout. `oci-layout` comes last: by the specification it is what
    /// makes a folder a layout, so a start that is cut short leaves none rather than half of one.
    pub(crate) fn initialise(&self) -> Result<(), LayoutError> {
        let sha256 = self.blobs().join("sha256");
        fs::create_dir_all(&sha256).map_err(LayoutError::io("create", &sha256))?;
        sync_folder(&self.blobs())?;
        if !self.index().exists() {
            self.replace(&self.index(), EMPTY_INDEX.as_bytes())?;
        }
        let marker = format!(r#"{{"imageLayoutVersion":"{LAYOUT_VERSION}"}}"#);
        self.replace(&self.marker(), marker.as_bytes())
    }

    /// Makes the names of all blobs outlive a power failure.
    pub(crate) fn sync_blobs(&self) -> Result<(), LayoutError> {
        for algorithm in ["sha256", "sha384", "sha512"] {
            let folder = self.blobs().join(algorithm);
            if folder.is_dir() {
                sync_folder(&folder)?;
            }
        }
        sync_folder(&self.blobs())
    }

    /// A file for a download, on the same file system as the blobs.
    pub(crate) fn unfinished_file(&self) -> Result<NamedTempFile, LayoutError> {
        let folder = self.unfinished();
        let mut builder = tempfile::Builder::new();
        // Blobs are for every reader of the layout; the umask still applies.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
        builder
            .tempfile_in(&folder)
            .map_err(LayoutError::io("create a file in", &folder))
    }

    /// Gives a whole and synced download its final name.
    pub(crate) fn settle(&self, file: NamedTempFile, target: &Path) -> Result<(), LayoutError> {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(LayoutError::io("create", parent))?;
        }
        file.persist(target)
            .map(drop)
            .map_err(|error| LayoutError::io("rename to", target)(error.error))
    }

    /// Replaces a file's content in one step that outlives a power failure.
    pub(crate) fn replace(&self, target: &Path, content: &[u8]) -> Result<(), LayoutError> {
        let mut file = self.unfinished_file()?;
        file.write_all(content)
            .and_then(|()| file.as_file().sync_all())
            .map_err(LayoutError::io("write", file.path()))?;
        self.settle(file, target)?;
        match target.parent() {
            Some(folder) => sync_folder(folder),
            None => Ok(()),
        }
    }

    /// Whether a blob is there with that length. Content is verified before it gets its name, so
    /// the length is enough to notice what was lost or cut since.
    pub(crate) fn has(&self, digest: &Digest, size: u64) -> Result<bool, LayoutError> {
        Ok(self.size_of(digest)? == Some(size))
    }

    /// The length of a blob; `None` when it is not there.
    pub(crate) fn size_of(&self, digest: &Digest) -> Result<Option<u64>, LayoutError> {
        let path = self.blob(digest);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LayoutError::io("read", &path)(error)),
        }
    }

    /// A short blob, verified; `None` when it is missing, too long or not what its name says.
    pub(crate) fn read(
        &self,
        digest: &Digest,
        longest: usize,
    ) -> Result<Option<Vec<u8>>, LayoutError> {
        let path = self.blob(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LayoutError::io("read", &path)(error)),
        };
        let mut bytes = Vec::new();
        file.take(longest as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(LayoutError::io("read", &path))?;
        let whole = bytes.len() <= longest && Digester::of(digest, &bytes) == digest.as_str();
        Ok(whole.then_some(bytes))
    }
}

/// The link to nothing that a missing path leads through, if one does: no folder can be created there.
fn dangling_link(path: &Path) -> Option<PathBuf> {
    path.ancestors()
        .find(|part| part.symlink_metadata().is_ok())
        .filter(|part| !part.exists())
        .map(Path::to_owned)
}

/// Makes renames in a folder outlive a power failure.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), LayoutError> {
    // What a relative path of one part is in.
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(LayoutError::io("sync", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(folder: &Path) -> Layout {
        let layout = Layout::new(folder);
        layout.create_corner().unwrap();
        layout.initialise().unwrap();
        layout
    }

    #[test]
    fn a_folder_with_other_things_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        assert_eq!(layout.state().unwrap(), State::Vacant);
        assert_eq!(
            Layout::new(&folder.path().join("new")).state().unwrap(),
            State::Vacant
        );
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        let error = layout.state().unwrap_err();
        assert!(matches!(error, LayoutError::NotALayout { .. }), "{error}");

        let store = tempfile::tempdir().unwrap();
        fs::create_dir(store.path().join("blobs")).unwrap();
        assert!(
            Layout::new(store.path()).state().is_err(),
            "blobs of somebody else's store"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_link_must_lead_somewhere() {
        let folder = tempfile::tempdir().unwrap();
        let (link, target) = (folder.path().join("link"), folder.path().join("target"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        for root in [link.clone(), link.join("below"), link.join("far/below")] {
            let error = Layout::new(&root).state().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{} is a link to nothing", link.display())
            );
        }
        fs::create_dir(&target).unwrap();
        assert_eq!(Layout::new(&link).state().unwrap(), State::Vacant);
        assert_eq!(
            Layout::new(&link.join("below")).state().unwrap(),
            State::Vacant
        );
    }

    #[test]
    fn a_start_cut_short_is_taken_up_again() {
        let folder = tempfile::tempdir().unwrap();
        let layout = ready(folder.path());
        assert_eq!(layout.state().unwrap(), State::Ready);
        fs::remove_file(folder.path().join("oci-layout")).unwrap();
        assert_eq!(layout.state().unwrap(), State::Vacant);
        layout.initialise().unwrap();
        assert_eq!(layout.state().unwrap(), State::Ready);
    }

    #[test]
    fn versions_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let layout = ready(folder.path());
        let marker = folder.path().join("oci-layout");
        fs::write(&marker, r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
        let error = layout.state().unwrap_err();
        assert!(error.to_string().contains("2.0.0"), "{error}");
        fs::write(&marker, "{").unwrap();
        assert!(matches!(
            layout.state().unwrap_err(),
            LayoutError::Malformed { .. }
        ));
    }

    #[test]
    fn reads_only_what_its_name_says() {
        let folder = tempfile::tempdir().unwrap();
        let layout = ready(folder.path());
        let digest = Digest::parse(&crate::registry::sha256(b"content")).unwrap();
        assert_eq!(layout.read(&digest, 100).unwrap(), None);
        fs::write(layout.blob(&digest), b"content").unwrap();
        assert_eq!(layout.read(&digest, 100).unwrap().unwrap(), b"content");
        assert_eq!(layout.read(&digest, 6).unwrap(), None, "too long");
        assert!(layout.has(&digest, 7).unwrap());
        assert!(!layout.has(&digest, 8).unwrap());
        fs::write(layout.blob(&digest), b"c0ntent").unwrap();
        assert_eq!(layout.read(&digest, 100).unwrap(), None, "changed since");
    }
}
