//! A check, and what it found.

use std::fmt::Display;

use serde::Serialize;

/// What a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Category(&'static str);

impl Category {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// As the report shows it.
    pub(crate) fn name(self) -> &'static str {
        self.0
    }
}

/// A check. Its name does not change between releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) category: Category,
}

impl Check {
    pub(crate) const fn new(name: &'static str, category: Category) -> Self {
        Self { name, category }
    }
}

/// The result of a check, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// Images cannot be pulled or kept.
    Failed,
    /// Something slows pulls down, puts images at risk, or hides their state.
    Advice,
    /// It could not be read.
    Skipped,
    /// Nothing to change.
    Ok,
}

/// What a check found. Advice and failures have a cost and a remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) check: Check,
    pub(crate) result: Verdict,
    /// What was found, with its value; of a skipped check, why it was skipped.
    pub(crate) found: String,
    pub(crate) cost: Option<String>,
    pub(crate) remedy: Option<String>,
}

impl Finding {
    pub(crate) fn ok(check: Check, found: impl Into<String>) -> Self {
        Self {
            check,
            result: Verdict::Ok,
            found: found.into(),
            cost: None,
            remedy: None,
        }
    }

    pub(crate) fn advice(
        check: Check,
        found: impl Into<String>,
        cost: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            result: Verdict::Advice,
            cost: Some(cost.into()),
            remedy: Some(remedy.into()),
            ..Self::ok(check, found)
        }
    }

    /// The same finding as a failure.
    pub(crate) fn into_failed(self) -> Self {
        Self {
            result: Verdict::Failed,
            ..self
        }
    }

    pub(crate) fn skipped(check: Check, reason: impl Display) -> Self {
        Self {
            result: Verdict::Skipped,
            ..Self::ok(check, reason.to_string())
        }
    }
}

/// Whether the findings of each category are together, as the report shows them.
#[cfg(test)]
pub(crate) fn has_each_category_once(findings: &[Finding]) -> bool {
    let mut names: Vec<&str> = findings
        .iter()
        .map(|finding| finding.check.category.name())
        .collect();
    names.dedup();
    let runs = names.len();
    names.sort_unstable();
    names.dedup();
    names.len() == runs
}
