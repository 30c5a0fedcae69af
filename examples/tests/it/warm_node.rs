//! The example `warm-node`.
use std::process::Command;

use fledged_tests::{ImageBuilder, Registry, require};

#[test]
fn warm_node_pulls_an_image() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let pushed = ImageBuilder::new().push(&registry, "app", "1");
    let folder = tempfile::tempdir().unwrap();
    let warm = |image: &str| {
        let runtime = format!("oci:{}", folder.path().display());
        let output = Command::new(env!("CARGO_BIN_EXE_warm-node"))
            .args([&runtime, image])
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (ok, stdout) = warm(&pushed.reference);
    assert!(ok, "{stdout}");
    assert_eq!(stdout.trim(), format!("{} Cached", pushed.reference));

    let missing = format!("{}/app:2", registry.addr());
    let (ok, stdout) = warm(&missing);
    assert!(!ok, "{stdout}");
    assert!(stdout.starts_with(&format!("{missing} Failed")), "{stdout}");
}
