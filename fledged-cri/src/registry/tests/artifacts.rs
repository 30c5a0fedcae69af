//! What stands under a reference: container images and other artifacts.

use fledged_core::error::Reason;
use serde_json::{Value, json};

use super::super::fake::{
    Answer, CONFIG, Fake, LAYER, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, descriptor, image, manifest,
};
use super::super::sha256;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const HELM_CONFIG: &str = "application/vnd.cncf.helm.config.v1+json";
const HELM_LAYER: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";

/// A registry that serves a manifest, under the given content type.
async fn serving(manifest: Value, content_type: Option<&'static str>) -> Fake {
    let body = manifest.to_string();
    Fake::start(move |asked, _| {
        if !asked.target.contains("/manifests/") {
            return image(asked);
        }
        let answer = Answer::new(200, body.clone());
        content_type
            .into_iter()
            .fold(answer, |answer, text| answer.with("content-type", text))
    })
    .await
}

/// A registry that serves an index of these manifests, with these platforms.
async fn serving_index(entries: &[(Value, Option<&str>)]) -> Fake {
    let texts: Vec<String> = entries.iter().map(|(m, _)| m.to_string()).collect();
    let listed: Vec<Value> = entries
        .iter()
        .zip(&texts)
        .map(|((_, architecture), text)| {
            let mut entry = descriptor(OCI_MANIFEST, text);
            if let Some(architecture) = architecture {
                entry["platform"] = json!({"os": "linux", "architecture": architecture});
            }
            entry
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed});
    Fake::start(move |asked, _| {
        if asked.target.ends_with("/manifests/1") {
            return Answer::new(200, index.to_string()).with("content-type", OCI_INDEX);
        }
        let named = |text: &&String| asked.target.ends_with(&sha256(text.as_bytes()));
        match texts.iter().find(named) {
            Some(text) => Answer::new(200, text.clone()).with("content-type", OCI_MANIFEST),
            None => image(asked),
        }
    })
    .await
}

#[tokio::test]
async fn a_chart_is_not_an_image() {
    let registry = serving(manifest(HELM_CONFIG, HELM_LAYER), Some(OCI_MANIFEST)).await;
    let failure = registry.probe(None).await.unwrap_err();
    assert_eq!(failure.reason, Reason::InvalidImage, "{failure}");
    assert!(failure.message.contains("a Helm chart"), "{failure}");
}

#[tokio::test]
async fn a_chart_in_an_index_is_passed_over() {
    let (chart, app) = (
        manifest(HELM_CONFIG, HELM_LAYER),
        manifest(OCI_CONFIG, OCI_LAYER),
    );
    let registry = serving_index(&[(app.clone(), Some("arm64")), (chart.clone(), None)]).await;
    let failure = registry.probe(None).await.unwrap_err();
    assert_eq!(failure.reason, Reason::PlatformNotFound, "{failure}");
    assert!(failure.message.contains("linux/arm64"), "{failure}");

    let registry = serving_index(&[(chart.clone(), None), (app.clone(), None)]).await;
    registry.probe(None).await.unwrap();
    let registry = serving_index(&[(chart.clone(), None), (app, Some("amd64"))]).await;
    registry.probe(None).await.unwrap();

    let registry = serving_index(&[(chart, None)]).await;
    let failure = registry.probe(None).await.unwrap_err();
    assert_eq!(failure.reason, Reason::PlatformNotFound, "{failure}");
    assert!(failure.message.contains("no container image"), "{failure}");
}

#[tokio::test]
async fn an_unnamed_platform_is_read_from_the_config() {
    let foreign = r#"{"os":"linux","architecture":"s390x"}"#;
    let app = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, foreign),
        "layers": [descriptor(OCI_LAYER, LAYER)],
    });
    let text = app.to_string();
    let mut entry = descriptor(OCI_MANIFEST, &text);
    entry["annotations"] = json!({});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    let registry = Fake::start(move |asked, _| match asked.target.as_str() {
        target if target.ends_with("/manifests/1") => {
            Answer::new(200, index.to_string()).with("content-type", OCI_INDEX)
        }
        target if target.contains("/manifests/") => {
            Answer::new(200, text.clone()).with("content-type", OCI_MANIFEST)
        }
        target if target.ends_with(&sha256(foreign.as_bytes())) => Answer::new(200, foreign),
        _ => image(asked),
    })
    .await;
    let failure = registry.probe(None).await.unwrap_err();
    assert_eq!(failure.reason, Reason::PlatformNotFound, "{failure}");
}

#[tokio::test]
async fn general_content_types_are_manifests() {
    let mut without_type = manifest(OCI_CONFIG, OCI_LAYER);
    without_type.as_object_mut().unwrap().remove("mediaType");
    without_type["vendor"] = json!({"size": CONFIG.len()});
    for content_type in [
        None,
        Some("application/json"),
        Some("application/json; charset=utf-8"),
        Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"),
        Some("application/octet-stream"),
    ] {
        for document in [manifest(OCI_CONFIG, OCI_LAYER), without_type.clone()] {
            let registry = serving(document, content_type).await;
            let found = registry.probe(None).await;
            assert!(found.is_ok(), "{content_type:?}: {found:?}");
        }
    }
}

#[tokio::test]
async fn a_page_is_not_a_manifest() {
    for content_type in ["text/html", "text/html; charset=utf-8", "image/png"] {
        let document = manifest(OCI_CONFIG, OCI_LAYER);
        let registry = serving(document, Some(content_type)).await;
        let failure = registry.probe(None).await.unwrap_err();
        assert_eq!(failure.reason, Reason::InvalidImage, "{failure}");
        assert!(failure.message.contains("content type"), "{failure}");
    }
}
