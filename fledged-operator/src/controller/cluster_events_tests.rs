//! The events of two watches and a driver, merged.

use fledged_core::model::{Assignment, NodeName, NodeReport};
use fledged_core::planner::ClusterEvent;
use fledged_kube::crd::ReadCache;
use futures_util::FutureExt;
use futures_util::stream::{self, BoxStream, StreamExt};
use kube::runtime::watcher::Event;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::cluster_events::{NodeUids, SourceEvent, merge_sources};
use super::known_caches::KnownCaches;
use super::kube_node::ReadNode;

/// The three sources, and what becomes of them.
struct Sources {
    caches: UnboundedSender<SourceEvent>,
    nodes: UnboundedSender<SourceEvent>,
    driver: Option<UnboundedSender<ClusterEvent>>,
    events: BoxStream<'static, ClusterEvent>,
    uids: NodeUids,
}

fn source<T: Send + 'static>() -> (UnboundedSender<T>, BoxStream<'static, T>) {
    let (sender, mut receiver) = unbounded_channel();
    let stream = stream::poll_fn(move |context| receiver.poll_recv(context));
    (sender, stream.boxed())
}

fn mk_sources() -> Sources {
    let (caches, caches_events) = source();
    let (nodes, nodes_events) = source();
    let (driver, driver_events) = source();
    let uids = NodeUids::default();
    let events = merge_sources(
        [caches_events, nodes_events],
        driver_events,
        uids.clone(),
        KnownCaches::default(),
    );
    Sources {
        caches,
        nodes,
        driver: Some(driver),
        events,
        uids,
    }
}

impl Sources {
    fn cache(&self, event: Event<ReadCache>) {
        self.caches.send(SourceEvent::Cache(event)).unwrap();
    }

    fn node(&self, event: Event<ReadNode>) {
        self.nodes.send(SourceEvent::Node(event)).unwrap();
    }

    fn driver(&self, event: ClusterEvent) {
        self.driver.as_ref().unwrap().send(event).unwrap();
    }

    /// The events that are ready, as text; `end` at the end of the stream.
    fn received(&mut self) -> Vec<String> {
        let mut received = Vec::new();
        while let Some(event) = self.events.next().now_or_never() {
            let Some(event) = event else {
                received.push("end".to_owned());
                break;
            };
            received.push(match event {
                ClusterEvent::Synced => "synced".to_owned(),
                ClusterEvent::CacheApplied(cache) => format!("cache {}", cache.id.name),
                ClusterEvent::CacheGone(cache) => format!("cache {} gone", cache.name),
                ClusterEvent::NodeApplied(node) => format!("node {}", node.name),
                ClusterEvent::NodeGone(node) => format!("node {node} gone"),
                ClusterEvent::AssignmentRecorded { node, assignment } => {
                    format!("record {node} {}", assignment.generation)
                }
                ClusterEvent::AssignmentGone(node) => format!("record {node} gone"),
                ClusterEvent::Reported { node, report } => {
                    format!("report {node} {}", report.observed_generation)
                }
                ClusterEvent::AgentUnresponsive(node) => format!("unresponsive {node}"),
                other => panic!("{other:?}"),
            });
        }
        received
    }
}

fn mk_cache(name: &str) -> ReadCache {
    let metadata = json!({ "namespace": "default", "name": name, "uid": name });
    serde_json::from_value(json!({ "metadata": metadata, "spec": {} })).unwrap()
}

fn mk_node(name: &str, uid: &str) -> ReadNode {
    let metadata = json!({ "name": name, "uid": uid });
    serde_json::from_value(json!({ "metadata": metadata })).unwrap()
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn mk_record(node: &str, generation: u64) -> ClusterEvent {
    ClusterEvent::AssignmentRecorded {
        node: name(node),
        assignment: Assignment::new(generation, []),
    }
}

fn mk_report(node: &str, generation: u64) -> ClusterEvent {
    ClusterEvent::Reported {
        node: name(node),
        report: NodeReport::new(generation, []),
    }
}

#[test]
fn synced_is_sent_once_after_the_last_of_three_lists() {
    // In any order of the three lists.
    for last in 0..3 {
        let mut sources = mk_sources();
        sources.cache(Event::Init);
        sources.cache(Event::InitApply(mk_cache("web")));
        sources.node(Event::Init);
        sources.node(Event::InitApply(mk_node("a", "1")));
        sources.driver(mk_record("a", 3));
        sources.driver(mk_report("a", 2));
        let mut received = sources.received();
        received.sort();
        assert_eq!(
            received,
            ["cache web", "node a", "record a 3", "report a 2"]
        );
        let list = |sources: &Sources, number| match number {
            0 => sources.cache(Event::InitDone),
            1 => sources.node(Event::InitDone),
            _ => sources.driver(ClusterEvent::Synced),
        };
        for number in (0..3).filter(|number| *number != last) {
            list(&sources, number);
            assert!(sources.received().is_empty(), "{last} is not listed yet");
        }
        list(&sources, last);
        assert_eq!(sources.received(), ["synced"]);
        for number in 0..3 {
            list(&sources, number);
        }
        assert!(sources.received().is_empty(), "synced is sent once");
    }
}

#[test]
fn driver_events_keep_their_order() {
    let mut sources = mk_sources();
    for event in [
        mk_record("a", 1),
        mk_report("a", 1),
        ClusterEvent::AgentUnresponsive(name("a")),
        ClusterEvent::AssignmentGone(name("a")),
        mk_record("a", 1),
    ] {
        sources.driver(event);
    }
    let order = [
        "record a 1",
        "report a 1",
        "unresponsive a",
        "record a gone",
        "record a 1",
    ];
    assert_eq!(sources.received(), order);
}

#[test]
fn a_new_list_finds_removed_and_replaced_objects() {
    let mut sources = mk_sources();
    sources.node(Event::Init);
    for node in [mk_node("a", "1"), mk_node("b", "1")] {
        sources.node(Event::InitApply(node));
    }
    sources.node(Event::InitDone);
    sources.received();
    sources.node(Event::Init);
    sources.node(Event::InitApply(mk_node("b", "2")));
    sources.node(Event::InitDone);
    assert_eq!(sources.received(), ["node b gone", "node b", "node a gone"]);
    assert_eq!(sources.uids.get(&name("b")).as_deref(), Some("2"));
    assert_eq!(sources.uids.get(&name("a")), None);
}

#[test]
fn events_end_with_the_driver() {
    let mut sources = mk_sources();
    sources.driver(mk_report("a", 1));
    sources.driver = None;
    assert_eq!(sources.received(), ["report a 1", "end"]);
}
