//! containerd that is killed, dropped pulls, and faulty registries.

use std::sync::Arc;
use std::time::Duration;

use fledged_core::error::Reason;
use fledged_core::port::ImageRuntime;
use fledged_cri::cri::CriRuntime;
use fledged_tests::{
    Containerd, Fault, FaultProxy, ImageBuilder, Registry, Rule, SOON, poll_until, require,
};

use crate::cri_containerd::{PARTS, image, pull};

#[tokio::test(flavor = "multi_thread")]
async fn containerd_killed_during_a_pull_is_used_again() {
    if !require(PARTS) {
        return;
    }
    let registry = Registry::start();
    let proxy = FaultProxy::start(registry.addr());
    let mut containerd = Containerd::start();
    let runtime = Arc::new(CriRuntime::connect(containerd.socket()));
    let pushed = ImageBuilder::new()
        .random_layer("data", 1, 256 * 1024)
        .push(&registry, "team/app", "1");
    let name = pushed.reference_at(proxy.addr());
    // The blobs stall, so that the pull is certainly running.
    proxy.add(Rule::new(Fault::Stall).path("/blobs/").always());
    let pulling = tokio::spawn({
        let (runtime, name) = (runtime.clone(), name.clone());
        async move { pull(&runtime, &name).await }
    });
    poll_until("a request for a blob", SOON, || {
        (!proxy.requests_matching("GET", "/blobs/").is_empty()).then_some(())
    });
    containerd.kill9();
    let error = pulling.await.unwrap().unwrap_err();
    assert_eq!(error.reason, Reason::RuntimeUnavailable, "{error}");
    let error = runtime.list().await.unwrap_err();
    assert_eq!(error.reason, Reason::RuntimeUnavailable, "{error}");

    proxy.clear();
    containerd.restart();
    let pulled = pull(&runtime, &name).await.unwrap();
    assert_eq!(pulled.digest, Some(pushed.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_after_a_dropped_one_succeeds() {
    if !require(PARTS) {
        return;
    }
    let registry = Registry::start();
    let proxy = FaultProxy::start(registry.addr());
    let containerd = Containerd::start();
    let runtime = CriRuntime::connect(containerd.socket());
    let pushed = ImageBuilder::new()
        .random_layer("data", 1, 256 * 1024)
        .push(&registry, "team/app", "1");
    let name = pushed.reference_at(proxy.addr());
    proxy.add(Rule::new(Fault::Stall).path("/blobs/").always());
    let deadline = Duration::from_secs(1);
    let pulled = tokio::time::timeout(deadline, pull(&runtime, &name)).await;
    assert!(pulled.is_err(), "{pulled:?}");
    assert!(runtime.lookup(&image(&name)).await.unwrap().is_none());
    poll_until("containerd to give the pull up", SOON, || {
        containerd.log().contains("context canceled").then_some(())
    });
    proxy.clear();
    pull(&runtime, &name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_registries_have_their_reasons() {
    if !require(PARTS) {
        return;
    }
    let registry = Registry::start();
    let proxy = FaultProxy::start(registry.addr());
    let containerd = Containerd::start();
    let runtime = CriRuntime::connect(containerd.socket());
    let pushed = ImageBuilder::new()
        .random_layer("data", 1, 256 * 1024)
        .push(&registry, "team/app", "1");
    let name = pushed.reference_at(proxy.addr());
    let layer = pushed.layers[0].to_string();
    for (rule, reason) in [
        (
            Rule::new(Fault::too_many_requests(7)).path("/manifests/"),
            Reason::TooManyRequests,
        ),
        (
            Rule::new(Fault::status(500)).path("/manifests/"),
            Reason::RegistryError,
        ),
        (
            Rule::new(Fault::status(503)).path(&layer),
            Reason::RegistryError,
        ),
        (
            Rule::new(Fault::Hangup).path("/manifests/"),
            Reason::ConnectionFailed,
        ),
        (
            Rule::new(Fault::CorruptAt(100)).path(&layer),
            Reason::DigestMismatch,
        ),
    ] {
        // Always, because containerd retries some of these itself.
        proxy.add(rule.clone().always());
        let error = pull(&runtime, &name).await.unwrap_err();
        assert_eq!(error.reason, reason, "{rule:?}: {error}");
        proxy.clear();
    }
    // What is left of the corrupt layer makes pulls fail until containerd has collected it, about a
    // second later.
    let deadline = tokio::time::Instant::now() + SOON;
    while let Err(error) = pull(&runtime, &name).await {
        assert_eq!(error.reason, Reason::DigestMismatch, "{error}");
        assert!(tokio::time::Instant::now() < deadline, "{error}");
    }
}
