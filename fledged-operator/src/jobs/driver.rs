//! The driver whose nodes have no agents.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use fledged_core::model::{AssignedImage, NodeName};
use fledged_core::planner::ClusterEvent;
use fledged_core::port::{Clock, WriteFailure};
use fledged_core::tokio::TokioClock;
use futures_util::stream::{BoxStream, StreamExt};
use kube::runtime::watcher::Event;
use kube::{Api, Client};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::hub::{self, Hub, Observed};
use super::listing::Listing;
use super::metrics::JobMetrics;
use super::names::selector;
use super::options::JobOptions;
use super::requests::Requests;
use crate::api::watch::{watch, watch_labelled};
use crate::controller::{AgentDriver, DriverError, NodeDriver, NodeTarget};
use crate::crd::ReadNodeCache;

/// Reaches nodes by Kubernetes Jobs; see the [module](super).
///
/// What a node is to hold is recorded as with agents, as the spec of its NodeImageCache, and so is where
/// its images stand, as the status: written from here, under [`FIELD_MANAGER`](super::FIELD_MANAGER).
/// `fledged status` and `why`, and a controller that starts anew, see what they see with agents.
pub struct JobDriver {
    client: Client,
    options: JobOptions,
    clock: Arc<dyn Clock>,
    metrics: JobMetrics,
    seed: u64,
    listing: Listing,
    records: AgentDriver,
    /// Where the watch of the records tells the own work of what it hears.
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
    /// Jobs in the cluster that this client speaks to.
    #[must_use]
    pub fn new(client: Client, options: JobOptions) -> Self {
        Self {
            records: AgentDriver::new(client.clone()),
            client,
            options,
            clock: Arc::new(TokioClock::new()),
            metrics: JobMetrics::default(),
            seed: fastrand::u64(..),
            listing: Listing::default(),
            tee: Mutex::default(),
        }
    }

    /// Whether it can do what it is there for: while its controller leads, it has to know of Jobs, pods,
    /// nodes and records.
    ///
    /// # Errors
    ///
    /// Which of them it waits for.
    pub fn ready(&self) -> Result<(), String> {
        self.listing.ready()
    }

    /// Objects of one namespace, or of all.
    fn api<K>(&self, namespace: Option<&str>) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// With another clock than tokio's.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// With this seed for names, delays and jitter; by default a random one.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Adds the driver's metrics to a registry. Without, nothing shows them.
    #[must_use]
    pub fn with_metrics(mut self, registry: &mut Registry) -> Self {
        self.metrics = JobMetrics::register(registry);
        self
    }
}

#[async_trait]
impl NodeDriver for JobDriver {
    fn events(&self) -> BoxStream<'static, ClusterEvent> {
        let tee = self.tee.lock().unwrap_or_else(PoisonError::into_inner);
        let tee = tee.clone();
        let records: Api<ReadNodeCache> = Api::all(self.client.clone());
        // One watch for both: the planner and the nodes' own loops hear the same.
        let told = watch(records).inspect(move |event| {
            if let Some(tee) = &tee {
                let _ = tee.send(event.clone());
            }
        });
        AgentDriver::driver_events(told).boxed()
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
        let requests = Requests::new(
            self.client.clone(),
            self.options.clone(),
            Arc::clone(&self.clock),
            self.metrics.clone(),
        );
        let scopes = self.options.scopes();
        let hub = Hub::new(
            self.client.clone(),
            Arc::new(requests),
            scopes.len(),
            self.seed,
            self.listing.begin(),
        );
        let nodes = watch(Api::all(self.client.clone())).map(Observed::Node);
        let mut watches = vec![nodes.boxed()];
        let labels = selector();
        for (number, scope) in scopes.iter().enumerate() {
            let jobs = watch_labelled(self.api(scope.as_deref()), &labels);
            watches.push(jobs.map(move |event| Observed::Job(number, event)).boxed());
            let pods = watch_labelled(self.api(scope.as_deref()), &labels);
            watches.push(pods.map(move |event| Observed::Pod(number, event)).boxed());
        }
        let watches = futures_util::stream::select_all(watches);
        hub::run(hub, watches, records, shutdown)
            .await
            .map_err(DriverError::new)
    }
}
