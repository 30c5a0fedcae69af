//! Faults of an agent's API server, runtime and tasks.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::agent_support::{Fault, Node, Server, eventually, image, images};
use fledged_core::error::Reason;
use fledged_core::model::ImagePhase;
use http::Method;
use serde_json::json;

fn is_write(method: &Method, path: &str) -> bool {
    *method == Method::PATCH && path.ends_with("/status")
}

#[tokio::test(start_paused = true)]
async fn pulls_continue_during_an_outage_and_are_reported() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "api-lost");
    node.runtime.set_pull_time(Duration::from_secs(20));
    node.start();
    node.assign(images(&["r.example/app:1"])).await;
    node.status_when("an answer", |_| true).await;
    node.line.fail(|_, _| Some(Fault::Down));
    let app = image("r.example/app:1");
    eventually("the pull ends", || async {
        node.runtime.holds(&app).then_some(())
    })
    .await;
    let writes = node.writes();
    node.pass(Duration::from_secs(60)).await;
    let attempts = node.writes() - writes;
    assert!((2..=14).contains(&attempts), "{attempts}");
    node.line.mend();
    assert_eq!(node.settled().await.cached, Some(1));
    node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_agent_waits_for_its_api_server_at_start() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "early");
    node.assign(images(&["r.example/app:1"])).await;
    node.line.fail(|_, _| Some(Fault::Down));
    let health = node.start();
    node.pass(Duration::from_secs(30)).await;
    assert!(health.ready().unwrap_err().contains("API server"));
    assert_eq!(health.live(), Ok(()));
    let lists = node.line.count(&Method::GET, "/nodeimagecaches");
    assert!((2..=14).contains(&lists), "{lists}");
    node.line.mend();
    assert_eq!(node.settled().await.cached, Some(1));
    assert_eq!(health.ready(), Ok(()));
    node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn retry_after_of_the_api_server_is_honoured() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "busy");
    node.start();
    node.line
        .fail(|method, path| is_write(method, path).then(|| Fault::busy(60)));
    node.assign(images(&["r.example/app:1"])).await;
    eventually("a first attempt", || async {
        (node.writes() > 0).then_some(())
    })
    .await;
    node.pass(Duration::from_secs(50)).await;
    assert_eq!(node.writes(), 1);
    node.line.mend();
    assert_eq!(node.settled().await.cached, Some(1));
    node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_status_that_is_too_large_is_shortened() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "too-large");
    let bad = image("r.example/bad:1");
    node.runtime
        .fail(&bad, Reason::ImageNotFound, &"x".repeat(300));
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    node.line.fail(move |method, path| {
        let first = is_write(method, path) && count.fetch_add(1, Ordering::SeqCst) == 0;
        first.then(|| Fault::status(500, "", "etcdserver: request is too large"))
    });
    node.start();
    node.assign(images(&["r.example/bad:1"])).await;
    let status = node.settled().await;
    let message = status.images[0].message.as_ref().unwrap();
    assert_eq!(message.chars().count(), 81);
    assert_eq!(status.images[0].reason.as_deref(), Some("ImageNotFound"));
    node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn missing_object_is_dropped_missing_definition_is_retried() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "not-found");
    node.start();
    node.line.fail(|method, path| {
        is_write(method, path).then(|| Fault::status(404, "NotFound", "404 page not found"))
    });
    node.assign(images(&["r.example/app:1"])).await;
    eventually("attempts", || async { (node.writes() >= 3).then_some(()) }).await;
    let mut named = json!({"kind": "Status", "status": "Failure", "code": 404,
        "reason": "NotFound", "message": "not found"});
    named["details"] = json!({"name": "not-found"});
    node.line
        .fail(move |method, path| is_write(method, path).then(|| Fault::Answers(named.clone())));
    let before = node.writes();
    eventually("the named answer", || async {
        (node.writes() > before).then_some(())
    })
    .await;
    let given_up = node.writes();
    node.pass(Duration::from_secs(45)).await;
    assert_eq!(node.writes(), given_up);
    node.line.mend();
    node.assign(images(&["r.example/app:1", "r.example/app:2"]))
        .await;
    assert_eq!(node.settled().await.cached, Some(2));
    node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_replaced_object_gets_no_writes_before_its_event() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "other-uid");
    node.start();
    let other = json!({"apiVersion": "kubefledged.io/v1alpha2", "kind": "NodeImageCache",
        "metadata": {"name": "other-uid", "uid": "another"}, "spec": {}, "code": 200});
    node.line
        .fail(move |method, path| is_write(method, path).then(|| Fault::Answers(other.clone())));
    node.assign(images(&["r.example/app:1"])).await;
    eventually("the write", || async { (node.writes() > 0).then_some(()) }).await;
    node.line.mend();
    node.pass(Duration::from_secs(45)).await;
    assert_eq!(node.writes(), 1);
    node.delete().await;
    node.assign(images(&["r.example/app:1"])).await;
    assert_eq!(node.settled().await.cached, Some(1));
    node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_final_state_is_written_at_shutdown() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "last-word");
    node.runtime.set_pull_time(Duration::from_secs(10_000));
    node.assign(images(&["r.example/app:1"])).await;
    node.start();
    eventually("a pull", || async {
        (node.runtime.pulls().len() == 1).then_some(())
    })
    .await;
    node.stop().await.unwrap();
    let status = node.status().await.unwrap();
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!(status.images[0].phase, ImagePhase::Pulling);
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_api_server_stops_within_seconds() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "no-last-word");
    node.assign(images(&["r.example/app:1"])).await;
    node.start();
    node.settled().await;
    node.line.fail(|_, _| Some(Fault::Down));
    node.runtime.lose(&image("r.example/app:1"));
    let began = node.clock.now();
    node.stop().await.unwrap();
    let took = node.clock.now().duration_since(began);
    assert!(took.as_secs() <= 8, "{took}");
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_cannot_be_read_makes_the_agent_unready() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "unready");
    let mut registry = prometheus_client::registry::Registry::default();
    node.runtime.set_unreadable(true);
    let agent = node.agent(Some(Duration::from_secs(5)));
    agent.register_metrics(&mut registry);
    let health = node.run(agent);
    eventually("the runtime is asked", || async {
        health
            .ready()
            .err()
            .filter(|why| why.contains("socket gone"))
    })
    .await;
    node.runtime.set_unreadable(false);
    eventually("the agent is ready", || async { health.ready().ok() }).await;
    node.runtime.set_unreadable(true);
    eventually("the agent is not ready again", || async {
        health.ready().err()
    })
    .await;
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("fledged_build_info{version="), "{text}");
    let failures = text
        .lines()
        .find_map(|line| line.strip_prefix("fledged_agent_inventory_failures_total "));
    assert!(failures.unwrap().parse::<u64>().unwrap() >= 2);
    node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_panicked_task_is_named_in_the_error() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "broken");
    node.runtime.panic();
    node.start();
    let error = node.end().await.unwrap_err().to_string();
    assert!(error.contains("agent of node broken"), "{error}");
    assert!(error.contains("image loop panicked"), "{error}");
    assert!(error.contains("the fake runtime broke"), "{error}");
}
