//! The text of manifests, to documents, to caches.

use std::collections::BTreeMap;

use fledged_core::model::ImageCache;
use serde_json::Value;

use super::document::{self, Kind};
use super::error::Place;
use super::{Finding, ManifestError, syntax};

/// What manifests say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifests {
    /// The caches, in the order written; each is valid and has a name of its own.
    pub caches: Vec<ImageCache>,
    /// Fields that nobody reads: probably misspelt.
    pub warnings: Vec<Finding>,
}

/// Parses the texts of several files, each with its name.
///
/// # Errors
///
/// [`ManifestError`]; of invalid documents it says every mistake, of all files.
pub fn parse(texts: &[(String, String)]) -> Result<Manifests, ManifestError> {
    parse_in(texts, "default")
}

/// The same for a namespace in which a cache is that names none.
///
/// # Errors
///
/// [`ManifestError`], as [`parse`].
pub fn parse_in(texts: &[(String, String)], namespace: &str) -> Result<Manifests, ManifestError> {
    let mut reading = Reading::new(namespace);
    for (file, text) in texts {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(text).map_err(|error| ManifestError::Syntax {
                file: file.clone(),
                problem: syntax::problem(text, &error),
            })?;
        let before = reading.seen;
        for (i, value) in documents.into_iter().enumerate() {
            reading.document(
                Place {
                    file: file.clone(),
                    document: i + 1,
                    item: None,
                    object: None,
                },
                value,
            );
        }
        if reading.seen == before {
            return Err(ManifestError::NoCache { file: file.clone() });
        }
    }
    if reading.findings.is_empty() {
        Ok(Manifests {
            caches: reading.caches,
            warnings: reading.warnings,
        })
    } else {
        Err(ManifestError::Invalid {
            findings: reading.findings,
        })
    }
}

struct Reading<'a> {
    namespace: &'a str,
    caches: Vec<ImageCache>,
    warnings: Vec<Finding>,
    findings: Vec<Finding>,
    places: BTreeMap<String, Place>,
    /// Objects looked at, valid or not; empty lists have none.
    seen: usize,
}

impl<'a> Reading<'a> {
    fn new(namespace: &'a str) -> Self {
        Self {
            namespace,
            caches: Vec::new(),
            warnings: Vec::new(),
            findings: Vec::new(),
            places: BTreeMap::new(),
            seen: 0,
        }
    }

    fn document(&mut self, place: Place, value: Value) {
        match document::kind(&value) {
            Ok(Kind::ImageCache) => self.object(place, value),
            Ok(Kind::List) => {
                let Value::Object(mut fields) = value else {
                    return;
                };
                match fields.remove("items") {
                    Some(Value::Array(items)) => {
                        for (i, item) in items.into_iter().enumerate() {
                            self.item(
                                Place {
                                    item: Some(i),
                                    ..place.clone()
                                },
                                item,
                            );
                        }
                    }
                    None | Some(Value::Null) => {}
                    Some(_) => self.mistake(Finding::new(&place, "items: must be a list")),
                }
            }
            Err(problem) => self.mistake(Finding::new(&place, problem)),
        }
    }

    fn item(&mut self, place: Place, value: Value) {
        match document::kind(&value) {
            Ok(Kind::ImageCache) => self.object(place, value),
            Ok(Kind::List) => {
                self.mistake(Finding::new(&place, "kind: a List must not be in a List"));
            }
            Err(problem) => self.mistake(Finding::new(&place, problem)),
        }
    }

    fn object(&mut self, mut place: Place, value: Value) {
        self.seen += 1;
        match document::cache(&mut place, value, self.namespace, &mut self.warnings) {
            Ok(cache) => {
                let name = cache.id.to_string();
                if let Some(first) = self.places.get(&name) {
                    let text = format!(
                        "metadata.name: {name:?} is also the name of {}, document {}; names must differ",
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
        self.seen += 1;
        self.findings.push(finding);
    }
}
