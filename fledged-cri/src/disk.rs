//! Space of a file system.

use fledged_core::model::ByteSize;
use fledged_core::port::FilesystemUsage;
use rustix::fs::StatVfs;

/// The usage of the file system of `path`. Free and all bytes are not known if this process does not see the path: in
/// a container that has only the socket mounted, and with a remote runtime.
#[cfg(any(feature = "cri", feature = "docker"))]
pub(crate) async fn usage_of(path: String, used: ByteSize) -> FilesystemUsage {
    let usage = FilesystemUsage::new(path.clone(), used);
    // On a blocking thread, because statvfs blocks on an unresponsive network file system.
    let task = tokio::task::spawn_blocking(move || rustix::fs::statvfs(path));
    match task.await {
        Ok(Ok(stat)) => with_stat(usage, &stat),
        _ => usage,
    }
}

/// With free and all bytes. Blocks that are reserved for root are not free.
pub(crate) fn with_stat(usage: FilesystemUsage, stat: &StatVfs) -> FilesystemUsage {
    let bytes = |blocks: u64| ByteSize::new(blocks.saturating_mul(stat.f_frsize));
    usage
        .with_available(bytes(stat.f_bavail))
        .with_capacity(bytes(stat.f_blocks))
}

#[cfg(all(test, any(feature = "cri", feature = "docker")))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_path_has_no_known_space() {
        let of = |path: &str| usage_of(path.to_owned(), ByteSize::ZERO);
        let root = of("/").await;
        assert!(root.available.unwrap() <= root.capacity.unwrap());
        assert!(root.used_percent().unwrap() <= 100);
        let missing = of("/no/such/folder").await;
        assert_eq!((missing.available, missing.capacity), (None, None));
        assert_eq!(missing.used_percent(), None);
    }
}
