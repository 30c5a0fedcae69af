//! What the parser can't read, in words for whoever wrote the file.

use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{Error, MessageFormatter as _, UserMessageFormatter};

use crate::printable::on_one_line;

/// How much of a line is repeated, in characters.
const LINE_MAX: usize = 120;

const TOO_DEEP: &str = "it is nested too deeply";

/// Where and why the text can't be read, with the line itself.
pub(super) fn problem(text: &str, error: &Error) -> String {
    let error = error.without_snippet();
    let words = words(error);
    let Some(place) = error.location() else {
        return words;
    };
    let (line, column) = (place.line(), place.column());
    let before = usize::try_from(line)
        .unwrap_or(usize::MAX)
        .saturating_sub(1);
    let document = document(text, before);
    let mut out = format!("document {document}, line {line}, column {column}: {words}");
    if let Some(line) = text.lines().nth(before).map(str::trim_end)
        && !line.is_empty()
    {
        out.push_str("\n  | ");
        out.extend(line.chars().take(LINE_MAX));
    }
    out
}

/// The document that line is in, from 1, as they are counted elsewhere: empty ones do not count.
fn document(text: &str, line: usize) -> usize {
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

/// The parser's words where they are for people, ours where they are for its callers.
fn words(error: &Error) -> String {
    match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("duplicate key {key:?}: a mapping has each key once")
        }
        Error::DuplicateMappingKey { key: None, .. } => {
            "duplicate key: a mapping has each key once".to_owned()
        }
        Error::UnknownAnchor { .. } => {
            "the alias (*name) has no anchor (&name) before it".to_owned()
        }
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            "the alias (*name) stands within what it repeats".to_owned()
        }
        Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "its aliases (*name) repeat more than is read from one file".to_owned()
        }
        Error::AliasError { error, .. } => words(error),
        Error::Budget { breach, .. } => too_much(breach),
        other => match UserMessageFormatter.format_message(other).as_ref() {
            // The scanner's limit is below that of the budget.
            "recursion limit exceeded" => TOO_DEEP.to_owned(),
            words => on_one_line(words).into_owned(),
        },
    }
}

fn too_much(breach: &BudgetBreach) -> String {
    let what = match breach {
        BudgetBreach::Depth { .. } => return TOO_DEEP.to_owned(),
        BudgetBreach::Documents { .. } => "documents",
        BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. } => "values",
        BudgetBreach::ScalarBytes { .. } => "text",
        BudgetBreach::Aliases { .. } => "aliases (*name)",
        BudgetBreach::Anchors { .. } => "anchors (&name)",
        BudgetBreach::MergeKeys { .. } => "merge keys (<<)",
        _ => "content",
    };
    format!("it has more {what} than are read from one file; split it into several files")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        let result: Result<Vec<serde_json::Value>, _> = serde_saphyr::from_multiple(text);
        problem(text, &result.unwrap_err())
    }

    #[test]
    fn mistakes_are_told_with_document_line_and_our_words() {
        for (text, words) in [
            (
                "a: 1\na: 2\n",
                "document 1, line 2, column 1: duplicate key \"a\": a mapping has each key once\n  | a: 2",
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
            assert_eq!(said(text), words);
        }
    }

    #[test]
    fn limits_are_told_in_words() {
        let many = format!("[{}]", "a,".repeat(300_000));
        assert!(
            said(&many).contains("it has more values than are read"),
            "{:.300}",
            said(&many)
        );
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        let deep = said(&deep);
        assert!(deep.contains("nested too deeply"), "{deep:.300}");
    }
}
