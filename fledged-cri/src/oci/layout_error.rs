//! Why an image layout cannot be used.

use std::io;
use std::path::{Path, PathBuf};

use fledged_core::error::{Failure, Reason};
use rustix::io::Errno;

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
    /// A file or folder of the layout is a symbolic link, which could lead anywhere.
    #[error("{} is a symbolic link; fledged follows none inside a layout", path.display())]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// A file of the layout is a folder, a pipe or a device.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The path.
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
            Self::DanglingLink { .. }
            | Self::Link { .. }
            | Self::NotAFile { .. }
            | Self::NotALayout { .. }
            | Self::Malformed { .. } => Reason::StoreUnusable,
            Self::Registry(failure) => failure.reason,
            Self::UnsupportedVersion { .. } => Reason::RuntimeUnsupported,
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

#[cfg(test)]
mod tests {
    use super::*;

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
