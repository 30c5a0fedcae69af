//! The command line arguments.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use fledged_core::model::{CountOrPercent, GoDuration};
use fledged_tests::kube::Way;

/// Measures the rollout of a cache to nodes without kubelets, and further phases.
#[derive(Debug, Parser)]
#[command(name = "bench-scale")]
pub(crate) struct Args {
    /// The node driver.
    #[arg(long, value_enum, default_value = "agent")]
    pub(crate) node_driver: Way,
    /// Nodes that exist when the cache is applied.
    #[arg(long, value_name = "N", default_value = "20")]
    pub(crate) nodes: NonZeroUsize,
    /// Images of the cache.
    #[arg(long, value_name = "M", default_value = "20")]
    pub(crate) images: NonZeroUsize,
    /// Duration of one pull.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub(crate) pull: Duration,
    /// Concurrent pulls on each node; always one with Jobs.
    #[arg(long, value_name = "N", default_value = "3")]
    pub(crate) parallelism: NonZeroUsize,
    /// Nodes that pull concurrently; all by default.
    #[arg(long, value_name = "N|N%", default_value = "100%")]
    pub(crate) max_concurrent_nodes: CountOrPercent,
    /// Nodes that turn Ready one by one.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) joins: usize,
    /// NotReady nodes in the last phase, and as many Ready nodes without an agent; 5 % of all nodes by default.
    #[arg(long, value_name = "N")]
    pub(crate) troubled: Option<usize>,
    /// Duration of the idle phase.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(crate) idle: Duration,
    /// Only these phases besides the rollout, in the order in which they are listed here.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<PhaseName>,
    /// Kubeconfig of a cluster to measure on, which must be for tests only.
    #[arg(long, value_name = "FILE", conflicts_with = "embedded")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Measure on the embedded API server, even if `KUBEBUILDER_ASSETS` names a folder with etcd and kube-apiserver.
    #[arg(long)]
    pub(crate) embedded: bool,
    /// How to print the figures.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// Run the embedded API server: writes its kubeconfig to a file, and ends when standard input ends.
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) serve: Option<PathBuf>,
}

impl Args {
    /// Whether a phase is measured.
    pub(crate) fn wants(&self, phase: PhaseName) -> bool {
        let can = match phase {
            PhaseName::Join => self.joins > 0,
            PhaseName::Reconnect => self.node_driver == Way::Agents,
            _ => true,
        };
        can && (self.only.is_empty() || self.only.contains(&phase))
    }

    /// Number of NotReady nodes, which is also the number of nodes without an agent.
    pub(crate) fn troubled(&self) -> usize {
        self.troubled
            .unwrap_or_else(|| self.nodes.get().div_ceil(20))
    }

    /// Seconds that the pulls of `images` images take on one node.
    pub(crate) fn pulls_alone(&self, images: usize) -> f64 {
        let rounds = match self.node_driver {
            Way::Agents => images.div_ceil(self.parallelism.get()),
            // A kubelet pulls the images of a pod one after another.
            Way::Jobs => images,
        };
        #[expect(clippy::cast_precision_loss, reason = "a count of some thousands")]
        let rounds = rounds as f64;
        self.pull.as_secs_f64() * rounds
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table.
    Table,
    /// JSON with all requests by verb, resource and writer.
    Json,
}

/// A phase after the rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PhaseName {
    /// Nodes join.
    Join,
    /// An image is added to the cache.
    Edit,
    /// A cache is created for one node.
    One,
    /// A refresh on demand of fixed tags: every node verifies its images.
    Refresh,
    /// All agents lose their connections at once. Skipped with Jobs.
    Reconnect,
    /// Nothing happens.
    Idle,
    /// The controller is started again.
    Restart,
    /// All images are removed.
    Purge,
    /// A rollout among nodes that are NotReady or unresponsive.
    Troubled,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = text.parse::<GoDuration>();
    duration.map(|d| d.0).map_err(|error| error.to_string())
}
