//! The folder of a layout: its paths, its state and atomic replacement of files.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fledged_core::model::Digest;
use serde::Deserialize;

use super::folder::{Folder, Temporary};
use super::layout_error::LayoutError;
use crate::registry::Digester;

/// The version that is written; its major version is the only one supported (image specification,
/// `oci-layout`).
pub(crate) const LAYOUT_VERSION: &str = "1.0.0";
/// The algorithms of digests, which are the folders below `blobs`.
const ALGORITHMS: [&str; 3] = ["sha256", "sha384", "sha512"];
const INDEX: &str = "index.json";
const MARKER: &str = "oci-layout";
const BLOBS: &str = "blobs";
/// fledged's own folder, which other readers of layouts ignore.
const OWN: &str = ".fledged";
const UNFINISHED: &str = "unfinished";
const LOCK: &str = "lock";
/// The start of the name of a partial blob, before its algorithm and its hexadecimal digits.
const PARTIAL_PREFIX: &str = "fledged-part-";
const EMPTY_INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// The state of a layout's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Missing or empty.
    Vacant,
    /// A layout.
    Ready,
}

/// One layout on disk. Cheap to clone.
///
/// Each call opens the root again, so that a folder that is mounted or created later is found, and
/// everything else relative to that handle.
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

    /// The path of `index.json`, for errors.
    pub(crate) fn index(&self) -> PathBuf {
        self.root.join(INDEX)
    }

    /// The path of `oci-layout`, for errors.
    fn marker(&self) -> PathBuf {
        self.root.join(MARKER)
    }

    /// The path of a blob, for errors.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        let mut path = self.root.join(BLOBS);
        path.extend([digest.algorithm(), digest.hex()]);
        path
    }

    /// The folder, or an error if it is missing.
    fn existing(&self) -> Result<Folder, LayoutError> {
        Folder::root(&self.root)?
            .ok_or_else(|| LayoutError::io("read", &self.root)(io::ErrorKind::NotFound.into()))
    }

    /// A folder below the root, or `None` if any part of the path is missing.
    fn below<const N: usize>(&self, names: [&str; N]) -> Result<Option<Folder>, LayoutError> {
        let mut folder = Folder::root(&self.root)?;
        for name in names {
            folder = match folder {
                Some(parent) => parent.folder(name)?,
                None => return Ok(None),
            };
        }
        Ok(folder)
    }

    /// The state of the folder.
    ///
    /// # Errors
    ///
    /// [`LayoutError::NotALayout`] for a folder with other content: nothing in it may be deleted.
    /// [`LayoutError::Link`] if one of its files or folders is a symbolic link.
    pub(crate) fn state(&self) -> Result<State, LayoutError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Marker {
            image_layout_version: String,
        }
        let Some(root) = Folder::root(&self.root)? else {
            return match dangling_link(&self.root) {
                Some(path) => Err(LayoutError::DanglingLink { path }),
                None => Ok(State::Vacant),
            };
        };
        let Some(marker) = root.file(MARKER)? else {
            return self.vacant(&root);
        };
        let bytes = read_all(marker).map_err(LayoutError::io("read", &self.marker()))?;
        let parsed: Marker =
            serde_json::from_slice(&bytes).map_err(|error| LayoutError::Malformed {
                path: self.marker(),
                problem: error.to_string(),
            })?;
        let version = parsed.image_layout_version;
        if !version.starts_with("1.") {
            return Err(LayoutError::UnsupportedVersion {
                path: self.root.to_path_buf(),
                version,
            });
        }
        // Opened for the error of a link.
        root.size_of(INDEX)?;
        if let Some(blobs) = root.folder(BLOBS)? {
            for algorithm in ALGORITHMS {
                blobs.folder(algorithm)?;
            }
        }
        if let Some(own) = root.folder(OWN)? {
            own.folder(UNFINISHED)?;
            own.size_of(LOCK)?;
        }
        Ok(State::Ready)
    }

    fn vacant(&self, root: &Folder) -> Result<State, LayoutError> {
        // An interrupted creation leaves `.fledged`, and perhaps the first files.
        let ours = root.folder(OWN)?.is_some();
        for name in root.all_names()? {
            let known = match name.to_str() {
                Some(OWN | "lost+found") => true,
                Some(BLOBS | INDEX) => ours,
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
        let missing: Vec<&Path> = self
            .root
            .ancestors()
            .take_while(|part| !part.exists())
            .collect();
        fs::create_dir_all(&self.root).map_err(LayoutError::io("create", &self.root))?;
        for parent in missing.iter().filter_map(|created| created.parent()) {
            match sync_ancestor(parent) {
                // A folder that is writable but not readable cannot be synced.
                Err(LayoutError::Io { source, .. })
                    if source.kind() == io::ErrorKind::PermissionDenied => {}
                synced => synced?,
            }
        }
        let own = self.existing()?.create_folder(OWN)?;
        own.create_folder(UNFINISHED).map(drop)
    }

    /// The lock file, which is created if it is missing, and its path for errors.
    pub(crate) fn lock_file(&self) -> Result<(File, PathBuf), LayoutError> {
        let own = self.existing()?.create_folder(OWN)?;
        Ok((own.create_file(LOCK)?, own.path_of(LOCK)))
    }

    /// The folder of unfinished downloads, which is created if it is missing.
    pub(crate) fn unfinished(&self) -> Result<Folder, LayoutError> {
        let own = self.existing()?.create_folder(OWN)?;
        own.create_folder(UNFINISHED)
    }

    /// Creates the layout in a vacant folder. `oci-layout` comes last, because by the specification
    /// it makes a folder a layout: an interrupted creation leaves no half of a layout.
    pub(crate) fn initialise(&self) -> Result<(), LayoutError> {
        let root = self.existing()?;
        root.create_folder(BLOBS)?.create_folder("sha256")?;
        if root.size_of(INDEX)?.is_none() {
            self.replace_index(EMPTY_INDEX.as_bytes())?;
        }
        let marker = format!(r#"{{"imageLayoutVersion":"{LAYOUT_VERSION}"}}"#);
        self.replace(&root, MARKER, marker.as_bytes())
    }

    /// Makes the names of all blobs durable.
    pub(crate) fn sync_blobs(&self) -> Result<(), LayoutError> {
        let Some(blobs) = self.below([BLOBS])? else {
            return Ok(());
        };
        for algorithm in ALGORITHMS {
            if let Some(folder) = blobs.folder(algorithm)? {
                folder.sync()?;
            }
        }
        blobs.sync()
    }

    /// A temporary file for a download, on the same file system as the blobs.
    pub(crate) fn unfinished_file(&self) -> Result<Temporary, LayoutError> {
        self.unfinished()?.temporary()
    }

    /// The file of a blob that is not complete yet, with what an earlier download has left in it.
    pub(crate) fn partial_file(&self, digest: &Digest) -> Result<Temporary, LayoutError> {
        self.unfinished()?.partial(partial_name(digest))
    }

    /// The blobs of which partial files are left.
    pub(crate) fn partials(&self) -> Result<Vec<Digest>, LayoutError> {
        let Some(unfinished) = self.below([OWN, UNFINISHED])? else {
            return Ok(Vec::new());
        };
        let names = unfinished.names()?;
        let digests = names.iter().filter_map(|name| {
            let (algorithm, hex) = name.strip_prefix(PARTIAL_PREFIX)?.split_once('-')?;
            Digest::parse(&format!("{algorithm}:{hex}")).ok()
        });
        Ok(digests.collect())
    }

    /// The time since a partial file was written to, or `None` if it is missing.
    pub(crate) fn age_of_partial(&self, digest: &Digest) -> Result<Option<Duration>, LayoutError> {
        let file = self.unfinished()?.file(&partial_name(digest))?;
        Ok(file.map(|file| age(&file)))
    }

    /// Deletes a partial file.
    pub(crate) fn delete_partial(&self, digest: &Digest) -> Result<(), LayoutError> {
        let name = partial_name(digest);
        self.unfinished()?.delete(&name).map(drop)
    }

    /// Gives a complete and synced download the name of its blob.
    pub(crate) fn settle(&self, file: Temporary, digest: &Digest) -> Result<(), LayoutError> {
        file.rename_to(&self.create_blob_folder(digest)?, digest.hex())
    }

    /// Writes a small blob atomically and durably.
    pub(crate) fn replace_blob(&self, digest: &Digest, content: &[u8]) -> Result<(), LayoutError> {
        self.replace(&self.create_blob_folder(digest)?, digest.hex(), content)
    }

    /// Replaces `index.json` atomically and durably.
    pub(crate) fn replace_index(&self, content: &[u8]) -> Result<(), LayoutError> {
        self.replace(&self.existing()?, INDEX, content)
    }

    fn replace(&self, folder: &Folder, name: &str, content: &[u8]) -> Result<(), LayoutError> {
        let mut file = self.unfinished_file()?;
        file.write_all(content)
            .and_then(|()| file.as_file().sync_all())
            .map_err(LayoutError::io("write", file.path()))?;
        file.rename_to(folder, name)?;
        folder.sync()
    }

    fn create_blob_folder(&self, digest: &Digest) -> Result<Folder, LayoutError> {
        let blobs = self.existing()?.create_folder(BLOBS)?;
        blobs.create_folder(digest.algorithm())
    }

    fn blob_folder(&self, digest: &Digest) -> Result<Option<Folder>, LayoutError> {
        self.below([BLOBS, digest.algorithm()])
    }

    /// `index.json`, or `None` if it is missing.
    pub(crate) fn read_index(&self) -> Result<Option<Vec<u8>>, LayoutError> {
        let Some(file) = self.below([])?.map(|root| root.file(INDEX)).transpose()? else {
            return Ok(None);
        };
        file.map(read_all)
            .transpose()
            .map_err(LayoutError::io("read", &self.index()))
    }

    /// Whether a blob of that length is present. A blob is verified before it gets its name, so the
    /// length is enough to notice loss and truncation.
    pub(crate) fn has(&self, digest: &Digest, size: u64) -> Result<bool, LayoutError> {
        Ok(self.size_of(digest)? == Some(size))
    }

    /// The length of a blob, or `None` if it is missing.
    pub(crate) fn size_of(&self, digest: &Digest) -> Result<Option<u64>, LayoutError> {
        match self.blob_folder(digest)? {
            Some(folder) => folder.size_of(digest.hex()),
            None => Ok(None),
        }
    }

    /// A small blob, verified, or `None` if it is missing, too long or its digest does not match.
    pub(crate) fn read(
        &self,
        digest: &Digest,
        longest: usize,
    ) -> Result<Option<Vec<u8>>, LayoutError> {
        let Some(file) = self.open_blob(digest)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(longest as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(LayoutError::io("read", &self.blob(digest)))?;
        let whole = bytes.len() <= longest && Digester::of(digest, &bytes) == digest.as_str();
        Ok(whole.then_some(bytes))
    }

    /// The file of a blob, or `None` if it is missing.
    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<Option<File>, LayoutError> {
        match self.blob_folder(digest)? {
            Some(folder) => folder.file(digest.hex()),
            None => Ok(None),
        }
    }

    /// Deletes a blob. Returns whether it was present.
    pub(crate) fn delete_blob(&self, digest: &Digest) -> Result<bool, LayoutError> {
        match self.blob_folder(digest)? {
            Some(folder) => folder.delete(digest.hex()),
            None => Ok(false),
        }
    }

    /// Every blob on disk and its length. Entries that are not regular files or whose names are not
    /// digests belong to other tools.
    pub(crate) fn present(&self) -> Result<Vec<(Digest, u64)>, LayoutError> {
        let mut found = Vec::new();
        let Some(blobs) = self.below([BLOBS])? else {
            return Ok(found);
        };
        for algorithm in ALGORITHMS {
            let Some(folder) = blobs.folder(algorithm)? else {
                continue;
            };
            for name in folder.names()? {
                // A file that was deleted since the folder was read is skipped.
                if let Ok(digest) = Digest::parse(&format!("{algorithm}:{name}"))
                    && folder.is_file(&name)?
                    && let Some(size) = folder.size_of(&name)?
                {
                    found.push((digest, size));
                }
            }
        }
        Ok(found)
    }
}

fn read_all(mut file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The dangling symbolic link in a missing path, if there is one. No folder can be created there.
fn dangling_link(path: &Path) -> Option<PathBuf> {
    path.ancestors()
        .find(|part| part.symlink_metadata().is_ok())
        .filter(|part| !part.exists())
        .map(Path::to_owned)
}

/// Makes the creation of a folder in one of the root's ancestors durable.
fn sync_ancestor(folder: &Path) -> Result<(), LayoutError> {
    match Folder::root(folder)? {
        Some(folder) => folder.sync(),
        None => Ok(()),
    }
}

fn partial_name(digest: &Digest) -> String {
    format!("{PARTIAL_PREFIX}{}-{}", digest.algorithm(), digest.hex())
}

/// The time since a file was written to, or zero if that is unknown.
pub(crate) fn age(file: &File) -> Duration {
    let modified = file.metadata().and_then(|metadata| metadata.modified());
    let written = modified.ok();
    written
        .and_then(|time| SystemTime::now().duration_since(time).ok())
        .unwrap_or_default()
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
}
