//! The status of an ImageCache: a view for `get`, and whether a condition is met.

use console::Style;
use fledged_core::planner::PairCounts;
use fledged_operator::crd::{ImageCacheStatus, PURGE_ANNOTATION, REFRESH_ANNOTATION, ReadCache};
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

    /// The status in one word; `NotTakenUp` if there is none for the newest generation.
    pub(super) fn word(&self) -> &str {
        match &self.status {
            Some(status) if self.taken_up => status,
            _ => "NotTakenUp",
        }
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

/// Whether the images were removed from every reachable node.
pub(super) fn is_purged(cache: &ReadCache) -> bool {
    let is_done = |status: ImageCacheStatus| {
        status.purged == Some(true)
            && status.completion_time.is_some()
            && ["Succeeded", "NoImagesPulledOrDeleted"].contains(&status.status.as_str())
    };
    !has_annotation(cache, REFRESH_ANNOTATION) && current_status(cache).is_some_and(is_done)
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

/// Why a condition is not met: a sentence, then a line for each failure in the status.
pub(crate) fn missing(cache: &ReadCache) -> String {
    let current = current_status(cache);
    let mut text = match (&current, status_of(cache)) {
        (Some(status), _) => format!("{} {}: {}", status.reason, status.status, status.message),
        (None, Some(status)) => format!(
            "no controller has processed its newest version; last status: {}: {}",
            status.reason, status.message
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
}
