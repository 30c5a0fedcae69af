//! How a controller is put together.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::planner::PlannerConfig;
use fledged_core::port::Clock;
use fledged_core::tokio::TokioClock;
use kube::Client;
use prometheus_client::registry::Registry;

use super::health::ControllerHealth;
use super::metrics::ControllerMetrics;
use crate::cluster::{ClusterMetrics, KubeCluster};
use crate::driver::NodeDriver;
use crate::lease::{Elector, LeaseName, LeaseTimes};
use crate::serve::register_build_info;

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
    pub(super) cluster: KubeCluster,
    pub(super) config: PlannerConfig,
    pub(super) elector: Option<Elector>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) seed: u64,
    pub(super) health: ControllerHealth,
    pub(super) metrics: ControllerMetrics,
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
    /// leads. By default, agents run on them ([`AgentDriver`](crate::driver::AgentDriver)).
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
    /// have the same identity; [`identity`](crate::lease::identity) makes one.
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
