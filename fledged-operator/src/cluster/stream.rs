//! From watches to what a planner is told.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::ExponentialBuilder;
use fledged_core::cluster::ClusterEvent;
use fledged_core::model::{CacheId, NodeName};
use futures_util::stream::{self, BoxStream, StreamExt};
use kube::ResourceExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::ResetTimerBackoff;
use kube::runtime::watcher::{self, Event, ExponentialBackoff};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tracing::{debug, warn};

use super::inventory::Inventory;
use super::node::ReadNode;
use super::seen::SeenCaches;
use crate::crd::{ReadCache, ReadNodeCache};
use crate::problem::with_causes;

/// Between attempts to begin a watch again. One controller is no burden for an API server that is
/// coming back, and nothing is decided before it has listed everything.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long it has to go well before a failure counts as the first.
const CALM: Duration = Duration::from_secs(60);

/// Objects of a list that are in memory at a time: at a thousand nodes, the first lists would else
/// take more than everything that is kept of them.
const PAGE: u32 = 100;

/// UIDs of the nodes that exist, for the owner references of their records.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeUids(Arc<Mutex<BTreeMap<NodeName, String>>>);

impl NodeUids {
    pub(super) fn get(&self, node: &NodeName) -> Option<String> {
        let uids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uids.get(node).cloned()
    }

    /// Returns the one that was known before.
    fn set(&self, node: &NodeName, uid: String) -> Option<String> {
        let mut uids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uids.insert(node.clone(), uid)
    }

    fn remove(&self, node: &NodeName) {
        let mut uids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uids.remove(node);
    }
}

/// Something that one of the watches told.
enum Told {
    Cache(Event<ReadCache>),
    Node(Event<ReadNode>),
    Record(Event<ReadNodeCache>),
}

/// Everything that happens to caches, nodes and their records; [`ClusterEvent::Synced`] once all
/// three were listed.
pub(super) fn events(
    client: &Client,
    namespace: Option<&str>,
    uids: NodeUids,
    seen: SeenCaches,
) -> BoxStream<'static, ClusterEvent> {
    let caches = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let told = stream::select_all([
        watch(caches).map(Told::Cache).boxed(),
        watch(Api::all(client.clone())).map(Told::Node).boxed(),
        watch(Api::all(client.clone())).map(Told::Record).boxed(),
    ]);
    let mut reader = Reader::new(uids, seen);
    told.flat_map(move |told| stream::iter(reader.read(told)))
        .boxed()
}

/// A watch that never ends: it is begun again with growing, jittered delays.
fn watch<K>(api: Api<K>) -> impl futures_util::Stream<Item = Event<K>> + Send
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let backoff = ExponentialBuilder::new()
        .with_min_delay(BACKOFF_MIN)
        .with_max_delay(BACKOFF_MAX)
        .with_jitter()
        .without_max_times();
    let watch = watcher::watcher(api, watcher::Config::default().page_size(PAGE));
    // What is listed in part is a success to the watch, but no reason to be hasty.
    let backoff = ResetTimerBackoff::new(ExponentialBackoff::from(backoff), CALM);
    let watch = watch.backoff(backoff);
    watch.filter_map(async |event| match event {
        Ok(event) => Some(event),
        Err(error) => {
            let hint = match &error {
                watcher::Error::InitialListFailed(kube::Error::Api(status)) => match status.code {
                    404 => "is its CustomResourceDefinition installed?",
                    401 | 403 => "may this account list and watch it?",
                    _ => "",
                },
                _ => "",
            };
            let error = with_causes(&error);
            warn!(kind = %K::kind(&()), error, hint, "the watch was interrupted");
            None
        }
    })
}

/// What was last told of a node's record.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    uid: String,
    generation: u64,
    status: u64,
}

struct Reader {
    caches: Inventory<CacheId, ()>,
    nodes: Inventory<NodeName, ()>,
    records: Inventory<NodeName, Seen>,
    uids: NodeUids,
    seen: SeenCaches,
    /// Whether caches, nodes and records were listed.
    listed: [bool; 3],
    synced: bool,
}

impl Reader {
    fn new(uids: NodeUids, seen: SeenCaches) -> Self {
        Self {
            caches: Inventory::new(),
            nodes: Inventory::new(),
            records: Inventory::new(),
            uids,
            seen,
            listed: [false; 3],
            synced: false,
        }
    }

    fn read(&mut self, told: Told) -> Vec<ClusterEvent> {
        let mut events = match told {
            Told::Cache(event) => self.read_cache(event),
            Told::Node(event) => self.read_node(event),
            Told::Record(event) => self.read_record(event),
        };
        if !self.synced && self.listed == [true; 3] {
            self.synced = true;
            events.push(ClusterEvent::Synced);
        }
        events
    }

    fn read_cache(&mut self, event: Event<ReadCache>) -> Vec<ClusterEvent> {
        match event {
            Event::Init => {
                self.caches.begin();
                Vec::new()
            }
            Event::InitApply(cache) | Event::Apply(cache) => {
                self.caches.put(cache.id(), ());
                self.seen.note(&cache);
                vec![ClusterEvent::CacheApplied(Box::new(cache.into_facts()))]
            }
            Event::Delete(cache) => {
                self.caches.remove(&cache.id());
                self.seen.forget(&cache.id());
                vec![ClusterEvent::CacheGone(cache.id())]
            }
            Event::InitDone => {
                self.listed[0] = true;
                let gone = self.caches.end();
                gone.iter().for_each(|id| self.seen.forget(id));
                gone.into_iter().map(ClusterEvent::CacheGone).collect()
            }
        }
    }

    fn read_node(&mut self, event: Event<ReadNode>) -> Vec<ClusterEvent> {
        match event {
            Event::Init => {
                self.nodes.begin();
                Vec::new()
            }
            Event::InitApply(node) | Event::Apply(node) => {
                let Some(name) = node.name() else {
                    return Vec::new();
                };
                self.nodes.put(name.clone(), ());
                let uid = node.uid().unwrap_or_default();
                let before = self.uids.set(&name, uid.clone());
                let another = before.is_some_and(|before| before != uid);
                let gone = another.then(|| ClusterEvent::NodeGone(name.clone()));
                let applied = ClusterEvent::NodeApplied(node.into_facts(name));
                gone.into_iter().chain([applied]).collect()
            }
            Event::Delete(node) => match node.name() {
                None => Vec::new(),
                Some(name) => {
                    self.nodes.remove(&name);
                    self.uids.remove(&name);
                    vec![ClusterEvent::NodeGone(name)]
                }
            },
            Event::InitDone => {
                self.listed[1] = true;
                let gone = self.nodes.end();
                gone.iter().for_each(|name| self.uids.remove(name));
                gone.into_iter().map(ClusterEvent::NodeGone).collect()
            }
        }
    }

    fn read_record(&mut self, event: Event<ReadNodeCache>) -> Vec<ClusterEvent> {
        match event {
            Event::Init => {
                self.records.begin();
                Vec::new()
            }
            Event::InitApply(record) | Event::Apply(record) => self.recorded(&record),
            Event::Delete(record) => match NodeName::new(record.name_any()) {
                Err(_) => Vec::new(),
                Ok(name) => {
                    self.records.remove(&name);
                    vec![ClusterEvent::AssignmentGone(name)]
                }
            },
            Event::InitDone => {
                self.listed[2] = true;
                let gone = self.records.end().into_iter();
                gone.map(ClusterEvent::AssignmentGone).collect()
            }
        }
    }

    /// Only what is new is told: an echo of our own write is not a word of the agent's.
    fn recorded(&mut self, record: &ReadNodeCache) -> Vec<ClusterEvent> {
        let Ok(node) = NodeName::new(record.name_any()) else {
            return Vec::new();
        };
        let mut hasher = DefaultHasher::new();
        record.status.hash(&mut hasher);
        let seen = Seen {
            uid: record.uid().unwrap_or_default(),
            generation: record.generation(),
            status: hasher.finish(),
        };
        let (uid, generation, status) = (seen.uid.clone(), seen.generation, seen.status);
        let before = self.records.put(node.clone(), seen);
        let before = before.as_ref();
        let mut events = Vec::new();
        if before.is_some_and(|before| before.uid != uid) {
            events.push(ClusterEvent::AssignmentGone(node.clone()));
        }
        let before = before.filter(|before| before.uid == uid);
        if before.is_none_or(|before| before.generation != generation) {
            let (assignment, invalid) = record.assignment();
            for problem in invalid {
                // It differs from what is wanted, and is written anew.
                debug!(%node, %problem, "an entry of a node image cache can't be read");
            }
            events.push(ClusterEvent::AssignmentRecorded {
                node: node.clone(),
                assignment,
            });
        }
        if before.is_none_or(|before| before.status != status)
            && let Some(report) = record.report()
        {
            events.push(ClusterEvent::Reported { node, report });
        }
        events
    }
}
