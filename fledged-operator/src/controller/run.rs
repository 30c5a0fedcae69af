//! How a controller runs.

use std::future::Future;
use std::sync::Arc;

use fledged_core::cluster::Planner;
use fledged_core::driver::{ClusterLoop, Ended};
use futures_util::future::FutureExt;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::builder::Controller;
use super::health::{HEARTBEAT, Stage};
use crate::lease::{Elector, LeaseError};

/// Why a controller ended although nobody asked it to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControllerError {
    /// Somebody else may lead now: nothing is written any more. Start again to stand by.
    #[error("no longer the leader: {0}")]
    NotLeading(#[from] LeaseError),
    /// The watches ended, which they never do by themselves.
    #[error("the watches of image caches, nodes and node image caches ended")]
    WatchesEnded,
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
        if let (Ok(()), Some(elector)) = (&result, &mut elector) {
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
        let driver = ClusterLoop::new(planner, cluster, Arc::clone(&self.clock), self.seed);
        let mut driver = driver.with_observer(Arc::new(self.metrics.clone()));
        let working = driver.run(stop.cancelled());
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
            ended = working => match ended {
                Ended::Shutdown => Ok(()),
                Ended::EventsEnded => Err(ControllerError::WatchesEnded),
            },
            lost = keeping => Err(lost.into()),
            () = stopping => Ok(()),
            () = heart => Ok(()),
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
