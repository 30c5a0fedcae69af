//! `node run`: edits, drift, signals; and signals during apply.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::support::{
    RunningProgram, TIMEOUT, TestBed, command, eventually, fledged, manifest, text_of,
};

fn run(bed: &TestBed, file: &str) -> RunningProgram {
    let store = bed.store();
    RunningProgram::start(
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
        bed.folder.path().join("stderr"),
    )
}

#[test]
fn valid_edits_are_followed() {
    let bed = TestBed::new();
    let [one, two, three] = bed.images.as_slice() else {
        panic!("three images")
    };
    let file = bed.write("images.yaml", &manifest(std::slice::from_ref(one)));
    let mut running = run(&bed, &file);
    running.wait_for(&format!("pulled {one}"));

    // In place.
    bed.write("images.yaml", &manifest(&[one.clone(), two.clone()]));
    running.wait_for(&format!("pulled {two}"));

    // An invalid edit changes nothing.
    bed.write("images.yaml", &manifest(&["ngi nx".to_owned()]));
    running.wait_for("the last valid manifests stay in effect");
    assert!(
        running.output().contains("\"ngi nx\""),
        "{}",
        running.output()
    );
    assert_eq!(bed.stored().len(), 2);

    // An atomic rename; one image leaves.
    let new = bed.write("images.yaml.new", &manifest(&[two.clone(), three.clone()]));
    std::fs::rename(new, &file).unwrap();
    running.wait_for(&format!("pulled {three}"));
    running.wait_for(&format!("removed {one}"));
    let mut wanted = vec![two.clone(), three.clone()];
    wanted.sort();
    eventually("the store to contain the images of the file", || {
        bed.stored() == wanted
    });

    running.signal("TERM");
    let (code, took) = running.end();
    assert_eq!(code, Some(0), "{}", running.output());
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(bed.stored(), wanted, "shutdown removed images");
}

#[test]
fn edits_of_a_config_map_volume_are_followed() {
    let bed = TestBed::new();
    let volume = bed.folder.path().join("volume");
    let version = |name: &str, images: &[String]| {
        let folder = volume.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("images.yaml"), manifest(images)).unwrap();
        // The kubelet replaces ..data by a rename.
        let link = volume.join("..data_tmp");
        symlink(name, &link).unwrap();
        std::fs::rename(link, volume.join("..data")).unwrap();
    };
    version("..1", &bed.images[..1]);
    symlink("..data/images.yaml", volume.join("images.yaml")).unwrap();
    let mut running = run(&bed, &text_of(&volume.join("images.yaml")));
    running.wait_for(&format!("pulled {}", bed.images[0]));
    version("..2", &bed.images[..2]);
    std::fs::remove_dir_all(volume.join("..1")).unwrap();
    running.wait_for(&format!("pulled {}", bed.images[1]));
    running.signal("INT");
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn lost_images_are_pulled_again_and_others_are_kept() {
    let bed = TestBed::new();
    let store = bed.store();
    let others = bed.write("others.yaml", &manifest(&bed.images[2..]));
    let platform = ["--runtime", &store, "--platform", "linux/amd64"];
    fledged(&[&["node", "apply", "-f", &others], &platform[..]].concat()).expect_code(0);

    let file = bed.write("images.yaml", &manifest(&bed.images[..1]));
    let mut running = run(&bed, &file);
    let pulled = format!("pulled {}", bed.images[0]);
    running.wait_for(&pulled);
    fledged(&["node", "purge", "-f", &file, "--runtime", &store]).expect_code(0);
    running.wait_for(&format!("lost {}", bed.images[0]));
    eventually("the image to be pulled again", || {
        running.output().matches(&pulled).count() == 2
    });
    let mut held = vec![bed.images[0].clone(), bed.images[2].clone()];
    held.sort();
    assert_eq!(bed.stored(), held);
}

#[test]
fn an_interrupted_apply_lists_unfinished_images() {
    let bed = TestBed::new();
    let file = bed.write("images.yaml", &manifest(&bed.images));
    let store = bed.store();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut running = RunningProgram::start(
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
            bed.folder.path().join("stderr"),
        );
        running.wait_for("phase=Pulling");
        running.signal(signal);
        assert_eq!(running.end().0, Some(code), "{}", running.output());
        assert!(
            running.output().contains("not completed"),
            "{}",
            running.output()
        );
        assert!(
            running.output().contains(&bed.images[2]),
            "{}",
            running.output()
        );
    }
    assert_eq!(bed.stored(), Vec::<String>::new());
}

#[test]
fn refreshes_pull_again_and_systemd_is_notified() {
    let bed = TestBed::new();
    let text =
        manifest(&bed.images[..1]).replace("- images", "- imagePullPolicy: Always\n    images");
    let file = bed.write("images.yaml", &text);
    let socket = bed.folder.path().join("notify.sock");
    let notified = UnixDatagram::bind(&socket).unwrap();
    notified.set_read_timeout(Some(TIMEOUT)).unwrap();
    let store = bed.store();
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
    let mut running = RunningProgram::spawn(&mut command, bed.folder.path().join("stderr"));
    let mut message = [0_u8; 256];
    let length = notified.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"READY=1\n");

    let pulled = format!("pulled {}", bed.images[0]);
    running.wait_for(&pulled);
    let bytes = bed.registry.traffic().bytes;
    let requests = bed.registry.traffic().requests;
    eventually("two refreshes", || {
        running.output().matches(&pulled).count() >= 3
    });
    assert!(bed.registry.traffic().requests > requests);
    assert_eq!(
        bed.registry.traffic().bytes,
        bytes,
        "a refresh downloaded layers"
    );
    assert!(!running.output().contains("lost"), "{}", running.output());
    running.signal("TERM");
    assert_eq!(running.end().0, Some(0));
    let length = notified.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"STOPPING=1\n");
}

#[test]
fn run_waits_for_a_missing_runtime() {
    let bed = TestBed::new();
    let file = bed.write("images.yaml", &manifest(&bed.images));
    let uri = format!("unix://{}/none.sock", bed.folder.path().display());
    let mut running = RunningProgram::start(
        &["node", "run", "-f", &file, "--runtime", &uri],
        bed.folder.path().join("stderr"),
    );
    running.wait_for("waiting for it");
    running.signal("TERM");
    let (code, took) = running.end();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(10), "{took:?}");
}
