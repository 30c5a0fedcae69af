//! Runs the commands in the documentation.
//!
//! This is a separate test binary: cargo builds the workspace's programs with other features here, so no other test
//! may use them meanwhile. cargo runs test binaries one after another.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fledged_tests::poll_until;
use rustix::process::{Pid, Signal, kill_process_group};

/// Time limit of one command, including its builds.
const LIMIT: Duration = Duration::from_secs(900);

/// The way a documented command is run.
enum Run {
    /// The command runs to its end, with exit code 0.
    ToItsEnd,
    /// The command runs until it has printed a line with this text; Ctrl-C must then end it.
    Until(&'static str),
    /// A shorter command runs instead.
    Shorter(&'static str),
    /// This program of the same build runs with the command's arguments and `--help`: it only parses them.
    Help(&'static str),
    /// `.ci/run` contains this line, which runs the command.
    ByCi(&'static str),
    /// A test runs the command: its file in the workspace, and its name.
    ByTest(&'static str, &'static str),
}

/// Commands that are not simply run to their end, each with the reason.
const EXCEPTIONS: &[(&str, Run, &str)] = &[
    (
        "cargo test --workspace --all-features",
        Run::ByCi("command=\"$(documented_test_command)\""),
        "it would run this test again; CI takes it from the README",
    ),
    (
        "bash .ci/run",
        Run::ByCi("step \"tests\""),
        "CI is this command",
    ),
    (
        "cargo test -p fledged-tests --test it deploy::",
        Run::ByCi("command=\"$(documented_test_command)\""),
        "the command for all tests runs these too",
    ),
    (
        "KUBEBUILDER_ASSETS=/path/to/etcd-and-kube-apiserver cargo test -p fledged-tests --test it operator:: -- --test-threads 2",
        Run::ByCi("KUBEBUILDER_ASSETS=\"$assets\" bash .ci/kube-apiserver"),
        "it needs etcd and kube-apiserver",
    ),
    (
        "TEST_KUBECONFIG=/path/to/kubeconfig cargo test -p fledged-tests --test it operator:: -- --test-threads 1",
        Run::ByCi("command=\"$(documented_test_command)\""),
        "it needs a cluster; the same tests run on the in-process server",
    ),
    (
        "cargo bench -p fledged-core",
        Run::Shorter("cargo test -p fledged-core --benches"),
        "criterion runs every benchmark once in its test mode",
    ),
    (
        "cargo bench -p fledged-core --bench planner -- report",
        Run::Shorter("cargo test -p fledged-core --bench planner -- report"),
        "criterion runs every benchmark once in its test mode",
    ),
    (
        "cargo bench -p fledged-core --bench memory",
        Run::Shorter("cargo test -p fledged-core --bench memory"),
        "without the optimised build",
    ),
    (
        "cargo bench -p fledged-core --bench many",
        Run::Shorter("cargo test -p fledged-core --bench many"),
        "without the optimised build",
    ),
    (
        "cargo build --release -p fledged-cli",
        Run::Shorter("cargo build -p fledged-cli"),
        "without the optimised build, which takes minutes",
    ),
    (
        "cargo build --release -p fledged-operator --features binary",
        Run::Shorter("cargo build -p fledged-operator --features binary"),
        "without the optimised build, which takes minutes",
    ),
    (
        "cargo install --locked --path fledged-cli",
        Run::Shorter("cargo build --locked -p fledged-cli"),
        "without the optimised build, which takes minutes",
    ),
    (
        "cargo install --locked --path fledged-cli --no-default-features",
        Run::ByCi("cargo clippy -p fledged-cli --no-default-features --locked -- -D warnings"),
        "without the optimised build, which takes minutes",
    ),
    (
        "cargo install --locked --path fledged-operator --features binary",
        Run::Shorter("cargo build --locked -p fledged-operator --features binary"),
        "without the optimised build, which takes minutes",
    ),
    (
        "cargo run --release -p fledged-tests --bin bench-node",
        Run::Help(env!("CARGO_BIN_EXE_bench-node")),
        "minutes, after an optimised build",
    ),
    (
        "cargo run --release -p fledged-tests --bin bench-node -- --fetching",
        Run::Help(env!("CARGO_BIN_EXE_bench-node")),
        "minutes, after a build in release mode",
    ),
    (
        "cargo run --release -p fledged-tests --bin bench-node -- --fetching --scale 1 --runs 1",
        Run::Help(env!("CARGO_BIN_EXE_bench-node")),
        "minutes, after a build in release mode",
    ),
    (
        "cargo run --release -p fledged-tests --bin bench-node -- --sweep",
        Run::Help(env!("CARGO_BIN_EXE_bench-node")),
        "minutes, after an optimised build",
    ),
    (
        "cargo run --release -p fledged-tests --bin bench-node -- --sweep --sizes 1,10 --at-once 3 --runs 1",
        Run::Help(env!("CARGO_BIN_EXE_bench-node")),
        "minutes, after an optimised build",
    ),
    (
        "cargo run --release -p fledged-tests --bin bench-scale -- --nodes 100 --images 20",
        Run::Help(env!("CARGO_BIN_EXE_bench-scale")),
        "minutes, after an optimised build; bench_scale.rs runs a short one",
    ),
    (
        "cargo run --release -p fledged-tests --bin bench-scale -- --nodes 1000 --images 20",
        Run::Help(env!("CARGO_BIN_EXE_bench-scale")),
        "minutes, after an optimised build; bench_scale.rs runs a short one",
    ),
    (
        "cargo run --release -p fledged-tests --bin bench-scale -- --nodes 100 --images 5 --parallelism 5 --only join,refresh",
        Run::Help(env!("CARGO_BIN_EXE_bench-scale")),
        "minutes, after an optimised build; bench_scale.rs runs a short one",
    ),
    (
        "cargo run --release -p fledged-tests --bin bench-scale -- --load flap",
        Run::Help(env!("CARGO_BIN_EXE_bench-scale")),
        "minutes, after an optimised build; bench_scale.rs runs short loads",
    ),
    (
        "cargo run --release -p fledged-tests --bin bench-scale -- --load all -o json",
        Run::Help(env!("CARGO_BIN_EXE_bench-scale")),
        "minutes, after an optimised build; bench_scale.rs runs short loads",
    ),
    (
        "cargo test -p fledged-core --all-features --test it exhaustive:: -- --nocapture",
        Run::ByTest(
            "fledged-core/tests/it/exhaustive/mod.rs",
            "every_interleaving_from_an_empty_cluster",
        ),
        "it would run this test again",
    ),
    (
        "cargo run -p fledged-tests --bin campaign -- --faults 1000",
        Run::Help(env!("CARGO_BIN_EXE_campaign")),
        "half an hour; campaign.rs in the tests runs a short one",
    ),
    (
        "cargo test -p fledged-tests --test it campaign::",
        Run::ByTest(
            "tests/tests/it/campaign.rs",
            "real_parts_converge_after_random_faults",
        ),
        "it would run this test again",
    ),
    (
        "cargo run -p fledged-tests --bin simulate -- --seeds 200",
        Run::Help(env!("CARGO_BIN_EXE_simulate")),
        "minutes; simulation.rs simulates a few seeds",
    ),
    (
        "cargo test -p fledged-tests --test it hostile_bytes",
        Run::ByTest(
            "tests/tests/it/hostile_bytes.rs",
            "no_input_of_a_corpus_makes_a_parser_panic",
        ),
        "it would build and run these tests again",
    ),
    (
        "cargo test -p fledged-tests --test it idle",
        Run::ByTest(
            "tests/tests/it/simulation.rs",
            "an_idle_cluster_writes_only_its_lease",
        ),
        "it would run this test again",
    ),
    (
        "cargo run -p fledged-tests --bin simulate -- --idle-hours 24",
        Run::Help(env!("CARGO_BIN_EXE_simulate")),
        "minutes; simulation.rs simulates half an hour",
    ),
    (
        "cargo test -p fledged-tests --test it simulation::",
        Run::ByTest(
            "tests/tests/it/simulation.rs",
            "invariants_hold_under_random_faults",
        ),
        "it would run these tests again",
    ),
    (
        "cargo run -p fledged-tests --bin simulate -- --planted-bugs",
        Run::Help(env!("CARGO_BIN_EXE_simulate")),
        "minutes; simulation.rs plants the bugs that have a seed",
    ),
    (
        "cargo run -p fledged-tests --bin simulate -- --seed 1 --bugs one-pull-too-many",
        Run::Help(env!("CARGO_BIN_EXE_simulate")),
        "it exits with 1; simulation.rs plants the bugs that have a seed",
    ),
    (
        "cargo run -p fledged-tests --bin simulate -- --seed 42 --moves 3,8,12 --trace",
        Run::Help(env!("CARGO_BIN_EXE_simulate")),
        "an example; simulation.rs simulates a few seeds",
    ),
    (
        "KUBEBUILDER_ASSETS=/path/to/etcd-and-kube-apiserver cargo run --release -p fledged-tests --bin bench-scale -- --nodes 1000",
        Run::Help(env!("CARGO_BIN_EXE_bench-scale")),
        "it needs etcd and kube-apiserver",
    ),
    (
        "cargo run --release -p fledged-tests --bin bench-scale -- --kubeconfig /path/to/kubeconfig --nodes 1000",
        Run::Help(env!("CARGO_BIN_EXE_bench-scale")),
        "it needs a cluster",
    ),
    (
        "cargo run -p fledged-tests --bin fuzz",
        Run::Help(env!("CARGO_BIN_EXE_fuzz")),
        "minutes; hostile_bytes.rs runs the same targets",
    ),
    (
        "cargo run -p fledged-tests --bin fuzz -- --seconds 130",
        Run::Help(env!("CARGO_BIN_EXE_fuzz")),
        "an hour; hostile_bytes.rs runs the same targets",
    ),
    (
        "FUZZ_TARGET=hosts_toml cargo fuzz run --sanitizer none hostile_bytes fuzz/corpus/hosts_toml -- -max_total_time=130 -max_len=65536 -timeout=5 -rss_limit_mb=256",
        Run::Shorter("cargo metadata --format-version 1 --manifest-path fuzz/Cargo.toml"),
        "it needs cargo-fuzz, and an instrumented build of everything",
    ),
    (
        "for target in $(ls fuzz/corpus); do mkdir -p target/fuzz/$target; FUZZ_TARGET=$target cargo fuzz run --sanitizer none hostile_bytes target/fuzz/$target fuzz/corpus/$target -- -max_total_time=130 -max_len=65536 -timeout=5 -rss_limit_mb=256 || break; done",
        Run::Shorter("cargo metadata --format-version 1 --manifest-path fuzz/Cargo.toml"),
        "an hour; it needs cargo-fuzz, and an instrumented build of everything",
    ),
    (
        "cargo install --locked cargo-fuzz@0.13.2",
        Run::Shorter("cargo install --locked cargo-fuzz@0.13.2 -h"),
        "it installs a program for the user",
    ),
    (
        "cargo run -p fledged-examples --bin warm-node -- oci:/tmp/images registry.k8s.io/pause:3.10",
        Run::ByTest("examples/tests/it/warm_node.rs", "warm_node_pulls_an_image"),
        "its registry is on the internet",
    ),
    (
        "cargo run -p fledged-examples --bin images-of-deployments -- --embedded",
        Run::Until("deployments: ImageCacheCreate"),
        "it runs until Ctrl-C",
    ),
    (
        "cargo run -p fledged-examples --bin custom-driver -- /tmp/fleet --embedded",
        Run::Until("edge: ImageCacheCreate"),
        "it runs until Ctrl-C",
    ),
    (
        "cargo run -p fledged-examples --bin beside-your-controllers -- --embedded",
        Run::Until("web: ImageCacheCreate"),
        "it runs until Ctrl-C",
    ),
];

/// A command, and the page that prints it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Documented {
    command: String,
    page: String,
}

#[test]
fn documented_commands_work() {
    let documented = documented();
    let commands: BTreeSet<&str> = documented.iter().map(|d| d.command.as_str()).collect();
    for (command, _, _) in EXCEPTIONS {
        assert!(commands.contains(command), "no page prints `{command}`");
    }
    for command in commands {
        let exception = EXCEPTIONS.iter().find(|(known, _, _)| *known == command);
        let run = exception.map_or(&Run::ToItsEnd, |(_, run, _)| run);
        eprintln!("{command}");
        match run {
            Run::ToItsEnd => succeeds(command),
            Run::Until(text) => runs_until(command, text),
            Run::Shorter(shorter) => succeeds(shorter),
            Run::Help(program) => {
                let (_, args) = command.split_once(" -- ").unwrap_or_default();
                succeeds(&format!("{program} {args} --help"));
            }
            Run::ByCi(line) => ci_contains(line),
            Run::ByTest(file, test) => test_exists(file, test),
        }
    }
}

#[test]
fn the_first_commands_of_the_readme_are_found() {
    let documented = documented();
    for expected in [
        "cargo run -p fledged-cli -- demo",
        "cargo test --workspace --all-features",
    ] {
        let expected = Documented {
            command: expected.to_owned(),
            page: "README.md".to_owned(),
        };
        assert!(documented.contains(&expected), "{documented:#?}");
    }
}

/// Returns all commands, each once for each page.
fn documented() -> BTreeSet<Documented> {
    let root = root();
    let mut pages = Vec::new();
    collect_pages(&root, &mut pages);
    assert!(pages.len() > 5, "{pages:?}");
    let mut found = BTreeSet::new();
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let page = page.strip_prefix(&root).unwrap().display().to_string();
        for command in commands_of(&text) {
            let page = page.clone();
            found.insert(Documented { command, page });
        }
    }
    found
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_owned()
}

/// Collects all Markdown files except the changelog, which is about other versions.
fn collect_pages(folder: &Path, pages: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_symlink() || name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            collect_pages(&path, pages);
        } else if name.ends_with(".md") && name != "CHANGELOG.md" {
            pages.push(path);
        }
    }
}

/// Returns the commands of a page: all lines of `console` blocks, and calls of cargo or bash in `sh` blocks and inline
/// code. Other commands in `sh` blocks need a cluster. A block that begins with a prompt shows a session on a cluster
/// and is skipped.
fn commands_of(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut block: Option<(bool, Vec<String>)> = None;
    for line in text.lines() {
        match (&mut block, line.trim()) {
            (None, fence @ ("```console" | "```sh")) => {
                block = Some((fence == "```console", Vec::new()));
            }
            (None, line) => commands.extend(line.split('`').skip(1).step_by(2).filter_map(cargo)),
            (Some((every, lines)), "```") => {
                if !lines.first().is_some_and(|first| first.starts_with("$ ")) {
                    let lines = lines.iter().map(|line| without_comment(line));
                    commands.extend(
                        lines
                            .filter(|line| *every || builds(line))
                            .map(str::to_owned),
                    );
                }
                block = None;
            }
            (Some((_, lines)), line) => match lines.last_mut() {
                Some(last) if last.ends_with('\\') => {
                    last.pop();
                    last.push_str(line);
                }
                _ => lines.push(line.to_owned()),
            },
        }
    }
    assert!(block.is_none(), "a block without an end");
    let meant = commands
        .iter()
        .filter(|c| !c.is_empty() && !c.starts_with('#'));
    meant
        .map(|c| c.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// Returns inline code that is a complete call of cargo, not the name of a subcommand.
fn cargo(code: &str) -> Option<String> {
    let whole = code.starts_with("cargo ") && code.split_whitespace().count() > 3;
    whole.then(|| code.to_owned())
}

/// Whether a line calls cargo or bash, possibly with variables set.
fn builds(line: &str) -> bool {
    let program = line.split_whitespace().find(|word| !word.contains('='));
    matches!(program, Some("cargo" | "bash"))
}

fn without_comment(command: &str) -> &str {
    command.split(" #").next().unwrap_or_default().trim()
}

/// Returns a shell that runs the command in the checkout, in its own process group, without the environment variables
/// of `cargo test`.
fn shell(command: &str) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("exec env {command}")]);
    shell.current_dir(root()).stdin(Stdio::null());
    let kept = [
        "CARGO_HOME",
        "CARGO_TARGET_DIR",
        "CARGO_INCREMENTAL",
        "CARGO_TERM_COLOR",
    ];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO") && !kept.contains(&text.as_ref()) {
            shell.env_remove(&name);
        }
    }
    shell.process_group(0);
    shell
}

/// A running command, killed with its child processes when dropped.
struct Running {
    child: Child,
    output: tempfile::TempPath,
    command: String,
}

impl Running {
    fn start(command: &str) -> Self {
        let (file, output) = tempfile::NamedTempFile::new().unwrap().into_parts();
        let errors = file.try_clone().unwrap();
        let child = shell(command).stdout(file).stderr(errors).spawn().unwrap();
        let command = command.to_owned();
        Self {
            child,
            output,
            command,
        }
    }

    fn printed(&self) -> String {
        let mut text = Vec::new();
        let mut file = fs::File::open(&self.output).unwrap();
        file.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits for the end of the command and asserts exit code 0.
    fn succeeds(&mut self) {
        let what = format!("`{}` to end", self.command);
        let status = poll_until(&what, LIMIT, || self.child.try_wait().unwrap());
        assert!(
            status.success(),
            "`{}`: {status}: {}",
            self.command,
            self.printed()
        );
    }

    fn signal(&self, signal: Signal) {
        let group = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        let _ = kill_process_group(group, signal);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

fn succeeds(command: &str) {
    let started = Instant::now();
    Running::start(command).succeeds();
    eprintln!("  {:.0?}", started.elapsed());
}

fn runs_until(command: &str, text: &str) {
    let mut running = Running::start(command);
    let what = format!("`{command}` to print {text:?}");
    poll_until(&what, LIMIT, || {
        let printed = running.printed();
        let ended = running.child.try_wait().unwrap();
        if let (Some(status), false) = (ended, printed.contains(text)) {
            panic!("`{command}` ended with {status}: {printed}");
        }
        printed.contains(text).then_some(())
    });
    running.signal(Signal::INT);
    running.succeeds();
}

fn ci_contains(line: &str) {
    let script = fs::read_to_string(root().join(".ci/run")).unwrap();
    let found = script.lines().any(|found| found.trim() == line);
    assert!(found, "no line {line:?} in .ci/run");
}

fn test_exists(file: &str, test: &str) {
    let text = fs::read_to_string(root().join(file)).unwrap();
    assert!(
        text.contains(&format!("fn {test}(")),
        "no test {test} in {file}"
    );
}
