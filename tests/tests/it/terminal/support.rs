//! Helpers that run `fledged` on a test's cluster.

use fledged_tests::kube::World;
use fledged_tests::{Fledged, Output, Running};

pub(crate) const APP: &str = "registry.test/app:1";
pub(crate) const DB: &str = "registry.test/db:1";
pub(crate) const NOPE: &str = "registry.test/nope:1";

/// Returns a call of `fledged` with these arguments, in the test's namespace.
pub(crate) fn call(world: &World, args: &[&str]) -> Fledged {
    let cluster = world.cluster();
    Fledged::new()
        .env("KUBECONFIG", cluster.kubeconfig())
        .args(args.iter().copied())
        .args(["-n", cluster.namespace()])
}

/// Runs a call to its end without blocking the other tasks of the test.
pub(crate) fn run(call: Fledged) -> Output {
    tokio::task::block_in_place(|| call.run())
}

/// Runs `fledged` in the test's namespace and asserts its exit code.
#[track_caller]
pub(crate) fn fledged(world: &World, args: &[&str], code: i32) -> Output {
    let output = run(call(world, args));
    assert_eq!(output.code, Some(code), "{output}");
    output
}

/// Waits for the end of a started process and asserts its exit code.
#[track_caller]
pub(crate) fn ended(running: Running, code: i32) -> Output {
    let output = tokio::task::block_in_place(|| running.wait(fledged_tests::SOON));
    assert_eq!(output.code, Some(code), "{output}");
    output
}

/// Splits a line into words.
pub(crate) fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Asserts that stderr contains every part.
#[track_caller]
pub(crate) fn stderr_has(output: &Output, parts: &[&str]) {
    for part in parts {
        assert!(
            output.stderr.contains(part),
            "{part:?} is missing: {output}"
        );
    }
}
