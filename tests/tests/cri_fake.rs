//! `CriRuntime` against a fake runtime: what a real one can't be made to do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::error::{ErrorClass, Reason, RuntimeError};
use fledged_core::model::{ByteSize, ImageRef};
use fledged_core::ports::{
    ImageId, ImageRuntime, PullRequest, RegistryAuth, Removal, RemovalScope, RuntimeImage,
};
use fledged_cri::cri::CriRuntime;
use fledged_tests::{
    Code, CriRequest, FakeContainer, FakeCri, FakeImage, Interface, SOON, SentAuth, poll_until,
};

const APP: &str = "registry.example/team/app:1.2";

fn runtime_of(fake: &FakeCri) -> CriRuntime {
    CriRuntime::connect(fake.socket())
}

fn image(text: &str) -> ImageRef {
    ImageRef::parse(text).unwrap()
}

async fn pull(runtime: &CriRuntime, name: &str) -> Result<RuntimeImage, RuntimeError> {
    runtime.pull(PullRequest::new(image(name))).await
}

fn pulls(fake: &FakeCri) -> Vec<CriRequest> {
    let mut requests = fake.requests();
    requests.retain(|request| matches!(request, CriRequest::PullImage { .. }));
    requests
}

fn removals(fake: &FakeCri) -> Vec<CriRequest> {
    let mut requests = fake.requests();
    requests.retain(|request| matches!(request, CriRequest::RemoveImage(_)));
    requests
}

#[tokio::test]
async fn info_is_the_runtimes_own() {
    let fake = FakeCri::start();
    let info = runtime_of(&fake).info().await.unwrap();
    assert_eq!((&*info.name, &*info.version), ("fake", "1.5.9"));
    assert_eq!(info.api_version, "v1");
    assert_eq!(info.removal, RemovalScope::Image);
}

#[tokio::test]
async fn a_runtime_with_v1alpha2_only_is_unsupported_and_named() {
    let fake = FakeCri::start();
    fake.serve(Interface::V1Alpha2);
    let runtime = runtime_of(&fake);
    let socket = fake.socket().display().to_string();
    for error in [
        runtime.info().await.unwrap_err(),
        runtime.list().await.unwrap_err(),
        pull(&runtime, APP).await.unwrap_err(),
    ] {
        assert_eq!(error.reason(), Reason::RuntimeUnsupported);
        assert_eq!(error.class(), ErrorClass::Fatal);
        let text = error.to_string();
        for words in [
            &*socket,
            "fake 1.5.9",
            "only CRI v1alpha2",
            "CRI v1 is needed",
            "containerd 1.6",
            "CRI-O 1.20",
        ] {
            assert!(text.contains(words), "{words} is not in: {text}");
        }
    }
}

#[tokio::test]
async fn a_disabled_cri_plugin_is_named() {
    let fake = FakeCri::start();
    fake.serve(Interface::None);
    let error = runtime_of(&fake).info().await.unwrap_err();
    assert_eq!(error.reason(), Reason::RuntimeUnsupported);
    let text = error.to_string();
    assert!(text.contains("disabled_plugins"), "{text}");
    assert!(text.contains(&*fake.socket().to_string_lossy()), "{text}");
}

#[tokio::test]
async fn a_runtime_that_is_upgraded_is_used_at_once() {
    let fake = FakeCri::start();
    fake.serve(Interface::V1Alpha2);
    let runtime = runtime_of(&fake);
    runtime.list().await.unwrap_err();
    fake.serve(Interface::V1);
    fake.put(APP);
    assert_eq!(runtime.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_pull_tells_what_came() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    let pulled = pull(&runtime, "nginx").await.unwrap();
    let stored = &fake.images()[0];
    assert_eq!(pulled.id, ImageId(stored.id.clone()));
    assert!(pulled.references.contains(&image("nginx:latest")));
    assert!(pulled.references.contains(&image(&stored.digests[0])));
    assert!(stored.digests[0].ends_with(pulled.digest.unwrap().as_str()));
    assert_eq!(pulled.size, ByteSize::new(stored.size));
    assert!(!pulled.pinned);
    assert_eq!(
        pulls(&fake),
        [CriRequest::PullImage {
            image: "docker.io/library/nginx:latest".to_owned(),
            auth: None,
        }]
    );
}

#[tokio::test]
async fn a_digest_reference_is_among_the_names_of_what_came() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    let digest = format!("sha256:{}", "ab".repeat(32));
    // Beside a digest, a tag decides nothing.
    let name = format!("registry.example/app:1@{digest}");
    let pulled = pull(&runtime, &name).await.unwrap();
    assert!(pulled.references.contains(&image(&name)));
    assert_eq!(pulled.digest.unwrap().as_str(), digest);
    assert!(runtime.lookup(&image(&name)).await.unwrap().is_some());
}

#[tokio::test]
async fn credentials_go_to_the_runtime_and_nowhere_else() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    let cases = [
        (
            RegistryAuth::Basic {
                username: "ann".to_owned(),
                password: "hunter2".into(),
            },
            SentAuth {
                username: "ann".to_owned(),
                password: "hunter2".to_owned(),
                ..SentAuth::default()
            },
        ),
        (
            RegistryAuth::IdentityToken("hunter2".into()),
            SentAuth {
                identity_token: "hunter2".to_owned(),
                ..SentAuth::default()
            },
        ),
        (
            RegistryAuth::RegistryToken("hunter2".into()),
            SentAuth {
                registry_token: "hunter2".to_owned(),
                ..SentAuth::default()
            },
        ),
    ];
    for (auth, sent) in cases {
        fake.clear_requests();
        // A runtime that quotes what it was given, in the clear and as a header.
        let quoted =
            "GET https://ann:hunter2@r/ with hunter2, Basic YW5uOmh1bnRlcjI=: 401 Unauthorized";
        fake.fail_pulls(1, Code::Unknown, quoted);
        let request = PullRequest {
            auth: Some(auth.clone()),
            ..PullRequest::new(image(APP))
        };
        let error = runtime.pull(request).await.unwrap_err();
        assert_eq!(error.reason(), Reason::Unauthorized);
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("401 Unauthorized"), "{shown}");
        if matches!(auth, RegistryAuth::Basic { .. }) {
            assert!(!shown.contains("YW5uOmh1bnRlcjI"), "{shown}");
        }
        assert_eq!(
            pulls(&fake),
            [CriRequest::PullImage {
                image: APP.to_owned(),
                auth: Some(sent),
            }]
        );
    }
}

#[tokio::test]
async fn every_class_of_error_is_told_apart_with_the_runtimes_own_text() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    let reference = "failed to pull and unpack image \"registry.example/team/app:1.2\": ";
    for (code, text, reason) in [
        (
            Code::Unknown,
            "failed to extract layer sha256:1: write /var/lib/x: no space left on device: unknown",
            Reason::DiskFull,
        ),
        (
            Code::ResourceExhausted,
            "no space left on device",
            Reason::DiskFull,
        ),
        (
            Code::Unknown,
            "unexpected status code [manifests 1.2]: 401 Unauthorized",
            Reason::Unauthorized,
        ),
        (
            Code::Unknown,
            "pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials",
            Reason::Unauthorized,
        ),
        (Code::Unauthenticated, "something new", Reason::Unauthorized),
        (
            Code::NotFound,
            "failed to resolve reference: registry.example/team/app:1.2: not found",
            Reason::ImageNotFound,
        ),
        (
            Code::NotFound,
            "no match for platform in manifest: not found",
            Reason::PlatformNotFound,
        ),
        (
            Code::Unknown,
            "unexpected status code https://registry.example/v2/: 429 Too Many Requests - Server message: retry-after: 30s",
            Reason::TooManyRequests,
        ),
        (
            Code::Unavailable,
            "unexpected status from HEAD request to https://registry.example/v2/: 503 Service Unavailable",
            Reason::RegistryError,
        ),
        (
            Code::Unknown,
            "dial tcp 10.0.0.1:4040: connect: connection refused",
            Reason::ConnectionFailed,
        ),
        (
            Code::FailedPrecondition,
            "unexpected commit digest sha256:1, expected sha256:2: failed precondition",
            Reason::DigestMismatch,
        ),
        (Code::DeadlineExceeded, "too slow", Reason::DeadlineExceeded),
        (
            Code::Unavailable,
            "server is not initialized yet",
            Reason::RuntimeUnavailable,
        ),
        (
            Code::InvalidArgument,
            "invalid reference format",
            Reason::InvalidReference,
        ),
        (Code::Unknown, "gzip: invalid header", Reason::InvalidImage),
        (Code::Internal, "something new", Reason::Unknown),
    ] {
        let text = format!("{reference}{text}");
        fake.fail_pulls(1, code, &text);
        let error = pull(&runtime, APP).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{code:?} {text}");
        assert_eq!(error.failure().message, text);
        assert!(
            error
                .to_string()
                .starts_with(&format!("cannot pull {APP}: "))
        );
        let delay = (reason == Reason::TooManyRequests).then_some(Duration::from_secs(30));
        assert_eq!(error.failure().retry_after, delay);
    }
    // Told failures are over: the next pull succeeds.
    pull(&runtime, APP).await.unwrap();
}

#[tokio::test]
async fn success_without_an_image_is_a_failure() {
    let fake = FakeCri::start();
    fake.forget_pulls(true);
    let error = pull(&runtime_of(&fake), APP).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Unknown);
    assert!(error.to_string().contains("does not hold"), "{error}");
}

#[tokio::test]
async fn lookup_is_exact() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    fake.put("registry.example/team/app:1.21");
    assert!(runtime.lookup(&image(APP)).await.unwrap().is_none());
    // A runtime that takes one name for another: the image it gives does not carry that name.
    fake.put_image(FakeImage {
        id: APP.to_owned(),
        ..FakeImage::named("docker.io/team/app:1.2")
    });
    assert!(runtime.lookup(&image(APP)).await.unwrap().is_none());
    fake.remove_all_images();
    fake.put(APP);
    assert!(runtime.lookup(&image(APP)).await.unwrap().is_some());
}

/// A container for each way in which runtimes name its image.
fn users_of(used: &FakeImage) -> Vec<FakeContainer> {
    let container = |name: &str| FakeContainer {
        id: "f00d".repeat(16),
        name: name.to_owned(),
        ..FakeContainer::default()
    };
    vec![
        FakeContainer {
            image_id: used.id.clone(),
            image_ref: "registry.example/other:1".to_owned(),
            ..container("by-image-id")
        },
        FakeContainer {
            image_ref: used.id.clone(),
            ..container("by-id")
        },
        FakeContainer {
            image_ref: used.digests[0].clone(),
            ..container("by-digest")
        },
        FakeContainer {
            image: used.tags[0].clone(),
            ..container("by-tag")
        },
    ]
}

#[tokio::test]
async fn an_image_in_use_is_reported_and_kept() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    let used = fake.put(APP);
    let other = fake.put("registry.example/other:1");
    for container in users_of(&used) {
        let name = container.name.clone();
        fake.remove_all_containers();
        fake.put_container(container);
        assert_eq!(
            runtime.in_use().await.unwrap(),
            [ImageId(used.id.clone())],
            "{name}"
        );
        let removal = runtime.remove(&image(APP)).await.unwrap();
        assert!(
            matches!(&removal, Removal::InUse(who) if who.contains(&name)),
            "{name}: {removal:?}"
        );
        assert!(fake.holds(APP), "{name}");
    }
    assert_eq!(removals(&fake), []);
    // What no container uses goes all the same.
    let name = image(&other.tags[0]);
    assert_eq!(runtime.remove(&name).await.unwrap(), Removal::Removed);
    assert!(!fake.holds(&other.id) && fake.holds(APP));
}

#[tokio::test]
async fn an_image_goes_by_its_id_once_no_container_uses_it() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    let used = fake.put(APP);
    fake.use_image(&used.id);
    let removal = runtime.remove(&image(APP)).await.unwrap();
    assert_eq!(
        removal,
        Removal::InUse("container user (c0ffeec0ffeec)".to_owned())
    );
    fake.remove_all_containers();
    fake.clear_requests();
    assert_eq!(runtime.remove(&image(APP)).await.unwrap(), Removal::Removed);
    assert_eq!(removals(&fake), [CriRequest::RemoveImage(used.id)]);
    // Containers were asked for right before.
    let requests = fake.requests();
    assert_eq!(requests[requests.len() - 2], CriRequest::ListContainers);
    assert_eq!(runtime.remove(&image(APP)).await.unwrap(), Removal::Absent);
}

#[tokio::test]
async fn a_removal_that_the_runtime_refuses_is_in_use_or_an_error() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    fake.put(APP);
    let refusal = "unable to delete image: image is in use by a container";
    fake.fail_removals(1, Code::Unknown, refusal);
    let removal = runtime.remove(&image(APP)).await.unwrap();
    assert_eq!(removal, Removal::InUse(refusal.to_owned()));

    fake.fail_removals(1, Code::Internal, "database is broken");
    let error = runtime.remove(&image(APP)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot remove {APP}: database is broken")
    );
    // Somebody else was faster.
    fake.fail_removals(1, Code::NotFound, "no such image");
    assert_eq!(runtime.remove(&image(APP)).await.unwrap(), Removal::Removed);
}

#[tokio::test]
async fn a_pinned_image_is_read_back_and_kept() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    fake.put(APP);
    fake.set_pinned(APP, true);
    assert!(runtime.list().await.unwrap()[0].pinned);
    let error = runtime.remove(&image(APP)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Pinned);
    assert_eq!(removals(&fake), []);
    fake.set_pinned(APP, false);
    assert_eq!(runtime.remove(&image(APP)).await.unwrap(), Removal::Removed);
}

#[tokio::test]
async fn the_runtime_may_come_and_go() {
    let mut fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    fake.put(APP);
    assert_eq!(runtime.list().await.unwrap().len(), 1);

    fake.kill();
    let socket = fake.socket().display().to_string();
    for _ in 0..3 {
        let error = runtime.list().await.unwrap_err();
        assert_eq!(error.reason(), Reason::RuntimeUnavailable, "{error}");
        assert_eq!(error.class(), ErrorClass::Retryable);
        assert!(error.to_string().contains(&socket), "{error}");
    }
    std::fs::remove_file(fake.socket()).unwrap();
    let error = runtime.info().await.unwrap_err();
    assert_eq!(error.reason(), Reason::RuntimeUnavailable, "{error}");
    assert!(error.to_string().contains("No such file"), "{error}");

    fake.restart();
    assert_eq!(runtime.list().await.unwrap().len(), 1);
    pull(&runtime, "registry.example/other:1").await.unwrap();
}

#[tokio::test]
async fn a_runtime_that_is_not_there_yet_is_found_when_it_comes() {
    let mut fake = FakeCri::start();
    fake.kill();
    let runtime = runtime_of(&fake);
    let error = runtime.info().await.unwrap_err();
    assert_eq!(error.reason(), Reason::RuntimeUnavailable, "{error}");
    fake.restart();
    runtime.info().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_killed_in_the_middle_of_a_pull_is_unavailable() {
    let mut fake = FakeCri::start();
    fake.hold_pulls();
    let runtime = Arc::new(runtime_of(&fake));
    let pulling = tokio::spawn({
        let runtime = runtime.clone();
        async move { pull(&runtime, APP).await }
    });
    poll_until("the pull to begin", SOON, || {
        (fake.pulls_running() == 1).then_some(())
    });
    fake.kill();
    let error = pulling.await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Reason::RuntimeUnavailable, "{error}");

    fake.release_pulls();
    fake.restart();
    pull(&runtime, APP).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_pull_cancels_it_in_the_runtime() {
    let fake = FakeCri::start();
    fake.hold_pulls();
    let runtime = Arc::new(runtime_of(&fake));
    let pulling = tokio::spawn({
        let runtime = runtime.clone();
        async move { pull(&runtime, APP).await }
    });
    poll_until("the pull to begin", SOON, || {
        (fake.pulls_running() == 1).then_some(())
    });
    pulling.abort();
    assert!(pulling.await.unwrap_err().is_cancelled());
    poll_until("the runtime to see the pull cancelled", SOON, || {
        (fake.pulls_cancelled() == 1 && fake.pulls_running() == 0).then_some(())
    });
    // The connection itself is fine.
    assert!(runtime.list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_run_side_by_side() {
    let fake = FakeCri::start();
    fake.hold_pulls();
    let runtime = Arc::new(runtime_of(&fake));
    let pulling: Vec<_> = (0..8)
        .map(|i| {
            let runtime = runtime.clone();
            tokio::spawn(async move { pull(&runtime, &format!("r.example/app:{i}")).await })
        })
        .collect();
    poll_until("eight pulls at once", SOON, || {
        (fake.pulls_running() == 8).then_some(())
    });
    fake.release_pulls();
    for pull in pulling {
        pull.await.unwrap().unwrap();
    }
    assert_eq!(fake.pulls_cancelled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_runtime_is_given_up_but_a_pull_is_not() {
    let fake = FakeCri::start();
    fake.hold_pulls();
    let runtime = runtime_of(&fake).with_request_timeout(Duration::from_millis(200));
    let runtime = Arc::new(runtime);
    let pulling = tokio::spawn({
        let runtime = runtime.clone();
        async move { pull(&runtime, APP).await }
    });
    poll_until("the pull to begin", SOON, || {
        (fake.pulls_running() == 1).then_some(())
    });
    fake.set_silent(true);
    for error in [
        runtime.list().await.unwrap_err(),
        runtime.info().await.unwrap_err(),
        runtime.in_use().await.unwrap_err(),
        runtime.lookup(&image(APP)).await.unwrap_err(),
        runtime.remove(&image(APP)).await.unwrap_err(),
        runtime.filesystems().await.unwrap_err(),
    ] {
        assert_eq!(error.reason(), Reason::RuntimeUnavailable, "{error}");
        assert!(error.to_string().contains("0.2 seconds"), "{error}");
    }
    fake.set_silent(false);
    fake.release_pulls();
    pulling.await.unwrap().unwrap();
}

/// Images whose list takes more than that many bytes, most of it in names that are no references.
fn fill(fake: &FakeCri, bytes: usize) -> usize {
    const NAME: usize = 10 * 1024;
    let images = bytes / NAME + 1;
    for i in 0..images {
        let mut image = FakeImage::named(&format!("registry.example/app:{i}"));
        image.tags.push(format!("<none>:{}", "a".repeat(NAME)));
        fake.put_image(image);
    }
    images
}

#[tokio::test]
async fn a_list_above_grpcs_own_limit_is_read() {
    let fake = FakeCri::start();
    let images = fill(&fake, 5 * 1024 * 1024);
    let list = runtime_of(&fake).list().await.unwrap();
    assert_eq!(list.len(), images);
    assert_eq!(list[0].references.len(), 2);
}

#[tokio::test]
async fn a_list_above_the_limit_is_refused_and_its_stream_is_read() {
    let fake = FakeCri::start();
    let images = fill(&fake, 17 * 1024 * 1024);
    let error = runtime_of(&fake).list().await.unwrap_err();
    assert!(error.to_string().contains("16777216"), "{error}");

    fake.serve(Interface::V1Streaming);
    fake.clear_requests();
    let list = runtime_of(&fake).list().await.unwrap();
    assert_eq!(list.len(), images);
    assert_eq!(fake.requests(), [CriRequest::StreamImages]);
}

#[tokio::test]
async fn a_runtime_without_streams_is_asked_for_one_once() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    fake.put(APP);
    for _ in 0..3 {
        assert_eq!(runtime.list().await.unwrap().len(), 1);
    }
    assert_eq!(fake.requests(), vec![CriRequest::ListImages; 3]);
}

#[tokio::test]
async fn file_systems_tell_what_is_left_where_it_can_be_seen() {
    let fake = FakeCri::start();
    let folder = tempfile::tempdir().unwrap();
    fake.put_filesystem(folder.path(), 1_000_000);
    fake.put_filesystem(Path::new("/nowhere/on/this/machine"), 7);
    let filesystems = runtime_of(&fake).filesystems().await.unwrap();
    assert_eq!(filesystems[0].path, folder.path().display().to_string());
    assert_eq!(filesystems[0].used, ByteSize::new(1_000_000));
    assert!(filesystems[0].available.unwrap() > ByteSize::ZERO);
    assert_eq!(filesystems[1].used, ByteSize::new(7));
    assert_eq!(filesystems[1].available, None);
}

#[tokio::test]
async fn an_image_without_names_is_listed_by_its_id() {
    let fake = FakeCri::start();
    fake.put_image(FakeImage {
        id: "1".repeat(64),
        tags: vec!["<none>:<none>".to_owned()],
        digests: vec!["<none>@<none>".to_owned()],
        ..FakeImage::default()
    });
    let list = runtime_of(&fake).list().await.unwrap();
    assert_eq!(list[0].id, ImageId("1".repeat(64)));
    assert!(list[0].references.is_empty() && list[0].digest.is_none());
}
