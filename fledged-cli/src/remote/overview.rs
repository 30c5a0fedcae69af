//! The status of an ImageCache: a view for `get`, and whether a condition is met.

use std::collections::BTreeSet;

use console::Style;
use fledged_core::error::Reason;
use fledged_core::model::NodeName;
use fledged_core::planner::{ActionReason, ActionStatus, PairCounts};
use fledged_kube::crd::{
    ImageCacheStatus, NodeReasonMessage, PURGE_ANNOTATION, REFRESH_ANNOTATION, ReadCache,
};
use jiff::Timestamp;
use serde::Serialize;

/// One ImageCache.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CacheOverview {
    /// The namespace.
    pub(crate) namespace: String,
    /// The name.
    pub(crate) name: String,
    /// The last action (`status.reason`); null before the first.
    pub(crate) action: Option<String>,
    /// The state of the action (`status.status`).
    pub(crate) status: Option<String>,
    /// The counts as a sentence (`status.message`).
    pub(crate) message: Option<String>,
    /// Whether the status is for the newest generation.
    pub(crate) taken_up: bool,
    /// Whether the ImageCache is purged.
    pub(crate) purged: bool,
    /// Counts of pairs of image and node.
    pub(crate) counts: PairCounts,
    /// Start of the action.
    pub(crate) start_time: Option<Timestamp>,
    /// End of the action.
    pub(crate) completion_time: Option<Timestamp>,
    /// Creation of the ImageCache.
    pub(crate) creation_time: Option<Timestamp>,
}

impl CacheOverview {
    /// The view of an ImageCache.
    pub(crate) fn new(cache: &ReadCache) -> Self {
        let id = cache.id();
        let status = status_of(cache);
        let status = status.as_ref();
        let metadata = &cache.metadata;
        Self {
            namespace: id.namespace,
            name: id.name,
            action: status.map(|status| status.reason.clone()),
            status: status.map(|status| status.status.clone()),
            message: status.map(|status| status.message.clone()),
            taken_up: status.is_some_and(|s| s.observed_generation == metadata.generation),
            purged: status.and_then(|status| status.purged).unwrap_or(false),
            counts: status.and_then(|status| status.counts).unwrap_or_default(),
            start_time: status.map(|status| status.start_time.0),
            completion_time: status.and_then(|s| s.completion_time.as_ref().map(|at| at.0)),
            creation_time: metadata.creation_timestamp.as_ref().map(|at| at.0),
        }
    }

    /// The present state in one word; `NotTakenUp` if there is no status for the newest generation.
    pub(super) fn word(&self) -> &str {
        match &self.status {
            Some(_) if self.is_repairing() => "Pulling",
            Some(status) if self.taken_up => status,
            _ => "NotTakenUp",
        }
    }

    /// Whether images are pulled although the last action has succeeded: nodes have joined or lost images.
    pub(super) fn is_repairing(&self) -> bool {
        let has_succeeded = self.status.as_deref() == Some(ActionStatus::Succeeded.as_str());
        self.taken_up && has_succeeded && self.completion_time.is_some() && self.counts.pulling > 0
    }
}

/// The colour of a status word.
pub(super) fn status_style(word: &str) -> Style {
    match word {
        "Succeeded" => Style::new().green(),
        "Failed" | "Aborted" => Style::new().red(),
        _ => Style::new().yellow(),
    }
}

/// The status; `None` if it is missing or cannot be parsed.
pub(super) fn status_of(cache: &ReadCache) -> Option<ImageCacheStatus> {
    serde_json::from_value(cache.status.clone()).ok()
}

/// The status, if it is for the newest generation.
pub(super) fn current_status(cache: &ReadCache) -> Option<ImageCacheStatus> {
    status_of(cache).filter(|status| status.observed_generation == cache.metadata.generation)
}

/// Whether the status says that the record of the node has no room for the ImageCache. The controller may know of
/// less room than the planner assumes, from writes that were refused.
pub(super) fn is_left_out(cache: &ReadCache, node: &NodeName) -> bool {
    let full = |failure: &NodeReasonMessage| {
        failure.reason == Reason::NodeRecordFull.as_str() && failure.node == node.as_str()
    };
    let status = current_status(cache);
    let mut failures = status.iter().flat_map(|status| status.failures.values());
    failures.any(|failures| failures.iter().any(full))
}

/// Whether that annotation is set; the controller removes it once the action has completed.
pub(super) fn has_annotation(cache: &ReadCache, annotation: &str) -> bool {
    cache
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|all| all.contains_key(annotation))
}

/// Whether every image is on every reachable node, and no other action is requested.
pub(crate) fn is_cached(cache: &ReadCache) -> bool {
    let is_requested = [REFRESH_ANNOTATION, PURGE_ANNOTATION]
        .iter()
        .any(|name| has_annotation(cache, name));
    let is_ready = |status: ImageCacheStatus| {
        status
            .conditions
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "True")
    };
    !is_requested && current_status(cache).is_some_and(is_ready)
}

/// Whether the spec is invalid and nothing else is under way: only an edit changes the status.
pub(super) fn is_invalid(cache: &ReadCache) -> bool {
    let invalid = |status: &ImageCacheStatus| {
        let mut conditions = status.conditions.iter();
        conditions.any(|c| c.reason == "InvalidSpec" && c.type_ == "Degraded" && c.status == "True")
    };
    current_status(cache).is_some_and(|status| {
        status.completion_time.is_some()
            && invalid(&status)
            && unprocessed_request(cache, &status).is_none()
    })
}

/// What has failed, as image and reason. Retries may succeed.
pub(super) fn failing(cache: &ReadCache) -> BTreeSet<(String, String)> {
    let failures = current_status(cache).map(|status| status.failures);
    let failures = failures.into_iter().flatten();
    failures
        .flat_map(|(image, nodes)| {
            nodes
                .into_iter()
                .map(move |node| (image.clone(), node.reason))
        })
        .collect()
}

/// Whether it is purged, and no refresh is requested that would end that.
pub(super) fn stays_purged(cache: &ReadCache) -> bool {
    !has_annotation(cache, REFRESH_ANNOTATION)
        && current_status(cache).is_some_and(|status| status.purged == Some(true))
}

/// Whether the images were removed from every reachable node.
pub(super) fn is_purged(cache: &ReadCache) -> bool {
    let is_done = |status: ImageCacheStatus| {
        status.completion_time.is_some()
            && ["Succeeded", "NoImagesPulledOrDeleted"].contains(&status.status.as_str())
    };
    stays_purged(cache) && current_status(cache).is_some_and(is_done)
}

/// Whether the action for the newest generation has failed.
#[cfg(feature = "demo")]
pub(crate) fn is_failed(cache: &ReadCache) -> bool {
    current_status(cache).is_some_and(|status| {
        status.completion_time.is_some() && ["Failed", "Unknown"].contains(&status.status.as_str())
    })
}

/// Whether the action has completed and the ImageCache selects no node.
#[cfg(feature = "demo")]
pub(crate) fn is_empty(cache: &ReadCache) -> bool {
    current_status(cache).is_some_and(|status| {
        status.completion_time.is_some() && status.counts.is_none_or(|counts| counts.desired == 0)
    })
}

/// The annotation of a requested action that no controller has begun.
fn unprocessed_request(cache: &ReadCache, status: &ImageCacheStatus) -> Option<&'static str> {
    let requests = [
        (PURGE_ANNOTATION, ActionReason::ImageCachePurge),
        (REFRESH_ANNOTATION, ActionReason::ImageCacheRefresh),
    ];
    let in_progress =
        |action: ActionReason| status.reason == action.as_str() && status.completion_time.is_none();
    let mut requested = requests
        .into_iter()
        .filter(|(annotation, _)| has_annotation(cache, annotation));
    let (annotation, _) = requested.find(|(_, action)| !in_progress(*action))?;
    Some(annotation)
}

/// Why a condition is not met: a sentence, then a line for each failure in the status.
pub(crate) fn missing(cache: &ReadCache) -> String {
    let current = current_status(cache);
    let request = current
        .as_ref()
        .and_then(|status| unprocessed_request(cache, status));
    let mut text = match (&current, status_of(cache)) {
        (Some(status), _) => {
            let last = format!("{} {}: {}", status.reason, status.status, status.message);
            match request {
                Some(annotation) => format!(
                    "no controller has processed the annotation {annotation}; check that one is running; last status: {last}"
                ),
                None => last,
            }
        }
        (None, Some(status)) => format!(
            "no controller has processed its newest version; check that one is running; last status: {} {}: {}",
            status.reason, status.status, status.message
        ),
        (None, None) => "no controller has processed it; check that one is running".to_owned(),
    };
    if current.as_ref().is_some_and(|s| s.purged == Some(true)) {
        text.push_str("; it is purged until a refresh or an edit");
    }
    for (image, nodes) in current.iter().flat_map(|status| &status.failures) {
        for failure in nodes {
            let (node, reason, message) = (&failure.node, &failure.reason, &failure.message);
            text.push_str(&format!("\n  {image} on {node}: {reason}: {message}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mk_cache(annotations: Value, status: Value) -> ReadCache {
        let metadata = json!({ "namespace": "shop", "name": "web", "generation": 2, "annotations": annotations });
        serde_json::from_value(json!({ "metadata": metadata, "status": status })).unwrap()
    }

    fn mk_status(status: &str, generation: u64, ready: &str, purged: bool) -> Value {
        json!({
            "status": status, "reason": "ImageCacheCreate", "message": "1 of 2 cached on 1 node, 1 failed",
            "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:00Z",
            "observedGeneration": generation, "purged": purged,
            "counts": { "desired": 6, "cached": 4, "pulling": 1, "failed": 1, "unreachable": 0 },
            "conditions": [{ "type": "Ready", "status": ready, "reason": "x", "message": "x",
                "lastTransitionTime": "2026-01-01T00:00:00Z" }],
            "failures": { "app:1": [{ "node": "n", "reason": "ImageNotFound", "message": "manifest unknown" }] },
        })
    }

    #[test]
    fn a_document_has_counts_and_times() {
        let mut cache = mk_cache(json!({}), mk_status("Succeeded", 2, "True", false));
        let created = json!("2026-01-01T00:00:00Z");
        cache.metadata.creation_timestamp = serde_json::from_value(created).unwrap();
        assert_eq!(
            serde_json::to_value(CacheOverview::new(&cache)).unwrap(),
            json!({
                "namespace": "shop", "name": "web", "action": "ImageCacheCreate",
                "status": "Succeeded", "message": "1 of 2 cached on 1 node, 1 failed",
                "takenUp": true, "purged": false,
                "counts": { "desired": 6, "cached": 4, "pulling": 1, "failed": 1, "unreachable": 0 },
                "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:00Z",
                "creationTime": "2026-01-01T00:00:00Z",
            })
        );
    }

    #[test]
    fn images_that_are_pulled_again_are_shown_first() {
        let view = |pulling: u64, completed: Value| {
            let mut status = mk_status("Succeeded", 2, "True", false);
            status["counts"]["pulling"] = pulling.into();
            status["completionTime"] = completed;
            CacheOverview::new(&mk_cache(json!({}), status))
        };
        let done = json!("2026-01-01T00:01:00Z");
        assert_eq!(view(5, done.clone()).word(), "Pulling");
        assert_eq!(view(0, done).word(), "Succeeded");
        assert_eq!(view(5, Value::Null).word(), "Succeeded");
    }

    #[test]
    fn cached_requires_ready_for_the_newest_generation() {
        let none = json!({});
        let is = |status: Value| is_cached(&mk_cache(none.clone(), status));
        assert!(is(mk_status("Succeeded", 2, "True", false)));
        assert!(!is(mk_status("Succeeded", 1, "True", false)));
        assert!(!is(mk_status("Failed", 2, "False", false)));
        assert!(!is(Value::Null));
        let requested = json!({ "kubefledged.io/refresh-imagecache": "" });
        let ready = mk_status("Succeeded", 2, "True", false);
        assert!(!is_cached(&mk_cache(requested, ready)));
    }

    #[test]
    fn purged_requires_a_successful_purge() {
        let is = |status: Value| is_purged(&mk_cache(json!({}), status));
        assert!(is(mk_status("Succeeded", 2, "False", true)));
        assert!(!is(mk_status("Failed", 2, "False", true)));
        assert!(!is(mk_status("Succeeded", 2, "True", false)));
    }

    #[test]
    fn missing_lists_the_failures() {
        let cache = mk_cache(json!({}), mk_status("Failed", 2, "False", false));
        assert_eq!(
            missing(&cache),
            "ImageCacheCreate Failed: 1 of 2 cached on 1 node, 1 failed\n  app:1 on n: ImageNotFound: manifest unknown"
        );
        assert_eq!(
            missing(&mk_cache(json!({}), Value::Null)),
            "no controller has processed it; check that one is running"
        );
        let old = mk_cache(json!({}), mk_status("Succeeded", 1, "True", false));
        assert!(missing(&old).starts_with("no controller has processed its newest version"));
    }

    #[test]
    fn missing_names_a_request_that_no_controller_began() {
        let of = |annotation: &str, reason: &str, completed: Value| {
            let mut status = mk_status("Succeeded", 2, "True", false);
            status["reason"] = reason.into();
            status["completionTime"] = completed;
            missing(&mk_cache(json!({ annotation: "" }), status))
        };
        let done = json!("2026-01-01T00:01:00Z");
        for (annotation, action) in [
            (REFRESH_ANNOTATION, "ImageCacheRefresh"),
            (PURGE_ANNOTATION, "ImageCachePurge"),
        ] {
            let text = format!("no controller has processed the annotation {annotation}; check");
            let other = of(annotation, "ImageCacheCreate", done.clone());
            assert!(other.starts_with(&text), "{other}");
            // The last one has ended; this is another.
            let earlier = of(annotation, action, done.clone());
            assert!(earlier.starts_with(&text), "{earlier}");
            let begun = of(annotation, action, Value::Null);
            assert!(begun.starts_with(action), "{begun}");
        }
    }
}
