//! Output on a terminal.
#![cfg(target_os = "linux")]
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{TestBed, manifest};

/// Whether script(1) of util-linux, which provides a terminal, is installed.
fn has_script() -> bool {
    let script = Command::new("script").arg("--version").output();
    let Err(error) = script else {
        return true;
    };
    assert!(
        std::env::var_os("CI").is_none(),
        "script can't be run: {error}"
    );
    eprintln!("skipped: script is not installed");
    false
}

/// Runs a command line on a terminal of this type, presses Enter, and returns the output.
fn at_a_terminal(term: &str, line: &str, folder: &Path) -> String {
    let mut script = Command::new("script")
        .args(["--quiet", "--return", "--command", line, "/dev/null"])
        .env("TERM", term)
        .env("TMPDIR", folder)
        .env_remove("NO_COLOR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    script.stdin.take().unwrap().write_all(b"\n").unwrap();
    let output = script.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_demo_draws_the_rollout_and_waits_for_enter() {
    if !has_script() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let line = format!("{} demo --nodes 2", env!("CARGO_BIN_EXE_fledged"));
    let shown = at_a_terminal("xterm", &line, folder.path());
    // A redrawn matrix instead of lines.
    assert!(shown.contains("to be pulled"), "{shown}");
    assert!(!shown.contains("get -w"), "{shown}");
    assert!(shown.contains("\u{1b}[1m"), "{shown:?}");
    assert!(shown.contains(": 3 images on 2 nodes"), "{shown}");
    assert!(shown.contains("stays up until Enter or Ctrl-C"), "{shown}");
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 0, "{shown}");
}

#[test]
fn a_terminal_without_bars_shows_lines() {
    if !has_script() {
        return;
    }
    let bed = TestBed::new();
    let image = &bed.images[0];
    let file = bed.write("images.yaml", &manifest(&bed.images[..1]));
    let shown = |term: &str| {
        let line = format!(
            "{} node apply -f {file} --platform linux/amd64 --runtime {}-{term}",
            env!("CARGO_BIN_EXE_fledged"),
            bed.store()
        );
        at_a_terminal(term, &line, bed.folder.path())
    };
    let dumb = shown("dumb");
    assert!(dumb.contains(&format!("pulled {image} (")), "{dumb}");
    assert!(!dumb.contains("\u{1b}["), "{dumb:?}");
    let able = shown("xterm");
    assert!(!able.contains(&format!("pulled {image} (")), "{able}");
    assert!(able.contains("0/1 images"), "{able}");
}
