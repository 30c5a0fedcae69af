//! The probe, which checks whether an image can be pulled, with a real registry.
use std::time::Duration;

use bytes::Bytes;
use fledged_core::error::{Failure, Reason};
use fledged_cri::registry::{Platform, Probe, Registry as Access, RegistryOptions};
use fledged_tests::{
    Fault, FaultProxy, ImageBuilder, ImageIndexBuilder, Platform as Built, Registry, Rule, http,
    require,
};
use hyper::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

async fn probe(reference: &str, platform: &Platform) -> Result<Probe, Failure> {
    let access = Access::new(RegistryOptions::default()).unwrap();
    access
        .probe(&reference.parse().unwrap(), None, platform)
        .await
}

async fn host(reference: &str) -> Result<Probe, Failure> {
    probe(reference, &Platform::host()).await
}

#[tokio::test]
async fn reports_digest_size_and_platforms_without_layers() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let single = ImageBuilder::new()
        .random_layer("data", 1, 100_000)
        .push(&registry, "single", "1");
    let index = ImageIndexBuilder::new()
        .image(ImageBuilder::new().platform(Built::foreign()).build())
        .image(ImageBuilder::new().random_layer("data", 2, 50_000).build())
        .push(&registry, "index", "1");

    let found = host(&single.reference).await.unwrap();
    assert_eq!(found.digest, single.digest);
    assert_eq!(found.platforms, [Platform::host()]);
    let size = found.size.bytes();
    assert!(size > 100_000 && size < single.size, "without the manifest");

    for reference in [&index.reference, &index.by_digest()] {
        let found = host(reference).await.unwrap();
        assert_eq!(found.digest, index.digest);
        let foreign: Platform = "linux/s390x".parse().unwrap();
        assert_eq!(found.platforms, [Platform::host(), foreign]);
        assert!(found.size.bytes() > 50_000 && found.size.bytes() < 60_000);
    }
    let read = registry.requests_matching("GET", "/blobs/");
    assert_eq!(read.len(), 1, "one configuration: {read:?}");
}

#[tokio::test]
async fn fails_with_the_reason_of_a_pull() {
    if !require(&["docker-registry"]) {
        return;
    }
    let mut registry = Registry::start();
    let app = ImageBuilder::new()
        .random_layer("data", 1, 1000)
        .push(&registry, "app", "1");
    let foreign = ImageBuilder::new()
        .platform(Built::foreign())
        .push(&registry, "foreign", "1");
    let reason = async |reference: &str| host(reference).await.unwrap_err().reason;

    assert_eq!(reason(&foreign.reference).await, Reason::PlatformNotFound);
    let missing = format!("{}/app:2", registry.addr());
    assert_eq!(reason(&missing).await, Reason::ImageNotFound);

    let private = Registry::start_with_htpasswd("user", "password");
    let secret = ImageBuilder::new().push(&private, "app", "1");
    assert_eq!(reason(&secret.reference).await, Reason::Unauthorized);

    let proxy = FaultProxy::start(registry.addr());
    let through = app.reference_at(proxy.addr());
    proxy.add(Rule::new(Fault::too_many_requests(9)));
    let failure = host(&through).await.unwrap_err();
    assert_eq!(failure.reason, Reason::TooManyRequests);
    assert_eq!(failure.retry_after, Some(Duration::from_secs(9)));
    host(&through).await.unwrap();

    // The manifest exists, a layer does not: no node could pull the image.
    let layer = format!("/v2/app/blobs/{}", app.layers[0]);
    let (addr, none) = (registry.addr(), Bytes::new());
    let deleted = http::send(addr, Method::DELETE, &layer, &[], None, none).unwrap();
    assert_eq!(deleted.status, 202);
    assert_eq!(reason(&app.reference).await, Reason::ImageNotFound);

    registry.stop();
    let failure = host(&app.reference).await.unwrap_err();
    assert_eq!(failure.reason, Reason::ConnectionFailed);
    assert!(failure.message.contains("refused"), "{failure}");
}

#[tokio::test]
async fn an_endless_manifest_is_not_read_to_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let spaces = [b' '; 64 * 1024];
        let mut written = 0;
        while stream.write_all(&spaces).await.is_ok() {
            written += spaces.len();
        }
        written
    });
    let failure = host(&format!("{addr}/app:1")).await.unwrap_err();
    assert_eq!(failure.reason, Reason::InvalidImage, "{failure}");
    assert!(failure.message.contains("longer than"), "{failure}");
    let written = server.await.unwrap();
    // Buffered bytes add to the 4 MiB that are read.
    assert!(written < 32 * 1024 * 1024, "{written}");
}
