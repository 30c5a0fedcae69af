//! Watches that never end, and the index that finds what a new list no longer holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use backon::ExponentialBuilder;
use futures_util::stream::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::{Backoff, ResetTimerBackoff};
use kube::runtime::watcher::{self, Event, ExponentialBackoff};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tracing::warn;

use crate::api::error::with_causes;

/// Delays between attempts to restart a watch. They are short: one controller is no load for an API server that
/// is coming back, and it plans nothing before every list is complete.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Time without a failure after which the back-off is reset.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// Page size of lists. It bounds memory: with a thousand nodes, unpaged first lists would take more memory than
/// everything the controller keeps.
const PAGE_SIZE: u32 = 100;

/// A back-off that ignores the resets of `WatchStreamExt::backoff`, which come with every event, also with the
/// start and the pages of a list that then fails.
struct NoResetOnEvent<B>(B);

impl<B: Iterator<Item = Duration>> Iterator for NoResetOnEvent<B> {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next()
    }
}

impl<B: Backoff> Backoff for NoResetOnEvent<B> {
    fn reset(&mut self) {}
}

/// Watches for ever. After failures the watch is restarted with growing, jittered delays.
pub(crate) fn watch<K>(api: Api<K>) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watch_by(api, watcher::Config::default())
}

/// Like [`watch`], of the objects that match this label selector.
pub(crate) fn watch_labelled<K>(
    api: Api<K>,
    labels: &str,
) -> impl Stream<Item = Event<K>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watch_by(api, watcher::Config::default().labels(labels))
}

fn watch_by<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let backoff = ExponentialBuilder::new()
        .with_min_delay(BACKOFF_MIN)
        .with_max_delay(BACKOFF_MAX)
        .with_jitter()
        .without_max_times();
    let watch = watcher::watcher(api, config.page_size(PAGE_SIZE));
    let backoff = ResetTimerBackoff::new(ExponentialBackoff::from(backoff), HEALTHY_AFTER);
    let watch = watch.backoff(NoResetOnEvent(backoff));
    watch.filter_map(async |event| match event {
        Ok(event) => Some(event),
        Err(error) => {
            let hint = match &error {
                watcher::Error::InitialListFailed(kube::Error::Api(status)) => match status.code {
                    404 => "check that the CustomResourceDefinition is installed",
                    401 | 403 => "check that the ServiceAccount may list and watch it",
                    _ => "",
                },
                _ => "",
            };
            let error = with_causes(&error);
            warn!(kind = %K::kind(&()), error, hint, "watch failed");
            None
        }
    })
}

/// The keys of the objects that exist, with a value for each. Finds the objects that a new list no longer holds.
#[derive(Debug)]
pub(crate) struct Inventory<K, V> {
    known: BTreeMap<K, V>,
    /// Keys of the list in progress.
    listed: Option<BTreeSet<K>>,
}

impl<K: Ord + Clone, V> Inventory<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            known: BTreeMap::new(),
            listed: None,
        }
    }

    /// A list starts.
    pub(crate) fn begin(&mut self) {
        self.listed = Some(BTreeSet::new());
    }

    /// Adds or updates an object; returns its previous value.
    pub(crate) fn put(&mut self, key: K, value: V) -> Option<V> {
        if let Some(listed) = &mut self.listed {
            listed.insert(key.clone());
        }
        self.known.insert(key, value)
    }

    /// Removes an object; returns its value.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.known.remove(key)
    }

    /// The list is complete; removes and returns the keys that it did not hold.
    pub(crate) fn end(&mut self) -> Vec<K> {
        let Some(listed) = self.listed.take() else {
            return Vec::new();
        };
        let gone = self.known.keys().filter(|key| !listed.contains(*key));
        let gone: Vec<K> = gone.cloned().collect();
        for key in &gone {
            self.known.remove(key);
        }
        gone
    }
}

#[cfg(test)]
mod watch_tests {
    use std::sync::{Arc, Mutex};

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::Pod;
    use kube::Client;
    use kube::client::Body;
    use tokio::time::Instant;

    use super::*;

    /// A forbidden watch stays forbidden until a person changes the rights.
    #[tokio::test(start_paused = true)]
    async fn forbidden_watch_backs_off() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let times = Arc::clone(&asked);
        let service = tower::service_fn(move |_: Request<Body>| {
            times.lock().unwrap().push(Instant::now());
            let status = serde_json::json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure",
                "reason": "Forbidden", "message": "pods is forbidden", "code": 403 });
            let body = Body::from(status.to_string().into_bytes());
            let response = Response::builder().status(403).body(body).unwrap();
            async move { Ok::<_, std::convert::Infallible>(response) }
        });
        let client = Client::new(service, "default");
        let pods: Api<Pod> = Api::all(client);
        let watching = watch(pods).for_each(async |_| {});
        let _ = tokio::time::timeout(Duration::from_secs(60), watching).await;
        let asked = asked.lock().unwrap();
        assert!((6..=20).contains(&asked.len()), "{}", asked.len());
        let last = asked[asked.len() - 1] - asked[asked.len() - 2];
        assert!(last >= BACKOFF_MAX, "{last:?}");
    }
}

#[cfg(test)]
mod inventory_tests {
    use super::*;

    #[test]
    fn a_new_list_removes_missing_keys() {
        let mut inventory = Inventory::new();
        inventory.begin();
        inventory.put("a", 1);
        inventory.put("b", 1);
        assert!(inventory.end().is_empty());
        assert_eq!(inventory.put("a", 2), Some(1));
        inventory.begin();
        inventory.put("b", 2);
        assert_eq!(inventory.end(), ["a"]);
        assert_eq!(inventory.remove(&"a"), None);
        assert!(inventory.end().is_empty(), "no list was in progress");
    }
}
