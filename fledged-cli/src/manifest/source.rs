//! Where a manifest comes from.

use std::fmt;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::str::FromStr;

use super::{ManifestError, Manifests, parse, parse_in};

/// A value of `-f`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `-`
    Stdin,
    /// A path.
    File(PathBuf),
}

/// An empty `-f`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the file name is empty; name a manifest, or - for stdin")]
pub struct InvalidSource;

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
    /// The whole text; symbolic links are followed anew at each call.
    ///
    /// # Errors
    ///
    /// [`ManifestError::Read`], also for text that is not UTF-8.
    pub fn text(&self) -> Result<String, ManifestError> {
        let read = match self {
            Self::Stdin => {
                let mut text = String::new();
                io::stdin().read_to_string(&mut text).map(|_| text)
            }
            Self::File(path) => std::fs::read_to_string(path),
        };
        read.map_err(|source| ManifestError::Read {
            file: self.to_string(),
            source,
        })
    }
}

/// Reads every source and checks what they say together. Blocks.
///
/// # Errors
///
/// [`ManifestError`]; of invalid documents it says every mistake.
pub fn read(sources: &[Source]) -> Result<Manifests, ManifestError> {
    parse(&texts(sources)?)
}

/// The same for a namespace in which a cache is that names none. Blocks.
///
/// # Errors
///
/// [`ManifestError`], as [`read`].
pub fn read_in(sources: &[Source], namespace: &str) -> Result<Manifests, ManifestError> {
    parse_in(&texts(sources)?, namespace)
}

fn texts(sources: &[Source]) -> Result<Vec<(String, String)>, ManifestError> {
    let mut texts = Vec::with_capacity(sources.len());
    for source in sources {
        texts.push((source.to_string(), source.text()?));
    }
    Ok(texts)
}
