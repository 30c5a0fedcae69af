//! The program that Jobs run: `fledged-operator job`.
use std::path::Path;
use std::process::{Command, Output};

use fledged_core::error::Reason;
use fledged_core::port::Removal;
use fledged_operator::jobs::RemovalOutcomes;

fn run(program: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    // The containers of foreign images have none of the operator's environment variables.
    command.env_clear().args(args).output().unwrap()
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_fledged-operator"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_copied_program_runs() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("fledged-operator");
    let copied = run(program(), &["job", "copy", copy.to_str().unwrap()]);
    assert!(copied.status.success(), "{}", text(&copied));
    let done = run(&copy, &["job", "noop"]);
    assert!(done.status.success(), "{}", text(&done));
    assert!(done.stdout.is_empty() && done.stderr.is_empty());
}

#[test]
fn a_failed_copy_is_reported() {
    let nowhere = "/nowhere/at/all/fledged-operator";
    let copied = run(program(), &["job", "copy", nowhere]);
    assert!(!copied.status.success());
    assert!(text(&copied).contains(nowhere), "{}", text(&copied));
}

/// Removes images and returns the result of each.
fn remove(runtime: &str, images: &[&str]) -> RemovalOutcomes {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("termination-log");
    let log = log.to_str().unwrap();
    let flags = [
        "job",
        "remove",
        "--runtime",
        runtime,
        "--termination-log",
        log,
        "--",
    ];
    let output = run(program(), &[flags.as_slice(), images].concat());
    assert!(output.status.success(), "{}", text(&output));
    RemovalOutcomes::parse(&std::fs::read_to_string(log).unwrap()).unwrap()
}

#[test]
fn the_termination_message_has_the_result_of_each_image() {
    let folder = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}", folder.path().display());
    let outcomes = remove(&layout, &["registry.test/app:1", "registry.test/db:1"]);
    assert_eq!(outcomes.get(0), Some(Ok(Removal::Absent)));
    assert_eq!(outcomes.get(1), Some(Ok(Removal::Absent)));
}

#[test]
fn remove_reports_failures_and_refuses_flags_as_images() {
    let outcomes = remove("unix:///nowhere.sock", &["registry.test/app:1"]);
    let failure = outcomes.get(0).unwrap().unwrap_err();
    assert_eq!(failure.reason, Reason::RuntimeUnavailable, "{failure}");
    let refused = run(
        program(),
        &["job", "remove", "--runtime", "oci:x", "--", "--help"],
    );
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused).contains("--help"), "{}", text(&refused));
}

#[test]
fn the_job_driver_requires_an_image() {
    let refused = run(program(), &["controller", "--node-driver=job"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused).contains("--job-image"), "{}", text(&refused));
    let refused = run(
        program(),
        &["controller", "--node-driver=job", "--job-image=No Image"],
    );
    assert_eq!(refused.status.code(), Some(2));
    let shown = text(&refused);
    assert!(
        shown.contains("--job-image") && shown.contains("No Image"),
        "{shown}"
    );
}
