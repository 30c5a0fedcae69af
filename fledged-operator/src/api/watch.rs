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

/// Between attempts to begin a watch again. One controller is no burden for an API server that is
/// coming back, and nothing is decided before it has listed everything.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long it has to go well before a failure counts as the first.
const CALM: Duration = Duration::from_secs(60);

/// Objects of a list that are in memory at a time: at a thousand nodes, the first lists would else
/// take more than everything that is kept of them.
const PAGE: u32 = 100;

/// Delays that grow until it has gone well for a while. Every event resets those of a watch, also the one
/// that says that a list is about to be asked for, and what is listed in part.
struct Patient<B>(B);

impl<B: Iterator<Item = Duration>> Iterator for Patient<B> {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next()
    }
}

impl<B: Backoff> Backoff for Patient<B> {
    fn reset(&mut self) {}
}

/// A watch that never ends: it is begun again with growing, jittered delays.
pub(crate) fn watch<K>(api: Api<K>) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watch_by(api, watcher::Config::default())
}

/// The same, of the objects with these labels.
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
    let watch = watcher::watcher(api, config.page_size(PAGE));
    let backoff = ResetTimerBackoff::new(ExponentialBackoff::from(backoff), CALM);
    let watch = watch.backoff(Patient(backoff));
    watch.filter_map(async |event| match event {
        Ok(event) => Some(event),
        Err(error) => {
            let hint = match &error {
                watcher::Error::InitialListFailed(kube::Error::Api(status)) => match status.code {
                    404 => "is its CustomResourceDefinition installed?",
                    401 | 403 => "may this account list and watch it?",
                    _ => "",
                },
                _ => "",
            };
            let error = with_causes(&error);
            warn!(kind = %K::kind(&()), error, hint, "the watch was interrupted");
            None
        }
    })
}

/// Objects by key, with what has to be remembered of each.
#[derive(Debug)]
pub(crate) struct Inventory<K, V> {
    known: BTreeMap<K, V>,
    /// What a list under way has told of so far.
    listed: Option<BTreeSet<K>>,
}

impl<K: Ord + Clone, V> Inventory<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            known: BTreeMap::new(),
            listed: None,
        }
    }

    /// A list begins.
    pub(crate) fn begin(&mut self) {
        self.listed = Some(BTreeSet::new());
    }

    /// An object is there; returns what was remembered of it.
    pub(crate) fn put(&mut self, key: K, value: V) -> Option<V> {
        if let Some(listed) = &mut self.listed {
            listed.insert(key.clone());
        }
        self.known.insert(key, value)
    }

    /// An object is gone.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.known.remove(key)
    }

    /// The list has ended; returns what it did not tell of any more.
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

    /// What is forbidden stays so until somebody does something about it.
    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_asked_for_less_and_less() {
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
    fn a_new_list_tells_what_is_gone() {
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
        assert!(inventory.end().is_empty(), "no list was under way");
    }
}
