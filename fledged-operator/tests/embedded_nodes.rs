//! Nodes without machines.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use fledged_core::model::NodeName;
use fledged_operator::cluster::ReadNode;
use fledged_operator::embedded::{EmbeddedServer, HollowNode};
use kube::Api;

#[tokio::test]
async fn a_hollow_node_is_what_its_facts_say() {
    let server = EmbeddedServer::builder().start().await.unwrap();
    let client = server.client().unwrap();
    let labels = BTreeMap::from([("tier".to_owned(), "backend".to_owned())]);
    let name = NodeName::new("node-1").unwrap();
    let facts = HollowNode::facts(name.clone(), labels);
    let node = HollowNode::register(client.clone(), facts.clone())
        .await
        .unwrap();
    let nodes: Api<ReadNode> = Api::all(client.clone());
    let read = || async {
        let read = nodes.get("node-1").await.unwrap();
        let since = read.ready().unwrap().last_transition_time.clone();
        (read.into_facts(name.clone()), since)
    };
    let (unready, _) = read().await;
    assert!(!unready.ready);
    assert_eq!(unready.taints.len(), 1, "{unready:?}");
    node.set_ready(true).await.unwrap();
    let (ready, since) = read().await;
    assert_eq!(ready, facts);
    node.heartbeat().await.unwrap();
    assert_eq!(read().await, (facts.clone(), since));
    let again = HollowNode::register(client, facts).await;
    assert!(again.is_err());
}
