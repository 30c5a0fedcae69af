//! A watch that never ends.

use std::time::Duration;

use backon::ExponentialBuilder;
use futures_util::stream::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::ResetTimerBackoff;
use kube::runtime::watcher::{self, Event, ExponentialBackoff};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tracing::warn;

use crate::problem::with_causes;

/// Between attempts to begin a watch again. One controller is no burden for an API server that is
/// coming back, and nothing is decided before it has listed everything.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long it has to go well before a failure counts as the first.
const CALM: Duration = Duration::from_secs(60);

/// Objects of a list that are in memory at a time: at a thousand nodes, the first lists would else
/// take more than everything that is kept of them.
const PAGE: u32 = 100;

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
    // What is listed in part is a success to the watch, but no reason to be hasty.
    let backoff = ResetTimerBackoff::new(ExponentialBackoff::from(backoff), CALM);
    let watch = watch.backoff(backoff);
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
