//! ImageCache manifests: from files and stdin to valid caches.

mod document;
mod edits;
mod finding;
#[cfg(test)]
mod tests;
mod warnings;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::str::FromStr;

use fledged_core::model::ImageCache;
use serde_json::Value;

use self::document::Kind;
use self::finding::{Place, syntax_problem};

pub(crate) use edits::{Edit, follow_edits};
pub(crate) use finding::{Finding, ManifestError};
pub(crate) use warnings::{load, warn_no_credentials, warn_unknown_fields, warn_unsupported};

/// The namespace of an ImageCache that names none, outside a cluster.
const DEFAULT_NAMESPACE: &str = "default";

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
    /// [`ManifestError::Read`], also if the text is not UTF-8.
    fn text(&self) -> Result<String, ManifestError> {
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

/// Parsed manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifests {
    /// The caches, valid and with distinct names, in the order of the files.
    pub(crate) caches: Vec<ImageCache>,
    /// Unknown fields, probably misspelt.
    pub(crate) warnings: Vec<Finding>,
}

/// The texts of all sources, each with its name. Blocks.
///
/// # Errors
///
/// [`ManifestError::Read`] of the first source that cannot be read.
pub(crate) fn texts(sources: &[Source]) -> Result<Vec<(String, String)>, ManifestError> {
    sources
        .iter()
        .map(|source| Ok((source.to_string(), source.text()?)))
        .collect()
}

/// Reads and parses all sources together. Blocks.
///
/// # Errors
///
/// [`ManifestError`], with every mistake of invalid documents.
pub(crate) fn read(sources: &[Source]) -> Result<Manifests, ManifestError> {
    parse(&texts(sources)?)
}

/// As [`read`], with that namespace for caches that name none. Blocks.
///
/// # Errors
///
/// [`ManifestError`], with every mistake of invalid documents.
#[cfg(feature = "cluster")]
pub(crate) fn read_in(sources: &[Source], namespace: &str) -> Result<Manifests, ManifestError> {
    parse_in(&texts(sources)?, namespace)
}

/// Parses the texts of several files, each with its name.
///
/// # Errors
///
/// [`ManifestError`], with every mistake of invalid documents.
pub(crate) fn parse(texts: &[(String, String)]) -> Result<Manifests, ManifestError> {
    parse_in(texts, DEFAULT_NAMESPACE)
}

/// As [`parse`], with that namespace for caches that name none.
///
/// # Errors
///
/// [`ManifestError`], with every mistake of invalid documents.
pub(crate) fn parse_in(
    texts: &[(String, String)],
    namespace: &str,
) -> Result<Manifests, ManifestError> {
    let mut parser = Parser::new(namespace);
    for (file, text) in texts {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(text).map_err(|error| ManifestError::Syntax {
                file: file.clone(),
                problem: syntax_problem(text, &error),
            })?;
        let before = parser.objects;
        for (i, value) in documents.into_iter().enumerate() {
            let place = Place {
                file: file.clone(),
                document: i + 1,
                item: None,
                object: None,
            };
            parser.document(place, value);
        }
        if parser.objects == before {
            return Err(ManifestError::NoCache { file: file.clone() });
        }
    }
    if parser.findings.is_empty() {
        Ok(Manifests {
            caches: parser.caches,
            warnings: parser.warnings,
        })
    } else {
        Err(ManifestError::Invalid {
            findings: parser.findings,
        })
    }
}

/// Collects the caches and the mistakes of all documents.
struct Parser<'a> {
    namespace: &'a str,
    caches: Vec<ImageCache>,
    warnings: Vec<Finding>,
    findings: Vec<Finding>,
    places: BTreeMap<String, Place>,
    /// Number of objects, valid or not. An empty list has none.
    objects: usize,
}

impl<'a> Parser<'a> {
    fn new(namespace: &'a str) -> Self {
        Self {
            namespace,
            caches: Vec::new(),
            warnings: Vec::new(),
            findings: Vec::new(),
            places: BTreeMap::new(),
            objects: 0,
        }
    }

    fn document(&mut self, place: Place, value: Value) {
        match document::kind(&value) {
            Ok(Kind::ImageCache) => self.cache(place, value),
            Ok(Kind::List) => self.list(&place, value),
            Err(problem) => self.mistake(Finding::new(&place, problem)),
        }
    }

    fn list(&mut self, place: &Place, value: Value) {
        let Value::Object(mut fields) = value else {
            return;
        };
        match fields.remove("items") {
            Some(Value::Array(items)) => {
                for (i, item) in items.into_iter().enumerate() {
                    let place = Place {
                        item: Some(i),
                        ..place.clone()
                    };
                    self.item(place, item);
                }
            }
            None | Some(Value::Null) => {}
            Some(_) => self.mistake(Finding::new(place, "items: must be a list")),
        }
    }

    fn item(&mut self, place: Place, value: Value) {
        match document::kind(&value) {
            Ok(Kind::ImageCache) => self.cache(place, value),
            Ok(Kind::List) => {
                self.mistake(Finding::new(&place, "kind: a List cannot contain a List"));
            }
            Err(problem) => self.mistake(Finding::new(&place, problem)),
        }
    }

    fn cache(&mut self, mut place: Place, value: Value) {
        self.objects += 1;
        match document::cache(&mut place, value, self.namespace, &mut self.warnings) {
            Ok(cache) => {
                let name = cache.id.to_string();
                if let Some(first) = self.places.get(&name) {
                    let text = format!(
                        "metadata.name: {name:?} is also the name of {}, document {}; names must be unique",
                        first.file, first.document
                    );
                    self.findings.push(Finding::new(&place, text));
                } else {
                    self.places.insert(name, place);
                    self.caches.push(cache);
                }
            }
            Err(mut findings) => self.findings.append(&mut findings),
        }
    }

    fn mistake(&mut self, finding: Finding) {
        self.objects += 1;
        self.findings.push(finding);
    }
}
