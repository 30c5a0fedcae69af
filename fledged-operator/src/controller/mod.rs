//! The controller: one planner, elected by a Lease, on a cluster.

mod agent_driver;
mod cluster_events;
#[cfg(test)]
mod cluster_events_tests;
mod known_caches;
mod kube_cluster;
mod kube_node;
mod node_driver;

pub use crate::health::ControllerHealth;
pub use agent_driver::AgentDriver;
pub use kube_cluster::KubeCluster;
pub use kube_node::{NodeCondition, ReadNode};
pub use node_driver::{DriverError, NodeDriver, NodeTarget};

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::planner::{Planner, PlannerConfig};
use fledged_core::port::Clock;
use fledged_core::runner::{ClusterLoop, Ended};
use fledged_core::tokio::TokioClock;
use fledged_kube::CONTROLLER_FIELD_MANAGER;
use fledged_kube::lease::{Elector, LeaseError, LeaseName, LeaseTimes};
use fledged_kube::serve::register_build_info;
use futures_util::future::FutureExt;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::health::Stage;
use crate::metrics::{ClusterMetrics, ControllerMetrics};

/// Field manager of everything that the controller writes.
pub const FIELD_MANAGER: &str = CONTROLLER_FIELD_MANAGER;

/// The controller of the ImageCaches of a cluster. At most one may run in a cluster at a time: use the election, or
/// ensure it in another way.
///
/// ```no_run
/// # async fn example(client: kube::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use fledged_operator::controller::{Controller, ControllerConfig};
///
/// let controller = Controller::new(client, ControllerConfig::default());
/// controller.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await?;
/// # Ok(())
/// # }
/// ```
pub struct Controller {
    cluster: KubeCluster,
    planner: PlannerConfig,
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

/// Settings of a [`Controller`].
#[derive(Clone)]
#[non_exhaustive]
pub struct ControllerConfig {
    /// Limits and intervals. The pull deadline is rounded up to whole seconds, the unit in which it is stored.
    pub planner: PlannerConfig,
    /// The node driver, whose [background work](NodeDriver::run) runs while the controller leads. Default
    /// [`AgentDriver`].
    pub driver: Option<Arc<dyn NodeDriver>>,
    /// Serves only the ImageCaches of this namespace. Images that NodeImageCaches hold for other namespaces are
    /// released, so still only one controller may run in a cluster. Default: all namespaces.
    pub namespace: Option<String>,
    /// Exports `fledged_image_cache_ready` for each ImageCache, with its namespace and name as labels, for at most 2,000
    /// of them. Default: off.
    pub metrics_per_image_cache: bool,
    /// Acts only while it holds a lease. Default: without an election.
    pub election: Option<Candidate>,
    /// The clock. Default [`TokioClock`].
    pub clock: Arc<dyn Clock>,
    /// The seed of delays and jitter. Default random.
    pub seed: u64,
}

/// A candidate in the election of the controller.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Candidate {
    /// The lease, such as [`LeaseName::of_controller`].
    pub lease: LeaseName,
    /// The identity of this candidate, which must be unique; [`identity`](fledged_kube::lease::identity) generates one.
    pub identity: String,
    /// The times of the election. Default [`LeaseTimes::default`].
    pub times: LeaseTimes,
}

impl Candidate {
    /// A candidate with the default times.
    #[must_use]
    pub fn new(lease: LeaseName, identity: impl Into<String>) -> Self {
        Self {
            lease,
            identity: identity.into(),
            times: LeaseTimes::default(),
        }
    }
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            planner: PlannerConfig::default(),
            driver: None,
            namespace: None,
            metrics_per_image_cache: false,
            election: None,
            clock: Arc::new(TokioClock::new()),
            seed: fastrand::u64(..),
        }
    }
}

impl fmt::Debug for ControllerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControllerConfig")
            .field("planner", &self.planner)
            .field("namespace", &self.namespace)
            .field("election", &self.election)
            .finish_non_exhaustive()
    }
}

impl Controller {
    /// A controller for the cluster of this client.
    #[must_use]
    pub fn new(client: Client, config: ControllerConfig) -> Self {
        let clock = config.clock;
        let elector = config.election.map(|candidate| {
            let Candidate {
                lease,
                identity,
                times,
            } = candidate;
            Elector::new(client.clone(), lease, identity, times, Arc::clone(&clock))
        });
        let mut planner = config.planner;
        let deadline = &mut planner.defaults.deadline;
        if deadline.subsec_nanos() > 0 {
            *deadline = Duration::from_secs(deadline.as_secs().saturating_add(1));
        }
        let mut cluster = KubeCluster::new(client);
        cluster.namespace = config.namespace;
        if config.metrics_per_image_cache {
            cluster.metrics = ClusterMetrics::per_cache();
        }
        if let Some(driver) = config.driver {
            cluster.driver = driver;
        }
        Self {
            cluster,
            planner,
            elector,
            health: ControllerHealth::new(Arc::clone(&clock)),
            clock,
            seed: config.seed,
            metrics: ControllerMetrics::default(),
        }
    }

    /// Registers the controller's metrics and `fledged_build_info`.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.cluster.metrics.register(registry);
        self.metrics.register(registry);
        register_build_info(registry);
    }

    /// Liveness and readiness, for probes; valid while the controller runs.
    #[must_use]
    pub fn health(&self) -> ControllerHealth {
        self.health.clone()
    }
}

/// Interval of the heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Limit for the driver to end at shutdown. With 10 s for writes in progress and 5 s for the lease, the sum stays
/// below the 30 s in which a pod must terminate.
const DRIVER_DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Why a controller stopped without a shutdown request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControllerError {
    /// Another controller may lead now, so nothing is written any more. Restart to stand by.
    #[error("no longer the leader: {0}")]
    NotLeading(#[from] LeaseError),
    /// The events of the node driver or the watches ended, which should never happen.
    #[error("the events of image caches, nodes and the node driver ended")]
    WatchesEnded,
    /// The background work of the node driver failed.
    #[error("the node driver failed: {0}")]
    DriverFailed(#[source] DriverError),
    /// The background work of the node driver ended before the shutdown.
    #[error("the node driver ended unexpectedly")]
    DriverEnded,
}

impl Controller {
    /// Waits for the lease, then reconciles until `shutdown` resolves. It then waits for writes in progress, up to a
    /// limit, and releases the lease.
    ///
    /// # Errors
    ///
    /// [`ControllerError`] if it stops before `shutdown`.
    pub async fn run<F: Future<Output = ()>>(mut self, shutdown: F) -> Result<(), ControllerError> {
        let shutdown = shutdown.fuse();
        futures_util::pin_mut!(shutdown);
        if let Some(elector) = &mut self.elector {
            self.health.set(Stage::Standby);
            let health = self.health.clone();
            let elected = tokio::select! {
                biased;
                () = &mut shutdown => false,
                () = elector.acquire() => true,
                () = heartbeat(|| health.beat()) => false,
            };
            if !elected {
                // The lease may have been acquired at the last moment.
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
        let planner = Planner::new(self.planner.clone(), self.seed);
        let cluster_loop = ClusterLoop::new(planner, cluster, Arc::clone(&self.clock), self.seed);
        let mut cluster_loop = cluster_loop.with_observer(Arc::new(self.metrics.clone()));
        let working = self.beside_driver(cluster_loop.run(stop.cancelled()));
        let heart = heartbeat(|| {
            if self.cluster.is_synced() {
                self.health.set(Stage::Leading)
            } else {
                self.health.beat()
            }
        });
        let keeping = async {
            match elector {
                Some(elector) => elector.keep().await,
                None => std::future::pending().await,
            }
        };
        let stopping = async {
            shutdown.await;
            info!("controller shutting down");
            stop.cancel();
            std::future::pending().await
        };
        futures_util::pin_mut!(working, keeping, stopping, heart);
        tokio::select! {
            biased;
            lost = keeping => Err(lost.into()),
            result = working => result,
            () = stopping => Ok(()),
            () = heart => Ok(()),
        }
    }

    /// Runs the loop and the background work of the driver. The driver outlives the loop, whose last calls may need
    /// it.
    async fn beside_driver(
        &self,
        working: impl Future<Output = Ended>,
    ) -> Result<(), ControllerError> {
        let stop = CancellationToken::new();
        let own = self.cluster.driver.run(stop.clone());
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
                warn!("node driver did not stop in time");
                Ok(())
            }
        };
        match ended {
            Ended::EventsEnded => Err(ControllerError::WatchesEnded),
            Ended::Shutdown => drained.map_err(ControllerError::DriverFailed),
        }
    }
}

/// Calls `beat` at each heartbeat. Never returns.
async fn heartbeat(beat: impl Fn()) {
    let mut ticks = tokio::time::interval(HEARTBEAT);
    loop {
        ticks.tick().await;
        beat();
    }
}
