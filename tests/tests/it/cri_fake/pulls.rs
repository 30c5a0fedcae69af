//! Pulls: requests, results and failures.

use std::sync::Arc;
use std::time::Duration;

use fledged_core::error::Reason;
use fledged_core::model::ByteSize;
use fledged_core::port::{ImageId, ImageRuntime, PullRequest, RegistryAuth};
use fledged_tests::{Code, CriRequest, FakeCri, SOON, SentAuth, poll_until};

use crate::cri_fake::{APP, image, pull, pulls, runtime_of};

#[tokio::test]
async fn a_pull_returns_the_image() {
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
async fn a_pulled_image_has_its_digest_reference() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    let digest = format!("sha256:{}", "ab".repeat(32));
    // The tag beside a digest is ignored.
    let name = format!("registry.example/app:1@{digest}");
    let pulled = pull(&runtime, &name).await.unwrap();
    assert!(pulled.references.contains(&image(&name)));
    assert_eq!(pulled.digest.unwrap().as_str(), digest);
    assert!(runtime.lookup(&image(&name)).await.unwrap().is_some());
}

#[tokio::test]
async fn credentials_go_only_to_the_runtime() {
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
        // A runtime that repeats the credentials, in plain text and as a header.
        let quoted =
            "GET https://ann:hunter2@r/ with hunter2, Basic YW5uOmh1bnRlcjI=: 401 Unauthorized";
        fake.fail_pulls(1, Code::Unknown, quoted);
        let request = PullRequest::new(image(APP)).with_auth(auth.clone());
        let error = runtime.pull(request).await.unwrap_err();
        assert_eq!(error.reason, Reason::Unauthorized);
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
async fn errors_are_classified_and_keep_their_text() {
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
        assert_eq!(error.reason, reason, "{code:?} {text}");
        assert_eq!(error.message, text);
        let delay = (reason == Reason::TooManyRequests).then_some(Duration::from_secs(30));
        assert_eq!(error.retry_after, delay);
    }
    // No failure is left: the next pull succeeds.
    pull(&runtime, APP).await.unwrap();
}

#[tokio::test]
async fn success_without_an_image_is_a_failure() {
    let fake = FakeCri::start();
    fake.forget_pulls(true);
    let error = pull(&runtime_of(&fake), APP).await.unwrap_err();
    assert_eq!(error.reason, Reason::Unknown);
    assert!(error.to_string().contains("does not hold"), "{error}");
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
    // The connection still works.
    assert!(runtime.list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_run_in_parallel() {
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
