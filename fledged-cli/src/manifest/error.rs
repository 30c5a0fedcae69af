//! What can be wrong with a manifest.

use std::fmt;
use std::io;

use fledged_core::model::InvalidField;

/// Where something stands: file, document, object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The file, or `stdin`.
    pub(super) file: String,
    /// Which document of the file, from 1; empty ones do not count.
    pub(super) document: usize,
    /// Which item of a List, from 0.
    pub(super) item: Option<usize>,
    /// `ImageCache namespace/name`, once known.
    pub(super) object: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: document {}", self.file, self.document)?;
        if let Some(item) = self.item {
            write!(f, ", items[{item}]")?;
        }
        match &self.object {
            Some(object) => write!(f, " ({object})"),
            None => Ok(()),
        }
    }
}

/// Something said of one place in a manifest: a mistake, or a field that nobody reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub(super) place: Place,
    pub(super) text: String,
}

impl Finding {
    pub(super) fn new(place: &Place, text: impl Into<String>) -> Self {
        Self {
            place: place.clone(),
            text: text.into(),
        }
    }

    pub(super) fn field(place: &Place, field: &InvalidField) -> Self {
        Self::new(place, field.to_string())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// Why manifests can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The file can't be read.
    #[error("cannot read {file}: {source}")]
    Read {
        /// Which file.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The text is neither YAML nor JSON.
    #[error("{file} is not valid YAML or JSON: {problem}")]
    Syntax {
        /// Which file.
        file: String,
        /// Where and why, with the line.
        problem: String,
    },
    /// There is no ImageCache in it.
    #[error(
        "{file} has no ImageCache in it; a document needs apiVersion: kubefledged.io/v1alpha2 and kind: ImageCache"
    )]
    NoCache {
        /// Which file.
        file: String,
    },
    /// At least one document is not a valid ImageCache; says every mistake.
    #[error("{}", listed(.findings))]
    Invalid {
        /// Every mistake, in the order of the files.
        findings: Vec<Finding>,
    },
}

fn listed(findings: &[Finding]) -> String {
    match findings {
        [one] => one.to_string(),
        many => {
            let mut text = format!("the manifest has {} mistakes:", many.len());
            for finding in many {
                text.push_str("\n  ");
                text.push_str(&finding.to_string());
            }
            text
        }
    }
}
