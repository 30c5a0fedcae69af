//! Files from strangers: OCI image layouts and manifests.

use std::fs;
use std::os::unix::fs::symlink;

use fledged_tests::{Fledged, ManifestFile};
use tempfile::TempDir;

/// A layout whose parts of fledged lead elsewhere.
fn planted() -> TempDir {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("elsewhere")).unwrap();
    for name in ["a", "b", "fledged-tmp-1-1"] {
        fs::write(root.join("elsewhere").join(name), "theirs").unwrap();
    }
    fs::create_dir_all(root.join("layout/blobs/sha256")).unwrap();
    fs::create_dir_all(root.join("layout/.fledged")).unwrap();
    let marker = r#"{"imageLayoutVersion":"1.0.0"}"#;
    fs::write(root.join("layout/oci-layout"), marker).unwrap();
    let index = r#"{"schemaVersion":2,"manifests":[]}"#;
    fs::write(root.join("layout/index.json"), index).unwrap();
    symlink(
        root.join("elsewhere"),
        root.join("layout/.fledged/unfinished"),
    )
    .unwrap();
    symlink(
        root.join("elsewhere/new"),
        root.join("layout/.fledged/lock"),
    )
    .unwrap();
    folder
}

#[test]
fn no_command_writes_where_the_links_of_a_layout_lead() {
    let folder = planted();
    let layout = format!("oci:{}", folder.path().join("layout").display());
    let manifest = ManifestFile::new(&["127.0.0.1:9/app:1"]);
    let file = manifest.path();
    let file = file.to_str().unwrap();
    for args in [
        &["list"][..],
        &["apply", "--dry-run", "-f", file],
        &["apply", "-f", file],
        &["purge", "-f", file],
    ] {
        let call = Fledged::new().arg("node").args(args.iter().copied());
        let output = call.args(["--runtime", &layout]).run();
        assert!(
            output.stderr.contains("symbolic link"),
            "{args:?}: {output}"
        );
        let left = fs::read_dir(folder.path().join("elsewhere")).unwrap();
        assert_eq!(left.count(), 3, "{args:?}: {output}");
    }
}

#[test]
fn a_manifest_without_an_end_is_refused() {
    let output = Fledged::new().args(["check", "-f", "/dev/zero"]).run();
    assert_eq!(output.code, Some(2), "{output}");
    assert!(output.stderr.contains("larger than 16 MiB"), "{output}");
}
