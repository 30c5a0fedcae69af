//! The Dockerfile and the release workflow: content and user of the image, platforms, pinned actions.

use super::rendered::{deploy, text};

/// The instructions of the last stage.
fn last_stage(dockerfile: &str) -> Vec<&str> {
    let lines: Vec<&str> = dockerfile
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let start = lines
        .iter()
        .rposition(|line| line.starts_with("FROM "))
        .unwrap();
    lines[start..].to_vec()
}

#[test]
fn image_holds_only_program_and_certificates_as_non_root() {
    let dockerfile = text("Dockerfile");
    let stage = last_stage(&dockerfile);
    assert_eq!(stage[0], "FROM scratch");
    let copies: Vec<&&str> = stage
        .iter()
        .filter(|line| line.starts_with("COPY "))
        .collect();
    assert_eq!(copies.len(), 2, "{copies:?}");
    assert!(
        copies
            .iter()
            .all(|line| line.starts_with("COPY --from=build ")),
        "{copies:?}"
    );
    let entry = stage
        .iter()
        .find_map(|line| line.strip_prefix("ENTRYPOINT "))
        .unwrap();
    let entry: Vec<String> = serde_json::from_str(entry).unwrap();
    assert_eq!(entry.len(), 1);
    assert!(
        copies
            .iter()
            .any(|line| line.ends_with(&format!(" {}", entry[0]))),
        "{copies:?}"
    );
    let user = stage
        .iter()
        .find_map(|line| line.strip_prefix("USER "))
        .unwrap();
    let numbers: Vec<u32> = user
        .split(':')
        .map(|number| number.parse().unwrap())
        .collect();
    assert!(numbers.iter().all(|number| *number > 0), "{user}");
}

/// The Dockerfile uses the workspace's `rust-version`, so the image is never built by an older compiler.
#[test]
fn dockerfile_uses_the_minimum_supported_rust() {
    let line = format!("ARG RUST_VERSION={}\n", env!("CARGO_PKG_RUST_VERSION"));
    assert!(text("Dockerfile").contains(&line));
}

#[test]
fn makefile_and_release_build_the_same_platforms() {
    let platforms = "linux/amd64,linux/arm64,linux/arm/v7";
    for file in ["Makefile", "../.github/workflows/release.yml"] {
        assert!(text(file).contains(platforms), "{file}");
    }
    let dockerfile = text("Dockerfile");
    for target in [
        "x86_64-unknown-linux-musl",
        "aarch64-unknown-linux-musl",
        "armv7-unknown-linux-musleabihf",
    ] {
        assert!(dockerfile.contains(target), "{target}");
    }
}

/// A tag of an action can be moved to other code, so actions are pinned to commits. A checkout would leave its token in
/// the clone, where every later step can read it.
#[test]
fn actions_are_pinned_to_commits() {
    let mut pinned = 0;
    for workflow in ["ci", "advisories", "release"] {
        let text = text(&format!("../.github/workflows/{workflow}.yml"));
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (at, line) in lines.iter().enumerate() {
            let action = line.trim_start_matches("- ").strip_prefix("uses: ");
            // A workflow of this repository is of the same commit.
            let Some(action) = action.filter(|action| !action.starts_with("./")) else {
                continue;
            };
            let revision = action.split_once('@').unwrap().1.split(' ').next().unwrap();
            let is_commit = revision.len() == 40 && revision.chars().all(|c| c.is_ascii_hexdigit());
            assert!(is_commit, "{workflow}: {action}");
            if action.starts_with("actions/checkout@") {
                let with = &lines[at + 1..at + 3];
                assert_eq!(with, ["with:", "persist-credentials: false"], "{workflow}");
            }
            pinned += 1;
        }
    }
    assert!(pinned > 5, "{pinned}");
}

/// Wheels of pip are pinned by hash: a version of a package can get new files.
#[test]
fn wheels_are_installed_by_hash() {
    for file in ["Dockerfile", "../.ci/run"] {
        let text = text(file);
        let calls = text.lines().filter(|line| {
            let line = line.trim_start_matches(['&', ' ']);
            line.starts_with("python3 -m pip")
        });
        let calls: Vec<&str> = calls.collect();
        assert!(!calls.is_empty(), "{file}");
        for call in calls {
            assert!(call.contains("--require-hashes"), "{file}: {call}");
        }
        assert!(text.contains("--hash=sha256:"), "{file}");
    }
}

/// `.dockerignore` must not exclude a workspace member, because the build needs all of them.
#[test]
fn build_context_has_every_workspace_member() {
    let ignored = text("Dockerfile.dockerignore");
    let manifest = std::fs::read_to_string(deploy("../Cargo.toml")).unwrap();
    let (_, members) = manifest.split_once("members = [").unwrap();
    let (members, _) = members.split_once(']').unwrap();
    let members = members.split(',').map(|name| name.trim().trim_matches('"'));
    let members: Vec<&str> = members.filter(|name| !name.is_empty()).collect();
    assert!(members.len() > 5, "{members:?}");
    for member in members {
        assert!(!ignored.lines().any(|line| line == member), "{member}");
    }
}
