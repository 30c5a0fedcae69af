//! How lists and watches end, on paused time.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::model::NodeName;
use fledged_core::tokio::TokioClock;
use fledged_core::warmer::NodeEvent;
use fledged_kube::bounded_client::{REQUEST_LIMIT, bounded};
use futures_util::stream::{self, StreamExt};
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use tokio::sync::mpsc;

use super::assignment_watch::{Interruption, Watch};
use super::watch_backoff::WatchEnd;
use crate::health::AgentHealth;

type Answer = UnsyncBoxBody<bytes::Bytes, Infallible>;

/// A response of these parts, each after a delay in seconds; then the connection closes.
fn parts(parts: &'static [(u64, &'static str)]) -> Response<Answer> {
    let frames = stream::iter(parts).then(|(delay, text)| async move {
        tokio::time::sleep(Duration::from_secs(*delay)).await;
        Ok::<_, Infallible>(Frame::data(bytes::Bytes::from_static(text.as_bytes())))
    });
    Response::new(StreamBody::new(frames).boxed_unsync())
}

/// The watch of node "a" from this version, or from a list; and the inputs of its loop.
fn mk_watch(
    version: Option<&str>,
    answer: impl Fn(&str) -> Response<Answer> + Clone + Send + Sync + 'static,
) -> (Watch, mpsc::Receiver<NodeEvent>) {
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = answer(request.uri().query().unwrap_or_default());
        async move { Ok::<_, Infallible>(answer) }
    });
    let client = bounded(&Client::new(service, "default"), REQUEST_LIMIT);
    let (inputs, received) = mpsc::channel(4);
    let clock = Arc::new(TokioClock::new());
    let health = AgentHealth::new(clock.clone());
    let (reports, _) = mpsc::unbounded_channel();
    let node = NodeName::new("a").unwrap();
    let mut watch = Watch::new(client, node, inputs, reports, health, clock, 1);
    watch.seconds = 200;
    watch.version = version.map(str::to_owned);
    (watch, received)
}

async fn end_of(
    version: Option<&str>,
    answer: impl Fn(&str) -> Response<Answer> + Clone + Send + Sync + 'static,
) -> Interruption {
    let Err(end) = mk_watch(version, answer).0.follow().await;
    end
}

#[tokio::test(start_paused = true)]
async fn events_are_split_by_lines_across_frames() {
    let (mut watch, mut inputs) = mk_watch(Some("5"), |query| {
        assert!(query.contains("fieldSelector=metadata.name%3Da"), "{query}");
        assert!(query.contains("timeoutSeconds=200"), "{query}");
        assert!(query.contains("resourceVersion=5"), "{query}");
        parts(&[
            (1, r#"{"type":"MODIFIED","object":{"metadata":{"na"#),
            (
                1,
                "me\":\"a\",\"resourceVersion\":\"7\"}}}\n{\"type\":\"DELETED\",",
            ),
            (
                1,
                "\"object\":{\"metadata\":{\"name\":\"a\"}}}\n{\"type\":\"ADDED\",",
            ),
        ])
    });
    let Err(end) = watch.follow().await;
    assert_eq!(watch.version.as_deref(), Some("7"));
    // Assigned, then deleted. A partial line is no event.
    assert!(matches!(inputs.try_recv(), Ok(NodeEvent::Assigned(_))));
    assert!(matches!(inputs.try_recv(), Ok(NodeEvent::Assigned(_))));
    assert!(inputs.try_recv().is_err());
    assert_eq!((end.end, end.lasted.as_secs()), (WatchEnd::Lost, 3));
    assert!(end.problem.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_at_its_deadline_is_due() {
    let end = end_of(Some("5"), |_| parts(&[(200, "")])).await;
    assert_eq!((end.end, end.problem), (WatchEnd::Due, None));
    // A watch that the server does not end is dropped soon after its deadline.
    let end = end_of(Some("5"), |_| parts(&[(86_400, "")])).await;
    assert_eq!((end.end, end.lasted.as_secs()), (WatchEnd::Due, 205));
}

#[tokio::test(start_paused = true)]
async fn errors_and_retry_after_of_the_server_are_reported() {
    let event = async |answer: fn(&str) -> Response<Answer>| {
        let end = end_of(Some("5"), answer).await;
        assert_eq!(end.lasted.as_secs(), 5);
        end.end
    };
    let expired = event(|_| {
        const TEXT: &str =
            "{\"type\":\"ERROR\",\"object\":{\"code\":410,\"message\":\"too old\"}}\n";
        parts(&[(5, TEXT)])
    });
    assert_eq!(expired.await, WatchEnd::Expired);
    let failed = event(|_| parts(&[(5, "{\"type\":\"ERROR\",\"object\":{\"code\":500}}\n")]));
    assert_eq!(failed.await, WatchEnd::Failed(None));
    let strange = event(|_| parts(&[(5, "{\"type\":\"ADDED\",\"object\":5}\n")]));
    assert_eq!(strange.await, WatchEnd::Unreadable);
    let garbage = event(|_| parts(&[(5, "garbage\n")]));
    assert_eq!(garbage.await, WatchEnd::Unreadable);
    let refused = |query: &str| {
        let mut response = parts(&[(0, "Too many requests, please try again later.\n")]);
        let code = if query.contains("watch=true") {
            429
        } else {
            410
        };
        *response.status_mut() = code.try_into().unwrap();
        let headers = response.headers_mut();
        headers.insert("Retry-After", "7".parse().unwrap());
        response
    };
    let end = end_of(Some("5"), refused).await;
    assert_eq!(end.end, WatchEnd::Failed(Some(Duration::from_secs(7))));
    assert_eq!(end.lasted, Duration::ZERO);
    assert_eq!(end_of(None, refused).await.end, WatchEnd::Expired);
}

#[tokio::test(start_paused = true)]
async fn a_watch_starts_from_the_version_of_a_list() {
    let end = end_of(None, |_| parts(&[(0, r#"{"items":[],"metadata":{}}"#)])).await;
    assert_eq!(end.end, WatchEnd::Failed(None));
    let (mut watch, mut inputs) = mk_watch(None, |query| {
        if query.contains("watch=true") {
            assert!(query.contains("resourceVersion=9"), "{query}");
            return parts(&[]);
        }
        assert!(query.contains("fieldSelector=metadata.name%3Da"), "{query}");
        assert!(!query.contains("resourceVersion"), "{query}");
        parts(&[(
            0,
            r#"{"items":[{"metadata":{"name":"a"}}],"metadata":{"resourceVersion":"9"}}"#,
        )])
    });
    let Err(end) = watch.follow().await;
    assert_eq!(end.end, WatchEnd::Lost);
    assert_eq!(watch.version.as_deref(), Some("9"));
    assert!(matches!(inputs.try_recv(), Ok(NodeEvent::Assigned(_))));
}
