//! Whether a blob is there, as registries answer it.

use fledged_core::error::Reason;

use super::super::fake::{Answer, Fake, LAYER, image};

fn is_layer(target: &str) -> bool {
    target.ends_with(&super::super::sha256(LAYER.as_bytes()))
}

#[tokio::test]
async fn a_refused_head_of_a_blob_does_not_decide() {
    for status in [301, 400, 401, 403, 404, 405, 500, 501, 503] {
        let registry = Fake::start(move |asked, addr| match asked.method.as_str() {
            "HEAD" if asked.target.contains("/blobs/") => Answer::new(status, "").with(
                "www-authenticate",
                format!(r#"Bearer realm="http://{addr}/token""#),
            ),
            _ if asked.target.starts_with("/token") => Answer::new(200, r#"{"token":"x"}"#),
            _ => image(asked),
        })
        .await;
        let found = registry.probe(None).await;
        assert!(found.is_ok(), "{status}: {found:?}");
    }
}

#[tokio::test]
async fn a_head_without_the_right_length_does_not_decide() {
    for length in ["0", "1"] {
        let registry = Fake::start(move |asked, _| match asked.method.as_str() {
            "HEAD" if asked.target.contains("/blobs/") => {
                Answer::new(200, "").with("content-length", length)
            }
            _ => image(asked),
        })
        .await;
        registry.probe(None).await.unwrap();
        let asked = registry.asked();
        let read = asked.iter().rfind(|a| a.method == "GET").unwrap();
        assert_eq!(read.header("range"), Some("bytes=0-0"));
    }
}

#[tokio::test]
async fn signed_urls_on_another_port_are_followed() {
    let store = Fake::start(|asked, _| match asked.method.as_str() {
        "HEAD" => Answer::new(403, "signature does not match"),
        _ if asked.authorization().is_some() => Answer::new(400, "two kinds of authorization"),
        _ => Answer::new(206, "a").with("content-range", format!("bytes 0-0/{}", LAYER.len())),
    })
    .await;
    let to = store.addr.clone();
    let registry = Fake::start(move |asked, addr| match asked.authorization() {
        _ if asked.target.starts_with("/token") => Answer::new(200, r#"{"token":"x"}"#),
        Some("Bearer x") if is_layer(&asked.target) => {
            Answer::redirect(format!("http://{to}/signed?key=1"))
        }
        Some("Bearer x") => image(asked),
        _ => Answer::challenge(format!(r#"Bearer realm="http://{addr}/token""#)),
    })
    .await;
    registry.probe(None).await.unwrap();
    assert_eq!(store.authorizations(), [""; 0]);
}

#[tokio::test]
async fn a_blob_is_present_if_only_ranges_are_refused() {
    for status in [400, 403, 405, 406, 412, 416, 501] {
        let registry = Fake::start(move |asked, _| match asked.method.as_str() {
            "HEAD" if is_layer(&asked.target) => Answer::new(405, ""),
            "GET" if asked.header("range").is_some() => Answer::new(status, ""),
            _ => image(asked),
        })
        .await;
        let found = registry.probe(None).await;
        assert!(found.is_ok(), "{status}: {found:?}");
    }
}

#[tokio::test]
async fn a_refused_range_is_not_asked_again_when_throttled() {
    let registry = Fake::start(|asked, _| match asked.method.as_str() {
        "HEAD" if is_layer(&asked.target) => Answer::new(405, ""),
        "GET" if is_layer(&asked.target) => Answer::new(403, "").with("retry-after", "9"),
        _ => image(asked),
    })
    .await;
    let failure = registry.probe(None).await.unwrap_err();
    assert_eq!(failure.retry_after.map(|d| d.as_secs()), Some(9));
    let asked = registry.asked();
    let layer = asked.iter().filter(|a| a.is("GET", "/blobs/"));
    assert_eq!(layer.filter(|a| is_layer(&a.target)).count(), 1);
}

#[tokio::test]
async fn a_blob_that_get_refuses_is_missing() {
    for (status, reason) in [
        (404, Reason::ImageNotFound),
        (403, Reason::Unauthorized),
        (500, Reason::RegistryError),
    ] {
        let registry = Fake::start(move |asked, _| match asked.method.as_str() {
            "GET" | "HEAD" if is_layer(&asked.target) => Answer::new(status, ""),
            _ => image(asked),
        })
        .await;
        let failure = registry.probe(None).await.unwrap_err();
        assert_eq!(failure.reason, reason, "{failure}");
    }
}

#[tokio::test]
async fn a_blob_of_another_size_is_a_mismatch() {
    let total = |total: &'static str| {
        move |asked: &super::super::fake::Asked, _: &str| match asked.method.as_str() {
            "HEAD" if is_layer(&asked.target) => Answer::new(405, ""),
            "GET" if is_layer(&asked.target) => {
                Answer::new(206, "a").with("content-range", format!("bytes 0-0/{total}"))
            }
            _ => image(asked),
        }
    };
    let registry = Fake::start(total("7")).await;
    let failure = registry.probe(None).await.unwrap_err();
    assert_eq!(failure.reason, Reason::DigestMismatch, "{failure}");
    let registry = Fake::start(total("*")).await;
    registry.probe(None).await.unwrap();
}

#[tokio::test]
async fn a_throttled_head_is_not_repeated() {
    let registry = Fake::start(|asked, _| match asked.method.as_str() {
        "HEAD" => Answer::new(429, "").with("retry-after", "9"),
        _ => image(asked),
    })
    .await;
    let failure = registry.probe(None).await.unwrap_err();
    assert_eq!(failure.reason, Reason::TooManyRequests, "{failure}");
    assert_eq!(failure.retry_after.map(|d| d.as_secs()), Some(9));
    let layer = registry.asked();
    assert!(
        !layer
            .iter()
            .any(|a| a.method == "GET" && is_layer(&a.target))
    );
}

#[tokio::test]
async fn a_status_without_a_reason_has_that_of_its_text() {
    for (text, reason) in [
        (
            "Client sent an HTTP request to an HTTPS server.",
            Reason::RegistryMisconfigured,
        ),
        ("manifest invalid", Reason::InvalidImage),
        ("no space left on device", Reason::Unknown),
        ("", Reason::Unknown),
    ] {
        let registry = Fake::start(move |_, _| Answer::new(400, text)).await;
        let failure = registry.probe(None).await.unwrap_err();
        assert_eq!(failure.reason, reason, "{failure}");
    }
}
