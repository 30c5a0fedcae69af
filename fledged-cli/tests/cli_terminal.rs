//! What a terminal shows.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use support::{Stage, manifest};

/// A terminal is had from script(1) of util-linux.
#[test]
fn a_terminal_without_bars_has_lines() {
    let script = std::process::Command::new("script")
        .arg("--version")
        .output();
    if let Err(error) = script {
        assert!(
            std::env::var_os("CI").is_none(),
            "script can't be run: {error}"
        );
        eprintln!("skipped: script is not installed");
        return;
    }
    let stage = Stage::new();
    let image = &stage.images[0];
    let file = stage.write("images.yaml", &manifest(&stage.images[..1]));
    let shown = |term: &str| {
        let line = format!(
            "{} node apply -f {file} --platform linux/amd64 --runtime {}-{term}",
            env!("CARGO_BIN_EXE_fledged"),
            stage.store()
        );
        let output = std::process::Command::new("script")
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .env("TERM", term)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let dumb = shown("dumb");
    assert!(dumb.contains(&format!("pulled {image} (")), "{dumb}");
    assert!(!dumb.contains("\u{1b}["), "{dumb:?}");
    let able = shown("xterm");
    assert!(!able.contains(&format!("pulled {image} (")), "{able}");
    assert!(able.contains("0/1 images"), "{able}");
}
