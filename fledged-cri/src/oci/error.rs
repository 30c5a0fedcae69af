//! What can go wrong with the folder itself.

use std::io;
use std::path::{Path, PathBuf};

use fledged_core::error::{Failure, Reason};
use rustix::io::Errno;

/// An operation on an image layout that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, `write` for instance.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The folder, or one above it, is a link whose target is missing.
    #[error("{} is a link to nothing", path.display())]
    DanglingLink {
        /// The link.
        path: PathBuf,
    },
    /// The folder holds something else; it is left alone.
    #[error("{} is neither empty nor an OCI image layout", path.display())]
    NotALayout {
        /// The folder.
        path: PathBuf,
    },
    /// A layout of a version that is not known here.
    #[error("{} is an OCI image layout of version {version:?}, not 1.x", path.display())]
    UnsupportedVersion {
        /// The folder.
        path: PathBuf,
        /// The version it states.
        version: String,
    },
    /// A file of the layout that is not what the specification says.
    #[error("{} is malformed: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl LayoutError {
    /// For `map_err`: wraps what the system said about `path`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// Why, in one word.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::DiskFull,
                // What stays as it is until somebody changes the folder or how it is mounted.
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
            Self::NotALayout { .. } | Self::UnsupportedVersion { .. } | Self::Malformed { .. } => {
                Reason::RuntimeUnsupported
            }
        }
    }
}

impl From<LayoutError> for Failure {
    fn from(error: LayoutError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_by_itself_is_tried_again() {
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
