//! Reading objects: get, list and watch.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep_until};

use super::encode::{self, Form};
use super::http_request::{ListOptions, Request, Target, VersionMatch, version};
use super::response::{self, Response};
use super::shared_state::Api;
use crate::error::{ApiError, ApiResult};
use crate::kinds::Resource;
use crate::object_store::{
    Change, Delivery, Interest, Key, Object, OpenWatch, Snapshot, watch_line,
};

/// Handles a GET of one object.
pub(crate) fn get(api: &Api, request: &Request, target: &Target) -> ApiResult<Response> {
    let form = Form::of(api, request)?;
    let at = target.at();
    if let Some(asked) = request
        .parameter("resourceVersion")
        .map(version)
        .transpose()?
    {
        let current = api.store.revision();
        if asked > current {
            return Err(ApiError::too_large_version(asked, current));
        }
    }
    let object = api
        .store
        .get(&at.table, &at.key)
        .ok_or_else(|| target.resource.not_found(&target.name))?;
    Ok(response::json(
        200,
        encode::object(&object, &target.resource, &form),
    ))
}

/// The position of the next page of a list.
#[derive(Debug, PartialEq)]
struct Continuation {
    /// The revision of the first page; none for the present state.
    revision: Option<u64>,
    after: Key,
}

impl Continuation {
    fn encode(&self) -> String {
        let token = json!({
            "v": "meta.k8s.io/v1",
            "rv": self.revision.map_or(-1, u64::cast_signed),
            "start": [self.after.namespace, self.after.name],
        });
        // Hex needs no escaping in a query.
        token
            .to_string()
            .bytes()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn decode(token: &str) -> ApiResult<Self> {
        let invalid = || ApiError::bad_request("invalid continue token: continue key is not valid");
        let digits: Vec<char> = token.chars().collect();
        let bytes: Option<Vec<u8>> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).ok())
            .collect();
        let token: Value = bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(invalid)?;
        let start = token
            .get("start")
            .and_then(Value::as_array)
            .ok_or_else(invalid)?;
        let [Value::String(namespace), Value::String(name)] = start.as_slice() else {
            return Err(invalid());
        };
        let revision = token
            .get("rv")
            .and_then(Value::as_i64)
            .ok_or_else(invalid)?;
        Ok(Self {
            revision: u64::try_from(revision).ok(),
            after: Key::new(namespace, name),
        })
    }
}

fn key_of(object: &Object) -> Key {
    Key::new(
        object.metadata_str("namespace"),
        object.metadata_str("name"),
    )
}

/// Handles a GET of a collection.
pub(crate) fn list(api: &Api, request: &Request, target: &Target) -> ApiResult<Response> {
    let form = Form::of(api, request)?;
    let options = ListOptions::of(request, &target.resource, &target.namespace, false)?;
    let current = api.store.revision();
    let asked = options.version.filter(|asked| *asked > 0);
    if let Some(asked) = asked.filter(|asked| *asked > current) {
        return Err(ApiError::too_large_version(asked, current));
    }
    let continuation = options
        .continue_token
        .as_deref()
        .map(Continuation::decode)
        .transpose()?;
    let snapshot = match (&continuation, options.version_match, asked) {
        (
            Some(Continuation {
                revision: Some(revision),
                ..
            }),
            ..,
        ) => Snapshot::At(*revision),
        (None, VersionMatch::Exact, Some(asked)) => Snapshot::At(asked),
        // The pages of a list of a given version are consistent with that version.
        (None, VersionMatch::Unset, Some(asked)) if options.limit.is_some() => Snapshot::At(asked),
        _ => Snapshot::Now,
    };
    let namespace = &options.selection.namespace;
    let listed = api.store.list(&target.resource.table, namespace, snapshot).map_err(|oldest| match &continuation {
        Some(continuation) => {
            let mut error = ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
            );
            let inconsistent = Continuation { revision: None, after: continuation.after.clone() };
            error.continue_token = Some(inconsistent.encode());
            error
        }
        None => ApiError::too_old(asked.unwrap_or_default(), oldest),
    })?;
    let after = continuation
        .as_ref()
        .map(|continuation| &continuation.after);
    let remaining = listed
        .objects
        .iter()
        .filter(|object| after.is_none_or(|after| key_of(object) > *after));
    let selected: Vec<&Arc<Object>> = remaining
        .filter(|object| options.selection.selects(object))
        .collect();
    // A list of any version (`0`) is not paged.
    let limit = options
        .limit
        .filter(|_| options.version != Some(0) || options.version_match != VersionMatch::Unset);
    let page: Vec<&Object> = selected
        .iter()
        .take(limit.unwrap_or(usize::MAX))
        .map(|object| object.as_ref())
        .collect();
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), listed.revision.to_string().into());
    if target.resource.is_custom() {
        // Lists of custom resources always have the field.
        metadata.insert("continue".into(), "".into());
    }
    let left = selected.len() - page.len();
    if let (true, Some(last)) = (left > 0, page.last()) {
        let next = Continuation {
            revision: Some(listed.revision),
            after: key_of(last),
        };
        metadata.insert("continue".into(), next.encode().into());
        let has_selector = ["labelSelector", "fieldSelector"]
            .iter()
            .any(|name| request.parameter(name).is_some());
        if !has_selector {
            metadata.insert("remainingItemCount".into(), left.into());
        }
    }
    Ok(encode::list(&page, &target.resource, &form, metadata))
}

/// The interval between bookmarks.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// The shortest duration of a watch without a timeout of its own; the longest is twice as long.
const LEAST_TIMEOUT: Duration = Duration::from_secs(1800);

/// An open watch of a client.
struct Session {
    api: Arc<Api>,
    resource: Arc<Resource>,
    form: Form,
    /// The lines to send next.
    ready: VecDeque<Bytes>,
    watching: Option<OpenWatch>,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    /// Whether an event was sent. The first one carries the columns of a table.
    began: bool,
}

/// Handles a watch.
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
    Ok(response::stream(StreamBody::new(frames).boxed_unsync()))
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
                // The error is sent in the stream, as the watch cache of the API server does.
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
