//! Watching objects.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::time::{Instant, sleep_until};

use super::body::{self, Response};
use super::encode::{self, Form};
use super::options::ListOptions;
use super::{Api, Request, Target};
use crate::error::{ApiError, ApiResult};
use crate::kinds::Resource;
use crate::store::{Change, Delivery, Interest, Object, Watching, watch_line};

/// As often as a client is told how far it has come.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// The least time that a watch lasts if the client sets none; it is up to twice as long.
const LEAST_TIMEOUT: Duration = Duration::from_secs(1800);

/// A watch that is being answered.
struct Session {
    api: Arc<Api>,
    resource: Arc<Resource>,
    form: Form,
    /// Lines that are ready to be sent.
    ready: VecDeque<Bytes>,
    watching: Option<Watching>,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    /// Whether an event was sent, and with it the columns of a table.
    began: bool,
}

/// Answers a watch.
pub(crate) fn watch(api: &Arc<Api>, request: &Request, target: &Target) -> ApiResult<Response> {
    let form = Form::of(api, request)?;
    let options = ListOptions::of(request, &target.resource, &target.namespace, true)?;
    let selection = options.selection.clone();
    let now = Instant::now();
    let timeout = match options.timeout_seconds.filter(|seconds| *seconds > 0) {
        Some(seconds) => Duration::from_secs(seconds.min(24 * 3600)),
        None => LEAST_TIMEOUT.mul_f64(1.0 + api.fraction()),
    };
    let mut session = Session {
        api: Arc::clone(api),
        resource: Arc::clone(&target.resource),
        form,
        ready: VecDeque::new(),
        watching: None,
        bookmarks: options.bookmarks,
        next_bookmark: now + BOOKMARK_EVERY,
        deadline: now + timeout,
        began: false,
    };
    session.open(&options, Arc::new(selection), &target.namespace)?;
    let frames = stream::unfold(session, |mut session| async move {
        let line = session.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(line)), session))
    });
    Ok(body::stream(StreamBody::new(frames).boxed_unsync()))
}

impl Session {
    fn open(
        &mut self,
        options: &ListOptions,
        interest: Arc<dyn Interest>,
        namespace: &str,
    ) -> ApiResult<()> {
        let table = Arc::clone(&self.resource.table);
        let from = options.version.filter(|version| *version > 0);
        let initial = options.send_initial_events.unwrap_or(from.is_none());
        if let (true, Some(from)) = (options.send_initial_events == Some(true), from) {
            let current = self.api.store.revision();
            if from > current {
                return Err(ApiError::too_large_version(from, current));
            }
        }
        if initial {
            let (listed, watching) = self.api.store.watch_from_now(&table, namespace, interest);
            for object in &listed.objects {
                let line = self.line(Change::Added, object);
                self.ready.push_back(line);
            }
            if options.send_initial_events == Some(true) && self.bookmarks {
                let bookmark = encode::bookmark(&self.resource, &self.form, listed.revision, true);
                self.ready.push_back(watch_line("BOOKMARK", &bookmark));
            }
            self.watching = Some(watching);
            return Ok(());
        }
        let from = from.unwrap_or_else(|| self.api.store.revision());
        match self.api.store.watch(&table, interest, from) {
            Ok((replay, watching)) => {
                for delivery in &replay {
                    let line = self.deliver(delivery);
                    self.ready.push_back(line);
                }
                self.watching = Some(watching);
            }
            Err(oldest) => {
                // Told in the stream, as the cache of the API server does.
                let status = ApiError::too_old(from, oldest).to_status().to_string();
                self.ready.push_back(watch_line("ERROR", status.as_bytes()));
            }
        }
        Ok(())
    }

    fn line(&mut self, change: Change, object: &Object) -> Bytes {
        let first = !std::mem::replace(&mut self.began, true);
        watch_line(
            change.as_str(),
            &encode::watched(object, &self.resource, &self.form, first),
        )
    }

    fn deliver(&mut self, delivery: &Delivery) -> Bytes {
        let as_stored = matches!(self.form, Form::Whole)
            && self.resource.stored_as == self.resource.api_version();
        match as_stored {
            true => {
                self.began = true;
                delivery.event.line(delivery.change)
            }
            false => self.line(delivery.change, delivery.event.shown(delivery.change)),
        }
    }

    fn bookmark(&self) -> Option<Bytes> {
        let events = &self.watching.as_ref()?.events;
        let revision = self.api.store.delivered(events)?;
        let bookmark = encode::bookmark(&self.resource, &self.form, revision, false);
        Some(watch_line("BOOKMARK", &bookmark))
    }

    /// The next line; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            let wake = match self.bookmarks {
                true => self.next_bookmark.min(self.deadline),
                false => self.deadline,
            };
            let delivery = tokio::select! {
                biased;
                delivery = self.watching.as_mut()?.events.recv() => Some(delivery?),
                () = sleep_until(wake) => None,
            };
            if let Some(delivery) = delivery {
                return Some(self.deliver(&delivery));
            }
            let line = if self.bookmarks {
                self.bookmark()
            } else {
                None
            };
            let now = Instant::now();
            self.next_bookmark = now + BOOKMARK_EVERY;
            if now >= self.deadline {
                self.watching = None;
            }
            self.ready.extend(line);
        }
    }
}
