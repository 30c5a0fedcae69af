//! The folder of a layout: its paths, its state, atomic replacement of files, and its errors.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::Digest;
use rustix::io::Errno;
use serde::Deserialize;
use tempfile::NamedTempFile;

use crate::registry::Digester;

/// The version that is written; its major version is the only one supported (image specification,
/// `oci-layout`).
pub(crate) const LAYOUT_VERSION: &str = "1.0.0";
const EMPTY_INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// Why an image layout cannot be opened or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// A file system operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation, for example `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The folder or one of its ancestors is a symbolic link whose target is missing.
    #[error("{} is a link to nothing", path.display())]
    DanglingLink {
        /// The link.
        path: PathBuf,
    },
    /// The folder holds something else and stays unchanged.
    #[error("{} is neither empty nor an OCI image layout", path.display())]
    NotALayout {
        /// The folder.
        path: PathBuf,
    },
    /// The version of the layout is not supported.
    #[error("{} is an OCI image layout of version {version:?}, not 1.x", path.display())]
    UnsupportedVersion {
        /// The folder.
        path: PathBuf,
        /// The version in `oci-layout`.
        version: String,
    },
    /// A file of the layout violates the specification.
    #[error("{} is malformed: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// HTTPS cannot be set up, because this machine's certificates cannot be read.
    #[error(transparent)]
    Registry(Failure),
}

impl LayoutError {
    /// For `map_err`: wraps an error of the operating system about `path`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// The reason of the failure.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::DiskFull,
                // Permanent until the folder or its mount changes.
                io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::IsADirectory
                | io::ErrorKind::DirectoryNotEmpty
                | io::ErrorKind::AlreadyExists
                | io::ErrorKind::CrossesDevices
                | io::ErrorKind::FileTooLarge
                | io::ErrorKind::InvalidFilename
                | io::ErrorKind::InvalidInput
                | io::ErrorKind::Unsupported => Reason::StoreUnusable,
                _ if source.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                    Reason::StoreUnusable
                }
                _ => Reason::Unknown,
            },
            Self::DanglingLink { .. } => Reason::StoreUnusable,
            Self::Registry(failure) => failure.reason,
            Self::NotALayout { .. } | Self::UnsupportedVersion { .. } | Self::Malformed { .. } => {
                Reason::RuntimeUnsupported
            }
        }
    }
}

impl From<LayoutError> for Failure {
    fn from(error: LayoutError) -> Self {
        match error {
            LayoutError::Registry(failure) => failure,
            other => Self::new(other.reason(), other.to_string()),
        }
    }
}

/// The state of a layout's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Missing or empty.
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

    /// fledged's own folder, which other readers of layouts ignore.
    pub(crate) fn own_folder(&self) -> PathBuf {
        self.root.join(".fledged")
    }

    pub(crate) fn lock_file(&self) -> PathBuf {
        self.own_folder().join("lock")
    }

    pub(crate) fn unfinished(&self) -> PathBuf {
        self.own_folder().join("unfinished")
    }

    fn marker(&self) -> PathBuf {
        self.root.join("oci-layout")
    }

    /// The state of the folder.
    ///
    /// # Errors
    ///
    /// [`LayoutError::NotALayout`] for a folder with other content: nothing in it may be deleted.
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
        // An interrupted creation leaves `.fledged`, and perhaps the first files.
        let ours = self.own_folder().is_dir();
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

    /// Creates `.fledged`, which is enough to take the lock, and its missing ancestors, durably.
    pub(crate) fn create_own_folder(&self) -> Result<(), LayoutError> {
        let path = self.unfinished();
        let missing: Vec<&Path> = path.ancestors().take_while(|part| !part.exists()).collect();
        fs::create_dir_all(&path).map_err(LayoutError::io("create", &path))?;
        for parent in missing.iter().filter_map(|created| created.parent()) {
            match sync_folder(parent) {
                // A folder that is writable but not readable cannot be synced.
                Err(LayoutError::Io { source, .. })
                    if source.kind() == io::ErrorKind::PermissionDenied => {}
                synced => synced?,
            }
        }
        Ok(())
    }

    /// Creates the layout in a vacant folder. `oci-layout` comes last, because by the specification
    /// it makes a folder a layout: an interrupted creation leaves no half of a layout.
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

    /// Makes the names of all blobs durable.
    pub(crate) fn sync_blobs(&self) -> Result<(), LayoutError> {
        for algorithm in ["sha256", "sha384", "sha512"] {
            let folder = self.blobs().join(algorithm);
            if folder.is_dir() {
                sync_folder(&folder)?;
            }
        }
        sync_folder(&self.blobs())
    }

    /// A temporary file for a download, on the same file system as the blobs.
    pub(crate) fn unfinished_file(&self) -> Result<NamedTempFile, LayoutError> {
        let folder = self.unfinished();
        let mut builder = tempfile::Builder::new();
        // Every user may read blobs; the umask still applies.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
        builder
            .tempfile_in(&folder)
            .map_err(LayoutError::io("create a file in", &folder))
    }

    /// Gives a complete and synced download its final name.
    pub(crate) fn settle(&self, file: NamedTempFile, target: &Path) -> Result<(), LayoutError> {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(LayoutError::io("create", parent))?;
        }
        file.persist(target)
            .map(drop)
            .map_err(|error| LayoutError::io("rename to", target)(error.error))
    }

    /// Replaces a file atomically and durably.
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

    /// Whether a blob of that length is present. A blob is verified before it gets its name, so the
    /// length is enough to notice loss and truncation.
    pub(crate) fn has(&self, digest: &Digest, size: u64) -> Result<bool, LayoutError> {
        Ok(self.size_of(digest)? == Some(size))
    }

    /// The length of a blob, or `None` if it is missing.
    pub(crate) fn size_of(&self, digest: &Digest) -> Result<Option<u64>, LayoutError> {
        let path = self.blob(digest);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LayoutError::io("read", &path)(error)),
        }
    }

    /// A small blob, verified, or `None` if it is missing, too long or its digest does not match.
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

/// The dangling symbolic link in a missing path, if there is one. No folder can be created there.
fn dangling_link(path: &Path) -> Option<PathBuf> {
    path.ancestors()
        .find(|part| part.symlink_metadata().is_ok())
        .filter(|part| !part.exists())
        .map(Path::to_owned)
}

/// Makes renames in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), LayoutError> {
    // The parent of a relative path of one component.
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
        layout.create_own_folder().unwrap();
        layout.initialise().unwrap();
        layout
    }

    #[test]
    fn a_folder_with_other_content_stays_unchanged() {
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
            "blobs of another tool's store"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_dangling_link_is_an_error() {
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
    fn an_interrupted_creation_is_resumed() {
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
    fn reads_only_content_that_matches_its_digest() {
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

    #[test]
    fn permanent_errors_are_not_retried() {
        for (errno, expected) in [
            (Errno::ACCESS, Reason::StoreUnusable),
            (Errno::PERM, Reason::StoreUnusable),
            (Errno::ROFS, Reason::StoreUnusable),
            (Errno::NOTDIR, Reason::StoreUnusable),
            (Errno::ISDIR, Reason::StoreUnusable),
            (Errno::EXIST, Reason::StoreUnusable),
            (Errno::LOOP, Reason::StoreUnusable),
            (Errno::NAMETOOLONG, Reason::StoreUnusable),
            (Errno::XDEV, Reason::StoreUnusable),
            (Errno::NOSPC, Reason::DiskFull),
            (Errno::DQUOT, Reason::DiskFull),
            (Errno::NOENT, Reason::Unknown),
            (Errno::IO, Reason::Unknown),
            (Errno::MFILE, Reason::Unknown),
        ] {
            let error = LayoutError::io("write", Path::new("/images/x"))(errno.into());
            assert_eq!(error.reason(), expected, "{error}");
            assert!(error.to_string().contains("/images/x"), "{error}");
        }
    }
}
