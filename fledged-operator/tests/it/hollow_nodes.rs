//! Node objects without machines.
use std::collections::BTreeMap;

use fledged_apiserver::{HollowNode, Server};
use fledged_core::model::{NodeFacts, NodeName};
use fledged_operator::controller::ReadNode;
use kube::Api;

#[tokio::test]
async fn a_hollow_node_matches_its_facts() {
    let server = Server::builder().start().await.unwrap();
    let client = server.client().unwrap();
    let labels = BTreeMap::from([("tier".to_owned(), "backend".to_owned())]);
    let name = NodeName::new("node-1").unwrap();
    let node = HollowNode::register(client.clone(), "node-1", labels.clone())
        .await
        .unwrap();
    let facts = NodeFacts::new(name.clone()).with_labels(HollowNode::labels("node-1", labels));
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
    let again = HollowNode::register(client, "node-1", facts.labels).await;
    assert!(again.is_err());
}
