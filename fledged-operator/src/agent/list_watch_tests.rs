//! How lists and watches end, on paused time.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::model::NodeName;
use fledged_core::tokio::TokioClock;
use futures_util::stream::{self, StreamExt};
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::api::WatchEvent;
use kube::client::Body;

use super::list_watch::{Events, Interruption, ListWatch};
use super::watch_backoff::WatchEnd;

const SECONDS: u32 = 200;

type Answer = UnsyncBoxBody<bytes::Bytes, Infallible>;

/// A watch response of these parts, each after a delay in seconds; then the connection closes.
fn parts(parts: &'static [(u64, &'static str)]) -> Response<Answer> {
    let frames = stream::iter(parts).then(|(delay, text)| async move {
        tokio::time::sleep(Duration::from_secs(*delay)).await;
        Ok::<_, Infallible>(Frame::data(bytes::Bytes::from_static(text.as_bytes())))
    });
    Response::new(StreamBody::new(frames).boxed_unsync())
}

fn mk_list_watch(
    answer: impl Fn(&str) -> Response<Answer> + Clone + Send + Sync + 'static,
) -> ListWatch {
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = answer(request.uri().query().unwrap_or_default());
        async move { Ok::<_, Infallible>(answer) }
    });
    ListWatch {
        client: Client::new(service, "default"),
        node: NodeName::new("a").unwrap(),
        seconds: SECONDS,
        clock: Arc::new(TokioClock::new()),
    }
}

async fn end_of(events: &mut Events) -> Interruption {
    loop {
        if let Err(end) = events.next().await {
            return end;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn events_are_split_by_lines_across_frames() {
    let requests = mk_list_watch(|query| {
        assert!(query.contains("fieldSelector=metadata.name%3Da"), "{query}");
        assert!(query.contains("timeoutSeconds=200"), "{query}");
        parts(&[
            (1, r#"{"type":"MODIFIED","object":{"metadata":{"na"#),
            (
                1,
                "me\":\"a\",\"resourceVersion\":\"7\"}}}\n{\"type\":\"DELETED\",",
            ),
            (1, "\"object\":{\"metadata\":{}}}\n{\"type\":"),
        ])
    });
    let mut events = requests.watch("5").await.unwrap();
    let Ok(WatchEvent::Modified(object)) = events.next().await else {
        panic!("no event");
    };
    assert_eq!(object.metadata.resource_version.as_deref(), Some("7"));
    assert!(matches!(events.next().await, Ok(WatchEvent::Deleted(_))));
    // A partial line is no event.
    let end = events.next().await.unwrap_err();
    assert_eq!((end.end, end.lasted.as_secs()), (WatchEnd::Lost, 3));
    assert!(end.problem.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_at_its_deadline_is_due() {
    let requests = mk_list_watch(|_| parts(&[(200, "")]));
    let end = end_of(&mut requests.watch("5").await.unwrap()).await;
    assert_eq!((end.end, end.problem), (WatchEnd::Due, None));
    // A watch that the server does not end is dropped soon after its deadline.
    let requests = mk_list_watch(|_| parts(&[(86_400, "")]));
    let end = end_of(&mut requests.watch("5").await.unwrap()).await;
    assert_eq!((end.end, end.lasted.as_secs()), (WatchEnd::Due, 205));
}

#[tokio::test(start_paused = true)]
async fn errors_and_retry_after_of_the_server_are_reported() {
    let event = |end| {
        let requests = mk_list_watch(move |_| match end {
            410 => parts(&[(
                5,
                "{\"type\":\"ERROR\",\"object\":{\"code\":410,\"message\":\"too old\"}}\n",
            )]),
            _ => parts(&[(5, "{\"type\":\"ERROR\",\"object\":{\"code\":500}}\n")]),
        });
        async move { end_of(&mut requests.watch("5").await.unwrap()).await.end }
    };
    assert_eq!(event(410).await, WatchEnd::Expired);
    assert_eq!(event(500).await, WatchEnd::Failed(None));
    let requests = mk_list_watch(|query| {
        let mut response = parts(&[(0, "Too many requests, please try again later.\n")]);
        let watch = query.contains("watch=true");
        *response.status_mut() = if watch { 429 } else { 410 }.try_into().unwrap();
        let headers = response.headers_mut();
        headers.insert("Retry-After", "7".parse().unwrap());
        response
    });
    let end = requests.watch("5").await.err().unwrap();
    assert_eq!(end.end, WatchEnd::Failed(Some(Duration::from_secs(7))));
    assert_eq!(requests.list().await.err().unwrap().end, WatchEnd::Expired);
}

#[tokio::test(start_paused = true)]
async fn a_list_without_resource_version_fails() {
    let requests = mk_list_watch(|_| parts(&[(0, r#"{"items":[],"metadata":{}}"#)]));
    let end = requests.list().await.err().unwrap();
    assert_eq!(end.end, WatchEnd::Failed(None));
    let requests = mk_list_watch(|query| {
        assert!(!query.contains("resourceVersion"), "{query}");
        parts(&[(
            0,
            r#"{"items":[{"metadata":{"name":"a"}}],"metadata":{"resourceVersion":"9"}}"#,
        )])
    });
    let (objects, version) = requests.list().await.unwrap();
    assert_eq!((objects.len(), version.as_str()), (1, "9"));
}
