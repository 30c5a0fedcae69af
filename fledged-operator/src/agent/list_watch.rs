//! The requests that list and watch one object.
//!
//! kube's watcher begins a watch again at once when its connection ends, and tells nobody: a thousand
//! agents would come back in the moment that a load balancer drops them. Here every end is told.

use std::sync::Arc;
use std::time::Duration;

use fledged_core::model::NodeName;
use fledged_core::port::Clock;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::HeaderValue;
use http::header::ACCEPT_ENCODING;
use http_body_util::BodyExt;
use jiff::Timestamp;
use kube::api::{ListParams, ObjectList, WatchEvent, WatchParams};
use kube::client::Body;
use kube::core::request::Request;
use kube::{Client, Resource};

use super::rejoin::Over;
use crate::api::error::with_causes;
use crate::crd::ReadNodeCache;
use crate::report::{Refusal, after, open, request, retry_after};

/// Longest that a list, or the beginning of a watch, may take: an API server's own limit.
const LIMIT: Duration = Duration::from_secs(60);
/// More than any object may have: what is longer is no event.
const LINE_MAX: usize = 16 * 1024 * 1024;
/// How far off a server's timer may be that ends a watch.
const TOLERANCE: Duration = Duration::from_secs(1);
/// How long after its time a watch counts as dead that the server has not ended.
const MARGIN: Duration = Duration::from_secs(5);

/// What ended a list or a watch.
#[derive(Debug)]
pub(super) struct End {
    pub(super) over: Over,
    /// How long the watch lasted.
    pub(super) lasted: Duration,
    /// In words, where it did not end as it should.
    pub(super) problem: Option<String>,
}

impl End {
    fn failed(problem: String) -> Self {
        Self {
            over: Over::Failed(None),
            lasted: Duration::ZERO,
            problem: Some(problem),
        }
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        let expired = refusal.status.is_some_and(|status| status.code == 410);
        Self {
            over: match expired {
                true => Over::Expired,
                false => Over::Failed(refusal.retry_after),
            },
            lasted: Duration::ZERO,
            problem: Some(refusal.problem),
        }
    }
}

/// Lists and watches the object of one node.
pub(super) struct ListWatch {
    pub(super) client: Client,
    pub(super) node: NodeName,
    /// How long one watch lasts, in seconds.
    pub(super) seconds: u32,
    pub(super) clock: Arc<dyn Clock>,
}

impl ListWatch {
    fn requests(&self) -> (Request, String) {
        let requests = Request::new(ReadNodeCache::url_path(&(), None));
        (requests, format!("metadata.name={}", self.node))
    }

    /// The object if it is there, and the version of the list.
    ///
    /// It is the newest there is. A server's cache (`resourceVersion=0`) may hold one that has been
    /// replaced, by which images were removed that are wanted again. With this selector the server
    /// reads a single key, so that a thousand of these are no burden.
    pub(super) async fn list(&self) -> Result<(Vec<ReadNodeCache>, String), End> {
        let (requests, selector) = self.requests();
        let list = requests.list(&ListParams::default().fields(&selector));
        let list = list.map_err(|error| End::failed(with_causes(&error)))?;
        let answer = request(&self.client, list, LIMIT).await?;
        let list: ObjectList<ReadNodeCache> = serde_json::from_slice(&answer)
            .map_err(|error| End::failed(format!("the list can't be read: {error}")))?;
        match list.metadata.resource_version.filter(|v| !v.is_empty()) {
            Some(version) => Ok((list.items, version)),
            None => Err(End::failed("the list has no resourceVersion".to_owned())),
        }
    }

    /// What happens after that version.
    pub(super) async fn watch(&self, version: &str) -> Result<Events, End> {
        let (requests, selector) = self.requests();
        let parameters = WatchParams::default().fields(&selector);
        let watch = requests.watch(&parameters.timeout(self.seconds), version);
        let mut watch = watch.map_err(|error| End::failed(with_causes(&error)))?;
        // Each event has to be readable when it comes.
        let identity = HeaderValue::from_static("identity");
        watch.headers_mut().insert(ACCEPT_ENCODING, identity);
        let length = Duration::from_secs(self.seconds.into());
        let (clock, began) = (Arc::clone(&self.clock), self.clock.now());
        let body = open(&self.client, watch, LIMIT).await?;
        let timer = Arc::clone(&self.clock);
        Ok(Events {
            body,
            unread: Vec::new(),
            searched: 0,
            clock,
            began,
            due: after(began, length.saturating_sub(TOLERANCE)),
            dead: async move { timer.sleep(length + MARGIN).await }.boxed(),
        })
    }
}

/// The events of one watch.
pub(super) struct Events {
    body: Body,
    /// What came, and is not a whole line yet or not taken.
    unread: Vec<u8>,
    /// How far into that there is no end of a line.
    searched: usize,
    clock: Arc<dyn Clock>,
    began: Timestamp,
    due: Timestamp,
    dead: BoxFuture<'static, ()>,
}

impl Events {
    /// The next event, or how the watch ended.
    pub(super) async fn next(&mut self) -> Result<WatchEvent<ReadNodeCache>, End> {
        loop {
            if let Some(line) = self.line() {
                return self.read(&line);
            }
            let frame = tokio::select! {
                frame = self.body.frame() => frame,
                () = &mut self.dead => None,
            };
            match frame {
                Some(Ok(frame)) => {
                    // Trailers are of no interest.
                    let data = frame.into_data().unwrap_or_default();
                    self.unread.extend_from_slice(&data);
                    if self.unread.len() > LINE_MAX {
                        let problem = format!("an event of more than {LINE_MAX} bytes");
                        return Err(self.ended(Over::Unreadable, Some(problem)));
                    }
                }
                Some(Err(error)) => return Err(self.ended(Over::Lost, Some(with_causes(&error)))),
                None => return Err(self.ended(Over::Lost, None)),
            }
        }
    }

    /// Takes a line, if a whole one has come.
    fn line(&mut self) -> Option<Vec<u8>> {
        let mut bytes = self.unread.iter().skip(self.searched);
        let Some(length) = bytes.position(|byte| *byte == b'\n') else {
            self.searched = self.unread.len();
            return None;
        };
        let rest = self.unread.split_off(self.searched + length + 1);
        self.searched = 0;
        Some(std::mem::replace(&mut self.unread, rest))
    }

    fn read(&self, line: &[u8]) -> Result<WatchEvent<ReadNodeCache>, End> {
        match serde_json::from_slice(line) {
            Ok(WatchEvent::Error(status)) => Err(match status.code {
                410 => self.ended(Over::Expired, Some(status.message.clone())),
                _ => {
                    let over = Over::Failed(retry_after(&status));
                    self.ended(over, Some(status.message.clone()))
                }
            }),
            Ok(event) => Ok(event),
            // It would come again and again: what it told is in a new list.
            Err(error) => {
                let problem = format!("an event can't be read: {error}");
                Err(self.ended(Over::Unreadable, Some(problem)))
            }
        }
    }

    fn ended(&self, over: Over, problem: Option<String>) -> End {
        let now = self.clock.now();
        let lasted = now.duration_since(self.began);
        let (over, problem) = match over {
            Over::Lost if now >= self.due => (Over::Due, None),
            Over::Lost => {
                let problem = problem.unwrap_or_else(|| "it ended before its time".to_owned());
                (Over::Lost, Some(problem))
            }
            over => (over, problem),
        };
        End {
            over,
            lasted: Duration::try_from(lasted).unwrap_or_default(),
            problem,
        }
    }
}
