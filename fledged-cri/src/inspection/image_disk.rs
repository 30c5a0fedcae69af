//! The file system that holds the images.

use std::path::{Path, PathBuf};

use fledged_core::model::ByteSize;
use fledged_core::port::FilesystemUsage;

use super::{Fact, Unread};
use crate::disk::with_stat;
use crate::node_path::below;

/// Space and inodes of a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageDisk {
    /// The folder of the images, with all and free bytes of its file system and the bytes of the images.
    pub usage: FilesystemUsage,
    /// All inodes; 0 if the file system has no fixed number, as btrfs.
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
}

impl ImageDisk {
    /// With this usage and these numbers of inodes.
    #[must_use]
    pub fn new(usage: FilesystemUsage, inodes: u64, inodes_free: u64) -> Self {
        Self {
            usage,
            inodes,
            inodes_free,
        }
    }

    /// Free inodes in percent; `None` if the file system has no fixed number.
    #[must_use]
    pub fn inodes_free_percent(&self) -> Option<u8> {
        let free = u128::from(self.inodes_free) * 100;
        u8::try_from(free.checked_div(u128::from(self.inodes))?).ok()
    }
}

/// The file system of the first of the runtime's folders of images.
pub(super) fn read(root: &Path, filesystems: &[FilesystemUsage]) -> Fact<ImageDisk> {
    let Some(first) = filesystems.first().filter(|first| !first.path.is_empty()) else {
        return Err(Unread::new("the runtime does not say where its images are"));
    };
    let path = PathBuf::from(&first.path);
    let stat = below(root, &path).and_then(|path| Ok(rustix::fs::statvfs(&path)?));
    let stat = stat.map_err(|error| Unread::io(&path, &error))?;
    let usage = FilesystemUsage::new(first.path.clone(), first.used);
    let usage = with_stat(usage, &stat);
    if usage
        .capacity
        .is_none_or(|capacity| capacity == ByteSize::ZERO)
    {
        return Err(Unread::file(&path, "its file system reports no size"));
    }
    Ok(ImageDisk::new(usage, stat.f_files, stat.f_favail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_read_below_the_root() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("var/images")).unwrap();
        let usage = |path: &str| [FilesystemUsage::new(path, ByteSize::new(7))];
        let disk = read(root.path(), &usage("/var/images")).unwrap();
        assert_eq!(disk.usage.path, "/var/images");
        assert!(disk.usage.used_percent().is_some());
        assert!(disk.inodes_free_percent().is_none_or(|free| free <= 100));
        let missing = read(root.path(), &usage("/missing")).unwrap_err();
        assert_eq!(missing.to_string(), "there is no /missing");
        assert!(read(root.path(), &[]).is_err());
    }

    #[test]
    fn a_file_system_without_fixed_inodes_has_no_share() {
        let disk = ImageDisk::new(FilesystemUsage::new("/", ByteSize::ZERO), 0, 0);
        assert_eq!(disk.inodes_free_percent(), None);
    }
}
