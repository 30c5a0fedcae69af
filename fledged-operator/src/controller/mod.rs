//! The controller: one planner, elected by a Lease, on a cluster.

mod agent_driver;
mod cluster_events;
#[cfg(test)]
mod cluster_events_tests;
mod health;
mod kube_cluster;
mod kube_node;
mod metrics;
mod node_driver;

pub use agent_driver::AgentDriver;
pub use health::ControllerHealth;
pub use kube_cluster::KubeCluster;
pub use kube_node::{NodeCondition, ReadNode};
pub use metrics::{ClusterMetrics, ControllerMetrics};
pub use node_driver::{DriverError, NodeDriver, NodeTarget};

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::planner::{Planner, PlannerConfig};
use fledged_core::port::Clock;
use fledged_core::runner::{ClusterLoop, Ended};
use fledged_core::tokio::TokioClock;
use futures_util::future::FutureExt;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::CONTROLLER_FIELD_MANAGER;
use crate::api::lease::{Elector, LeaseError, LeaseName, LeaseTimes};
use crate::serve::register_build_info;
use health::{HEARTBEAT, Stage};

/// Field manager of everything that the controller writes.
pub const FIELD_MANAGER: &str = CONTROLLER_FIELD_MANAGER;

/// The controller of a cluster's ImageCaches. Of any cluster at most one may run at a time: let them
/// be elected, or see to it otherwise.
///
/// ```no_run
/// # async fn example(client: kube::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use fledged_operator::controller::Controller;
///
/// let controller = Controller::builder(client).build();
/// controller.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await?;
/// # Ok(())
/// # }
/// ```
pub struct Controller {
    cluster: KubeCluster,
    config: PlannerConfig,
    elector: Option<Elector>,
    clock: Arc<dyn Clock>,
    seed: u64,
    health: ControllerHealth,
    metrics: ControllerMetrics,
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller")
            .field("cluster", &self.cluster)
            .field("elector", &self.elector)
            .finish_non_exhaustive()
    }
}

impl Controller {
    /// A controller on the cluster that this client speaks to. It shares the client with whoever
    /// else has it.
    #[must_use]
    pub fn builder(client: Client) -> ControllerBuilder {
        ControllerBuilder {
            client,
            driver: None,
            config: PlannerConfig::default(),
            namespace: None,
            election: None,
            clock: None,
            seed: None,
            cluster_metrics: ClusterMetrics::default(),
            metrics: ControllerMetrics::default(),
        }
    }

    /// What probes ask; goes on telling after the controller has begun to run.
    #[must_use]
    pub fn health(&self) -> ControllerHealth {
        self.health.clone()
    }
}

/// Puts a [`Controller`] together.
pub struct ControllerBuilder {
    client: Client,
    driver: Option<Arc<dyn NodeDriver>>,
    config: PlannerConfig,
    namespace: Option<String>,
    election: Option<(LeaseName, String, LeaseTimes)>,
    clock: Option<Arc<dyn Clock>>,
    seed: Option<u64>,
    cluster_metrics: ClusterMetrics,
    metrics: ControllerMetrics,
}

impl fmt::Debug for ControllerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControllerBuilder")
            .field("config", &self.config)
            .field("namespace", &self.namespace)
            .field("election", &self.election)
            .finish_non_exhaustive()
    }
}

impl ControllerBuilder {
    /// With other limits and intervals. The deadline of a pull is rounded up to whole seconds, in
    /// which it is recorded.
    #[must_use]
    pub fn config(mut self, config: PlannerConfig) -> Self {
        self.config = config;
        let deadline = &mut self.config.defaults.deadline;
        if deadline.subsec_nanos() > 0 {
            *deadline = Duration::from_secs(deadline.as_secs().saturating_add(1));
        }
        self
    }

    /// Reaches nodes by that driver, whose [own work](NodeDriver::run) is done while the controller
    /// leads. By default, agents run on them ([`AgentDriver`](AgentDriver)).
    #[must_use]
    pub fn driver(mut self, driver: Arc<dyn NodeDriver>) -> Self {
        self.driver = Some(driver);
        self
    }

    /// Serves the ImageCaches of that namespace alone. What NodeImageCaches hold for others is given
    /// up: still only one controller may run in a cluster.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Runs only while it holds that lease, such as [`LeaseName::of_controller`]. No other candidate may
    /// have the same identity; [`identity`](crate::api::lease::identity) makes one.
    #[must_use]
    pub fn election(
        mut self,
        lease: LeaseName,
        identity: impl Into<String>,
        times: LeaseTimes,
    ) -> Self {
        self.election = Some((lease, identity.into(), times));
        self
    }

    /// With another clock than tokio's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// With this seed for delays and jitter; by default a random one.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Adds the controller's metrics and `fledged_build_info` to a registry. Without, nothing shows
    /// them.
    #[must_use]
    pub fn metrics(mut self, registry: &mut Registry) -> Self {
        self.cluster_metrics = ClusterMetrics::register(registry);
        self.metrics = ControllerMetrics::register(registry);
        register_build_info(registry);
        self
    }

    /// The controller.
    #[must_use]
    pub fn build(self) -> Controller {
        let clock = self.clock.unwrap_or_else(|| Arc::new(TokioClock::new()));
        let elector = self.election.map(|(lease, identity, times)| {
            let client = self.client.clone();
            Elector::new(client, lease, identity, times, Arc::clone(&clock))
        });
        let cluster = KubeCluster::new(self.client).with_metrics(self.cluster_metrics);
        let cluster = match self.namespace {
            Some(namespace) => cluster.with_namespace(namespace),
            None => cluster,
        };
        let cluster = match self.driver {
            Some(driver) => cluster.with_driver(driver),
            None => cluster,
        };
        Controller {
            cluster,
            config: self.config,
            elector,
            health: ControllerHealth::new(Arc::clone(&clock)),
            clock,
            seed: self.seed.unwrap_or_else(random_seed),
            metrics: self.metrics,
        }
    }
}

/// A seed from the hash map's own source of randomness.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// How long a driver's own work is waited for at shutdown. With 10 s for writes under way and 5 s for the
/// lease it stays within the 30 s that a pod is given.
const DRIVER_DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Why a controller ended although nobody asked it to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControllerError {
    /// Somebody else may lead now: nothing is written any more. Start again to stand by.
    #[error("no longer the leader: {0}")]
    NotLeading(#[from] LeaseError),
    /// Nothing is told any more: the events of the node driver have ended, which they never should, or
    /// the watches, which never do.
    #[error("the events of image caches, nodes and the node driver ended")]
    WatchesEnded,
    /// The node driver's own work failed.
    #[error("the node driver cannot go on: {0}")]
    DriverFailed(#[source] DriverError),
    /// The node driver's own work ended although nobody asked it to.
    #[error("the node driver ended its work by itself")]
    DriverEnded,
}

impl Controller {
    /// Waits to be elected, then acts until `shutdown` resolves. Writes under way are then waited for
    /// a while, and the lease is given back.
    ///
    /// # Errors
    ///
    /// [`ControllerError`] when it ends without having been asked to.
    pub async fn run<F: Future<Output = ()>>(mut self, shutdown: F) -> Result<(), ControllerError> {
        let shutdown = shutdown.fuse();
        futures_util::pin_mut!(shutdown);
        if let Some(elector) = &mut self.elector {
            self.health.set(Stage::Standby);
            let health = self.health.clone();
            let elected = tokio::select! {
                () = elector.acquire() => true,
                () = &mut shutdown => false,
                () = beat(|| health.beat()) => false,
            };
            if !elected {
                // It may have been acquired at the last moment.
                elector.release().await;
                return Ok(());
            }
        }
        self.health.set(Stage::Syncing);
        self.metrics.leads(true);
        let mut elector = self.elector.take();
        let result = self.lead(elector.as_mut(), shutdown).await;
        self.health.set(Stage::Idle);
        self.metrics.leads(false);
        let lost = matches!(result, Err(ControllerError::NotLeading(_)));
        if let Some(elector) = elector.as_mut().filter(|_| !lost) {
            elector.release().await;
        }
        result
    }

    async fn lead<F>(
        &self,
        elector: Option<&mut Elector>,
        shutdown: F,
    ) -> Result<(), ControllerError>
    where
        F: Future<Output = ()> + Unpin,
    {
        let stop = CancellationToken::new();
        let cluster = Arc::new(self.cluster.clone());
        let planner = Planner::new(self.config.clone(), self.seed);
        let cluster_loop = ClusterLoop::new(planner, cluster, Arc::clone(&self.clock), self.seed);
        let mut cluster_loop = cluster_loop.with_observer(Arc::new(self.metrics.clone()));
        let working = self.beside_driver(cluster_loop.run(stop.cancelled()));
        let heart = beat(|| match self.cluster.is_synced() {
            true => self.health.set(Stage::Leading),
            false => self.health.beat(),
        });
        let keeping = async {
            match elector {
                Some(elector) => elector.keep().await,
                None => std::future::pending().await,
            }
        };
        let stopping = async {
            shutdown.await;
            info!("shutting down");
            stop.cancel();
            std::future::pending().await
        };
        futures_util::pin_mut!(working, keeping, stopping, heart);
        tokio::select! {
            result = working => result,
            lost = keeping => Err(lost.into()),
            () = stopping => Ok(()),
            () = heart => Ok(()),
        }
    }

    /// The loop and the driver's own work, which outlives the loop: its last calls may need it.
    async fn beside_driver(
        &self,
        working: impl Future<Output = Ended>,
    ) -> Result<(), ControllerError> {
        let stop = CancellationToken::new();
        let own = self.cluster.driver().run(stop.clone());
        futures_util::pin_mut!(working, own);
        let ended = tokio::select! {
            biased;
            ended = &mut own => return Err(match ended {
                Ok(()) => ControllerError::DriverEnded,
                Err(error) => ControllerError::DriverFailed(error),
            }),
            ended = working => ended,
        };
        stop.cancel();
        let drained = tokio::select! {
            biased;
            ended = own => ended,
            () = self.clock.sleep(DRIVER_DRAIN_LIMIT) => {
                warn!("the node driver did not end its work in time");
                Ok(())
            }
        };
        match ended {
            Ended::EventsEnded => Err(ControllerError::WatchesEnded),
            Ended::Shutdown => drained.map_err(ControllerError::DriverFailed),
        }
    }
}

/// Beats for ever.
async fn beat(tell: impl Fn()) {
    let mut ticks = tokio::time::interval(HEARTBEAT);
    loop {
        ticks.tick().await;
        tell();
    }
}
