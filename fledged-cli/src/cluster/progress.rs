//! How far an ImageCache is from what somebody waits for.

use fledged_operator::crd::{ImageCacheStatus, PURGE_ANNOTATION, REFRESH_ANNOTATION, ReadCache};

use super::overview::status_of;

/// The status, if it is about the newest spec.
pub(super) fn current(cache: &ReadCache) -> Option<ImageCacheStatus> {
    let status = status_of(cache);
    status.filter(|status| status.observed_generation == cache.metadata.generation)
}

/// Whether that annotation asks for something that is not done.
pub(super) fn is_asked(cache: &ReadCache, annotation: &str) -> bool {
    let annotations = cache.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key(annotation))
}

/// Whether every image is on every node that can be reached, and nothing else is asked for.
pub(crate) fn is_cached(cache: &ReadCache) -> bool {
    let asked = [REFRESH_ANNOTATION, PURGE_ANNOTATION];
    let ready = |status: ImageCacheStatus| {
        let mut conditions = status.conditions.iter();
        conditions.any(|c| c.type_ == "Ready" && c.status == "True")
    };
    !asked.iter().any(|name| is_asked(cache, name)) && current(cache).is_some_and(ready)
}

/// Whether its images were removed from every node that can be reached.
pub(super) fn is_purged(cache: &ReadCache) -> bool {
    let done = |status: ImageCacheStatus| {
        let good = ["Succeeded", "NoImagesPulledOrDeleted"];
        status.purged == Some(true)
            && status.completion_time.is_some()
            && good.contains(&status.status.as_str())
    };
    !is_asked(cache, REFRESH_ANNOTATION) && current(cache).is_some_and(done)
}

/// Whether its action has ended otherwise than well, for the newest spec.
#[cfg(feature = "demo")]
pub(crate) fn is_failed(cache: &ReadCache) -> bool {
    let failed = |status: ImageCacheStatus| {
        status.completion_time.is_some() && ["Failed", "Unknown"].contains(&status.status.as_str())
    };
    current(cache).is_some_and(failed)
}

/// Whether its action has ended, and no image is meant for any node.
#[cfg(feature = "demo")]
pub(crate) fn is_empty(cache: &ReadCache) -> bool {
    let empty = |status: ImageCacheStatus| {
        status.completion_time.is_some() && status.counts.is_none_or(|counts| counts.desired == 0)
    };
    current(cache).is_some_and(empty)
}

/// Why that is not so yet: a sentence, then a line for each failure that the status tells of.
pub(crate) fn missing(cache: &ReadCache) -> String {
    let mut text = match (current(cache), status_of(cache)) {
        (Some(status), _) => format!("{} {}: {}", status.reason, status.status, status.message),
        (None, Some(status)) => format!(
            "no controller has taken up its newest spec; the last word is of {}: {}",
            status.reason, status.message
        ),
        (None, None) => "no controller has taken it up; is one running?".to_owned(),
    };
    let status = current(cache);
    if status.as_ref().is_some_and(|s| s.purged == Some(true)) {
        text.push_str("; it is purged, and stays so until a refresh or an edit");
    }
    let failures = status.iter().flat_map(|status| &status.failures);
    for (image, nodes) in failures {
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
            "conditions": [{ "type": "Ready", "status": ready, "reason": "x", "message": "x",
                "lastTransitionTime": "2026-01-01T00:00:00Z" }],
            "failures": { "app:1": [{ "node": "n", "reason": "ImageNotFound", "message": "manifest unknown" }] },
        })
    }

    #[test]
    fn cached_is_ready_for_the_newest_spec_with_nothing_asked() {
        let none = json!({});
        let is = |status: Value| is_cached(&mk_cache(none.clone(), status));
        assert!(is(mk_status("Succeeded", 2, "True", false)));
        assert!(!is(mk_status("Succeeded", 1, "True", false)));
        assert!(!is(mk_status("Failed", 2, "False", false)));
        assert!(!is(Value::Null));
        let asked = json!({ "kubefledged.io/refresh-imagecache": "" });
        let ready = mk_status("Succeeded", 2, "True", false);
        assert!(!is_cached(&mk_cache(asked, ready)));
    }

    #[test]
    fn purged_is_when_the_purge_has_ended_well() {
        let is = |status: Value| is_purged(&mk_cache(json!({}), status));
        assert!(is(mk_status("Succeeded", 2, "False", true)));
        assert!(!is(mk_status("Failed", 2, "False", true)));
        assert!(!is(mk_status("Succeeded", 2, "True", false)));
    }

    #[test]
    fn what_is_missing_is_said_with_its_failures() {
        let cache = mk_cache(json!({}), mk_status("Failed", 2, "False", false));
        assert_eq!(
            missing(&cache),
            "ImageCacheCreate Failed: 1 of 2 cached on 1 node, 1 failed\n  app:1 on n: ImageNotFound: manifest unknown"
        );
        assert_eq!(
            missing(&mk_cache(json!({}), Value::Null)),
            "no controller has taken it up; is one running?"
        );
        let old = mk_cache(json!({}), mk_status("Succeeded", 1, "True", false));
        assert!(missing(&old).starts_with("no controller has taken up its newest spec"));
    }
}
