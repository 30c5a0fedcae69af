//! Pulls: references, credentials, failures, progress.

use std::sync::{Arc, Mutex};

use fledged_core::error::Reason;
use fledged_core::port::{ImageRuntime, ProgressSink, PullProgress, PullRequest, RegistryAuth};
use fledged_cri::docker::DockerRuntime;
use fledged_tests::{
    Dockerd, Fault, FaultProxy, ImageBuilder, ImageIndexBuilder, Platform, Registry, Rule,
};

use crate::docker_engine::{image, parts, pull};

fn basic(username: &str, password: &str) -> Option<RegistryAuth> {
    Some(RegistryAuth::Basic {
        username: username.to_owned(),
        password: password.to_owned().into(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_by_tag_by_digest_and_without_either() {
    if !parts() {
        return;
    }
    let registry = Registry::start();
    let engine = Dockerd::start();
    let runtime = DockerRuntime::new(engine.socket());
    assert_eq!(runtime.list().await, Ok(vec![]));

    let tagged = ImageBuilder::new()
        .random_layer("data", 1, 100_000)
        .push(&registry, "team/app", "1.0");
    let pulled = runtime
        .pull(PullRequest::new(tagged.image()))
        .await
        .unwrap();
    assert_eq!(pulled.id.0, tagged.config_digest.as_str());
    assert_eq!(pulled.digest.as_ref(), Some(&tagged.digest));
    assert!(pulled.references.contains(&tagged.image()));
    assert!(pulled.references.contains(&image(&tagged.by_digest())));
    assert!(
        (100_000..120_000).contains(&pulled.size.bytes()),
        "{}",
        pulled.size
    );
    assert!(!pulled.pinned);

    let untagged = ImageBuilder::new()
        .label("untagged")
        .push(&registry, "plain", "latest");
    let other = ImageBuilder::new()
        .label("other")
        .push(&registry, "plain", "other");
    let text = format!("{}/plain", registry.addr());
    let pulled = runtime.pull(PullRequest::new(image(&text))).await.unwrap();
    assert_eq!(pulled.id.0, untagged.config_digest.as_str());
    assert_eq!(
        runtime.lookup(&other.image()).await,
        Ok(None),
        "one tag only"
    );

    let single = ImageBuilder::new()
        .label("single")
        .push(&registry, "single", "1");
    let by_digest = image(&single.by_digest());
    let pulled = runtime
        .pull(PullRequest::new(by_digest.clone()))
        .await
        .unwrap();
    assert_eq!(pulled.digest.as_ref(), Some(&single.digest));
    assert_eq!(pulled.references, std::slice::from_ref(&by_digest));
    assert!(runtime.lookup(&by_digest).await.unwrap().is_some());
    assert_eq!(runtime.lookup(&single.image()).await, Ok(None));

    let index = ImageIndexBuilder::new()
        .image(ImageBuilder::new().platform(Platform::foreign()).build())
        .image(ImageBuilder::new().label("host").build())
        .push(&registry, "multi", "1");
    let pulled = runtime.pull(PullRequest::new(index.image())).await.unwrap();
    assert_eq!(pulled.id.0, index.config_digest.as_str());
    assert_eq!(pulled.digest.as_ref(), Some(&index.digest));

    let listed = runtime.list().await.unwrap();
    assert_eq!(listed.len(), 4);
    for wanted in [tagged.image(), image(&text), by_digest, index.image()] {
        let found = listed.iter().find(|i| i.references.contains(&wanted));
        let found = found.unwrap_or_else(|| panic!("{wanted} is not in {listed:?}"));
        let looked_up = runtime.lookup(&wanted).await.unwrap().unwrap();
        assert_eq!((&looked_up.id, looked_up.size), (&found.id, found.size));
    }
    // The Engine accepts a prefix of an ID as a name; fledged does not.
    let prefix = &tagged.config_digest.hex()[..12];
    assert_eq!(runtime.lookup(&image(prefix)).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_is_pulled_again() {
    if !parts() {
        return;
    }
    let registry = Registry::start();
    let engine = Dockerd::start();
    let runtime = DockerRuntime::new(engine.socket());
    let old = ImageBuilder::new()
        .label("old")
        .push(&registry, "app", "latest");
    assert_eq!(
        pull(&runtime, &old.reference).await.unwrap().0,
        old.config_digest.as_str()
    );
    let new = ImageBuilder::new()
        .label("new")
        .push(&registry, "app", "latest");
    assert_eq!(
        pull(&runtime, &new.reference).await.unwrap().0,
        new.config_digest.as_str()
    );
    let found = runtime.lookup(&new.image()).await.unwrap().unwrap();
    assert_eq!(found.digest, Some(new.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_needs_the_right_credentials() {
    if !parts() {
        return;
    }
    // Its base64 contains both characters in which the two alphabets differ.
    let password = "?~?~?>>>>~~~~????";
    let registry = Registry::start_with_htpasswd("robot", password);
    let engine = Dockerd::start();
    let runtime = DockerRuntime::new(engine.socket());
    let pushed = ImageBuilder::new().push(&registry, "private/app", "1");
    let attempt =
        |auth: Option<RegistryAuth>| runtime.pull(PullRequest::new(pushed.image()).with_auth(auth));
    for auth in [
        None,
        basic("robot", "wr0ng-s3cret"),
        Some(RegistryAuth::RegistryToken(
            "wr0ng-s3cret".to_owned().into(),
        )),
        Some(RegistryAuth::IdentityToken(
            "wr0ng-s3cret".to_owned().into(),
        )),
    ] {
        let shown = format!("{auth:?}");
        let error = attempt(auth).await.unwrap_err();
        assert_eq!(error.reason, Reason::Unauthorized, "{shown}: {error}");
        assert!(!format!("{error} {error:?} {shown}").contains("wr0ng"));
    }
    let pulled = attempt(basic("robot", password)).await.unwrap();
    assert_eq!(pulled.id.0, pushed.config_digest.as_str());
    assert!(!engine.log().contains(password));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_have_reasons_and_the_engines_text() {
    if !parts() {
        return;
    }
    let mut registry = Registry::start();
    let engine = Dockerd::start();
    let runtime = DockerRuntime::new(engine.socket());
    let foreign = ImageIndexBuilder::new()
        .image(ImageBuilder::new().platform(Platform::foreign()).build())
        .push(&registry, "foreign", "1");
    let app = ImageBuilder::new()
        .random_layer("data", 1, 100_000)
        .push(&registry, "app", "1");
    let addr = registry.addr().to_owned();
    let proxy = FaultProxy::start(&addr);
    let failure = async |text: &str| {
        let error = pull(&runtime, text).await.unwrap_err();
        (error.reason, error.message.clone())
    };

    let (reason, message) = failure(&format!("{addr}/app:none")).await;
    assert_eq!(reason, Reason::ImageNotFound, "{message}");
    assert!(message.contains("manifest unknown"), "{message}");
    let (reason, message) = failure(&format!("{addr}/none:1")).await;
    assert_eq!(reason, Reason::ImageNotFound, "{message}");
    let digest = format!("sha256:{}", "a".repeat(64));
    let (reason, message) = failure(&format!("{addr}/app@{digest}")).await;
    assert_eq!(reason, Reason::ImageNotFound, "{message}");
    let (reason, message) = failure(&foreign.reference).await;
    assert_eq!(reason, Reason::PlatformNotFound, "{message}");

    let through = app.reference_at(proxy.addr());
    proxy.add(Rule::new(Fault::too_many_requests(1)).always());
    let (reason, message) = failure(&through).await;
    assert_eq!(reason, Reason::TooManyRequests, "{message}");
    proxy.clear();
    proxy.add(Rule::new(Fault::status(500)).path("/manifests/").always());
    let (reason, message) = failure(&through).await;
    assert_eq!(reason, Reason::RegistryError, "{message}");
    proxy.clear();
    let layer = app.layers[0].to_string();
    proxy.add(Rule::new(Fault::CorruptAt(1000)).path(&layer).always());
    let (reason, message) = failure(&through).await;
    assert_eq!(reason, Reason::DigestMismatch, "{message}");
    proxy.clear();
    assert_eq!(
        runtime.list().await,
        Ok(vec![]),
        "nothing half pulled is listed"
    );
    pull(&runtime, &through).await.unwrap();

    registry.stop();
    let (reason, message) = failure(&format!("{addr}/app:2")).await;
    assert_eq!(reason, Reason::ConnectionFailed, "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_reported_and_a_dropped_pull_ends() {
    if !parts() {
        return;
    }
    let registry = Registry::start();
    let engine = Dockerd::start();
    let runtime = Arc::new(DockerRuntime::new(engine.socket()));
    let pushed = ImageBuilder::new()
        .random_layer("one", 1, 1_000_000)
        .random_layer("two", 2, 500_000)
        .push(&registry, "app", "1");
    let proxy = FaultProxy::start(registry.addr());
    let rate = |bytes_per_second| {
        proxy.clear();
        let throttle = Fault::Throttle { bytes_per_second };
        proxy.add(Rule::new(throttle).method("GET").path("/blobs/").always());
    };
    let through = image(&pushed.reference_at(proxy.addr()));

    rate(50_000);
    let request = PullRequest::new(through.clone());
    let pulling = Arc::clone(&runtime);
    let task = tokio::spawn(async move { pulling.pull(request).await });
    let layer = pushed.layers[0].to_string();
    proxy.wait_for("the pull to begin", |r| {
        r.path.contains(&layer) && r.sent > 0
    });
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    let ended = proxy.wait_for("the download to end", |r| {
        r.path.contains(&layer) && r.finished
    });
    assert!(ended.sent < 1_000_000, "{ended:?}");
    assert_eq!(runtime.list().await, Ok(vec![]));

    rate(1_000_000);
    let seen: Arc<Mutex<Vec<PullProgress>>> = Arc::default();
    let sink = Arc::clone(&seen);
    let mut request = PullRequest::new(through);
    request.progress = ProgressSink::new(move |progress| sink.lock().unwrap().push(progress));
    runtime.pull(request).await.unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.len() > 3, "{seen:?}");
    assert!(
        seen.windows(2).all(|pair| pair[0].done <= pair[1].done),
        "{seen:?}"
    );
    let last = seen.last().unwrap();
    assert_eq!(Some(last.done), last.total);
    assert!(
        (1_500_000..1_600_000).contains(&last.done.bytes()),
        "{last:?}"
    );
}
