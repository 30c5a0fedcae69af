//! The command line arguments.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use fledged_core::model::{CountOrPercent, GoDuration};
use fledged_tests::kube::Way;

/// Measures the rollout of a cache to nodes without kubelets, and further phases.
#[derive(Debug, Clone, Parser)]
#[command(name = "bench-scale")]
pub(crate) struct Args {
    /// The node driver.
    #[arg(long, value_enum, default_value = "agent")]
    pub(crate) node_driver: Way,
    /// Nodes that exist when the cache is applied; 20, or as the load has it.
    #[arg(long, value_name = "N")]
    nodes: Option<NonZeroUsize>,
    /// Images of each cache; 20, or as the load has it.
    #[arg(long, value_name = "M")]
    images: Option<NonZeroUsize>,
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
    /// Measures these loads, one after another and each on a cluster of its own, in place of the phases.
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with_all = ["only", "joins", "troubled", "idle"])]
    load: Vec<LoadChoice>,
    /// With the loads `wide` and `caches`: number of ImageCaches.
    #[arg(long, value_name = "N", requires = "load")]
    caches: Option<NonZeroUsize>,
    /// With the loads `wide` and `caches`: ImageCaches for every node; each of the others is for one node.
    #[arg(long, value_name = "N", requires = "load")]
    everywhere: Option<usize>,
    /// With a load: how long it lasts.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(crate) lasting: Duration,
    /// With a load: period in which each node turns NotReady and Ready again.
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration)]
    pub(crate) flap_period: Duration,
    /// With the load `storm`: edits a second.
    #[arg(long, value_name = "N", default_value = "100")]
    pub(crate) edits: NonZeroU32,
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
    /// Sizes where the arguments have none.
    #[arg(skip)]
    sizes: Sizes,
}

/// How large a cluster is.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    nodes: usize,
    caches: usize,
    everywhere: usize,
    images: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            nodes: 20,
            caches: 1,
            everywhere: 1,
            images: 20,
        }
    }
}

impl Args {
    /// The loads to measure, each with its arguments. Empty: the phases.
    pub(crate) fn loads(&self) -> Vec<(LoadName, Self)> {
        let names = self.load.iter().flat_map(|choice| choice.loads());
        let with_sizes = names.map(|name| {
            let has_many = matches!(name, LoadName::Wide | LoadName::Caches);
            let args = Self {
                sizes: name.sizes(),
                caches: self.caches.filter(|_| has_many),
                everywhere: self.everywhere.filter(|_| has_many),
                ..self.clone()
            };
            (name, args)
        });
        with_sizes.collect()
    }

    /// Nodes that exist when the first cache is applied.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.map_or(self.sizes.nodes, NonZeroUsize::get)
    }

    /// Images of each cache.
    pub(crate) fn images(&self) -> usize {
        self.images.map_or(self.sizes.images, NonZeroUsize::get)
    }

    /// Number of caches.
    pub(crate) fn caches(&self) -> usize {
        self.caches.map_or(self.sizes.caches, NonZeroUsize::get)
    }

    /// Number of caches for every node.
    pub(crate) fn everywhere(&self) -> usize {
        let everywhere = self.everywhere.unwrap_or(self.sizes.everywhere);
        everywhere.min(self.caches())
    }

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
        self.troubled.unwrap_or_else(|| self.nodes().div_ceil(20))
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

/// A load of `--load`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LoadChoice {
    /// 1,000 nodes turn NotReady and Ready, over and over.
    Flap,
    /// One cache is edited 100 times a second.
    Storm,
    /// 198 caches, all of them for each of 989 nodes.
    Wide,
    /// 10,000 caches, most of them for one node each.
    Caches,
    /// A cache of 100 images on 5,000 nodes.
    Deep,
    /// Nothing happens on 1,000 nodes.
    Idle,
    /// Each of them.
    All,
}

/// A load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoadName {
    Flap,
    Storm,
    Wide,
    Caches,
    Deep,
    Idle,
}

impl LoadChoice {
    fn loads(self) -> Vec<LoadName> {
        match self {
            Self::Flap => vec![LoadName::Flap],
            Self::Storm => vec![LoadName::Storm],
            Self::Wide => vec![LoadName::Wide],
            Self::Caches => vec![LoadName::Caches],
            Self::Deep => vec![LoadName::Deep],
            Self::Idle => vec![LoadName::Idle],
            Self::All => vec![
                LoadName::Flap,
                LoadName::Storm,
                LoadName::Wide,
                LoadName::Caches,
                LoadName::Deep,
                LoadName::Idle,
            ],
        }
    }
}

impl LoadName {
    fn sizes(self) -> Sizes {
        let (nodes, caches, everywhere, images) = match self {
            Self::Flap | Self::Storm | Self::Idle => (1_000, 1, 1, 20),
            Self::Wide => (989, 198, 198, 1),
            Self::Caches => (1_000, 10_000, 10, 1),
            Self::Deep => (5_000, 1, 1, 100),
        };
        Sizes {
            nodes,
            caches,
            everywhere,
            images,
        }
    }
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
