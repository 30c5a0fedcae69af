//! The findings as text and as JSON.

use std::fmt::Write as _;

use console::Style;
use serde::Serialize;

use super::finding::{Category, Finding, Verdict};
use crate::output::on_one_line;

/// The result, as `-o json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
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
    pub(super) fn new(findings: Vec<Finding>) -> Self {
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
}

/// One line for each check, by category; cost and remedy below it.
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut category = None;
    let width = report.checks.iter().map(|check| check.name.len()).max();
    let width = width.unwrap_or(0);
    for check in &report.checks {
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
    let summary = &report.summary;
    let _ = writeln!(
        text,
        "\n{} checks: {} ok, {} advice, {} failed, {} skipped",
        summary.checks, summary.ok, summary.advice, summary.failed, summary.skipped
    );
    text
}

#[cfg(test)]
mod tests {
    use fledged_cri::inspection::Unread;

    use super::*;
    use crate::local::node_doctor::finding::Check;

    #[test]
    fn findings_are_shown_by_category_without_control_characters() {
        let report = Report::new(vec![
            Finding::ok(Check::RUNTIME_ANSWERS, "containerd 1.7.0 answers"),
            Finding::advice(Check::SNAPSHOTTER, "native", "time", "use overlayfs"),
            Finding::skipped(Check::DISK_SPACE, &Unread::new("cannot read \u{1b}[31m\nx")),
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
        assert_eq!(console::strip_ansi_codes(&text(&report)), expected);
    }
}
