//! Text files of other programs, read with a limit on their length.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// The text of a regular file of at most `max` bytes. Bytes that are not UTF-8 are replaced.
///
/// Blocks. A FIFO or a device is an error, and is not waited for.
///
/// # Errors
///
/// The file cannot be opened or read, is no regular file, or is longer.
pub(crate) fn read_text(path: &Path, max: u64) -> io::Result<String> {
    let bytes = read_bytes(path, max)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// As [`read_text`]. Bytes that are not UTF-8 are an error.
#[cfg(all(feature = "cri", feature = "oci"))]
pub(crate) fn read_utf8(path: &Path, max: u64) -> io::Result<String> {
    String::from_utf8(read_bytes(path, max)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to() + 1;
        io::Error::other(format!("byte {at} is not valid UTF-8"))
    })
}

/// As [`read_text`], of any bytes.
pub(crate) fn read_bytes(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    // A FIFO without a writer would block the open.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    // Files of /proc have no length before they are read.
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::other(format!("longer than {max} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_up_to_the_limit_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"abc\xff").unwrap();
        assert_eq!(read_text(&path, 4).unwrap(), "abc\u{fffd}");
        let error = read_text(&path, 3).unwrap_err().to_string();
        assert_eq!(error, "longer than 3 bytes");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
        for path in [&fifo, folder.path()] {
            let error = read_text(path, 4).unwrap_err().to_string();
            assert_eq!(error, "not a regular file");
        }
        let missing = read_text(&folder.path().join("missing"), 4);
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
