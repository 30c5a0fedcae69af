//! Checks for programs that a machine may lack: a missing one skips a test locally and fails it in CI.

use std::io::Write;
use std::path::PathBuf;

/// Returns whether all named programs are installed and this user may start them.
///
/// If not, prints `skipped: …` and returns `false`; the test then returns.
///
/// # Panics
///
/// With `CI=true` instead of returning `false`: CI installs all programs, so a missing one is an error there.
#[must_use]
pub fn require(programs: &[&str]) -> bool {
    let problem = programs.iter().find_map(|program| problem_with(program));
    may_run(problem, std::env::var("CI").as_deref() == Ok("true"))
}

fn may_run(problem: Option<String>, ci: bool) -> bool {
    let Some(problem) = problem else { return true };
    assert!(!ci, "{problem}, and CI=true allows no skipped test");
    skipped(&problem);
    false
}

/// Prints that a test is skipped, and why.
pub fn skipped(why: &str) {
    // Write to stderr directly, because the output of passing tests is captured.
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

fn problem_with(program: &str) -> Option<String> {
    let found = match program {
        "libfaketime" => libfaketime(),
        _ => find(program),
    };
    if found.is_none() {
        return Some(format!("{program} is not installed"));
    }
    let needs_root = matches!(program, "containerd" | "dockerd");
    if needs_root && !rustix::process::geteuid().is_root() {
        return Some(format!("{program} can only be started by root"));
    }
    None
}

/// Finds a program in `PATH`, or in the `sbin` folders that only root has in its `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// Finds the library of Debian's package `libfaketime` for processes with threads.
pub(crate) fn libfaketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    libraries.find(|library| library.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named() {
        let problem = problem_with("no-such-program-anywhere");
        assert_eq!(
            problem.as_deref(),
            Some("no-such-program-anywhere is not installed")
        );
        assert_eq!(problem_with("sh"), None);
    }

    #[test]
    fn a_missing_program_skips_outside_ci() {
        assert!(may_run(None, true));
        assert!(!may_run(Some("x is not installed".to_owned()), false));
    }

    #[test]
    #[should_panic(expected = "x is not installed, and CI=true")]
    fn a_missing_program_fails_in_ci() {
        may_run(Some("x is not installed".to_owned()), true);
    }
}
