//! The requests that list and watch one object.
//!
//! kube's watcher restarts a watch at once when its connection closes and does not report it. A thousand agents
//! would reconnect at the moment when a load balancer drops them. Here, every end of a watch is reported.

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

use super::watch_backoff::WatchEnd;
use crate::api::error::with_causes;
use crate::crd::ReadNodeCache;
use crate::report::{Refusal, after, open, request, retry_after};

/// Limit for a list and for the start of a watch, the same as the API server's.
const LIMIT: Duration = Duration::from_secs(60);
/// Longest line of a watch in bytes, more than any object has.
const LINE_MAX: usize = 16 * 1024 * 1024;
/// Tolerance for the server's timer that ends a watch.
const TOLERANCE: Duration = Duration::from_secs(1);
/// How long after its deadline a watch that the server did not end counts as dead.
const MARGIN: Duration = Duration::from_secs(5);

/// How a list or a watch ended.
#[derive(Debug)]
pub(super) struct Interruption {
    pub(super) end: WatchEnd,
    /// How long the watch lasted.
    pub(super) lasted: Duration,
    /// The problem, unless the watch ended at its deadline.
    pub(super) problem: Option<String>,
}

impl Interruption {
    fn failed(problem: String) -> Self {
        Self {
            end: WatchEnd::Failed(None),
            lasted: Duration::ZERO,
            problem: Some(problem),
        }
    }
}

impl From<Refusal> for Interruption {
    fn from(refusal: Refusal) -> Self {
        let expired = refusal.status.is_some_and(|status| status.code == 410);
        Self {
            end: if expired {
                WatchEnd::Expired
            } else {
                WatchEnd::Failed(refusal.retry_after)
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
    /// Duration of one watch in seconds.
    pub(super) seconds: u32,
    pub(super) clock: Arc<dyn Clock>,
}

impl ListWatch {
    fn requests(&self) -> (Request, String) {
        let requests = Request::new(ReadNodeCache::url_path(&(), None));
        (requests, format!("metadata.name={}", self.node))
    }

    /// The object, if it exists, and the resourceVersion of the list.
    ///
    /// This is a quorum read. The watch cache (`resourceVersion=0`) may hold an older assignment, by which images
    /// would be removed that are desired again. With this selector the server reads a single key, so a thousand
    /// agents are no load.
    pub(super) async fn list(&self) -> Result<(Vec<ReadNodeCache>, String), Interruption> {
        let (requests, selector) = self.requests();
        let list = requests.list(&ListParams::default().fields(&selector));
        let list = list.map_err(|error| Interruption::failed(with_causes(&error)))?;
        let answer = request(&self.client, list, LIMIT).await?;
        let list: ObjectList<ReadNodeCache> = serde_json::from_slice(&answer)
            .map_err(|error| Interruption::failed(format!("cannot parse the list: {error}")))?;
        match list.metadata.resource_version.filter(|v| !v.is_empty()) {
            Some(version) => Ok((list.items, version)),
            None => Err(Interruption::failed(
                "the list has no resourceVersion".to_owned(),
            )),
        }
    }

    /// The events after this version.
    pub(super) async fn watch(&self, version: &str) -> Result<Events, Interruption> {
        let (requests, selector) = self.requests();
        let parameters = WatchParams::default().fields(&selector);
        let watch = requests.watch(&parameters.timeout(self.seconds), version);
        let mut watch = watch.map_err(|error| Interruption::failed(with_causes(&error)))?;
        // Compression would delay events until a block is full.
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
    /// Received bytes that are not parsed yet.
    unread: Vec<u8>,
    /// Length of the prefix of `unread` that holds no line feed.
    searched: usize,
    clock: Arc<dyn Clock>,
    began: Timestamp,
    due: Timestamp,
    dead: BoxFuture<'static, ()>,
}

impl Events {
    /// The next event, or the end of the watch.
    pub(super) async fn next(&mut self) -> Result<WatchEvent<ReadNodeCache>, Interruption> {
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
                    // Trailers are ignored.
                    let data = frame.into_data().unwrap_or_default();
                    self.unread.extend_from_slice(&data);
                    if self.unread.len() > LINE_MAX {
                        let problem = format!("an event of more than {LINE_MAX} bytes");
                        return Err(self.ended(WatchEnd::Unreadable, Some(problem)));
                    }
                }
                Some(Err(error)) => {
                    return Err(self.ended(WatchEnd::Lost, Some(with_causes(&error))));
                }
                None => return Err(self.ended(WatchEnd::Lost, None)),
            }
        }
    }

    /// Takes the next complete line.
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

    fn read(&self, line: &[u8]) -> Result<WatchEvent<ReadNodeCache>, Interruption> {
        match serde_json::from_slice(line) {
            Ok(WatchEvent::Error(status)) => Err(match status.code {
                410 => self.ended(WatchEnd::Expired, Some(status.message.clone())),
                _ => {
                    let end = WatchEnd::Failed(retry_after(&status));
                    self.ended(end, Some(status.message.clone()))
                }
            }),
            Ok(event) => Ok(event),
            // Watching from the same version would repeat it; a new list holds the same state.
            Err(error) => {
                let problem = format!("cannot parse an event: {error}");
                Err(self.ended(WatchEnd::Unreadable, Some(problem)))
            }
        }
    }

    fn ended(&self, end: WatchEnd, problem: Option<String>) -> Interruption {
        let now = self.clock.now();
        let lasted = now.duration_since(self.began);
        let (end, problem) = match end {
            WatchEnd::Lost if now >= self.due => (WatchEnd::Due, None),
            WatchEnd::Lost => {
                let problem = problem.unwrap_or_else(|| "the connection closed early".to_owned());
                (WatchEnd::Lost, Some(problem))
            }
            end => (end, problem),
        };
        Interruption {
            end,
            lasted: Duration::try_from(lasted).unwrap_or_default(),
            problem,
        }
    }
}
