//! Two watches and a driver make one row of events.

use fledged_core::model::{Assignment, NodeName, NodeReport};
use fledged_core::planner::ClusterEvent;
use futures_util::FutureExt;
use futures_util::stream::{self, BoxStream, StreamExt};
use kube::runtime::watcher::Event;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::cluster_events::{NodeUids, Told, composed};
use super::kube_cluster::SeenCaches;
use super::kube_node::ReadNode;
use crate::crd::ReadCache;

/// The three sources, and what becomes of them.
struct Sources {
    caches: UnboundedSender<Told>,
    nodes: UnboundedSender<Told>,
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
    let (caches, told_caches) = source();
    let (nodes, told_nodes) = source();
    let (driver, told_driver) = source();
    let uids = NodeUids::default();
    let events = composed(
        [told_caches, told_nodes],
        told_driver,
        uids.clone(),
        SeenCaches::default(),
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
        self.caches.send(Told::Cache(event)).unwrap();
    }

    fn node(&self, event: Event<ReadNode>) {
        self.nodes.send(Told::Node(event)).unwrap();
    }

    fn driver(&self, event: ClusterEvent) {
        self.driver.as_ref().unwrap().send(event).unwrap();
    }

    /// Everything that is told now, by name; `None` at the end.
    fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(event) = self.events.next().now_or_never() {
            let Some(event) = event else {
                told.push("end".to_owned());
                break;
            };
            told.push(match event {
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
        told
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
fn all_is_told_once_caches_nodes_and_the_driver_are_listed() {
    // Whoever is last, it is told then, and once.
    for last in 0..3 {
        let mut sources = mk_sources();
        sources.cache(Event::Init);
        sources.cache(Event::InitApply(mk_cache("web")));
        sources.node(Event::Init);
        sources.node(Event::InitApply(mk_node("a", "1")));
        sources.driver(mk_record("a", 3));
        sources.driver(mk_report("a", 2));
        let mut told = sources.told();
        told.sort();
        assert_eq!(told, ["cache web", "node a", "record a 3", "report a 2"]);
        let list = |sources: &Sources, number| match number {
            0 => sources.cache(Event::InitDone),
            1 => sources.node(Event::InitDone),
            _ => sources.driver(ClusterEvent::Synced),
        };
        for number in (0..3).filter(|number| *number != last) {
            list(&sources, number);
            assert!(sources.told().is_empty(), "{last} is not listed yet");
        }
        list(&sources, last);
        assert_eq!(sources.told(), ["synced"]);
        for number in 0..3 {
            list(&sources, number);
        }
        assert!(sources.told().is_empty(), "it is told once");
    }
}

#[test]
fn what_a_driver_says_is_told_in_its_order() {
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
    assert_eq!(sources.told(), order);
}

#[test]
fn a_new_list_tells_what_is_gone_and_who_is_another() {
    let mut sources = mk_sources();
    sources.node(Event::Init);
    for node in [mk_node("a", "1"), mk_node("b", "1")] {
        sources.node(Event::InitApply(node));
    }
    sources.node(Event::InitDone);
    sources.told();
    sources.node(Event::Init);
    sources.node(Event::InitApply(mk_node("b", "2")));
    sources.node(Event::InitDone);
    assert_eq!(sources.told(), ["node b gone", "node b", "node a gone"]);
    assert_eq!(sources.uids.get(&name("b")).as_deref(), Some("2"));
    assert_eq!(sources.uids.get(&name("a")), None);
}

#[test]
fn without_its_driver_nothing_is_told_any_more() {
    let mut sources = mk_sources();
    sources.driver(mk_report("a", 1));
    sources.driver = None;
    assert_eq!(sources.told(), ["report a 1", "end"]);
}
