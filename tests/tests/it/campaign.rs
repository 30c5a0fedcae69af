//! A short campaign of faults against real parts. `docs/testing.md` has what it promises, and how to run a long one.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use fledged_tests::campaign::{NEEDED, Options, run};
use fledged_tests::{SOON, poll_until, require};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

#[test]
fn real_parts_converge_after_random_faults() {
    if !require(&NEEDED) {
        return;
    }
    let folder = std::env::temp_dir().join(format!("fledged-campaign-it-{}", std::process::id()));
    let outcome = run(&Options {
        seed: 1,
        faults: 40,
        budget: None,
        folder: folder.clone(),
        verbose: false,
        stop: Arc::default(),
    });
    let failures = outcome.failures();
    assert!(
        failures.is_empty(),
        "{failures:#?}\n{outcome}\nhistory and logs are in {}",
        folder.display()
    );
    assert!(outcome.injected() >= 40, "{outcome}");
    assert!(outcome.convergences() > 1, "{outcome}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_signal_ends_children_and_mounts() {
    if !require(&NEEDED) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut program = start(folder.path(), "");
    reaches(folder.path(), "round 1");
    assert!(!left_in(folder.path()).is_empty());
    signal(&program, Signal::TERM);
    assert_eq!(end_of(&mut program).code(), Some(1));
    assert_nothing_left(&folder);
}

#[test]
fn a_second_signal_ends_children_and_mounts_at_once() {
    if !require(&NEEDED) {
        return;
    }
    // In the middle of a round, and as soon as something has been started.
    for moment in ["round 1", ""] {
        let folder = tempfile::tempdir().unwrap();
        let mut program = start(folder.path(), "");
        reaches(folder.path(), moment);
        poll_until("processes", SOON, || {
            (left_in(folder.path()).len() > 2).then_some(())
        });
        signal(&program, Signal::TERM);
        signal(&program, Signal::INT);
        let code = end_of(&mut program).code().unwrap();
        assert!([128 + 2, 128 + 15].contains(&code), "{code}");
        assert_nothing_left(&folder);
    }
}

/// Waits until the history of a program has this text.
fn reaches(folder: &Path, text: &str) {
    let history = folder.join("logs/history.txt");
    poll_until("the history", SOON * 3, || {
        let history = std::fs::read_to_string(&history).ok()?;
        history.contains(text).then_some(())
    });
}

fn signal(program: &Child, signal: Signal) {
    let pid = Pid::from_raw(program.id().try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[test]
fn a_panic_ends_children_and_mounts() {
    if !require(&NEEDED) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // The containerd on the small disk does not start.
    let script = folder.path().join("containerd");
    let text = "#!/bin/sh\n[ ! -d \"$(dirname \"$2\")/root/lost+found\" ] || exit 1\nexec containerd \"$@\"\n";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut program = start(folder.path(), script.to_str().unwrap());
    assert_eq!(end_of(&mut program).code(), Some(101));
    assert_nothing_left(&folder);
}

/// Starts the program, with its temporary folders below `folder`.
fn start(folder: &Path, containerd: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_campaign"));
    command.args(["--faults", "1000000", "--logs"]);
    command.arg(folder.join("logs")).env("TMPDIR", folder);
    if !containerd.is_empty() {
        command.env("TEST_CONTAINERD", containerd);
    }
    let output = |name| std::fs::File::create(folder.join(name)).unwrap();
    command.stdin(Stdio::null());
    command.stdout(output("out")).stderr(output("err"));
    command.spawn().unwrap()
}

fn end_of(program: &mut Child) -> ExitStatus {
    poll_until("the end of the program", SOON * 3, || {
        program.try_wait().unwrap()
    })
}

fn assert_nothing_left(folder: &TempDir) {
    poll_until("the kernel to detach the loop device", SOON, || {
        let left = left_in(folder.path());
        left.iter()
            .all(|what| !what.starts_with("loop"))
            .then_some(())
    });
    assert_eq!(left_in(folder.path()), [""; 0]);
    let entries = std::fs::read_dir(folder.path()).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    let left: Vec<String> = names
        .filter(|name| !["logs", "out", "err", "containerd"].contains(&name.as_str()))
        .collect();
    assert_eq!(left, [""; 0]);
}

/// Processes with this folder of temporary files, loop devices and mounts below it.
fn left_in(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let entries = |path: &str| std::fs::read_dir(path).unwrap().flatten();
    let read = |path: &Path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let mut left = Vec::new();
    for entry in entries("/proc") {
        if read(&entry.path().join("environ")).contains(&format!("TMPDIR={folder}")) {
            let name = read(&entry.path().join("cmdline"));
            left.push(format!("process {}", name.replace('\0', " ")));
        }
    }
    for entry in entries("/sys/block") {
        let file = read(&entry.path().join("loop/backing_file"));
        if file.contains(folder) {
            left.push(format!("loop device of {file}"));
        }
    }
    let mounts = read(Path::new("/proc/self/mountinfo"));
    left.extend(
        mounts
            .lines()
            .filter(|line| line.contains(folder))
            .map(str::to_owned),
    );
    left
}
