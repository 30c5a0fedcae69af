//! Version information, and unavailable runtimes.

use std::sync::Arc;
use std::time::Duration;

use fledged_core::error::{ErrorClass, Reason};
use fledged_core::port::{ImageRuntime, RemovalScope};
use fledged_tests::{FakeCri, Interface, SOON, poll_until};

use crate::cri_fake::{APP, image, pull, runtime_of};

#[tokio::test]
async fn info_is_that_of_the_runtime() {
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
        assert_eq!(error.reason, Reason::RuntimeUnsupported);
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
    assert_eq!(error.reason, Reason::RuntimeUnsupported);
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
async fn calls_work_again_after_a_restart() {
    let mut fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    fake.put(APP);
    assert_eq!(runtime.list().await.unwrap().len(), 1);

    fake.kill();
    let socket = fake.socket().display().to_string();
    for _ in 0..3 {
        let error = runtime.list().await.unwrap_err();
        assert_eq!(error.reason, Reason::RuntimeUnavailable, "{error}");
        assert_eq!(error.class(), ErrorClass::Retryable);
        assert!(error.to_string().contains(&socket), "{error}");
    }
    std::fs::remove_file(fake.socket()).unwrap();
    let error = runtime.info().await.unwrap_err();
    assert_eq!(error.reason, Reason::RuntimeUnavailable, "{error}");
    assert!(error.to_string().contains("No such file"), "{error}");

    fake.restart();
    assert_eq!(runtime.list().await.unwrap().len(), 1);
    pull(&runtime, "registry.example/other:1").await.unwrap();
}

#[tokio::test]
async fn a_runtime_that_starts_later_is_used() {
    let mut fake = FakeCri::start();
    fake.kill();
    let runtime = runtime_of(&fake);
    let error = runtime.info().await.unwrap_err();
    assert_eq!(error.reason, Reason::RuntimeUnavailable, "{error}");
    fake.restart();
    runtime.info().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_killed_during_a_pull_is_unavailable() {
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
    assert_eq!(error.reason, Reason::RuntimeUnavailable, "{error}");

    fake.release_pulls();
    fake.restart();
    // The client may not have noticed yet that its connection was closed.
    let found = async { while runtime.info().await.is_err() {} };
    tokio::time::timeout(SOON, found).await.unwrap();
    pull(&runtime, APP).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_have_a_time_limit_and_pulls_have_none() {
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
    fake.set_unresponsive(true);
    for error in [
        runtime.list().await.unwrap_err(),
        runtime.info().await.unwrap_err(),
        runtime.in_use().await.unwrap_err(),
        runtime.lookup(&image(APP)).await.unwrap_err(),
        runtime.remove(&image(APP)).await.unwrap_err(),
        runtime.filesystems().await.unwrap_err(),
    ] {
        assert_eq!(error.reason, Reason::RuntimeUnavailable, "{error}");
        assert!(error.message.ends_with("timed out after 0.2 s"), "{error}");
    }
    fake.set_unresponsive(false);
    fake.release_pulls();
    pulling.await.unwrap().unwrap();
}
