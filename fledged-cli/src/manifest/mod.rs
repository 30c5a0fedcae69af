//! ImageCache manifests: from files and stdin to valid caches.

mod document;
mod edits;
mod finding;
mod source;
#[cfg(test)]
mod tests;
mod warnings;

use std::collections::BTreeMap;

use fledged_core::model::ImageCache;
use serde_json::Value;

use self::document::Kind;
use self::finding::{Place, syntax_problem};

pub(crate) use edits::{Edit, follow_edits};
pub(crate) use finding::{Finding, ManifestError};
pub(crate) use source::Source;
pub(crate) use warnings::{
    load, report_unused, warn_cut_deadlines, warn_no_credentials, warn_unlimited, warn_unsupported,
};

/// The namespace of an ImageCache that names none, outside a cluster.
const DEFAULT_NAMESPACE: &str = "default";

/// Parsed manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifests {
    /// The caches, valid and with distinct names, in the order of the files.
    pub(crate) caches: Vec<ImageCache>,
    /// Unknown fields, probably misspelt.
    pub(crate) warnings: Vec<Finding>,
    /// A line for each file with objects of other kinds, which are skipped.
    pub(crate) notes: Vec<String>,
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
        // Empty documents do not count.
        let documents = documents.into_iter().filter(|value| !value.is_null());
        for (i, value) in documents.enumerate() {
            let place = Place {
                file: file.clone(),
                document: i + 1,
                item: None,
                object: None,
            };
            parser.document(place, value);
        }
        let others = std::mem::take(&mut parser.others);
        if parser.objects == before {
            return Err(ManifestError::NoCache {
                file: file.clone(),
                others: others_text(&others)
                    .map_or(String::new(), |kinds| format!(", only {kinds}")),
            });
        }
        if let Some(kinds) = others_text(&others) {
            parser
                .notes
                .push(format!("{file}: objects of other kinds skipped: {kinds}"));
        }
    }
    if parser.findings.is_empty() {
        Ok(Manifests {
            caches: parser.caches,
            warnings: parser.warnings,
            notes: parser.notes,
        })
    } else {
        Err(ManifestError::Invalid {
            findings: parser.findings,
        })
    }
}

/// The kinds with their counts, or `None` if there are none.
fn others_text(others: &BTreeMap<String, usize>) -> Option<String> {
    let kinds = others.iter().map(|(kind, count)| match count {
        1 => kind.clone(),
        _ => format!("{kind} ({count})"),
    });
    (!others.is_empty()).then(|| kinds.collect::<Vec<_>>().join(", "))
}

/// Collects the caches and the mistakes of all documents.
struct Parser<'a> {
    namespace: &'a str,
    caches: Vec<ImageCache>,
    warnings: Vec<Finding>,
    findings: Vec<Finding>,
    places: BTreeMap<String, Place>,
    notes: Vec<String>,
    /// Number of objects, valid or not, without those of other kinds. An empty list has none.
    objects: usize,
    /// Number of objects of each other kind in the current file.
    others: BTreeMap<String, usize>,
}

impl<'a> Parser<'a> {
    fn new(namespace: &'a str) -> Self {
        Self {
            namespace,
            caches: Vec::new(),
            warnings: Vec::new(),
            findings: Vec::new(),
            places: BTreeMap::new(),
            notes: Vec::new(),
            objects: 0,
            others: BTreeMap::new(),
        }
    }

    /// Reads a document or an item of a list. The parser limits the nesting.
    fn document(&mut self, place: Place, value: Value) {
        match document::kind(&value) {
            Ok(Kind::ImageCache) => self.cache(place, value),
            Ok(Kind::List) => self.list(&place, value),
            Ok(Kind::Other(kind)) => *self.others.entry(kind).or_insert(0) += 1,
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
                    self.document(place, item);
                }
            }
            None | Some(Value::Null) => {}
            Some(_) => self.mistake(Finding::new(place, "items: must be a list")),
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
