//! The rule for parts that a machine may lack: skipped at home, a failure in CI.

use std::io::Write;
use std::path::PathBuf;

/// Whether every named program is installed, and this user may start it.
///
/// Where one is missing, says so as `skipped: ...` and answers `false`: the test returns.
///
/// # Panics
///
/// With `CI=true` instead of answering `false`: CI installs all parts, so that a missing one is a
/// mistake there and never an unnoticed gap.
#[must_use]
pub fn require(programs: &[&str]) -> bool {
    let problem = programs.iter().find_map(|program| problem_with(program));
    may_run(problem, std::env::var("CI").as_deref() == Ok("true"))
}

fn may_run(problem: Option<String>, ci: bool) -> bool {
    let Some(problem) = problem else { return true };
    assert!(!ci, "{problem}, and CI=true wants every test to run");
    skipped(&problem);
    false
}

/// Says that something is not tested here, and why: a gap is to be seen.
pub fn skipped(why: &str) {
    // Past the capture of a passing test's output.
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

fn problem_with(program: &str) -> Option<String> {
    if find(program).is_none() {
        return Some(format!("{program} is not installed"));
    }
    let wants_root = matches!(program, "containerd" | "dockerd");
    if wants_root && !rustix::process::geteuid().is_root() {
        return Some(format!("{program} can only be started by root"));
    }
    None
}

/// Where a program is, in `PATH` or in the folders that only root's `PATH` names.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let problem = problem_with("no-such-program-anywhere");
        assert_eq!(
            problem.as_deref(),
            Some("no-such-program-anywhere is not installed")
        );
        assert_eq!(problem_with("sh"), None);
    }

    #[test]
    fn a_missing_program_skips_at_home() {
        assert!(may_run(None, true));
        assert!(!may_run(Some("x is not installed".to_owned()), false));
    }

    #[test]
    #[should_panic(expected = "x is not installed, and CI=true")]
    fn a_missing_program_fails_in_ci() {
        may_run(Some("x is not installed".to_owned()), true);
    }
}
