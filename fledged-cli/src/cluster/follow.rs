//! Following one ImageCache until it is as it should be.

use std::pin::pin;
use std::time::Duration;

use fledged_operator::api::error::with_causes;
use fledged_operator::crd::ReadCache;
use futures_util::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};

use super::connect::Connection;
use super::error::ClusterError;

/// How following ended.
#[derive(Debug)]
pub(super) enum Followed<T> {
    /// With a judgement.
    Judged(T),
    /// Nothing was decided in time; this is what was last seen, and what kept the watch from seeing more.
    TimedOut {
        last: Box<ReadCache>,
        problem: Option<String>,
    },
}

impl Connection {
    /// Watches the cache until `judge` decides; `None` is a cache that is gone.
    ///
    /// It is looked at once whatever the timeout.
    pub(super) async fn follow<T>(
        &self,
        name: &str,
        timeout: Duration,
        mut judge: impl FnMut(Option<&ReadCache>) -> Option<T>,
    ) -> Result<Followed<T>, ClusterError> {
        let mut last = self.cache(name).await?;
        if let Some(judged) = judge(Some(&last)) {
            return Ok(Followed::Judged(judged));
        }
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = pin!(watcher::watcher(self.caches(), config).default_backoff());
        let mut end = pin!(tokio::time::sleep(timeout));
        let (mut problem, mut listed) = (None, false);
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = &mut end => {
                    let last = Box::new(last);
                    return Ok(Followed::TimedOut { last, problem });
                }
            };
            let seen = match event {
                Some(Ok(Event::Init)) => {
                    listed = false;
                    continue;
                }
                Some(Ok(Event::InitApply(cache) | Event::Apply(cache))) => {
                    listed = true;
                    Some(cache)
                }
                Some(Ok(Event::InitDone)) if listed => continue,
                Some(Ok(Event::InitDone | Event::Delete(_))) => None,
                Some(Err(error)) => {
                    if let Some(error) = self.refused(name, &error) {
                        return Err(error);
                    }
                    problem = Some(with_causes(&error));
                    continue;
                }
                None => continue,
            };
            problem = None;
            if let Some(judged) = judge(seen.as_ref()) {
                return Ok(Followed::Judged(judged));
            }
            if let Some(cache) = seen {
                last = cache;
            }
        }
    }

    /// The error of a watch that nobody may begin, however often it is tried.
    fn refused(&self, name: &str, error: &watcher::Error) -> Option<ClusterError> {
        let (verb, cause) = match error {
            watcher::Error::InitialListFailed(cause) => ("list", cause),
            watcher::Error::WatchStartFailed(cause) => ("watch", cause),
            _ => return None,
        };
        match cause {
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
                Some(self.failed(self.about(verb, Some(name)), cause))
            }
            _ => None,
        }
    }
}
