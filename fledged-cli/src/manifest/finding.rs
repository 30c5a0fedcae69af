//! What is wrong with a manifest, and where.

use std::fmt;
use std::io;

use fledged_core::model::InvalidField;
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{Error, MessageFormatter as _, UserMessageFormatter};

use crate::command_result::{CommandError, Exit};
use crate::output::on_one_line;

/// Longest part of a line that an error shows, in characters.
const LINE_MAX: usize = 120;

const TOO_DEEP: &str = "the nesting is too deep";

/// A file, a document and an object in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The file, or `stdin`.
    pub(super) file: String,
    /// The document in the file, from 1; empty documents do not count.
    pub(super) document: usize,
    /// The item of a List, from 0.
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

/// A mistake or an unknown field at one place of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    place: Place,
    text: String,
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

/// Why manifests cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read {file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// The file is larger than the limit.
    #[error("cannot read {file}: it is larger than 16 MiB, the limit for a manifest")]
    TooLarge {
        /// The file.
        file: String,
    },
    /// The text is neither YAML nor JSON.
    #[error("{file} is not valid YAML or JSON: {problem}")]
    Syntax {
        /// The file.
        file: String,
        /// The cause, with document, line and column.
        problem: String,
    },
    /// The file contains no ImageCache.
    #[error(
        "{file} contains no ImageCache{others}; a document needs apiVersion: kubefledged.io/v1alpha2 and kind: ImageCache"
    )]
    NoCache {
        /// The file.
        file: String,
        /// The other kinds in it, after `, only `; or empty.
        others: String,
    },
    /// At least one document is not a valid ImageCache.
    #[error("{}", list(.findings))]
    Invalid {
        /// Every mistake, in the order of the files.
        findings: Vec<Finding>,
    },
}

impl From<ManifestError> for CommandError {
    fn from(error: ManifestError) -> Self {
        Self::part(Exit::BadInput, error)
    }
}

fn list(findings: &[Finding]) -> String {
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

/// A syntax error with its position and the line of the text.
pub(super) fn syntax_problem(text: &str, error: &Error) -> String {
    let error = error.without_snippet();
    let message = syntax_message(error);
    let Some(position) = error.location() else {
        return message;
    };
    let (line, column) = (position.line(), position.column());
    let before = usize::try_from(line)
        .unwrap_or(usize::MAX)
        .saturating_sub(1);
    let document = document_of_line(text, before);
    let mut out = format!("document {document}, line {line}, column {column}: {message}");
    if let Some(line) = text.lines().nth(before).map(str::trim_end)
        && !line.is_empty()
    {
        out.push_str("\n  | ");
        out.extend(line.chars().take(LINE_MAX));
    }
    out
}

/// The document that contains the line, from 1, counted as in [`Place::document`].
fn document_of_line(text: &str, line: usize) -> usize {
    let mut document = 1;
    let mut has_content = false;
    for line in text.lines().take(line.saturating_add(1)) {
        if line.starts_with("---") || line.starts_with("...") {
            document += usize::from(has_content);
            has_content = line.len() > 3 && !line.trim_start_matches('-').trim().starts_with('#');
        } else {
            let line = line.trim();
            has_content |= !line.is_empty() && !line.starts_with(['#', '%']);
        }
    }
    document
}

/// The parser's message, or our own where the parser's addresses a programmer.
fn syntax_message(error: &Error) -> String {
    match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("duplicate key {key:?}")
        }
        Error::DuplicateMappingKey { key: None, .. } => "duplicate key".to_owned(),
        Error::UnknownAnchor { .. } => {
            "the alias (*name) has no anchor (&name) before it".to_owned()
        }
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            "the alias (*name) is inside its own anchor (&name)".to_owned()
        }
        Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "the aliases (*name) expand beyond the limit for one file".to_owned()
        }
        Error::AliasError { error, .. } => syntax_message(error),
        Error::Budget { breach, .. } => limit_message(breach),
        other => match UserMessageFormatter.format_message(other).as_ref() {
            // The scanner's limit is below that of the budget.
            "recursion limit exceeded" => TOO_DEEP.to_owned(),
            message => on_one_line(message).into_owned(),
        },
    }
}

fn limit_message(breach: &BudgetBreach) -> String {
    let what = match breach {
        BudgetBreach::Depth { .. } => return TOO_DEEP.to_owned(),
        BudgetBreach::Documents { .. } => "many documents",
        BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. } => "many values",
        BudgetBreach::ScalarBytes { .. } => "much text",
        BudgetBreach::Aliases { .. } => "many aliases (*name)",
        BudgetBreach::Anchors { .. } => "many anchors (&name)",
        BudgetBreach::MergeKeys { .. } => "many merge keys (<<)",
        _ => "much content",
    };
    format!("too {what} in one file; split it into several files")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem_of(text: &str) -> String {
        let result: Result<Vec<serde_json::Value>, _> = serde_saphyr::from_multiple(text);
        syntax_problem(text, &result.unwrap_err())
    }

    #[test]
    fn syntax_errors_show_document_line_and_column() {
        for (text, problem) in [
            (
                "a: 1\na: 2\n",
                "document 1, line 2, column 1: duplicate key \"a\"\n  | a: 2",
            ),
            (
                "---\n# none\n--- # none\na: 1\n---\nb: *x\n",
                "document 2, line 6, column 4: the alias (*name) has no anchor (&name) before it\n  | b: *x",
            ),
            (
                "a: 1\n---\nb: [\n",
                "document 2, line 3, column 4: unclosed bracket '['\n  | b: [",
            ),
        ] {
            assert_eq!(problem_of(text), problem);
        }
    }

    #[test]
    fn exceeded_limits_are_named() {
        let many = problem_of(&format!("[{}]", "a,".repeat(300_000)));
        assert!(many.contains("too many values in one file"), "{many:.300}");
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        let deep = problem_of(&deep);
        assert!(deep.contains("the nesting is too deep"), "{deep:.300}");
    }
}
