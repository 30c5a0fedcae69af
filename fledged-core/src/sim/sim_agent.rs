//! The agents of a simulated cluster: each runs a [`NodeLoop`](crate::runner::NodeLoop) on its node's record.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::FutureExt;
use futures_util::stream::{self, FuturesUnordered, StreamExt};

use super::{Deadlock, SimCluster, SimRuntime};
use crate::model::{Assignment, NodeName, NodeReport};
use crate::planner::{ClusterEvent, Planner};
use crate::port::{Clock, Cluster};
use crate::runner::{ClusterLoop, NodeLoop, NodeObserver};
use crate::warmer::{NodeEvent, Warmer, WarmerConfig};

/// Interval of an agent's reports, the shortest of a real agent.
const PERIOD: Duration = Duration::from_secs(1);

/// Seed of the delays between attempts of a write; the value does not matter.
const CONTROLLER_SEED: u64 = 7;

/// The last report of an agent's loop.
#[derive(Debug, Clone, Default)]
struct LastReport(Arc<Mutex<NodeReport>>);

impl LastReport {
    fn get(&self) -> NodeReport {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl NodeObserver for LastReport {
    fn report(&self, report: NodeReport) {
        let report = report.with_inventory_at(None);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}

impl SimCluster {
    /// Runs a planner, and an agent on every node, for `duration`. Another call acts as a restart of all of
    /// them: they continue from the recorded state.
    ///
    /// # Errors
    ///
    /// [`Deadlock`] when all tasks wait and no timer is set.
    pub fn run_for(&self, planner: Planner, duration: Duration) -> Result<(), Deadlock> {
        let (cluster, clock) = (Arc::new(self.clone()), Arc::new(self.clock.clone()));
        let mut controller = ClusterLoop::new(planner, cluster, clock, CONTROLLER_SEED);
        let controller = controller.run(self.clock.sleep(duration));
        let nodes = self.run_nodes(WarmerConfig::default(), self.clock.sleep(duration));
        let both = futures_util::future::join(controller, nodes);
        self.clock.block_on(both).map(drop)
    }

    /// Runs an agent on every node, including nodes that join later, until `shutdown` resolves.
    pub async fn run_nodes(&self, config: WarmerConfig, shutdown: impl Future<Output = ()>) {
        let mut agents = FuturesUnordered::new();
        let mut running: BTreeSet<NodeName> = BTreeSet::new();
        let shutdown = shutdown.fuse();
        futures_util::pin_mut!(shutdown);
        loop {
            let nodes: Vec<_> = {
                let objects = self.objects();
                let nodes = objects.nodes.iter();
                nodes
                    .map(|(name, node)| (name.clone(), node.runtime.clone(), node.joined))
                    .collect()
            };
            for (node, runtime, joined) in nodes {
                if running.insert(node.clone()) {
                    // One seed for each node, the same in every run.
                    let seed = node
                        .as_str()
                        .bytes()
                        .fold(7, |s: u64, b| s.wrapping_mul(31).wrapping_add(u64::from(b)));
                    agents.push(self.run_node(node, runtime, joined, config.clone(), seed));
                }
            }
            let tick = self.clock.sleep(PERIOD).fuse();
            futures_util::pin_mut!(tick);
            futures_util::select_biased! {
                () = shutdown => return,
                ended = agents.select_next_some() => {
                    running.remove(&ended);
                }
                () = tick => {}
            }
        }
    }

    /// Runs one agent until its node is deleted.
    async fn run_node(
        &self,
        node: NodeName,
        runtime: SimRuntime,
        joined: u64,
        config: WarmerConfig,
        seed: u64,
    ) -> NodeName {
        let last_report = LastReport::default();
        let name = node.clone();
        let inputs = self.events().filter_map(move |event| {
            let assignment = match event {
                ClusterEvent::AssignmentRecorded { node, assignment } if node == name => {
                    Some(assignment)
                }
                ClusterEvent::AssignmentGone(node) if node == name => Some(Assignment::default()),
                _ => None,
            };
            std::future::ready(assignment.map(NodeEvent::Assigned))
        });
        let mut node_loop = NodeLoop::new(
            Warmer::new(config, seed),
            Arc::new(runtime),
            Arc::new(self.clock.clone()),
        )
        .with_observer(Arc::new(last_report.clone()));
        node_loop
            .run(inputs, self.send_reports(&node, joined, &last_report))
            .await;
        node
    }

    /// Records the agent's report once in every [`PERIOD`], until the node is deleted.
    async fn send_reports(&self, node: &NodeName, joined: u64, last_report: &LastReport) {
        let mut ticks = stream::repeat(())
            .then(|()| self.clock.sleep(PERIOD))
            .boxed();
        while ticks.next().await.is_some() {
            let ready = match self.objects().nodes.get(node) {
                Some(node) if node.joined == joined => node.facts.ready,
                _ => return,
            };
            let report = last_report.get();
            if ready && report.observed_generation > 0 {
                self.report(node, report);
            }
        }
    }
}
