//! Command lines that the programs of this package refuse: the error names the argument and the value.

use std::process::Command;

const BENCH_NODE: &str = env!("CARGO_BIN_EXE_bench-node");
const BENCH_SCALE: &str = env!("CARGO_BIN_EXE_bench-scale");
const CAMPAIGN: &str = env!("CARGO_BIN_EXE_campaign");
const FUZZ: &str = env!("CARGO_BIN_EXE_fuzz");
const SIMULATE: &str = env!("CARGO_BIN_EXE_simulate");

/// Runs a program, which must end at once with 2 and print all of this.
fn refuses(program: &str, line: &str, wanted: &[&str]) {
    let mut command = Command::new(program);
    let output = command.args(line.split_whitespace()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{line}: {stderr}");
    for text in wanted {
        assert!(stderr.contains(text), "{line}: no {text:?} in {stderr}");
    }
}

#[test]
fn values_out_of_range_are_refused() {
    for (program, argument, value) in [
        (BENCH_NODE, "--image-mb", "0"),
        (BENCH_NODE, "--image-mb", "18446744073709551615"),
        (BENCH_NODE, "--image-layers", "128"),
        (BENCH_NODE, "--images", "0"),
        (BENCH_NODE, "--each-mb", "0"),
        (BENCH_NODE, "--connection-mb", "0"),
        (BENCH_NODE, "--runs", "0"),
        (BENCH_NODE, "--max-parallel-pulls", "0"),
        (BENCH_NODE, "--sizes", "0"),
        (BENCH_NODE, "--at-once", "9"),
        (BENCH_SCALE, "--nodes", "0"),
        (BENCH_SCALE, "--nodes", "100001"),
        (BENCH_SCALE, "--images", "4001"),
        (BENCH_SCALE, "--pull", "soon"),
        (BENCH_SCALE, "--pull", "1000h"),
        (BENCH_SCALE, "--parallelism", "0"),
        (BENCH_SCALE, "--max-concurrent-nodes", "0"),
        (BENCH_SCALE, "--troubled", "18446744073709551615"),
        (BENCH_SCALE, "--idle", "0s"),
        (BENCH_SCALE, "--only", "lunch"),
        (BENCH_SCALE, "--load", "lunch"),
        (BENCH_SCALE, "--lasting", "0s"),
        (BENCH_SCALE, "--flap-period", "0s"),
        (BENCH_SCALE, "--edits", "0"),
        (BENCH_SCALE, "--edits", "2000000000"),
        (BENCH_SCALE, "--slack", "0"),
        (CAMPAIGN, "--faults", "0"),
        (CAMPAIGN, "--budget", "0"),
        (FUZZ, "--seconds", "0"),
        (FUZZ, "--seconds", "18446744073709551615"),
        (FUZZ, "--target", "lunch"),
        (SIMULATE, "--seeds", "0"),
        (SIMULATE, "--threads", "0"),
        (SIMULATE, "--budget", "0"),
        (SIMULATE, "--idle-hours", "0"),
        (SIMULATE, "--bugs", "lunch"),
    ] {
        let wanted = [argument, &format!("'{value}'")];
        refuses(program, &format!("{argument} {value}"), &wanted);
    }
}

#[test]
fn arguments_without_effect_are_refused() {
    for (program, line, ignored) in [
        (BENCH_NODE, "--sizes 1", "--sizes 1"),
        (BENCH_NODE, "--connection-mb 4 --at-once 1", "--at-once 1"),
        (BENCH_NODE, "--sweep --only oci", "--only oci"),
        (BENCH_NODE, "--sweep --images 3", "--images 3"),
        (BENCH_SCALE, "--caches 3", "--caches 3"),
        (BENCH_SCALE, "--only join --caches 3", "--caches 3"),
        (BENCH_SCALE, "--flap-period 1s", "--flap-period 1s"),
        (BENCH_SCALE, "--only edit --joins 3", "--joins 3"),
        (BENCH_SCALE, "--only join --joins 0", "--only join"),
        (BENCH_SCALE, "--load flap --only join", "--only join"),
        (BENCH_SCALE, "--load flap --edits 3", "--edits 3"),
        (BENCH_SCALE, "--load idle --caches 3", "--caches 3"),
        (BENCH_SCALE, "--load deep --lasting 1s", "--lasting 1s"),
        (BENCH_SCALE, "--load wide,storm --idle 1s", "--idle 1s"),
        (
            BENCH_SCALE,
            "--node-driver job --parallelism 2",
            "--parallelism 2",
        ),
        (FUZZ, "--input x", "--input x"),
        (FUZZ, "--target pressure --input x --seed 2", "--seed 2"),
        (SIMULATE, "--moves 1", "--moves 1"),
        (SIMULATE, "--planted-bugs --moves 1", "--moves 1"),
        (SIMULATE, "--planted-bugs --budget 1", "--budget 1"),
        (
            SIMULATE,
            "--bugs one-pull-too-many",
            "--bugs one-pull-too-many",
        ),
        (SIMULATE, "--seed 1 --seeds 2", "--seeds 2"),
        (SIMULATE, "--seed 1 --keep-going", "--keep-going"),
        (SIMULATE, "--idle-hours 1 --threads 2", "--threads 2"),
        (SIMULATE, "--idle-hours 1 --trace", "--trace"),
    ] {
        refuses(program, line, &[&format!("{ignored} has no effect")]);
    }
}

#[test]
fn contradictions_are_refused() {
    for (program, line, wanted) in [
        (
            BENCH_NODE,
            "--sweep --sizes 1000 --at-once 4",
            "--at-once 4",
        ),
        (BENCH_SCALE, "--embedded --kubeconfig x", "--kubeconfig"),
        (
            BENCH_SCALE,
            "--load wide --caches 2 --everywhere 3",
            "--everywhere 3",
        ),
        (
            BENCH_SCALE,
            "--load flap --flap-period 1us",
            "--flap-period 1us",
        ),
        (
            CAMPAIGN,
            "--logs /proc/self/fd",
            "--logs /proc/self/fd: the folder",
        ),
        (CAMPAIGN, "--logs /dev/null/logs", "--logs /dev/null/logs: "),
        (
            SIMULATE,
            "--first 18446744073709551615",
            "--first 18446744073709551615",
        ),
        (
            SIMULATE,
            "--seed 1 --bugs one-pull-too-many,finalizer-stays",
            "--bugs one-pull",
        ),
        (SIMULATE, "--seed 1 --moves 1000000", "1000000"),
    ] {
        refuses(program, line, &[wanted]);
    }
}
