//! How a controller runs.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::planner::Planner;
use fledged_core::runner::{ClusterLoop, Ended};
use futures_util::future::FutureExt;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::builder::Controller;
use super::health::{HEARTBEAT, Stage};
use crate::driver::DriverError;
use crate::lease::{Elector, LeaseError};

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
