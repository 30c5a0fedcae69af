//! Outages of an agent's API server: it stops, compacts its history, or loses writes.
use std::time::Duration;

use crate::agent_support::{Node, Server, eventually, image, images};
use http::Method;
use kube::api::{Patch, PatchParams};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn changes_during_an_outage_are_exchanged_afterwards() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "away");
    node.runtime.set_pull_time(Duration::from_secs(10));
    let health = node.start();
    node.assign(images(&["r.example/app:1"])).await;
    node.status_when("an answer", |_| true).await;
    server.down();
    let app = image("r.example/app:1");
    eventually("the pull ends", || async {
        node.runtime.holds(&app).then_some(())
    })
    .await;
    node.pass(Duration::from_secs(60)).await;
    assert_eq!(health.live(), Ok(()));
    assert_eq!(health.ready(), Ok(()), "the agent has an assignment");
    server.up();
    assert_eq!(node.settled().await.cached, Some(1));
    let both = images(&["r.example/app:1", "r.example/app:2"]);
    node.assign(both).await;
    assert_eq!(node.settled().await.cached, Some(2));
    node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_relist_is_no_new_assignment() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "listed");
    node.start();
    node.assign(images(&["r.example/app:1"])).await;
    node.settled().await;
    let writes = node.writes();
    let lists = || node.line.count(&Method::GET, "/nodeimagecaches");
    let before = lists();
    server.compact();
    server.cut_watches();
    eventually("a list and a watch", || async {
        (lists() >= before + 2).then_some(())
    })
    .await;
    node.pass(Duration::from_secs(45)).await;
    assert_eq!(node.writes(), writes);
    assert_eq!(node.runtime.pulls().len(), 1);
    node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_removed_status_is_written_again() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "set-back");
    node.start();
    node.assign(images(&["r.example/app:1"])).await;
    let status = node.settled().await;
    let nothing = json!({"status": null});
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(&nothing));
    let object = node.api.patch_status(&node.name, &parameters, &patch).await;
    assert_eq!(object.unwrap().status, None);
    server.compact();
    server.cut_watches();
    assert_eq!(node.settled().await, status);
    node.stop().await.unwrap();
}
