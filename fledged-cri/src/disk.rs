//! Free space of a file system.

use fledged_core::model::ByteSize;

/// Bytes that an unprivileged process can still write to the file system of `path`, or `None` if this
/// process does not see the path: a container that has only the socket mounted, or a remote runtime.
pub(crate) async fn available_bytes(path: String) -> Option<ByteSize> {
    // On a blocking thread, because statvfs blocks on an unresponsive network file system.
    let task = tokio::task::spawn_blocking(move || rustix::fs::statvfs(path));
    let stat = task.await.ok()?.ok()?;
    Some(ByteSize::new(stat.f_bavail.saturating_mul(stat.f_frsize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_path_has_no_available_bytes() {
        assert!(available_bytes("/".to_owned()).await.is_some());
        assert_eq!(available_bytes("/no/such/folder".to_owned()).await, None);
    }
}
