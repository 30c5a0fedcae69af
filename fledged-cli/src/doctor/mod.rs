//! What `fledged doctor` and `fledged node doctor` share: named checks, their findings, and the report.

mod finding;
mod report;

pub(crate) use finding::{Category, Check, Finding};
#[cfg(test)]
pub(crate) use finding::{Verdict, has_each_category_once};
pub(crate) use report::Report;
