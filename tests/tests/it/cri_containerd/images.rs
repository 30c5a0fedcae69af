//! Images of every kind, from public and private registries.

use fledged_core::error::{ErrorClass, Reason};
use fledged_core::model::ByteSize;
use fledged_core::port::{ImageRuntime, PullRequest, RegistryAuth, Removal, RemovalScope};
use fledged_cri::cri::CriRuntime;
use fledged_cri::target::RuntimeUri;
use fledged_tests::{
    Containerd, ImageBuilder, ImageIndexBuilder, Platform, Registry, SOON, require,
};

use crate::cri_containerd::{PARTS, image, pull};

const USER: &str = "ann";
const PASSWORD: &str = "correct-horse";

fn login(password: &str) -> Option<RegistryAuth> {
    Some(RegistryAuth::Basic {
        username: USER.to_owned(),
        password: password.into(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn info_and_file_systems() {
    if !require(&["containerd"]) {
        return;
    }
    let containerd = Containerd::start();
    let uri: RuntimeUri = containerd.uri().parse().unwrap();
    assert_eq!(uri, RuntimeUri::Cri(containerd.socket()));
    let found = RuntimeUri::detect_among([uri.clone()]).await.unwrap();
    assert_eq!(found, uri);

    let runtime = CriRuntime::connect(uri.path());
    let info = runtime.info().await.unwrap();
    assert_eq!((&*info.name, &*info.api_version), ("containerd", "v1"));
    assert!(info.version.contains('.'), "{}", info.version);
    assert_eq!(info.removal, RemovalScope::Image);
    assert!(runtime.in_use().await.unwrap().is_empty());

    let filesystems = runtime.filesystems().await.unwrap();
    assert_eq!(filesystems.len(), 1);
    let root = containerd.root().display().to_string();
    assert!(filesystems[0].path.starts_with(&root), "{filesystems:?}");
    assert!(filesystems[0].available.unwrap() > ByteSize::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_by_tag_by_digest_and_without_a_tag() {
    if !require(PARTS) {
        return;
    }
    let registry = Registry::start();
    let containerd = Containerd::start();
    let runtime = CriRuntime::connect(containerd.socket());
    let tagged = ImageBuilder::new()
        .random_layer("data", 1, 64 * 1024)
        .push(&registry, "team/app", "1.2");
    let by_digest =
        ImageBuilder::new()
            .random_layer("data", 2, 64 * 1024)
            .push(&registry, "team/other", "x");
    let latest = ImageBuilder::new().random_layer("data", 3, 64 * 1024).push(
        &registry,
        "team/untagged",
        "latest",
    );
    let untagged = latest.reference.strip_suffix(":latest").unwrap();

    for (name, pushed) in [
        (&*tagged.reference, &tagged),
        (&*by_digest.by_digest(), &by_digest),
        (untagged, &latest),
    ] {
        assert!(runtime.lookup(&image(name)).await.unwrap().is_none());
        let pulled = pull(&runtime, name).await.unwrap();
        assert_eq!(pulled.id.0, pushed.config_digest.as_str(), "{name}");
        assert_eq!(pulled.digest.as_ref(), Some(&pushed.digest), "{name}");
        assert!(pulled.references.contains(&image(name)), "{pulled:?}");
        // containerd also has a name with the digest.
        let digest = image(&pushed.by_digest());
        assert!(pulled.references.contains(&digest), "{pulled:?}");
        assert!(pulled.size.bytes() > 64 * 1024, "{pulled:?}");
        assert!(!pulled.pinned);
        let found = runtime.lookup(&image(name)).await.unwrap();
        assert_eq!(found, Some(pulled), "{name}");
    }
    let mut listed: Vec<String> = runtime
        .list()
        .await
        .unwrap()
        .into_iter()
        .map(|image| image.id.0)
        .collect();
    listed.sort();
    let mut pushed = [&tagged, &by_digest, &latest].map(|p| p.config_digest.to_string());
    pushed.sort();
    assert_eq!(listed, pushed);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_exact_names_are_found() {
    if !require(PARTS) {
        return;
    }
    let registry = Registry::start();
    let containerd = Containerd::start();
    let runtime = CriRuntime::connect(containerd.socket());
    let pushed = ImageBuilder::new()
        .random_layer("data", 1, 4096)
        .push(&registry, "team/app", "1.21");
    pull(&runtime, &pushed.reference).await.unwrap();
    let addr = registry.addr();
    for name in [
        format!("{addr}/team/app:1.2"),
        format!("{addr}/team/app"),
        format!("{addr}/team/ap:1.21"),
        format!("{addr}/app:1.21"),
        "team/app:1.21".to_owned(),
        format!("{addr}/other/app@{}", pushed.digest),
        format!("{addr}/team/app@{}", pushed.config_digest),
    ] {
        let found = runtime.lookup(&image(&name)).await.unwrap();
        assert!(found.is_none(), "{name}: {found:?}");
        let removal = runtime.remove(&image(&name)).await.unwrap();
        assert_eq!(removal, Removal::Absent, "{name}");
    }
    let found = runtime.lookup(&image(&pushed.reference)).await.unwrap();
    assert!(found.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_registry_needs_the_right_credentials() {
    if !require(PARTS) {
        return;
    }
    let registry = Registry::start_with_htpasswd(USER, PASSWORD);
    let containerd = Containerd::start();
    let runtime = CriRuntime::connect(containerd.socket());
    let pushed =
        ImageBuilder::new()
            .random_layer("data", 1, 4096)
            .push(&registry, "team/private", "1");
    let wrong = "incorrect-donkey";
    for auth in [None, login(wrong)] {
        let request = PullRequest::new(pushed.image()).with_auth(auth);
        let error = runtime.pull(request).await.unwrap_err();
        assert_eq!(error.reason, Reason::Unauthorized, "{error}");
        assert_eq!(error.class(), ErrorClass::Unauthorized);
        assert!(!format!("{error} {error:?}").contains(wrong), "{error}");
    }
    let request = PullRequest::new(pushed.image()).with_auth(login(PASSWORD));
    let pulled = runtime.pull(request).await.unwrap();
    assert_eq!(pulled.digest, Some(pushed.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_pull_has_its_reason() {
    if !require(PARTS) {
        return;
    }
    let registry = Registry::start();
    let containerd = Containerd::start();
    let runtime = CriRuntime::connect(containerd.socket());
    let pushed = ImageBuilder::new()
        .random_layer("data", 1, 4096)
        .push(&registry, "team/app", "1");
    let foreign = ImageBuilder::new()
        .platform(Platform::foreign())
        .random_layer("data", 2, 4096)
        .build();
    let index = ImageIndexBuilder::new()
        .image(foreign)
        .push(&registry, "team/foreign", "1");
    let addr = registry.addr();
    let absent = format!("{addr}/team/app@sha256:{}", "40".repeat(32));
    for (name, reason) in [
        (format!("{addr}/team/app:404"), Reason::ImageNotFound),
        (format!("{addr}/team/nothing:1"), Reason::ImageNotFound),
        (absent, Reason::ImageNotFound),
        (index.reference.clone(), Reason::PlatformNotFound),
        // Nothing listens on port 1 (tcpmux).
        (
            "127.0.0.1:1/team/app:1".to_owned(),
            Reason::ConnectionFailed,
        ),
    ] {
        let error = pull(&runtime, &name).await.unwrap_err();
        assert_eq!(error.reason, reason, "{error}");
        assert!(error.to_string().contains(&name), "{error}");
        assert!(runtime.lookup(&image(&name)).await.unwrap().is_none());
    }
    pull(&runtime, &pushed.reference).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_removes_every_name_of_the_image() {
    if !require(PARTS) {
        return;
    }
    let registry = Registry::start();
    let containerd = Containerd::start();
    let runtime = CriRuntime::connect(containerd.socket());
    let built = ImageBuilder::new().random_layer("data", 1, 4096).build();
    let one = built.push(&registry, "team/app", "one");
    let two = built.push(&registry, "team/app", "two");
    let other = ImageBuilder::new()
        .random_layer("data", 2, 4096)
        .push(&registry, "team/app", "other");
    for pushed in [&one, &two, &other] {
        pull(&runtime, &pushed.reference).await.unwrap();
    }
    assert_eq!(runtime.list().await.unwrap().len(), 2);
    assert_eq!(
        runtime.remove(&one.image()).await.unwrap(),
        Removal::Removed
    );
    for gone in [one.image(), two.image(), image(&one.by_digest())] {
        assert!(runtime.lookup(&gone).await.unwrap().is_none(), "{gone}");
    }
    assert_eq!(runtime.remove(&one.image()).await.unwrap(), Removal::Absent);
    assert!(runtime.lookup(&other.image()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_pull_fetches_no_layer_and_follows_its_tag() {
    if !require(PARTS) {
        return;
    }
    let registry = Registry::start();
    let containerd = Containerd::start();
    let runtime = CriRuntime::connect(containerd.socket());
    let old = ImageBuilder::new()
        .random_layer("data", 1, 4096)
        .push(&registry, "team/app", "latest");
    pull(&runtime, &old.reference).await.unwrap();
    let fetched = registry.requests_matching("GET", "/blobs/").len();
    let again = pull(&runtime, &old.reference).await.unwrap();
    assert_eq!(again.digest, Some(old.digest));
    assert_eq!(registry.requests_matching("GET", "/blobs/").len(), fetched);

    let new = ImageBuilder::new()
        .random_layer("data", 2, 4096)
        .push(&registry, "team/app", "latest");
    let moved = pull(&runtime, &new.reference).await.unwrap();
    assert_eq!(moved.digest, Some(new.digest.clone()));
    let found = runtime.lookup(&new.image()).await.unwrap().unwrap();
    assert_eq!(found.digest, Some(new.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_image_is_listed_as_pinned() {
    if !require(PARTS) {
        return;
    }
    let registry = Registry::start();
    let containerd = Containerd::start();
    let runtime = CriRuntime::connect(containerd.socket());
    let pushed = ImageBuilder::new()
        .random_layer("data", 1, 4096)
        .push(&registry, "team/app", "1");
    pull(&runtime, &pushed.reference).await.unwrap();
    let label = "io.cri-containerd.pinned=pinned";
    containerd.ctr(&["images", "label", &pushed.reference, label]);
    // containerd has pins since 1.7; older versions ignore the label.
    let version = runtime.info().await.unwrap().version;
    if version.trim_start_matches('v').starts_with("1.6.") {
        let found = runtime.lookup(&pushed.image()).await.unwrap().unwrap();
        assert!(!found.pinned);
        return;
    }
    let deadline = tokio::time::Instant::now() + SOON;
    while !runtime
        .lookup(&pushed.image())
        .await
        .unwrap()
        .unwrap()
        .pinned
    {
        assert!(tokio::time::Instant::now() < deadline, "never pinned");
    }
    let error = runtime.remove(&pushed.image()).await.unwrap_err();
    assert_eq!(error.reason, Reason::Pinned);
}
