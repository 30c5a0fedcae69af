//! `node run`: edits, drift, signals; and signals during apply.
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::support::{PATIENCE, Stage, Staying, command, eventually, fledged, manifest, text_of};

fn run(stage: &Stage, file: &str) -> Staying {
    let store = stage.store();
    Staying::start(
        &[
            "node",
            "run",
            "-f",
            file,
            "--runtime",
            &store,
            "--platform",
            "linux/amd64",
            "--inventory-interval",
            "1s",
        ],
        stage.folder.path().join("stderr"),
    )
}

#[test]
fn edits_of_every_kind_are_followed_and_bad_ones_are_not() {
    let stage = Stage::new();
    let [one, two, three] = stage.images.as_slice() else {
        panic!("three images")
    };
    let file = stage.write("images.yaml", &manifest(std::slice::from_ref(one)));
    let mut running = run(&stage, &file);
    running.wait_for(&format!("pulled {one}"));

    // In place.
    stage.write("images.yaml", &manifest(&[one.clone(), two.clone()]));
    running.wait_for(&format!("pulled {two}"));

    // A bad edit changes nothing.
    stage.write("images.yaml", &manifest(&["ngi nx".to_owned()]));
    running.wait_for("the last good manifests stay in force");
    assert!(running.said().contains("\"ngi nx\""), "{}", running.said());
    assert_eq!(stage.held().len(), 2);

    // An atomic rename; one image leaves.
    let new = stage.write("images.yaml.new", &manifest(&[two.clone(), three.clone()]));
    std::fs::rename(new, &file).unwrap();
    running.wait_for(&format!("pulled {three}"));
    running.wait_for(&format!("removed {one}"));
    let mut wanted = vec![two.clone(), three.clone()];
    wanted.sort();
    eventually("the store holds what the file names", || {
        stage.held() == wanted
    });

    running.signal("TERM");
    let (code, took) = running.end();
    assert_eq!(code, Some(0), "{}", running.said());
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(stage.held(), wanted, "the end removed images");
}

#[test]
fn a_config_map_is_followed_through_its_links() {
    let stage = Stage::new();
    let volume = stage.folder.path().join("volume");
    let version = |name: &str, images: &[String]| {
        let folder = volume.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("images.yaml"), manifest(images)).unwrap();
        // As the kubelet does it: ..data is replaced by a rename.
        let link = volume.join("..data_tmp");
        symlink(name, &link).unwrap();
        std::fs::rename(link, volume.join("..data")).unwrap();
    };
    version("..1", &stage.images[..1]);
    symlink("..data/images.yaml", volume.join("images.yaml")).unwrap();
    let mut running = run(&stage, &text_of(&volume.join("images.yaml")));
    running.wait_for(&format!("pulled {}", stage.images[0]));
    version("..2", &stage.images[..2]);
    std::fs::remove_dir_all(volume.join("..1")).unwrap();
    running.wait_for(&format!("pulled {}", stage.images[1]));
    running.signal("INT");
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn what_gets_lost_comes_back_and_what_others_placed_stays() {
    let stage = Stage::new();
    let store = stage.store();
    let others = stage.write("others.yaml", &manifest(&stage.images[2..]));
    let platform = ["--runtime", &store, "--platform", "linux/amd64"];
    fledged(&[&["node", "apply", "-f", &others], &platform[..]].concat()).expect_code(0);

    let file = stage.write("images.yaml", &manifest(&stage.images[..1]));
    let mut running = run(&stage, &file);
    let pulled = format!("pulled {}", stage.images[0]);
    running.wait_for(&pulled);
    fledged(&["node", "purge", "-f", &file, "--runtime", &store]).expect_code(0);
    running.wait_for(&format!("lost {}", stage.images[0]));
    eventually("it is pulled again", || {
        running.said().matches(&pulled).count() == 2
    });
    let mut held = vec![stage.images[0].clone(), stage.images[2].clone()];
    held.sort();
    assert_eq!(stage.held(), held);
}

#[test]
fn an_apply_that_is_interrupted_says_what_is_left() {
    let stage = Stage::new();
    let file = stage.write("images.yaml", &manifest(&stage.images));
    let store = stage.store();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut running = Staying::start(
            &[
                "node",
                "apply",
                "-v",
                "-f",
                &file,
                "--runtime",
                &store,
                "--platform",
                "linux/amd64",
                "--max-parallel-pulls",
                "1",
            ],
            stage.folder.path().join("stderr"),
        );
        running.wait_for("phase=Pulling");
        running.signal(signal);
        assert_eq!(running.end().0, Some(code), "{}", running.said());
        assert!(running.said().contains("left undone"), "{}", running.said());
        assert!(
            running.said().contains(&stage.images[2]),
            "{}",
            running.said()
        );
    }
    assert_eq!(stage.held(), Vec::<String>::new());
}

#[test]
fn a_refresh_asks_the_registry_again_and_readiness_is_told() {
    let stage = Stage::new();
    let text =
        manifest(&stage.images[..1]).replace("- images", "- imagePullPolicy: Always\n    images");
    let file = stage.write("images.yaml", &text);
    let socket = stage.folder.path().join("notify.sock");
    let notified = UnixDatagram::bind(&socket).unwrap();
    notified.set_read_timeout(Some(PATIENCE)).unwrap();
    let store = stage.store();
    let mut command = command(&[
        "node",
        "run",
        "-f",
        &file,
        "--runtime",
        &store,
        "--platform",
        "linux/amd64",
        "--image-cache-refresh-frequency",
        "1s",
    ]);
    command.env("NOTIFY_SOCKET", &socket);
    let mut running = Staying::spawn(&mut command, stage.folder.path().join("stderr"));
    let mut told = [0_u8; 256];
    let length = notified.recv(&mut told).unwrap();
    assert_eq!(&told[..length], b"READY=1\n");

    let pulled = format!("pulled {}", stage.images[0]);
    running.wait_for(&pulled);
    let bytes = stage.registry.traffic().bytes;
    let requests = stage.registry.traffic().requests;
    eventually("it is refreshed twice", || {
        running.said().matches(&pulled).count() >= 3
    });
    assert!(stage.registry.traffic().requests > requests);
    assert_eq!(
        stage.registry.traffic().bytes,
        bytes,
        "a refresh fetched layers again"
    );
    assert!(!running.said().contains("lost"), "{}", running.said());
    running.signal("TERM");
    assert_eq!(running.end().0, Some(0));
    let length = notified.recv(&mut told).unwrap();
    assert_eq!(&told[..length], b"STOPPING=1\n");
}

#[test]
fn a_runtime_that_is_not_there_is_waited_for() {
    let stage = Stage::new();
    let file = stage.write("images.yaml", &manifest(&stage.images));
    let uri = format!("unix://{}/none.sock", stage.folder.path().display());
    let mut running = Staying::start(
        &["node", "run", "-f", &file, "--runtime", &uri],
        stage.folder.path().join("stderr"),
    );
    running.wait_for("waiting for it");
    running.signal("TERM");
    let (code, took) = running.end();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(10), "{took:?}");
}
