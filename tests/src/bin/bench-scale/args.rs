//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use fledged_core::model::{CountOrPercent, GoDuration};
use fledged_tests::kube::Way;

/// Rolls a cache out to nodes without kubelets, and measures that and what follows.
#[derive(Debug, Parser)]
#[command(name = "bench-scale")]
pub(crate) struct Args {
    /// How nodes are reached.
    #[arg(long, value_enum, default_value = "agent")]
    pub(crate) node_driver: Way,
    /// Nodes that are there when the cache is applied.
    #[arg(long, value_name = "N", default_value = "20")]
    pub(crate) nodes: NonZeroUsize,
    /// Images of the cache.
    #[arg(long, value_name = "M", default_value = "20")]
    pub(crate) images: NonZeroUsize,
    /// How long one pull takes.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub(crate) pull: Duration,
    /// Pulls at once on each node; with Jobs there is one.
    #[arg(long, value_name = "N", default_value = "3")]
    pub(crate) parallelism: NonZeroUsize,
    /// Nodes that pull at once; all of them by default.
    #[arg(long, value_name = "N|N%", default_value = "100%")]
    pub(crate) max_concurrent_nodes: CountOrPercent,
    /// Nodes that turn Ready one by one.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) joins: usize,
    /// Nodes that are not Ready, and as many that are and have no agent, in the last phase; a
    /// twentieth of all by default.
    #[arg(long, value_name = "N")]
    pub(crate) troubled: Option<usize>,
    /// How long nothing happens in the idle phase.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(crate) idle: Duration,
    /// Only these phases besides the rollout, in the order in which they are listed here.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<PhaseName>,
    /// The cluster to measure on. It must be a cluster for tests that nothing else uses.
    #[arg(long, value_name = "FILE", conflicts_with = "embedded")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// On the embedded API server; without either, on etcd and kube-apiserver of the folder
    /// `KUBEBUILDER_ASSETS` where that is set.
    #[arg(long)]
    pub(crate) embedded: bool,
    /// How to print the figures.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// Be the embedded API server: writes a kubeconfig there, ends with its standard input.
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) serve: Option<PathBuf>,
}

impl Args {
    /// Whether a phase is to be measured.
    pub(crate) fn wants(&self, phase: PhaseName) -> bool {
        let can = match phase {
            PhaseName::Join => self.joins > 0,
            PhaseName::Reconnect => self.node_driver == Way::Agents,
            _ => true,
        };
        can && (self.only.is_empty() || self.only.contains(&phase))
    }

    /// Nodes that are not Ready, and as many that have no agent.
    pub(crate) fn troubled(&self) -> usize {
        self.troubled
            .unwrap_or_else(|| self.nodes.get().div_ceil(20))
    }

    /// Seconds that the pulls of that many images take on one node.
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
    /// For people.
    Table,
    /// For programs: with every request by verb, resource and writer.
    Json,
}

/// What follows the rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PhaseName {
    /// Nodes join.
    Join,
    /// An image is added to the cache.
    Edit,
    /// A cache is made for one node.
    One,
    /// A refresh on demand of images that can't have changed: every node looks.
    Refresh,
    /// All agents lose their connections at once. Without agents it is left out.
    Reconnect,
    /// Nothing happens.
    Idle,
    /// The controller is started again.
    Restart,
    /// All images are removed again.
    Purge,
    /// A rollout among nodes that are NotReady or unresponsive.
    Troubled,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = text.parse::<GoDuration>();
    duration.map(|d| d.0).map_err(|error| error.to_string())
}
