//! The demo needs nothing and leaves nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use support::{Run, command};

#[test]
fn the_demo_shows_every_act_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::from(
        command(&["demo"])
            .env("TMPDIR", folder.path())
            .output()
            .unwrap(),
    )
    .expect_code(0)
    .says(&[
        "A registry is up on 127.0.0.1:",
        "pulled 127.0.0.1:",
        "each layer once",
        "3 of 3 images there already, 0 requests to the registry",
        "lost 127.0.0.1:",
        "It is back",
        "Done: 3 images",
    ]);
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "{}",
        run.stderr
    );
}

#[test]
fn the_demo_keeps_its_images_when_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::from(
        command(&["demo", "--keep"])
            .env("TMPDIR", folder.path())
            .output()
            .unwrap(),
    )
    .expect_code(0);
    let kept = std::fs::read_dir(folder.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    assert!(kept.join("oci-layout").is_file(), "{}", run.stderr);
    let listed = Run::from(
        command(&[
            "node",
            "list",
            "--runtime",
            &format!("oci:{}", kept.display()),
        ])
        .output()
        .unwrap(),
    )
    .expect_code(0);
    assert_eq!(
        listed.stdout.matches("demo/").count(),
        3,
        "{}",
        listed.stdout
    );
}
