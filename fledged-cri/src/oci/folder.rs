//! A folder of a layout by its handle: every name is opened relative to it, and no symbolic link is
//! followed.
//!
//! Layouts arrive on USB sticks, in archives and in shared folders, so their content is not trusted: a
//! link in one of them could point a privileged process at any file of the machine.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::layout_error::LayoutError;

/// The start of the names of temporary files, which are deleted when they are dropped. Their folder also
/// has partial blobs; other files are never deleted from it.
pub(crate) const TEMPORARY_PREFIX: &str = "fledged-tmp-";

/// Attempts to find an unused name for a temporary file. A process that died can leave names of the same
/// process ID behind.
const NAME_ATTEMPTS: usize = 10_000;

/// An open folder. Its path is for errors only.
#[derive(Debug)]
pub(crate) struct Folder {
    handle: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens the root of a layout, or returns `None` if it does not exist. The path is the user's
    /// choice, so symbolic links in it are followed.
    pub(crate) fn root(path: &Path) -> Result<Option<Self>, LayoutError> {
        // The root of `oci:.` may be an empty path after its components are joined.
        let opened = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(opened, flags, Mode::empty()) {
            Ok(handle) => Ok(Some(Self {
                handle,
                path: path.to_owned(),
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(LayoutError::io("read", path)(error.into())),
        }
    }

    /// The path of an entry, for errors.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a folder in this one, or returns `None` if there is no entry of that name.
    pub(crate) fn folder(&self, name: &str) -> Result<Option<Self>, LayoutError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.handle, name, flags, Mode::empty()) {
            Ok(handle) => Ok(Some(Self {
                handle,
                path: self.path_of(name),
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.refusal("read", name, error)),
        }
    }

    /// Opens a folder in this one, which is created if it is missing, durably.
    pub(crate) fn create_folder(&self, name: &str) -> Result<Self, LayoutError> {
        if let Some(folder) = self.folder(name)? {
            return Ok(folder);
        }
        match rustix::fs::mkdirat(&self.handle, name, Mode::from_raw_mode(0o777)) {
            Ok(()) => self.sync()?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(self.refusal("create", name, error)),
        }
        self.folder(name)?
            .ok_or_else(|| self.refusal("create", name, Errno::NOENT))
    }

    /// Opens a regular file to read, or returns `None` if there is no entry of that name.
    pub(crate) fn file(&self, name: &str) -> Result<Option<File>, LayoutError> {
        // Opening a pipe must not wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.handle, name, flags, Mode::empty()) {
            Ok(handle) => self.regular("read", name, handle).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.refusal("read", name, error)),
        }
    }

    /// Opens a regular file to write, which is created if it is missing. Its content stays.
    pub(crate) fn create_file(&self, name: &str) -> Result<File, LayoutError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.handle, name, flags, Mode::from_raw_mode(0o666)) {
            Ok(handle) => self.regular("open", name, handle),
            Err(error) => Err(self.refusal("open", name, error)),
        }
    }

    /// The length of a regular file, or `None` for anything else and for a missing entry.
    pub(crate) fn size_of(&self, name: &str) -> Result<Option<u64>, LayoutError> {
        let Some(stat) = self.stat(name)? else {
            return Ok(None);
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(u64::try_from(stat.st_size).ok()),
            FileType::Symlink => Err(self.link(name)),
            _ => Ok(None),
        }
    }

    /// The names of all entries that are valid UTF-8. fledged writes no others.
    pub(crate) fn names(&self) -> Result<Vec<String>, LayoutError> {
        let names = self.all_names()?;
        Ok(names
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .collect())
    }

    /// The names of all entries.
    pub(crate) fn all_names(&self) -> Result<Vec<OsString>, LayoutError> {
        let failed = |error: Errno| LayoutError::io("read", &self.path)(error.into());
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.handle).map_err(failed)? {
            let name = CString::from(entry.map_err(failed)?.file_name()).into_bytes();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Whether an entry is a regular file.
    pub(crate) fn is_file(&self, name: &str) -> Result<bool, LayoutError> {
        let stat = self.stat(name)?;
        Ok(stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile))
    }

    /// Deletes an entry that is not a folder. Returns whether it existed.
    pub(crate) fn delete(&self, name: &str) -> Result<bool, LayoutError> {
        match rustix::fs::unlinkat(&self.handle, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(self.refusal("remove", name, error)),
        }
    }

    /// Makes renames in this folder durable.
    pub(crate) fn sync(&self) -> Result<(), LayoutError> {
        rustix::fs::fsync(&self.handle)
            .map_err(|error| LayoutError::io("sync", &self.path)(error.into()))
    }

    /// A new file with a temporary name in this folder.
    pub(crate) fn temporary(self) -> Result<Temporary, LayoutError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Every user may read blobs; the umask still applies.
        let mode = Mode::from_raw_mode(0o644);
        for _ in 0..NAME_ATTEMPTS {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{TEMPORARY_PREFIX}{}-{number}", std::process::id());
            match rustix::fs::openat(&self.handle, &name, flags, mode) {
                Ok(handle) => {
                    return Ok(Temporary {
                        path: self.path_of(&name),
                        file: File::from(handle),
                        folder: self,
                        name,
                        delete: true,
                    });
                }
                Err(Errno::EXIST) => {}
                Err(error) => {
                    return Err(LayoutError::io("create a file in", &self.path)(
                        error.into(),
                    ));
                }
            }
        }
        Err(LayoutError::io("create a file in", &self.path)(
            Errno::EXIST.into(),
        ))
    }

    /// The file of that name in this folder, which is created if it is missing. It keeps its content, and
    /// its name when it is dropped.
    pub(crate) fn partial(self, name: String) -> Result<Temporary, LayoutError> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(&self.handle, &name, flags, Mode::from_raw_mode(0o644))
            .map_err(|error| self.refusal("open", &name, error))?;
        Ok(Temporary {
            path: self.path_of(&name),
            file: self.regular("open", &name, handle)?,
            folder: self,
            name,
            delete: false,
        })
    }

    fn stat(&self, name: &str) -> Result<Option<Stat>, LayoutError> {
        match rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(LayoutError::io("read", &self.path_of(name))(error.into())),
        }
    }

    /// The file of a handle, if it is a regular one.
    fn regular(
        &self,
        action: &'static str,
        name: &str,
        handle: OwnedFd,
    ) -> Result<File, LayoutError> {
        let file = File::from(handle);
        let metadata = file
            .metadata()
            .map_err(LayoutError::io(action, &self.path_of(name)))?;
        if metadata.is_file() {
            Ok(file)
        } else {
            Err(LayoutError::NotAFile {
                path: self.path_of(name),
            })
        }
    }

    /// The error of an operation on an entry. The system has different errors for links, so the entry is
    /// looked at.
    fn refusal(&self, action: &'static str, name: &str, error: Errno) -> LayoutError {
        let kind = rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW)
            .map(|stat| FileType::from_raw_mode(stat.st_mode));
        match kind {
            Ok(FileType::Symlink) => self.link(name),
            _ => LayoutError::io(action, &self.path_of(name))(error.into()),
        }
    }

    fn link(&self, name: &str) -> LayoutError {
        LayoutError::Link {
            path: self.path_of(name),
        }
    }
}

/// A file with a temporary name, which is deleted when it is dropped unless it is a partial one.
#[derive(Debug)]
pub(crate) struct Temporary {
    folder: Folder,
    name: String,
    path: PathBuf,
    file: File,
    /// Whether it is deleted when it is dropped.
    delete: bool,
}

impl Temporary {
    /// The path, for errors.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file.
    pub(crate) fn as_file(&self) -> &File {
        &self.file
    }

    /// Deletes the file.
    pub(crate) fn discard(mut self) {
        self.delete = true;
    }

    /// Gives the file its final name in `target`, in place of a regular file of that name.
    pub(crate) fn rename_to(self, target: &Folder, name: &str) -> Result<(), LayoutError> {
        if let Some(stat) = target.stat(name)?
            && FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
        {
            return Err(target.link(name));
        }
        // Dropping it deletes the temporary name, which is gone after the rename.
        rustix::fs::renameat(&self.folder.handle, &self.name, &target.handle, name)
            .map_err(|error| target.refusal("rename to", name, error))
    }
}

impl Write for Temporary {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.delete {
            // Left behind on an error; the next writer deletes it.
            let _ = rustix::fs::unlinkat(&self.folder.handle, &self.name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use fledged_core::error::Reason;

    use super::*;

    fn root(folder: &tempfile::TempDir) -> Folder {
        Folder::root(folder.path()).unwrap().unwrap()
    }

    #[test]
    fn links_are_refused_by_every_operation() {
        let (place, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let victim = elsewhere.path().join("victim");
        fs::write(&victim, "theirs").unwrap();
        symlink(elsewhere.path(), place.path().join("folder")).unwrap();
        symlink(&victim, place.path().join("file")).unwrap();
        symlink(
            elsewhere.path().join("new"),
            place.path().join("to-nothing"),
        )
        .unwrap();
        let folder = root(&place);
        let temporary = || root(&place).temporary().unwrap();
        for (name, result) in [
            ("folder", folder.folder("folder").map(drop)),
            ("folder", folder.create_folder("folder").map(drop)),
            ("to-nothing", folder.create_folder("to-nothing").map(drop)),
            ("file", folder.file("file").map(drop)),
            ("file", folder.create_file("file").map(drop)),
            ("to-nothing", folder.create_file("to-nothing").map(drop)),
            ("file", folder.size_of("file").map(drop)),
            ("file", temporary().rename_to(&folder, "file")),
        ] {
            let error = result.unwrap_err();
            let path = place.path().join(name);
            assert_eq!(
                error.to_string(),
                format!(
                    "{} is a symbolic link; fledged follows none inside a layout",
                    path.display()
                )
            );
            assert_eq!(error.reason(), Reason::StoreUnusable);
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "theirs");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_pipe_is_an_error_and_does_not_block() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let error = root(&place).file("pipe").unwrap_err();
        assert_eq!(error.reason(), Reason::StoreUnusable);
        assert!(error.to_string().contains("not a regular file"), "{error}");
        assert_eq!(root(&place).size_of("pipe").unwrap(), None);
    }

    #[test]
    fn a_temporary_file_is_deleted_unless_it_is_renamed() {
        let place = tempfile::tempdir().unwrap();
        let mut file = root(&place).temporary().unwrap();
        assert!(file.name.starts_with(TEMPORARY_PREFIX));
        file.write_all(b"content").unwrap();
        drop(file);
        assert!(root(&place).names().unwrap().is_empty());
        let mut file = root(&place).temporary().unwrap();
        file.write_all(b"content").unwrap();
        file.rename_to(&root(&place), "name").unwrap();
        assert_eq!(root(&place).names().unwrap(), ["name"]);
        assert_eq!(root(&place).size_of("name").unwrap(), Some(7));
    }
}
