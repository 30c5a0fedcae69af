//! Steps of the release workflow that can fail silently, run with the shell of GitHub's runner.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::rendered::text;

fn workflow() -> Value {
    serde_saphyr::from_str(&text("../.github/workflows/release.yml")).unwrap()
}

/// Runs the step `name` with fake `programs` first in `PATH`.
fn step(
    folder: &Path,
    name: &str,
    programs: &[(&str, &str)],
    variables: &[(&str, &str)],
) -> Output {
    let workflow = workflow();
    // GitHub runs `bash -e` without a `shell`, and the command below with `shell: bash`.
    assert_eq!(workflow["defaults"]["run"]["shell"], "bash");
    let shell = ["--noprofile", "--norc", "-eo", "pipefail", "-c"];
    let steps = workflow["jobs"]["release"]["steps"].as_array().unwrap();
    let step = steps.iter().find(|step| step["name"] == name);
    let script = step.unwrap_or_else(|| panic!("there is no step {name:?}"))["run"]
        .as_str()
        .unwrap();
    let fakes = folder.join("fakes");
    std::fs::create_dir_all(&fakes).unwrap();
    for (program, script) in programs {
        let program = fakes.join(program);
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
    }
    let path = format!("{}:{}", fakes.display(), std::env::var("PATH").unwrap());
    Command::new("bash")
        .args(shell)
        .arg(script)
        .current_dir(folder)
        .env("PATH", path)
        .env("GITHUB_ENV", folder.join("env"))
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

fn env(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("env")).unwrap_or_default()
}

#[test]
fn image_references_have_the_owner_in_lower_case() {
    let folder = tempfile::tempdir().unwrap();
    let owner = [("GITHUB_REPOSITORY_OWNER", "Some-Org")];
    let output = step(folder.path(), "Name what is pushed", &[], &owner);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        env(folder.path()),
        "IMAGE=ghcr.io/some-org/fledged-operator\n\
         OPERATOR_IMAGE=ghcr.io/some-org/fledged-helm-operator\n\
         CHARTS=oci://ghcr.io/some-org/charts\n"
    );
    // No other step uses the owner's name unchanged.
    let workflow = text("../.github/workflows/release.yml");
    assert!(!workflow.contains("github.repository_owner"), "{workflow}");
}

#[test]
fn a_failed_push_of_the_chart_fails_the_step() {
    let push = "Package and push the chart";
    let variables = [("VERSION", "1.0.0"), ("CHARTS", "oci://r.example/charts")];
    for (helm, digest) in [
        ("[ $1 = package ] || { echo denied; exit 1; }", None),
        ("[ $1 = package ] || echo Pushed: r.example", None),
        (
            "[ $1 = package ] || echo Digest: sha256:0a",
            Some("CHART_DIGEST=sha256:0a\n"),
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let output = step(folder.path(), push, &[("helm", helm)], &variables);
        assert_eq!(
            output.status.success(),
            digest.is_some(),
            "{helm}: {output:?}"
        );
        assert_eq!(env(folder.path()), digest.unwrap_or_default(), "{helm}");
    }
}

#[test]
fn only_release_candidates_are_prereleases() {
    for (version, prerelease) in [("1.0.0-rc.1", true), ("1.0.0", false)] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("release")).unwrap();
        std::fs::write(folder.path().join("release/file"), "").unwrap();
        let tag = format!("v{version}");
        let variables = [
            ("VERSION", version),
            ("GITHUB_REF_NAME", tag.as_str()),
            ("GITHUB_REPOSITORY", "some/thing"),
            ("IMAGE", "r.example/image"),
            ("DIGEST", "sha256:0a"),
        ];
        let gh = [("gh", "printf '%s\\n' \"$@\"")];
        let output = step(folder.path(), "Release", &gh, &variables);
        assert!(output.status.success(), "{output:?}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        let words: Vec<&str> = stdout.lines().collect();
        assert_eq!(words.contains(&"--prerelease"), prerelease, "{words:?}");
        assert_eq!(words[..3], ["release", "create", &tag]);
        assert_eq!(words.last(), Some(&"release/file"));
    }
}
