//! Where manifests are read from: files and standard input, up to a limit.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::str::FromStr;

use super::ManifestError;

/// Longest manifest in bytes: 16 MiB. A cache has at most 1.5 MiB, the limit of etcd for one object; the
/// output of `helm template` for a large chart has a few MiB.
pub(super) const MANIFEST_MAX: usize = 16 * 1024 * 1024;

/// A value of `-f`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// `-`
    Stdin,
    /// A path.
    File(PathBuf),
}

/// An empty `-f`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the file name is empty; expected a manifest, or - for stdin")]
pub(crate) struct InvalidSource;

impl FromStr for Source {
    type Err = InvalidSource;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        match value {
            "" => Err(InvalidSource),
            "-" => Ok(Self::Stdin),
            path => Ok(Self::File(PathBuf::from(path))),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("stdin"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Source {
    /// The text. Symbolic links are resolved at each call.
    ///
    /// # Errors
    ///
    /// [`ManifestError::TooLarge`] above [`MANIFEST_MAX`]; [`ManifestError::Read`] otherwise, also if the
    /// text is neither UTF-8 nor UTF-16 with a byte-order mark.
    pub(super) fn text(&self) -> Result<String, ManifestError> {
        let bytes = match self {
            Self::Stdin => read_limited(io::stdin().lock()),
            Self::File(path) => File::open(path).and_then(read_limited),
        };
        let decoded = match bytes {
            Ok(Some(bytes)) => decode(bytes),
            Ok(None) => {
                return Err(ManifestError::TooLarge {
                    file: self.to_string(),
                });
            }
            Err(error) => Err(error),
        };
        decoded.map_err(|source| ManifestError::Read {
            file: self.to_string(),
            source,
        })
    }
}

/// All bytes, or `None` if there are more than [`MANIFEST_MAX`]. Devices and pipes may have no end.
fn read_limited(reader: impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    reader
        .take(MANIFEST_MAX as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok((bytes.len() <= MANIFEST_MAX).then_some(bytes))
}

/// The text of a file: UTF-8, or UTF-16 with a byte-order mark, as redirected output of Windows
/// PowerShell is. The mark is removed, also where files that begin with one were joined.
fn decode(bytes: Vec<u8>) -> io::Result<String> {
    let text = match bytes.as_slice() {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        _ => String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            invalid(format!("it is not UTF-8 text (byte {valid})"))
        })?,
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    Ok(text.replace("\n\u{feff}", "\n"))
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> io::Result<String> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let units: Vec<u16> = pairs.iter().copied().map(unit).collect();
    match String::from_utf16(&units) {
        Ok(text) if rest.is_empty() => Ok(text),
        _ => Err(invalid("it is not UTF-16 text".to_owned())),
    }
}

fn invalid(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn text_of(content: &[u8]) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images.yaml");
        fs::write(&path, content).unwrap();
        let read = Source::File(path.clone()).text();
        read.map_err(|error| {
            let text = error.to_string();
            assert!(text.contains(&path.display().to_string()), "{text}");
            text
        })
    }

    #[test]
    fn byte_order_marks_are_removed() {
        for (content, text) in [
            (b"\xef\xbb\xbfa: 1\n".as_slice(), "a: 1\n"),
            (b"a: 1\n\xef\xbb\xbf---\nb: 2\n", "a: 1\n---\nb: 2\n"),
            (b"\xff\xfea\0:\0 \x001\0", "a: 1"),
            (b"\xfe\xff\0a\0:\0 \x001", "a: 1"),
            (b"", ""),
        ] {
            assert_eq!(text_of(content).unwrap(), text);
        }
    }

    #[test]
    fn a_file_that_is_not_text_is_an_error() {
        let error = text_of(b"a: \xff\n").unwrap_err();
        assert!(error.ends_with("it is not UTF-8 text (byte 3)"), "{error}");
        let error = text_of(b"\xff\xfea\0b").unwrap_err();
        assert!(error.ends_with("it is not UTF-16 text"), "{error}");
    }

    #[test]
    fn a_file_above_the_limit_is_an_error() {
        assert_eq!(
            text_of(&vec![b'#'; MANIFEST_MAX]).unwrap().len(),
            MANIFEST_MAX
        );
        let error = text_of(&vec![b'#'; MANIFEST_MAX + 1]).unwrap_err();
        assert!(error.contains("is larger than 16 MiB"), "{error}");
    }

    #[test]
    fn a_device_without_an_end_is_an_error() {
        let error = Source::File("/dev/zero".into()).text().unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read /dev/zero: it is larger than 16 MiB, the limit for a manifest"
        );
    }
}
