//! One watch of each kind for all nodes, and who is to hear what of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use fledged_core::model::{NodeName, NodeReport};
use fledged_core::reporter::ReporterEvent;
use futures_util::stream::{Stream, StreamExt};
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::FIELD_MANAGER;
use super::job::{ReadJob, node_of};
use super::listing::Leading;
use super::node::{NodeView, ReadNodeImages};
use super::node_task::{Beginning, Handle, node_task};
use super::options::Retention;
use super::pod::ReadPod;
use super::requests::Requests;
use super::scope::Scope;
use super::told::Told;
use crate::api::watch::Inventory;
use crate::crd::ReadNodeCache;

/// Invalid entries of one object that are logged one by one.
const INVALID_MAX: usize = 10;

/// Something that one of the watches told.
pub(super) enum Observed {
    Node(Event<ReadNodeImages>),
    /// In the scope of that number.
    Job(usize, Event<ReadJob>),
    Pod(usize, Event<ReadPod>),
    Record(Event<ReadNodeCache>),
}

/// A node that something is assigned to.
struct Served {
    handle: Handle,
    uid: String,
    generation: u64,
}

/// What is known of everything, and who is told.
pub(super) struct Hub {
    client: Client,
    requests: Arc<Requests>,
    rng: fastrand::Rng,
    nodes: Inventory<NodeName, ()>,
    views: BTreeMap<NodeName, Arc<NodeView>>,
    scopes: Vec<Scope>,
    records: Inventory<NodeName, ()>,
    /// Records that came before everything was listed.
    early: BTreeMap<NodeName, ReadNodeCache>,
    served: BTreeMap<NodeName, Served>,
    /// Whether nodes and records were listed.
    listed: [bool; 2],
    synced: bool,
    missing: Leading,
    listing: bool,
    tasks: JoinSet<()>,
}

impl Hub {
    pub(super) fn new(
        client: Client,
        requests: Arc<Requests>,
        scopes: usize,
        seed: u64,
        missing: Leading,
    ) -> Self {
        let scopes = (0..scopes).map(|_| Scope::new());
        Self {
            client,
            requests,
            rng: fastrand::Rng::with_seed(seed),
            nodes: Inventory::new(),
            views: BTreeMap::new(),
            scopes: scopes.collect(),
            records: Inventory::new(),
            early: BTreeMap::new(),
            served: BTreeMap::new(),
            listed: [false; 2],
            synced: false,
            missing,
            listing: false,
            tasks: JoinSet::new(),
        }
    }

    /// Takes note of something.
    pub(super) fn hear(&mut self, event: Observed) {
        match event {
            Observed::Node(event) => self.hear_node(event),
            Observed::Job(scope, event) => {
                let operator = &self.requests.options.namespace;
                if let Event::InitApply(job) | Event::Apply(job) | Event::Delete(job) = &event
                    && !job.is_credible(operator)
                {
                    return;
                }
                let Some(scope) = self.scopes.get_mut(scope) else {
                    return;
                };
                let (there, gone, done) = scope.jobs.read(event);
                scope.listed[0] |= done;
                if let Some(job) = there {
                    self.tell(node_of(&job.metadata), Told::Job(job));
                }
                for job in gone {
                    self.tell(node_of(&job.metadata), Told::JobGone(job.name_any()));
                }
            }
            Observed::Pod(scope, event) => {
                let Some(scope) = self.scopes.get_mut(scope) else {
                    return;
                };
                let (there, gone, done) = scope.pods.read(event);
                scope.listed[1] |= done;
                if let Some(pod) = there {
                    self.tell(node_of(&pod.metadata), Told::Pod(pod));
                }
                for pod in gone {
                    self.tell(node_of(&pod.metadata), Told::PodGone(pod));
                }
            }
            Observed::Record(event) => self.hear_record(event),
        }
        if self.synced {
            return;
        }
        let unlisted = self.unlisted();
        self.synced = unlisted.is_empty();
        self.missing.missing(unlisted);
        if self.synced {
            for (node, record) in std::mem::take(&mut self.early) {
                self.recorded(node, &record);
            }
            self.delete_orphans();
        }
    }

    /// What was not listed yet.
    fn unlisted(&self) -> Vec<&'static str> {
        let all = |place: usize| {
            self.scopes
                .iter()
                .all(|s| s.listed.get(place) == Some(&true))
        };
        let [nodes, records] = self.listed;
        let kinds = [
            ("Nodes", nodes),
            ("NodeImageCaches", records),
            ("Jobs", all(0)),
            ("Pods", all(1)),
        ];
        let unlisted = kinds.into_iter().filter(|(_, listed)| !listed);
        unlisted.map(|(kind, _)| kind).collect()
    }

    /// Lets tasks that have ended go; one that broke off ends the driver.
    pub(super) async fn ended(&mut self) -> Result<(), String> {
        match self.tasks.join_next().await {
            Some(Err(error)) => Err(format!("the task of a node broke off: {error}")),
            Some(Ok(())) => Ok(()),
            None => std::future::pending().await,
        }
    }

    /// Ends the tasks of all nodes in good order; Jobs stay for whoever comes next.
    pub(super) async fn stop(mut self) {
        for (_, served) in std::mem::take(&mut self.served) {
            served.handle.stop.cancel();
        }
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                warn!(%error, "the task of a node broke off");
            }
        }
    }

    fn tell(&self, node: Option<NodeName>, told: Told) {
        if let Some(served) = node.and_then(|node| self.served.get(&node)) {
            let _ = served.handle.told.send(told);
        }
    }

    fn hear_node(&mut self, event: Event<ReadNodeImages>) {
        match event {
            Event::Init => self.nodes.begin(),
            Event::InitApply(node) | Event::Apply(node) => {
                let Some(name) = node.name() else { return };
                self.nodes.put(name.clone(), ());
                let view = Arc::new(node.into_view());
                self.views.insert(name.clone(), Arc::clone(&view));
                self.tell(Some(name), Told::Node(view));
            }
            Event::Delete(node) => {
                if let Some(name) = node.name() {
                    self.nodes.remove(&name);
                    self.node_gone(name);
                }
            }
            Event::InitDone => {
                for name in self.nodes.end() {
                    self.node_gone(name);
                }
                self.listed[0] = true;
            }
        }
    }

    /// Its record goes with it; until then nothing is begun.
    fn node_gone(&mut self, name: NodeName) {
        self.views.remove(&name);
        self.tell(Some(name), Told::Node(Arc::default()));
    }

    fn hear_record(&mut self, event: Event<ReadNodeCache>) {
        match event {
            Event::Init => {
                self.records.begin();
                self.listing = true;
            }
            Event::InitApply(record) | Event::Apply(record) => {
                let Ok(node) = NodeName::new(record.name_any()) else {
                    return;
                };
                self.records.put(node.clone(), ());
                match self.synced {
                    true => self.recorded(node, &record),
                    false => drop(self.early.insert(node, record)),
                }
            }
            Event::Delete(record) => {
                if let Ok(node) = NodeName::new(record.name_any()) {
                    self.records.remove(&node);
                    self.record_gone(&node);
                }
            }
            Event::InitDone => {
                for node in self.records.end() {
                    self.record_gone(&node);
                }
                self.listing = false;
                self.listed[1] = true;
            }
        }
    }

    fn record_gone(&mut self, node: &NodeName) {
        self.early.remove(node);
        if let Some(served) = self.served.remove(node) {
            info!(%node, "no assignment");
            let _ = served.handle.told.send(Told::Released);
        }
    }

    fn recorded(&mut self, node: NodeName, record: &ReadNodeCache) {
        let uid = record.metadata.uid.clone().unwrap_or_default();
        let generation = record.generation();
        let found = record.report();
        if self.served.get(&node).is_some_and(|s| s.uid != uid) {
            self.record_gone(&node);
        }
        if let Some(served) = self.served.get(&node)
            && served.generation == generation
        {
            // What was written from here comes by here too, and may be older than what is known.
            if self.listing || is_tampered_with(record) {
                let record_read = ReporterEvent::RecordRead { record: uid, found };
                let _ = served.handle.reports.send(record_read);
            }
            return;
        }
        let (assignment, invalid) = record.assignment();
        for entry in invalid.iter().take(INVALID_MAX) {
            let (field, value, problem) = (&entry.field, &entry.value, &entry.problem);
            warn!(%node, generation, field, value, problem, "entry left out");
        }
        let images = assignment.images.len();
        info!(%node, generation, images, invalid = invalid.len(), "assignment");
        if !self.served.contains_key(&node) {
            let handle = self.begin(node.clone(), found.as_ref());
            let record = uid.clone();
            let record_read = ReporterEvent::RecordRead { record, found };
            let _ = handle.reports.send(record_read);
            let served = Served {
                handle,
                uid: uid.clone(),
                generation,
            };
            self.served.insert(node.clone(), served);
        }
        if let Some(served) = self.served.get_mut(&node) {
            served.generation = generation;
            let _ = served
                .handle
                .told
                .send(Told::Assigned(assignment.with_record(uid)));
        }
    }

    /// Starts the task of a node.
    fn begin(&mut self, node: NodeName, found: Option<&NodeReport>) -> Handle {
        let jobs = self.scopes.iter().flat_map(|scope| {
            let jobs = scope.jobs.known.values();
            let jobs = jobs.filter(|job| node_of(&job.metadata).as_ref() == Some(&node));
            jobs.map(|job| (Arc::clone(job), scope.pod_of(job)))
        });
        let beginning = Beginning {
            jobs: jobs.collect(),
            view: self.views.get(&node).cloned().unwrap_or_default(),
            reports: found.map_or_else(Vec::new, |report| report.images.clone()),
            seed: self.rng.u64(..),
            node,
        };
        let requests = Arc::clone(&self.requests);
        let (handle, task) = node_task(self.client.clone(), requests, beginning);
        self.tasks.spawn(task);
        handle
    }

    /// Deletes Jobs of nodes that nothing is assigned to: nobody waits for them.
    fn delete_orphans(&mut self) {
        let retain = self.requests.options.retention == Retention::Retain;
        let jobs = self.scopes.iter().flat_map(|scope| {
            let jobs = scope.jobs.known.iter();
            jobs.map(move |(key, job)| (scope, key, job))
        });
        for (scope, (namespace, name), job) in jobs {
            let served = node_of(&job.metadata).is_some_and(|node| self.served.contains_key(&node));
            // The end of a Job is told some time after that of its pod.
            let ended = || scope.pod_of(job).is_some_and(|pod| pod.has_ended());
            let kept = retain && (job.end().is_some() || ended());
            if served || kept {
                continue;
            }
            info!(namespace, name, "deleting a Job that nobody waits for");
            let requests = Arc::clone(&self.requests);
            let (namespace, name) = (namespace.clone(), name.clone());
            let seed = self.rng.u64(..);
            self.tasks.spawn(async move {
                requests.delete(&namespace, &name, seed).await;
            });
        }
    }
}

/// Whether somebody else has written to the status.
fn is_tampered_with(record: &ReadNodeCache) -> bool {
    let fields = record.metadata.managed_fields.iter().flatten();
    let mut status = fields.filter(|entry| entry.subresource.as_deref() == Some("status"));
    status.any(|entry| entry.manager.as_deref() != Some(FIELD_MANAGER))
}

/// What the watch of the records tells.
pub(super) type Records = mpsc::UnboundedReceiver<Event<ReadNodeCache>>;

/// Lets the hub hear until it is told to stop.
pub(super) async fn run(
    mut hub: Hub,
    watches: impl Stream<Item = Observed> + Send,
    mut records: Records,
    shutdown: CancellationToken,
) -> Result<(), String> {
    tokio::pin!(watches);
    let mut open = true;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            event = records.recv(), if open => match event {
                Some(event) => hub.hear(Observed::Record(event)),
                None => open = false,
            },
            Some(event) = watches.next() => hub.hear(event),
            ended = hub.ended() => ended?,
        }
    }
    hub.stop().await;
    Ok(())
}
