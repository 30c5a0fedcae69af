//! The findings as text and as JSON.

use std::fmt::Write as _;

use console::Style;
use serde::Serialize;

use super::finding::{Category, Finding, Verdict};
use crate::command_result::Exit;
use crate::output::on_one_line;

/// The result, as `-o json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    checks: Vec<ReportedCheck>,
    summary: ReportSummary,
}

#[derive(Debug, Serialize)]
struct ReportedCheck {
    name: &'static str,
    category: Category,
    result: Verdict,
    found: String,
    cost: Option<String>,
    remedy: Option<String>,
}

#[derive(Debug, Serialize)]
struct ReportSummary {
    checks: usize,
    ok: usize,
    advice: usize,
    failed: usize,
    skipped: usize,
}

impl Report {
    pub(crate) fn new(findings: Vec<Finding>) -> Self {
        let count = |verdict| {
            findings
                .iter()
                .filter(|finding| finding.result == verdict)
                .count()
        };
        let summary = ReportSummary {
            checks: findings.len(),
            ok: count(Verdict::Ok),
            advice: count(Verdict::Advice),
            failed: count(Verdict::Failed),
            skipped: count(Verdict::Skipped),
        };
        let checks = findings.into_iter().map(|finding| ReportedCheck {
            name: finding.check.name,
            category: finding.check.category,
            result: finding.result,
            found: finding.found,
            cost: finding.cost,
            remedy: finding.remedy,
        });
        Self {
            checks: checks.collect(),
            summary,
        }
    }

    /// How the command ends: a failed check is exit code 1, advice is not.
    pub(crate) fn exit(&self) -> Exit {
        match self.summary.failed {
            0 => Exit::Done,
            _ => Exit::Failed,
        }
    }

    /// One line for each check, by category; cost and remedy below it.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut category = None;
        let width = self.checks.iter().map(|check| check.name.len()).max();
        let width = width.unwrap_or(0);
        for check in &self.checks {
            if category.replace(check.category) != Some(check.category) {
                let name = check.category.name();
                let gap = if text.is_empty() { "" } else { "\n" };
                let _ = writeln!(text, "{gap}{name}\n{}", "-".repeat(name.len()));
            }
            let (word, style) = match check.result {
                Verdict::Ok => ("ok", Style::new().green()),
                Verdict::Advice => ("advice", Style::new().yellow()),
                Verdict::Failed => ("FAILED", Style::new().red().bold()),
                Verdict::Skipped => ("skipped", Style::new().dim()),
            };
            let word = style.apply_to(format!("{word:<7}"));
            let found = on_one_line(&check.found);
            let _ = writeln!(text, "{word}  {:<width$}  {found}", check.name);
            for (name, value) in [("cost", &check.cost), ("remedy", &check.remedy)] {
                if let Some(value) = value {
                    let label = format!("{name}:");
                    let _ = writeln!(text, "{:9}{label:<8}{}", "", on_one_line(value));
                }
            }
        }
        let summary = &self.summary;
        let _ = writeln!(
            text,
            "\n{} checks: {} ok, {} advice, {} failed, {} skipped",
            summary.checks, summary.ok, summary.advice, summary.failed, summary.skipped
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Check;

    const RUNTIME: Category = Category::new("runtime");
    const DISK: Category = Category::new("disk");

    #[test]
    fn findings_are_shown_by_category_without_control_characters() {
        let report = Report::new(vec![
            Finding::ok(
                Check::new("runtime-answers", RUNTIME),
                "containerd 1.7.0 answers",
            ),
            Finding::advice(
                Check::new("snapshotter", RUNTIME),
                "native",
                "time",
                "use overlayfs",
            ),
            Finding::skipped(
                Check::new("image-disk-space", DISK),
                "cannot read \u{1b}[31m\nx",
            ),
        ]);
        let expected = r"runtime
-------
ok       runtime-answers   containerd 1.7.0 answers
advice   snapshotter       native
         cost:   time
         remedy: use overlayfs

disk
----
skipped  image-disk-space  cannot read \u{1b}[31m\nx

3 checks: 1 ok, 1 advice, 0 failed, 1 skipped
";
        assert_eq!(console::strip_ansi_codes(&report.text()), expected);
        assert_eq!(report.exit(), Exit::Done);
    }

    #[test]
    fn only_a_failed_check_is_exit_code_1() {
        let advice = Finding::advice(Check::new("snapshotter", RUNTIME), "native", "c", "r");
        assert_eq!(Report::new(vec![advice.clone()]).exit(), Exit::Done);
        let failed = vec![advice.clone(), advice.into_failed()];
        assert_eq!(Report::new(failed).exit(), Exit::Failed);
    }
}
