//! The Job driver: watches objects, executes the decisions of [`reconcile`], and reports.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fledged_core::backoff::{RetryDelays, Schedule};
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{AssignedImage, Assignment, NodeName, NodeReport};
use fledged_core::planner::ClusterEvent;
use fledged_core::port::{Clock, WriteFailure};
use fledged_core::reporter::ReporterEvent;
use fledged_core::tokio::TokioClock;
use fledged_kube::bounded_client::{REQUEST_LIMIT, bounded};
use fledged_kube::crd::ReadNodeCache;
use fledged_kube::watch::{Change, ListedKeys, watch};
use futures_util::future::{BoxFuture, FutureExt, OptionFuture};
use futures_util::stream::{BoxStream, FuturesUnordered, Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client, Resource, ResourceExt};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::FIELD_MANAGER;
use super::job_object::{JobKey, selector};
use super::memory::NodeMemory;
use super::objects::ObjectStore;
use super::options::JobOptions;
use super::pod::ObservedPod;
use super::reconcile::{JobAction, Observed, Plan, reconcile};
use super::requests::{Created, Requests};
use crate::controller::{AgentDriver, DriverError, NodeDriver, NodeTarget};
use crate::metrics::JobMetrics;
use crate::node_report::node_status::StatusApi;
use crate::node_report::status_writer::Writer;

/// Delays between attempts to write a status.
const WRITE_AGAIN: Schedule = Schedule::seconds(1, 30);
/// Maximum number of events that are applied before nodes are reconciled.
const BURST: usize = 256;
/// Maximum number of invalid entries of one record that are logged.
const INVALID_MAX: usize = 10;

/// Reaches nodes by Kubernetes Jobs; see the [module](super).
///
/// As with agents, the spec of a node's NodeImageCache is the assignment, and its status is the report. The
/// driver writes the status under [`FIELD_MANAGER`](super::FIELD_MANAGER).
pub struct JobDriver {
    client: Client,
    options: JobOptions,
    clock: Arc<dyn Clock>,
    metrics: JobMetrics,
    seed: u64,
    readiness: Readiness,
    records: AgentDriver,
    /// Passes events of the watch of NodeImageCaches on to `run`.
    tee: Mutex<Option<mpsc::UnboundedSender<Event<ReadNodeCache>>>>,
}

impl fmt::Debug for JobDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobDriver")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl JobDriver {
    /// A driver for the cluster of this client.
    #[must_use]
    pub fn new(client: Client, options: JobOptions) -> Self {
        Self {
            records: AgentDriver::new(client.clone()),
            client,
            options,
            clock: Arc::new(TokioClock::new()),
            metrics: JobMetrics::default(),
            seed: fastrand::u64(..),
            readiness: Readiness::default(),
            tee: Mutex::default(),
        }
    }

    /// Whether the driver can do its work: while its controller leads, it needs the lists of Jobs, pods,
    /// nodes and NodeImageCaches.
    ///
    /// # Errors
    ///
    /// The lists that are missing.
    pub fn ready(&self) -> Result<(), String> {
        self.readiness.check()
    }

    /// Uses another clock than tokio's.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Uses this seed for names, delays and jitter. Default: random.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Registers the driver's metrics.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// Objects of one namespace, or of all.
    fn api<K>(&self, namespace: Option<&str>) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// Everything that is watched but NodeImageCaches.
    fn watches(&self) -> impl Stream<Item = WatchedObject> + Send + use<> {
        let nodes = watch(Api::<Node>::all(self.client.clone()), Config::default())
            .map(|event| WatchedObject::Node(Box::new(event)));
        let mut watches = vec![nodes.boxed()];
        let config = Config::default().labels(&selector());
        let namespaces = self.options.watched_namespaces();
        for (scope, namespace) in namespaces.iter().enumerate() {
            let jobs = watch(self.api(namespace.as_deref()), config.clone());
            watches.push(
                jobs.map(move |event| WatchedObject::Job(scope, Box::new(event)))
                    .boxed(),
            );
            let pods = watch(self.api(namespace.as_deref()), config.clone());
            watches.push(
                pods.map(move |event| WatchedObject::Pod(scope, Box::new(event)))
                    .boxed(),
            );
        }
        futures_util::stream::select_all(watches)
    }
}

#[async_trait]
impl NodeDriver for JobDriver {
    fn events(&self) -> BoxStream<'static, ClusterEvent> {
        let tee = self.tee.lock().unwrap_or_else(PoisonError::into_inner);
        let tee = tee.clone();
        let records: Api<ReadNodeCache> = Api::all(self.client.clone());
        // One watch serves the planner and this driver.
        let events = watch(records, Config::default()).inspect(move |event| {
            if let Some(tee) = &tee {
                let _ = tee.send(event.clone());
            }
        });
        AgentDriver::driver_events(events).boxed()
    }

    async fn assign(
        &self,
        node: &NodeTarget,
        images: &[AssignedImage],
    ) -> Result<u64, WriteFailure> {
        self.records.assign(node, images).await
    }

    async fn release(&self, node: &NodeName) -> Result<(), WriteFailure> {
        self.records.release(node).await
    }

    async fn run(&self, shutdown: CancellationToken) -> Result<(), DriverError> {
        let (tee, records) = mpsc::unbounded_channel();
        *self.tee.lock().unwrap_or_else(PoisonError::into_inner) = Some(tee);
        let client = bounded(&self.client, REQUEST_LIMIT);
        let requests = Requests::new(
            client.clone(),
            self.options.clone(),
            Arc::clone(&self.clock),
            self.metrics.clone(),
        );
        let reconciler = Reconciler::new(
            client,
            Arc::new(requests),
            self.seed,
            self.readiness.begin(),
        );
        reconciler
            .run(self.watches(), records, shutdown)
            .await
            .map_err(DriverError::new)
    }
}

/// Kinds that are not listed yet; empty while no controller leads.
#[derive(Debug, Clone, Default)]
struct Readiness(Arc<Mutex<Vec<&'static str>>>);

/// Readiness while a controller leads.
#[derive(Debug)]
struct LeadingReadiness(Readiness);

impl Readiness {
    /// A controller begins to lead.
    fn begin(&self) -> LeadingReadiness {
        let leading = LeadingReadiness(self.clone());
        leading.set_missing(vec!["Nodes", "NodeImageCaches", "Jobs", "Pods"]);
        leading
    }

    fn check(&self) -> Result<(), String> {
        let missing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!("waiting for the lists of {}", missing.join(", ")))
    }
}

impl LeadingReadiness {
    fn set_missing(&self, kinds: Vec<&'static str>) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = kinds;
    }
}

impl Drop for LeadingReadiness {
    fn drop(&mut self) {
        self.set_missing(Vec::new());
    }
}

/// An event of a watch. Jobs and pods carry the number of their watched namespace.
enum WatchedObject {
    Node(Box<Event<Node>>),
    Job(usize, Box<Event<Job>>),
    Pod(usize, Box<Event<ObservedPod>>),
}

/// The end of a request.
enum Done {
    Created(NodeName, JobKey, Created),
    Deleted,
    Explained(NodeName, JobKey, Option<Failure>),
    PodExplained(NodeName, JobKey, Option<Failure>),
}

/// A NodeImageCache.
struct Record {
    uid: String,
    generation: u64,
    assignment: Assignment,
    /// The last report.
    report: NodeReport,
    reporter: mpsc::UnboundedSender<ReporterEvent>,
}

/// A Job that a node needs, and what prevents it.
type Trouble = (NodeName, JobKey, Failure);

/// Runs [`reconcile`] for every node that an event concerns.
struct Reconciler {
    client: Client,
    requests: Arc<Requests>,
    rng: fastrand::Rng,
    store: ObjectStore,
    memories: BTreeMap<NodeName, NodeMemory>,
    records: BTreeMap<NodeName, Record>,
    record_names: ListedKeys<NodeName>,
    /// Records that arrived before all lists were complete.
    early: BTreeMap<NodeName, ReadNodeCache>,
    synced: bool,
    readiness: LeadingReadiness,
    /// Nodes to reconcile now, and later.
    dirty: BTreeSet<NodeName>,
    wakes: BTreeMap<NodeName, Timestamp>,
    troubles: (
        mpsc::UnboundedSender<Trouble>,
        mpsc::UnboundedReceiver<Trouble>,
    ),
    operations: FuturesUnordered<BoxFuture<'static, Done>>,
    writers: JoinSet<()>,
}

impl Reconciler {
    fn new(
        client: Client,
        requests: Arc<Requests>,
        seed: u64,
        readiness: LeadingReadiness,
    ) -> Self {
        Self {
            client,
            store: ObjectStore::new(requests.options.clone()),
            requests,
            rng: fastrand::Rng::with_seed(seed),
            memories: BTreeMap::new(),
            records: BTreeMap::new(),
            record_names: ListedKeys::default(),
            early: BTreeMap::new(),
            synced: false,
            readiness,
            dirty: BTreeSet::new(),
            wakes: BTreeMap::new(),
            troubles: mpsc::unbounded_channel(),
            operations: FuturesUnordered::new(),
            writers: JoinSet::new(),
        }
    }

    /// Runs until shutdown; Jobs stay for the next controller.
    async fn run(
        mut self,
        watches: impl Stream<Item = WatchedObject> + Send,
        mut records: mpsc::UnboundedReceiver<Event<ReadNodeCache>>,
        shutdown: CancellationToken,
    ) -> Result<(), String> {
        tokio::pin!(watches);
        let mut open = true;
        loop {
            self.reconcile_dirty();
            let now = self.requests.clock.now();
            let wake_at = self.wakes.values().min();
            let pause = wake_at.map(|at| at.duration_since(now));
            let pause = pause.map(|pause| Duration::try_from(pause).unwrap_or_default());
            let clock = Arc::clone(&self.requests.clock);
            let timer: OptionFuture<_> = pause.map(|pause| clock.sleep(pause)).into();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = self.operations.next() => self.finish(done),
                Some((node, job, trouble)) = self.troubles.1.recv() => {
                    self.store.get_mut(&node).set_trouble(&job, trouble);
                    self.dirty.insert(node);
                }
                Some(ended) = self.writers.join_next() => {
                    ended.map_err(|error| format!("a status writer has failed: {error}"))?;
                }
                event = records.recv(), if open => match event {
                    Some(event) => self.apply_record_event(event),
                    None => open = false,
                },
                Some(event) = watches.next() => {
                    self.apply(event);
                    // Events arrive in bursts, and one reconciliation covers many of them.
                    for _ in 0..BURST {
                        match watches.next().now_or_never() {
                            Some(Some(event)) => self.apply(event),
                            _ => break,
                        }
                    }
                }
                Some(()) = timer => {}
            }
            self.sync();
            self.wake();
        }
        self.records.clear();
        while let Some(ended) = self.writers.join_next().await {
            if let Err(error) = ended {
                warn!(%error, "status writer failed");
            }
        }
        Ok(())
    }

    fn apply(&mut self, event: WatchedObject) {
        let nodes = match event {
            WatchedObject::Node(event) => self.store.apply_node(*event),
            WatchedObject::Job(scope, event) => self.store.apply_job(scope, *event),
            WatchedObject::Pod(scope, event) => self.store.apply_pod(scope, *event),
        };
        self.dirty.extend(nodes);
    }

    /// Begins to reconcile once all lists are complete.
    fn sync(&mut self) {
        if self.synced {
            return;
        }
        let mut unlisted = self.store.unlisted();
        if !self.record_names.is_listed() {
            unlisted.push("NodeImageCaches");
        }
        self.synced = unlisted.is_empty();
        self.readiness.set_missing(unlisted);
        if self.synced {
            for (node, record) in std::mem::take(&mut self.early) {
                self.serve(node, &record);
            }
            self.dirty.extend(self.store.names().cloned());
        }
    }

    fn wake(&mut self) {
        let now = self.requests.clock.now();
        let due = self.wakes.iter().filter(|(_, at)| **at <= now);
        let due: Vec<NodeName> = due.map(|(node, _)| node.clone()).collect();
        for node in due {
            self.wakes.remove(&node);
            self.dirty.insert(node);
        }
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Created(node, key, created) => {
                match created {
                    Created::Exists(job, missing) => {
                        if let Err(uid) = self.store.created(&node, &key, &job, missing) {
                            let text = format!(
                                "Job {key} was changed when it was created: it does not pull or \
                                 remove what it should; is there an admission webhook?"
                            );
                            let failure = Failure::new(Reason::Unknown, text);
                            self.store.get_mut(&node).set_refused(&key, failure);
                            self.delete(&key, uid);
                        }
                    }
                    Created::Refused(failure) => {
                        self.store.get_mut(&node).set_refused(&key, failure);
                    }
                    Created::Gone => self.store.get_mut(&node).forget_creation(&key),
                }
                self.dirty.insert(node);
            }
            Done::Explained(node, key, Some(trouble)) => {
                self.store.get_mut(&node).set_trouble(&key, trouble);
                self.dirty.insert(node);
            }
            Done::PodExplained(node, key, trouble) => {
                self.store.get_mut(&node).set_pod_trouble(&key, trouble);
                self.dirty.insert(node);
            }
            Done::Explained(_, _, None) | Done::Deleted => {}
        }
    }

    fn apply_record_event(&mut self, event: Event<ReadNodeCache>) {
        let name = |record: &ReadNodeCache| NodeName::new(record.name_any()).ok();
        match self.record_names.apply(event, name) {
            Change::Applied(node, record) if self.synced => self.serve(node, &record),
            Change::Applied(node, record) => drop(self.early.insert(node, record)),
            Change::Gone(gone) => gone.iter().for_each(|node| self.release(node)),
        }
    }

    /// Handles the deletion of a node's record. The removals of its images stay in memory.
    fn release(&mut self, node: &NodeName) {
        self.early.remove(node);
        if self.records.remove(node).is_some() {
            info!(%node, "assignment removed");
            self.dirty.insert(node.clone());
        }
    }

    /// Handles a new or changed record.
    fn serve(&mut self, node: NodeName, record: &ReadNodeCache) {
        let uid = record.metadata.uid.clone().unwrap_or_default();
        let generation = record.generation();
        let found = record.report();
        let read = ReporterEvent::RecordRead {
            record: uid.clone(),
            found: found.clone(),
        };
        if self
            .records
            .get(&node)
            .is_some_and(|known| known.uid != uid)
        {
            self.release(&node);
        }
        if let Some(known) = self.records.get(&node)
            && known.generation == generation
        {
            // The watch also returns the writes of this driver, perhaps late.
            if self.record_names.is_listing() || is_tampered_with(record) {
                let _ = known.reporter.send(read);
            }
            return;
        }
        let (assignment, invalid) = record.assignment();
        for entry in invalid.iter().take(INVALID_MAX) {
            let (field, value, problem) = (&entry.field, &entry.value, &entry.problem);
            warn!(%node, generation, field, value, problem, "invalid entry ignored");
        }
        let assignment = assignment.with_record(uid.clone());
        let images = assignment.images.len();
        info!(%node, generation, images, invalid = invalid.len(), "assignment read");
        if let Some(known) = self.records.get_mut(&node) {
            known.generation = generation;
            known.assignment = assignment;
        } else {
            self.memory(&node).resume(&found.unwrap_or_default());
            let record = Record {
                uid,
                generation,
                assignment,
                report: NodeReport::default(),
                reporter: self.start_writer(&node),
            };
            let _ = record.reporter.send(read);
            self.records.insert(node.clone(), record);
        }
        self.dirty.insert(node);
    }

    fn memory(&mut self, node: &NodeName) -> &mut NodeMemory {
        let memory = self.memories.entry(node.clone());
        memory.or_insert_with(|| NodeMemory::new(self.rng.u64(..)))
    }

    /// Starts the task that writes a node's status. It ends with its sender.
    fn start_writer(&mut self, node: &NodeName) -> mpsc::UnboundedSender<ReporterEvent> {
        let (reporter, events) = mpsc::unbounded_channel();
        let metrics = self.requests.metrics.clone();
        let writer = Writer::new(
            StatusApi {
                client: self.client.clone(),
                node: node.clone(),
                manager: FIELD_MANAGER,
            },
            self.rng.u64(..),
            RetryDelays::new(WRITE_AGAIN, self.rng.u64(..)),
            Arc::clone(&self.requests.clock),
            move |result| metrics.status_written(result),
        );
        self.writers.spawn(writer.run(events));
        reporter
    }

    fn reconcile_dirty(&mut self) {
        if !self.synced {
            return;
        }
        while let Some(node) = self.dirty.pop_first() {
            self.reconcile(&node);
        }
    }

    /// Reconciles one node and executes the resulting actions.
    fn reconcile(&mut self, node: &NodeName) {
        if !self.records.contains_key(node) && self.store.drop_if_empty(node) {
            self.memories.remove(node);
            self.wakes.remove(node);
            return;
        }
        let now = self.requests.clock.now();
        let seed = self.rng.u64(..);
        let memory = self.memories.entry(node.clone());
        let memory = memory.or_insert_with(|| NodeMemory::new(seed));
        let objects = self.store.get_mut(node);
        let (view, jobs) = (objects.node(), objects.jobs());
        let assignment = self.records.get(node).map(|record| &record.assignment);
        let observed = Observed {
            name: node,
            node: &view,
            jobs: &jobs,
            pods: &objects.pods(),
            no_image_volumes: self.requests.no_image_volumes(),
        };
        let Plan {
            actions,
            report,
            wake_at,
        } = reconcile(
            &self.requests.options,
            assignment.unwrap_or(&Assignment::default()),
            &observed,
            memory,
            now,
        );
        objects.drop_refused();
        match wake_at {
            Some(at) => self.wakes.insert(node.clone(), at),
            None => self.wakes.remove(node),
        };
        if let Some(record) = self.records.get_mut(node) {
            record.publish(node, report);
        }
        // A Job that is being created is observed as well.
        if actions
            .iter()
            .any(|action| matches!(action, JobAction::Create(_)))
        {
            self.dirty.insert(node.clone());
        }
        for action in actions {
            self.carry_out(node, action, now);
        }
    }

    fn carry_out(&mut self, node: &NodeName, action: JobAction, now: Timestamp) {
        let requests = Arc::clone(&self.requests);
        let node = node.clone();
        match action {
            JobAction::Create(plan) => {
                let seed = self.rng.u64(..);
                let key = plan.key().clone();
                let cancel = self.store.get_mut(&node).begin(plan.clone(), now);
                let troubles = self.troubles.0.clone();
                let work = async move {
                    let trouble = |trouble| {
                        let _ = troubles.send((node.clone(), key.clone(), trouble));
                    };
                    let created = requests.create(plan, seed, cancel, trouble).await;
                    Done::Created(node, key, created)
                };
                self.operations.push(work.boxed());
            }
            JobAction::Delete(key, None) => self.store.get_mut(&node).cancel(&key),
            JobAction::Delete(key, Some(uid)) => {
                let objects = self.store.get_mut(&node);
                // A creation whose answer was lost is not repeated after the deletion.
                objects.cancel(&key);
                if objects.delete(&key) {
                    self.delete(&key, uid);
                }
            }
            JobAction::ExplainPod(key, pod) => {
                let work = async move {
                    let trouble = requests.explain_pod(&key.namespace, &pod).await;
                    Done::PodExplained(node, key, trouble)
                };
                self.operations.push(work.boxed());
            }
            JobAction::Explain(key) => {
                let work = async move {
                    let trouble = requests.explain(&key).await;
                    Done::Explained(node, key, trouble)
                };
                self.operations.push(work.boxed());
            }
        }
    }

    fn delete(&mut self, key: &JobKey, uid: String) {
        let requests = Arc::clone(&self.requests);
        let (key, seed) = (key.clone(), self.rng.u64(..));
        let work = async move {
            requests.delete(&key, uid, seed).await;
            Done::Deleted
        };
        self.operations.push(work.boxed());
    }
}

impl Record {
    /// Passes a report on, if it differs from the last.
    fn publish(&mut self, node: &NodeName, report: NodeReport) {
        if report == self.report {
            return;
        }
        let before: BTreeMap<_, _> = self.report.images.iter().map(|r| (&r.image, r)).collect();
        let images = report.images.iter();
        for image in images.filter(|image| before.get(&image.image) != Some(image)) {
            info!(
                %node,
                image = %image.image,
                phase = %image.phase,
                attempts = image.attempts,
                reason = image.reason.map(|reason| reason.as_str()),
                message = image.message.as_deref(),
                "image state changed"
            );
        }
        // A writer that has ended ends the driver.
        let _ = self.reporter.send(ReporterEvent::Observed(report.clone()));
        self.report = report;
    }
}

/// Whether another writer has changed the status.
fn is_tampered_with(record: &ReadNodeCache) -> bool {
    let fields = record.metadata.managed_fields.iter().flatten();
    let mut status = fields.filter(|entry| entry.subresource.as_deref() == Some("status"));
    status.any(|entry| entry.manager.as_deref() != Some(FIELD_MANAGER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_ready_once_everything_is_listed() {
        let readiness = Readiness::default();
        assert!(readiness.check().is_ok(), "no leader");
        let leading = readiness.begin();
        assert!(readiness.check().unwrap_err().contains("Jobs, Pods"));
        leading.set_missing(vec!["Pods"]);
        assert_eq!(
            readiness.check().unwrap_err(),
            "waiting for the lists of Pods"
        );
        leading.set_missing(Vec::new());
        assert!(readiness.check().is_ok());
        leading.set_missing(vec!["Nodes"]);
        drop(leading);
        assert!(
            readiness.check().is_ok(),
            "not the leader any more, so not waiting for lists"
        );
    }
}
