//! Tests of the fixtures: each starts, works, and leaves no files, mounts or processes behind.
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fledged_tests::{
    Compression, Containerd, Dockerd, Fault, FaultProxy, Fledged, ImageBuilder, ImageIndexBuilder,
    Layer, Platform, Registry, Rule, SOON, http, images_with_shared_base, poll_until, require,
};
use hyper::Method;

fn get(addr: &str, path: &str, authorization: Option<&str>) -> Result<http::Response, String> {
    // Registries return an OCI manifest only to clients that accept its media type.
    let accept = [("accept", "application/vnd.oci.image.manifest.v1+json")];
    http::send(
        addr,
        Method::GET,
        path,
        &accept,
        authorization,
        Bytes::new(),
    )
}

/// Returns whether a process has `folder` in its arguments.
fn has_processes(folder: &Path) -> bool {
    let needle = folder.display().to_string();
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        std::fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&needle))
    })
}

fn assert_gone(folder: &Path) {
    assert!(!folder.exists(), "{} is still there", folder.display());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&*folder.to_string_lossy()), "{mounts}");
    poll_until("the fixture's processes to end", SOON, || {
        (!has_processes(folder)).then_some(())
    });
}

fn parent(path: PathBuf) -> PathBuf {
    path.parent().unwrap().to_owned()
}

#[test]
fn a_registry_accepts_images_and_logs_requests() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let pushed = ImageBuilder::new()
        .random_layer("data", 7, 100_000)
        .push(&registry, "team/app", "1.0");
    assert_eq!(
        pushed.reference,
        format!("{}/team/app:1.0", registry.addr())
    );
    let manifest = get(registry.addr(), "/v2/team/app/manifests/1.0", None).unwrap();
    assert_eq!(
        manifest.headers["docker-content-digest"],
        pushed.digest.as_str()
    );
    let layer = format!("/v2/team/app/blobs/{}", pushed.layers[0]);
    let blob = get(registry.addr(), &layer, None).unwrap();
    assert!(blob.body.len() > 100_000);
    let missing = get(registry.addr(), "/v2/team/app/manifests/2.0", None).unwrap();
    assert_eq!(missing.status, 404);

    let gets = registry.requests_matching("GET", "/v2/team/app/");
    let seen: Vec<(&str, u16)> = gets.iter().map(|r| (r.path.as_str(), r.status)).collect();
    assert_eq!(
        seen,
        [
            ("/v2/team/app/manifests/1.0", 200),
            (layer.as_str(), 200),
            ("/v2/team/app/manifests/2.0", 404)
        ]
    );

    registry.delete_manifest("team/app", pushed.digest.as_str());
    let deleted = get(registry.addr(), "/v2/team/app/manifests/1.0", None).unwrap();
    assert_eq!(deleted.status, 404);

    let folder = parent(registry.storage());
    drop(registry);
    assert_gone(&folder);
}

#[test]
fn a_registry_with_htpasswd_requires_the_password() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start_with_htpasswd("robot", "s3cret");
    ImageBuilder::new().push(&registry, "app", "1");
    let status = |authorization: Option<&str>| {
        get(registry.addr(), "/v2/app/manifests/1", authorization)
            .unwrap()
            .status
    };
    assert_eq!(status(None), 401);
    assert_eq!(status(Some(&http::basic("robot", "wrong"))), 401);
    assert_eq!(status(Some(&http::basic("robot", "s3cret"))), 200);
}

#[test]
fn images_are_reproducible() {
    let build = |seed| {
        ImageBuilder::new()
            .layer(Layer::random("x", seed, 50_000, Compression::Gzip))
            .layer(Layer::random("y", seed, 50_000, Compression::None))
            .build()
    };
    assert_eq!(build(1).digest(), build(1).digest());
    assert_ne!(build(1).digest(), build(2).digest());
    let labelled = ImageBuilder::new().label("a").build();
    let other = ImageBuilder::new().label("b").build();
    assert_ne!(labelled.config_digest(), other.config_digest());
}

#[test]
fn containerd_pulls_unpacks_and_survives_a_kill() {
    if !require(&["containerd", "ctr", "docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let index = ImageIndexBuilder::new()
        .image(ImageBuilder::new().platform(Platform::foreign()).build())
        .image(
            ImageBuilder::new()
                .files(&[("etc/motd", b"hello\n")])
                .random_layer("data", 3, 50_000)
                .build(),
        )
        .push(&registry, "multi", "1");
    let mut containerd = Containerd::start();
    assert_eq!(containerd.image_names(), Vec::<String>::new());
    let pull = ["images", "pull", "--plain-http", &index.reference];
    containerd.ctr(&pull);
    assert!(containerd.image_names().contains(&index.reference));
    let listed = containerd.ctr(&["images", "list"]);
    assert!(listed.contains(index.digest.as_str()), "{listed}");
    let snapshots = containerd.ctr(&["snapshots", "list"]);
    assert_eq!(snapshots.lines().count(), 3, "two layers: {snapshots}");

    let before = containerd.pid();
    containerd.kill9();
    let output = containerd.ctr_command(&["version"]).output().unwrap();
    assert!(!output.status.success());
    containerd.restart();
    assert_ne!(containerd.pid(), before);
    assert!(containerd.image_names().contains(&index.reference));

    containerd.remove_all_images();
    assert_eq!(containerd.image_names(), Vec::<String>::new());
    assert_eq!(containerd.ctr(&["content", "list", "--quiet"]), "");

    let folder = parent(containerd.socket());
    drop(containerd);
    assert_gone(&folder);
}

#[test]
fn images_share_their_base_layers() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let base = [Layer::random("base", 1, 20_000, Compression::Stored)];
    let pushed = images_with_shared_base(&registry, "app", 3, &base, 10_000);
    assert_eq!(pushed.len(), 3);
    assert!(pushed.iter().all(|p| p.layers.len() == 2));
    assert!(pushed.iter().all(|p| p.layers[0] == base[0].digest));
    assert_ne!(pushed[0].layers[1], pushed[1].layers[1]);
}

#[test]
fn docker_starts_answers_and_stops() {
    if !require(&["dockerd", "containerd", "runc"]) {
        return;
    }
    let mut docker = Dockerd::start();
    let folder = parent(docker.socket());
    assert!(std::os::unix::net::UnixStream::connect(docker.socket()).is_ok());
    docker.kill9();
    assert!(std::os::unix::net::UnixStream::connect(docker.socket()).is_err());
    docker.restart();
    assert!(std::os::unix::net::UnixStream::connect(docker.socket()).is_ok());
    docker.stop();
    assert!(std::os::unix::net::UnixStream::connect(docker.socket()).is_err());
    drop(docker);
    assert_gone(&folder);
}

#[test]
fn a_fixture_is_removed_when_its_test_panics() {
    if !require(&["containerd", "ctr"]) {
        return;
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let test = std::thread::spawn(move || {
        let containerd = Containerd::start();
        sender.send(parent(containerd.socket())).unwrap();
        panic!("this panic is part of the test");
    });
    assert!(test.join().is_err());
    assert_gone(&receiver.recv().unwrap());
}

#[test]
fn the_proxy_forwards_requests_without_a_rule() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start_with_htpasswd("robot", "s3cret");
    let pushed = ImageBuilder::new()
        .random_layer("data", 5, 200_000)
        .push(&registry, "app", "1");
    let proxy = FaultProxy::start(registry.addr());
    let auth = http::basic("robot", "s3cret");
    let manifest = get(proxy.addr(), "/v2/app/manifests/1", Some(&auth)).unwrap();
    assert_eq!(
        manifest.headers["docker-content-digest"],
        pushed.digest.as_str()
    );
    assert_eq!(
        get(proxy.addr(), "/v2/app/manifests/1", None)
            .unwrap()
            .status,
        401
    );
    let blob = format!("/v2/app/blobs/{}", pushed.layers[0]);
    let part = http::send(
        proxy.addr(),
        Method::GET,
        &blob,
        &[("range", "bytes=10-19")],
        Some(&auth),
        Bytes::new(),
    )
    .unwrap();
    assert_eq!((part.status.as_u16(), part.body.len()), (206, 10));
    let upload = http::send(
        proxy.addr(),
        Method::POST,
        "/v2/app/blobs/uploads/",
        &[],
        Some(&auth),
        Bytes::new(),
    )
    .unwrap();
    let location = upload.headers["location"].to_str().unwrap();
    assert!(location.contains(proxy.addr()), "{location}");

    let seen = proxy.requests();
    assert_eq!(seen.len(), 4);
    assert!(seen[0].authorized && !seen[1].authorized);
    assert_eq!(seen[2].range.as_deref(), Some("bytes=10-19"));
    assert_eq!(seen[2].status, Some(206));
    assert!(seen.windows(2).all(|pair| pair[0].at <= pair[1].at));
}

#[test]
fn the_proxy_injects_every_kind_of_fault() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let pushed = ImageBuilder::new()
        .random_layer("data", 5, 200_000)
        .push(&registry, "app", "1");
    let path = format!("/v2/app/blobs/{}", pushed.layers[0]);
    let good = get(registry.addr(), &path, None).unwrap().body;
    let proxy = FaultProxy::start(registry.addr());
    let blob = || get(proxy.addr(), &path, None);

    proxy.add(Rule::new(Fault::too_many_requests(7)).path("/blobs/"));
    let refused = blob().unwrap();
    assert_eq!(refused.status, 429);
    assert_eq!(refused.headers["retry-after"], "7");
    assert_eq!(blob().unwrap().body, good, "a rule applies once");

    proxy.add(Rule::new(Fault::status(500)).times(2));
    assert_eq!(blob().unwrap().status, 500);
    assert_eq!(blob().unwrap().status, 500);
    assert_eq!(blob().unwrap().status, 200);

    proxy.add(Rule::new(Fault::Hangup));
    assert!(blob().is_err());

    proxy.add(Rule::new(Fault::CutAfter(1000)).method("GET"));
    assert!(blob().is_err());
    let cut = proxy.wait_for("the cut", |r| {
        r.fault == Some(Fault::CutAfter(1000)) && r.finished
    });
    assert_eq!((cut.status, cut.sent), (Some(200), 1000));

    proxy.add(Rule::new(Fault::CorruptAt(123_456)));
    let corrupt = blob().unwrap().body;
    let differing: Vec<usize> = (0..good.len()).filter(|&i| good[i] != corrupt[i]).collect();
    assert_eq!(differing, [123_456]);

    let throttle = Fault::Throttle {
        bytes_per_second: 400_000,
    };
    proxy.add(Rule::new(throttle).always());
    let start = Instant::now();
    assert_eq!(blob().unwrap().body, good);
    assert!(start.elapsed() > Duration::from_millis(450));
    proxy.clear();

    proxy.add(Rule::new(Fault::StallAfter(1000)));
    let mut client = TcpStream::connect(proxy.addr()).unwrap();
    write!(client, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let stalled = |finished| {
        proxy.wait_for("the stall", move |r| {
            r.fault == Some(Fault::StallAfter(1000)) && r.sent == 1000 && r.finished == finished
        })
    };
    stalled(false);
    client.shutdown(std::net::Shutdown::Both).unwrap();
    stalled(true);
    assert!(proxy.peak_downloads() >= 1);
}

#[test]
fn fledged_runs_with_captured_output() {
    let output = Fledged::new().arg("--version").run();
    assert_eq!(output.code, Some(0), "{output}");
    assert!(output.stdout.starts_with("fledged "), "{output}");
    let output = Fledged::new().arg("--no-such-flag").run();
    assert_eq!(output.code, Some(2), "{output}");
    assert!(output.stderr.contains("--no-such-flag"), "{output}");
}
