//! ImageCaches with their counts.

use console::Style;
use fledged_core::planner::PairCounts;
use fledged_operator::crd::{ImageCacheStatus, ReadCache};
use jiff::Timestamp;
use serde::Serialize;

use super::age::age;
use crate::output::{Align, Table};

/// What `get` shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// The caches, in the order they were listed.
    pub image_caches: Vec<CacheOverview>,
}

/// One ImageCache.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheOverview {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The last action (`status.reason`); null before the first.
    pub action: Option<String>,
    /// How that stands (`status.status`).
    pub status: Option<String>,
    /// The sentence with the counts (`status.message`).
    pub message: Option<String>,
    /// Whether all this is about the newest spec.
    pub taken_up: bool,
    /// Whether it is purged.
    pub purged: bool,
    /// Images times nodes.
    pub counts: PairCounts,
    /// When the action began.
    pub start_time: Option<Timestamp>,
    /// When it ended.
    pub completion_time: Option<Timestamp>,
    /// When the ImageCache was made.
    pub creation_time: Option<Timestamp>,
}

impl CacheOverview {
    /// What a cache says of itself.
    #[must_use]
    pub fn new(cache: &ReadCache) -> Self {
        let id = cache.id();
        let status = status_of(cache);
        let status = status.as_ref();
        let newest = cache.metadata.generation;
        let created = cache.metadata.creation_timestamp.as_ref();
        Self {
            namespace: id.namespace,
            name: id.name,
            action: status.map(|status| status.reason.clone()),
            status: status.map(|status| status.status.clone()),
            message: status.map(|status| status.message.clone()),
            taken_up: status.is_some_and(|status| status.observed_generation == newest),
            purged: status.and_then(|status| status.purged).unwrap_or(false),
            counts: status.and_then(|status| status.counts).unwrap_or_default(),
            start_time: status.map(|status| status.start_time.0),
            completion_time: status.and_then(|s| s.completion_time.as_ref().map(|at| at.0)),
            creation_time: created.map(|at| at.0),
        }
    }

    /// The status in one word, also where nobody has written one for the newest spec.
    pub(super) fn word(&self) -> &str {
        match &self.status {
            Some(status) if self.taken_up => status,
            _ => "NotTakenUp",
        }
    }
}

/// The status, unless nobody has written one that can be read.
pub(super) fn status_of(cache: &ReadCache) -> Option<ImageCacheStatus> {
    serde_json::from_value(cache.status.clone()).ok()
}

/// The colour of a status.
pub(super) fn style_of(status: &str) -> Style {
    match status {
        "Succeeded" => Style::new().green(),
        "Failed" | "Aborted" => Style::new().red(),
        _ => Style::new().yellow(),
    }
}

/// The columns of [`table`]; with namespaces where there are several.
pub(super) fn table<'a>(
    caches: impl IntoIterator<Item = &'a CacheOverview>,
    namespaces: bool,
    now: Timestamp,
) -> Table {
    let mut columns = vec![
        ("NAMESPACE", Align::Left),
        ("NAME", Align::Left),
        ("STATUS", Align::Left),
        ("ACTION", Align::Left),
        ("DESIRED", Align::Right),
        ("CACHED", Align::Right),
        ("PULLING", Align::Right),
        ("FAILED", Align::Right),
        ("UNREACHABLE", Align::Right),
        ("AGE", Align::Right),
    ];
    let skipped = usize::from(!namespaces);
    columns.drain(..skipped);
    let mut table = Table::new(&columns);
    for cache in caches {
        let plain = |text: String| (text, Style::new());
        let counts = cache.counts;
        let cells = [
            plain(cache.namespace.clone()),
            plain(cache.name.clone()),
            (cache.word().to_owned(), style_of(cache.word())),
            plain(cache.action.clone().unwrap_or_else(|| "-".to_owned())),
            plain(counts.desired.to_string()),
            plain(counts.cached.to_string()),
            plain(counts.pulling.to_string()),
            plain(counts.failed.to_string()),
            plain(counts.unreachable.to_string()),
            plain(
                cache
                    .creation_time
                    .map_or_else(String::new, |at| age(at, now)),
            ),
        ];
        table.styled_row(cells.into_iter().skip(skipped));
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mk_cache(name: &str, generation: i64, status: Value) -> ReadCache {
        let metadata = json!({ "namespace": "shop", "name": name, "generation": generation,
            "creationTimestamp": "2026-01-01T00:00:00Z" });
        serde_json::from_value(json!({ "metadata": metadata, "status": status })).unwrap()
    }

    fn mk_caches() -> Vec<CacheOverview> {
        let counts =
            json!({ "desired": 6, "cached": 4, "pulling": 1, "failed": 1, "unreachable": 0 });
        let status = json!({ "status": "Processing", "reason": "ImageCacheUpdate", "message": "m",
            "startTime": "2026-01-01T00:01:00Z", "observedGeneration": 2, "counts": counts });
        let caches = [
            mk_cache("web", 2, status.clone()),
            mk_cache("edited", 3, status),
            mk_cache("new", 1, Value::Null),
        ];
        caches.iter().map(CacheOverview::new).collect()
    }

    #[test]
    fn a_row_tells_counts_and_whether_they_are_about_the_newest_spec() {
        let now = "2026-01-01T00:03:05Z".parse().unwrap();
        assert_eq!(
            table(&mk_caches(), true, now).render(),
            "\
NAMESPACE   NAME     STATUS       ACTION             DESIRED   CACHED   PULLING   FAILED   UNREACHABLE    AGE
shop        web      Processing   ImageCacheUpdate         6        4         1        1             0   3m5s
shop        edited   NotTakenUp   ImageCacheUpdate         6        4         1        1             0   3m5s
shop        new      NotTakenUp   -                        0        0         0        0             0   3m5s
"
        );
    }

    #[test]
    fn a_document_has_the_numbers_and_the_moments() {
        let document = serde_json::to_value(mk_caches().first()).unwrap();
        assert_eq!(
            document,
            json!({
                "namespace": "shop", "name": "web",
                "action": "ImageCacheUpdate", "status": "Processing", "message": "m",
                "takenUp": true, "purged": false,
                "counts": { "desired": 6, "cached": 4, "pulling": 1, "failed": 1, "unreachable": 0 },
                "startTime": "2026-01-01T00:01:00Z", "completionTime": null,
                "creationTime": "2026-01-01T00:00:00Z",
            })
        );
    }
}
