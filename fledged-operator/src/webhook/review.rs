//! What is said of an ImageCache that somebody creates or edits.

use std::time::Duration;

use fledged_core::model::{InvalidSpec, NodeFacts};
use kube::core::Status;
use kube::core::admission::{AdmissionRequest, AdmissionResponse};

use super::warning::warnings;
use crate::crd::ReadCache;

/// HTTP status of a refusal, which the API server hands on: the object can't be processed.
const UNPROCESSABLE: u16 = 422;

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It may be stored; whoever applies it is shown these sentences.
    Allowed {
        /// At most ten.
        warnings: Vec<String>,
    },
    /// It is refused: the controller would not act on it.
    Denied(InvalidSpec),
}

/// Judges a new state of an ImageCache against the one before, on a cluster with these nodes (`None` while
/// they are not known) whose controller pulls what moves again every `refresh_interval` (zero: never).
///
/// Only an edit of the spec is judged: what was stored before the webhook came can still be annotated,
/// finalised and deleted.
#[must_use]
pub fn judge(
    object: ReadCache,
    before: Option<&ReadCache>,
    nodes: Option<&[NodeFacts]>,
    refresh_interval: Duration,
) -> Verdict {
    let deleting = object.metadata.deletion_timestamp.is_some();
    let same = before.is_some_and(|before| before.spec == object.spec);
    if deleting || same {
        return Verdict::Allowed {
            warnings: Vec::new(),
        };
    }
    match object.into_facts().spec {
        Ok(spec) => Verdict::Allowed {
            warnings: warnings(&spec, nodes, refresh_interval),
        },
        Err(invalid) => Verdict::Denied(invalid),
    }
}

/// The answer to a request, and the verdict that it carries.
pub(super) fn answer(
    mut request: AdmissionRequest<ReadCache>,
    nodes: Option<&[NodeFacts]>,
    refresh_interval: Duration,
) -> (AdmissionResponse, Verdict) {
    let mut response = AdmissionResponse::from(&request);
    let verdict = match request.object.take() {
        Some(object) => judge(object, request.old_object.as_ref(), nodes, refresh_interval),
        // A deletion, which nobody asks us about.
        None => Verdict::Allowed {
            warnings: Vec::new(),
        },
    };
    match &verdict {
        Verdict::Allowed { warnings } if warnings.is_empty() => {}
        Verdict::Allowed { warnings } => response.warnings = Some(warnings.clone()),
        Verdict::Denied(invalid) => {
            response.allowed = false;
            let status = Status::failure(&invalid.to_string(), "Invalid");
            response.result = status.with_code(UNPROCESSABLE);
        }
    }
    (response, verdict)
}

#[cfg(test)]
mod tests {
    use kube::core::admission::AdmissionReview;
    use serde_json::{Value, json};

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn mk_cache(spec: Value) -> ReadCache {
        let metadata = json!({ "namespace": "shop", "name": "web", "uid": "1" });
        serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
    }

    fn mk_spec(images: &[&str]) -> Value {
        json!({ "cacheSpec": [{ "images": images }] })
    }

    #[test]
    fn every_invalid_field_is_named() {
        let cache = mk_cache(json!({ "cacheSpec": [
            { "images": ["app:1", "Not an image", "app:1"] },
            { "images": [], "nodeSelector": { "a b": "c" } },
        ]}));
        let Verdict::Denied(invalid) = judge(cache, None, None, DAY) else {
            panic!("it was allowed");
        };
        let said = invalid.to_string();
        for part in [
            "spec.cacheSpec[0].images[1]: \"Not an image\"",
            "spec.cacheSpec[0].images[2]",
            "spec.cacheSpec[1].images",
        ] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }

    #[test]
    fn what_is_stored_can_be_annotated_finalised_and_deleted_whatever_it_says() {
        let bad = mk_spec(&["Not an image"]);
        let allowed = Verdict::Allowed {
            warnings: Vec::new(),
        };
        let before = mk_cache(bad.clone());
        let mut annotated = before.clone();
        annotated.metadata.annotations = Some([("a".to_owned(), String::new())].into());
        assert_eq!(judge(annotated, Some(&before), None, DAY), allowed);

        let mut going = mk_cache(mk_spec(&["Another bad one"]));
        going.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        assert_eq!(judge(going, Some(&before), None, DAY), allowed);

        let edited = mk_cache(mk_spec(&["Another bad one"]));
        assert!(matches!(
            judge(edited, Some(&before), None, DAY),
            Verdict::Denied(_)
        ));
    }

    #[test]
    fn an_answer_is_as_the_api_server_wants_it() {
        let mk_review = |spec: Value| {
            let object = json!({ "apiVersion": "kubefledged.io/v1alpha2", "kind": "ImageCache",
                "metadata": { "namespace": "shop", "name": "web" }, "spec": spec });
            let kind =
                json!({ "group": "kubefledged.io", "version": "v1alpha2", "kind": "ImageCache" });
            let resource = json!({ "group": "kubefledged.io", "version": "v1alpha2", "resource": "imagecaches" });
            let review: AdmissionReview<ReadCache> = serde_json::from_value(json!({
                "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                "request": { "uid": "u-1", "kind": kind, "resource": resource, "name": "web",
                    "namespace": "shop", "operation": "CREATE", "userInfo": {}, "object": object,
                    "oldObject": null, "dryRun": false },
            }))
            .unwrap();
            let request: AdmissionRequest<ReadCache> = review.try_into().unwrap();
            let (response, _) = answer(request, None, DAY);
            serde_json::to_value(response.into_review()).unwrap()
        };
        let good = mk_review(mk_spec(&["app:1"]));
        assert_eq!(good["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(good["response"]["uid"], "u-1");
        assert_eq!(good["response"]["allowed"], true);
        let bad = mk_review(mk_spec(&["a b"]));
        assert_eq!(bad["response"]["allowed"], false);
        assert_eq!(bad["response"]["status"]["code"], 422);
        assert_eq!(bad["response"]["status"]["reason"], "Invalid");
        let message = bad["response"]["status"]["message"].as_str().unwrap();
        assert!(
            message.contains("spec.cacheSpec[0].images[0]") && message.contains("a b"),
            "{message}"
        );
    }
}
