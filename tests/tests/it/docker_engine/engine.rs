//! The Engine: unavailable, restarted, version and disk usage.

use std::sync::Arc;

use fledged_core::error::Reason;
use fledged_core::port::{ImageRuntime, PullRequest};
use fledged_cri::docker::DockerRuntime;
use fledged_tests::{Dockerd, Fault, FaultProxy, ImageBuilder, Registry, Rule};

use crate::docker_engine::{image, parts, pull};

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_is_used_again_after_a_restart() {
    if !parts() {
        return;
    }
    let registry = Registry::start();
    let pushed = ImageBuilder::new()
        .random_layer("data", 1, 1_000_000)
        .push(&registry, "app", "1");
    let proxy = FaultProxy::start(registry.addr());
    let mut engine = Dockerd::start();
    let socket = engine.socket();
    let runtime = Arc::new(DockerRuntime::new(&socket));
    let through = image(&pushed.reference_at(proxy.addr()));

    proxy.add(
        Rule::new(Fault::StallAfter(200_000))
            .path("/blobs/")
            .always(),
    );
    let request = PullRequest::new(through.clone());
    let pulling = Arc::clone(&runtime);
    let task = tokio::spawn(async move { pulling.pull(request).await });
    proxy.wait_for("the pull to stall", |r| r.sent == 200_000);
    engine.kill9();
    let error = task.await.unwrap().unwrap_err();
    assert_eq!(error.reason, Reason::RuntimeUnavailable, "{error}");

    let away = [
        runtime.info().await.unwrap_err(),
        runtime.list().await.unwrap_err(),
        runtime.lookup(&through).await.unwrap_err(),
        runtime.in_use().await.unwrap_err(),
        runtime.remove(&through).await.unwrap_err(),
        runtime.filesystems().await.unwrap_err(),
        pull(&runtime, through.as_str()).await.unwrap_err(),
    ];
    for error in away {
        assert_eq!(error.reason, Reason::RuntimeUnavailable, "{error}");
        assert!(
            error.to_string().contains(socket.to_str().unwrap()),
            "{error}"
        );
    }

    engine.restart();
    proxy.clear();
    pull(&runtime, through.as_str()).await.unwrap();
    let nowhere = DockerRuntime::new("/no/such/docker.sock");
    let error = nowhere.list().await.unwrap_err();
    assert_eq!(error.reason, Reason::RuntimeUnavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_reports_version_and_disk_usage() {
    if !parts() {
        return;
    }
    let registry = Registry::start();
    let engine = Dockerd::start();
    let runtime = DockerRuntime::new(engine.socket());
    let info = runtime.info().await.unwrap();
    assert_eq!(info.name, "docker");
    assert!(
        info.version.starts_with(|c: char| c.is_ascii_digit()),
        "{info:?}"
    );
    assert!(info.api_version.starts_with("1."), "{info:?}");

    let before = runtime.filesystems().await.unwrap();
    assert_eq!(before.len(), 1);
    assert_eq!(before[0].path, engine.data_root().to_str().unwrap());
    assert!(before[0].available.unwrap().bytes() > 0);
    let pushed = ImageBuilder::new()
        .random_layer("data", 1, 2_000_000)
        .push(&registry, "app", "1");
    pull(&runtime, &pushed.reference).await.unwrap();
    let after = runtime.filesystems().await.unwrap();
    let grown = after[0].used.saturating_sub(before[0].used);
    assert!((2_000_000..2_100_000).contains(&grown.bytes()), "{grown}");
}
