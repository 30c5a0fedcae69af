//! Watches that never end, and the index that finds what a new list no longer holds.

use std::collections::BTreeSet;
use std::time::Duration;

use backon::ExponentialBuilder;
use futures_util::stream::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::{Backoff, ResetTimerBackoff};
use kube::runtime::watcher::{self, Config, Event, ExponentialBackoff};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tracing::warn;

use crate::request_error::with_causes;

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

/// Watches the objects that this configuration selects, for ever. After failures the watch is restarted with
/// growing, jittered delays.
pub fn try_watch<K>(
    api: Api<K>,
    config: Config,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
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
    watch.backoff(NoResetOnEvent(backoff))
}

/// As [`try_watch`], and logs the failures.
pub fn watch<K>(api: Api<K>, config: Config) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    try_watch(api, config).filter_map(async |event| match event {
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

/// What an event of a watch says about the objects that exist.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<K, O> {
    /// This object exists.
    Applied(K, O),
    /// The objects with these keys do not exist.
    Gone(Vec<K>),
}

/// The keys of the objects that exist. Finds the objects that a new list no longer holds.
#[derive(Debug)]
pub struct ListedKeys<K> {
    known: BTreeSet<K>,
    /// Keys of the list in progress.
    listing: Option<BTreeSet<K>>,
    listed: bool,
}

impl<K> Default for ListedKeys<K> {
    fn default() -> Self {
        Self {
            known: BTreeSet::new(),
            listing: None,
            listed: false,
        }
    }
}

impl<K: Ord + Clone> ListedKeys<K> {
    /// Takes an event. Objects without a key are ignored.
    pub fn apply<O>(&mut self, event: Event<O>, key: impl Fn(&O) -> Option<K>) -> Change<K, O> {
        match event {
            Event::Init => {
                self.listing = Some(BTreeSet::new());
                Change::Gone(Vec::new())
            }
            Event::InitApply(object) | Event::Apply(object) => match key(&object) {
                None => Change::Gone(Vec::new()),
                Some(key) => {
                    self.insert(key.clone());
                    Change::Applied(key, object)
                }
            },
            Event::Delete(object) => {
                let key = key(&object);
                key.iter().for_each(|key| self.remove(key));
                Change::Gone(key.into_iter().collect())
            }
            Event::InitDone => {
                self.listed = true;
                let Some(listed) = self.listing.take() else {
                    return Change::Gone(Vec::new());
                };
                let known = std::mem::replace(&mut self.known, listed);
                let gone = known
                    .difference(&self.known)
                    .filter(|_| !fledged_core::planted::is("deletion-in-a-gap-missed"));
                Change::Gone(gone.cloned().collect())
            }
        }
    }

    /// Adds the key of an object that is known from elsewhere, such as the response to its creation.
    pub fn insert(&mut self, key: K) {
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone());
        }
        self.known.insert(key);
    }

    /// Removes the key of an object that does not count any more.
    pub fn remove(&mut self, key: &K) {
        if let Some(listing) = &mut self.listing {
            listing.remove(key);
        }
        self.known.remove(key);
    }

    /// Whether the first list is complete.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// Whether a list is in progress.
    #[must_use]
    pub fn is_listing(&self) -> bool {
        self.listing.is_some()
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
        let watching = watch(pods, Config::default()).for_each(async |_| {});
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
        let mut inventory = ListedKeys::default();
        let mut apply = |event| inventory.apply(event, |name: &&'static str| Some(*name));
        apply(Event::Init);
        assert_eq!(apply(Event::InitApply("a")), Change::Applied("a", "a"));
        apply(Event::InitApply("b"));
        assert_eq!(apply(Event::InitDone), Change::Gone(vec![]));
        apply(Event::Apply("c"));
        assert_eq!(apply(Event::Delete("c")), Change::Gone(vec!["c"]));
        apply(Event::Init);
        apply(Event::InitApply("b"));
        assert_eq!(apply(Event::InitDone), Change::Gone(vec!["a"]));
        let done = apply(Event::InitDone);
        assert_eq!(done, Change::Gone(vec![]), "no list was in progress");
        assert!(inventory.is_listed() && !inventory.is_listing());
    }

    #[test]
    fn an_interrupted_list_starts_again() {
        let mut inventory = ListedKeys::default();
        let mut apply = |event| inventory.apply(event, |name: &&'static str| Some(*name));
        apply(Event::Apply("a"));
        apply(Event::Apply("b"));
        apply(Event::Init);
        apply(Event::InitApply("a"));
        apply(Event::Init);
        apply(Event::InitApply("b"));
        assert_eq!(apply(Event::InitDone), Change::Gone(vec!["a"]));
    }

    #[test]
    fn an_object_without_a_key_is_ignored() {
        let mut inventory = ListedKeys::<u8>::default();
        assert_eq!(
            inventory.apply(Event::Apply("x"), |_| None),
            Change::Gone(vec![])
        );
        assert_eq!(
            inventory.apply(Event::Delete("x"), |_| None),
            Change::Gone(vec![])
        );
    }
}
