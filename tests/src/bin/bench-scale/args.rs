//! The command line arguments.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::TypedValueParser;
use clap::{Parser, ValueEnum};
use fledged_core::model::CountOrPercent;
use fledged_tests::arguments::{CheckedArgs, Given, duration, number, positive_duration};
use fledged_tests::kube::Way;

/// Most nodes, caches, and so on: far more than one machine can run.
const MOST: u64 = 100_000;
/// Most images of a cache: the second rollout takes references after these.
const MOST_IMAGES: u64 = 4_000;
/// The shortest time between two changes of nodes.
const SHORTEST: Duration = Duration::from_micros(10);

/// Measures the rollout of a cache to nodes without kubelets, and further phases.
#[derive(Debug, Clone, Parser)]
#[command(name = "bench-scale")]
pub(crate) struct Args {
    /// The node driver.
    #[arg(long, value_enum, default_value = "agent")]
    pub(crate) node_driver: Way,
    /// Nodes that exist when the cache is applied; 20, or as the load has it.
    #[arg(long, value_name = "N", value_parser = number::<usize>(1..=MOST))]
    nodes: Option<usize>,
    /// Images of each cache; 20, or as the load has it.
    #[arg(long, value_name = "M", value_parser = number::<usize>(1..=MOST_IMAGES))]
    images: Option<usize>,
    /// Duration of one pull.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub(crate) pull: Duration,
    /// Concurrent pulls on each node; only with agents.
    #[arg(
        long,
        value_name = "N",
        default_value = "3",
        value_parser = number::<usize>(1..=1_000).try_map(NonZeroUsize::try_from)
    )]
    pub(crate) parallelism: NonZeroUsize,
    /// Nodes that pull concurrently; all by default.
    #[arg(long, value_name = "N|N%", default_value = "100%")]
    pub(crate) max_concurrent_nodes: CountOrPercent,
    /// Nodes that turn Ready one by one.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number::<usize>(0..=MOST))]
    pub(crate) joins: usize,
    /// NotReady nodes in the last phase, and as many Ready nodes without an agent; 5 % of all nodes by default.
    #[arg(long, value_name = "N", value_parser = number::<usize>(0..=MOST))]
    pub(crate) troubled: Option<usize>,
    /// Duration of the idle phase.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = positive_duration)]
    pub(crate) idle: Duration,
    /// Only these phases besides the rollout, in the order in which they are listed here.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<PhaseName>,
    /// Measures these loads, one after another and each on a cluster of its own, in place of the phases.
    #[arg(long, value_enum, value_delimiter = ',')]
    load: Vec<LoadChoice>,
    /// With the loads `wide` and `caches`: number of ImageCaches.
    #[arg(long, value_name = "N", value_parser = number::<usize>(1..=MOST))]
    caches: Option<usize>,
    /// With the loads `wide` and `caches`: ImageCaches for every node; each of the others is for one node.
    /// At most as many as there are.
    #[arg(long, value_name = "N", value_parser = number::<usize>(0..=MOST))]
    everywhere: Option<usize>,
    /// With each load but `deep`: how long it lasts.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = positive_duration)]
    pub(crate) lasting: Duration,
    /// With the loads `flap`, `wide` and `caches`: period in which each node turns NotReady and Ready again.
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = positive_duration)]
    pub(crate) flap_period: Duration,
    /// With the load `storm`: edits a second.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number::<u32>(1..=10_000))]
    pub(crate) edits: u32,
    /// Kubeconfig of a cluster to measure on, which must be for tests only.
    #[arg(long, value_name = "FILE", conflicts_with = "embedded")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Measure on the embedded API server, even if `KUBEBUILDER_ASSETS` names a folder with etcd and kube-apiserver.
    #[arg(long)]
    pub(crate) embedded: bool,
    /// With a load: multiplies the limits of time, queue and memory.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = factor)]
    slack: f64,
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
            let has_many = name.has_many_caches();
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
        self.nodes.unwrap_or(self.sizes.nodes)
    }

    /// Images of each cache.
    pub(crate) fn images(&self) -> usize {
        self.images.unwrap_or(self.sizes.images)
    }

    /// Number of caches.
    pub(crate) fn caches(&self) -> usize {
        self.caches.unwrap_or(self.sizes.caches)
    }

    /// Number of caches for every node.
    pub(crate) fn everywhere(&self) -> usize {
        let everywhere = self.everywhere.unwrap_or(self.sizes.everywhere);
        everywhere.min(self.caches())
    }

    /// How many times as large as the load's own sizes the cluster is, at least 1.
    pub(crate) fn scale(&self, load: LoadName) -> f64 {
        let sizes = |nodes: usize, caches: usize, everywhere: usize, images: usize| {
            let everywhere = everywhere.min(caches);
            let pairs = (nodes * everywhere + caches - everywhere) * images;
            [nodes, caches, pairs]
        };
        let own = load.sizes();
        let own = sizes(own.nodes, own.caches, own.everywhere, own.images);
        let asked = sizes(
            self.nodes(),
            self.caches(),
            self.everywhere(),
            self.images(),
        );
        #[expect(clippy::cast_precision_loss, reason = "counts of some millions")]
        let times = asked
            .iter()
            .zip(own)
            .map(|(asked, own)| *asked as f64 / own as f64);
        times.fold(1.0, f64::max)
    }

    /// What the limits of time, queue and memory are multiplied with.
    pub(crate) fn slack(&self) -> f64 {
        self.slack
    }

    /// Whether a phase is measured.
    pub(crate) fn wants(&self, phase: PhaseName) -> bool {
        self.can(phase) && (self.only.is_empty() || self.only.contains(&phase))
    }

    /// Whether a phase can be measured.
    fn can(&self, phase: PhaseName) -> bool {
        match phase {
            PhaseName::Join => self.joins > 0,
            PhaseName::Reconnect => self.node_driver == Way::Agents,
            _ => true,
        }
    }

    /// Time between two changes of nodes, so that each turns NotReady and Ready again once in a period.
    pub(crate) fn flap_interval(&self) -> Duration {
        let changes = u32::try_from(2 * self.nodes()).unwrap_or(u32::MAX);
        self.flap_period / changes
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

impl CheckedArgs for Args {
    fn check(&self, given: &Given) -> Result<(), String> {
        if self.node_driver == Way::Jobs {
            given.refuse(&["parallelism"], "with Jobs, whose pulls are one at a time")?;
        }
        match self.load.is_empty() {
            true => self.check_phases(given),
            false => self.check_loads(given),
        }
    }
}

impl Args {
    fn check_phases(&self, given: &Given) -> Result<(), String> {
        let of_loads = [
            "caches",
            "everywhere",
            "lasting",
            "flap_period",
            "edits",
            "slack",
        ];
        given.refuse(&of_loads, "without --load")?;
        let of_phases = [
            ("joins", PhaseName::Join),
            ("idle", PhaseName::Idle),
            ("troubled", PhaseName::Troubled),
        ];
        for (field, phase) in of_phases {
            if !self.only.is_empty() && !self.only.contains(&phase) {
                given.refuse(&[field], &format!("with {}", given.words("only")))?;
            }
        }
        let skipped = self.only.iter().find(|phase| !self.can(**phase));
        match skipped {
            Some(PhaseName::Join) => Err("--only join has no effect with --joins 0".to_owned()),
            Some(_) => Err("--only reconnect has no effect with Jobs".to_owned()),
            None => Ok(()),
        }
    }

    fn check_loads(&self, given: &Given) -> Result<(), String> {
        let load = given.words("load");
        let why = format!("with {load}");
        given.refuse(&["only", "joins", "troubled", "idle"], &why)?;
        let loads = self.loads();
        let any = |has: fn(LoadName) -> bool| loads.iter().any(|(name, _)| has(*name));
        for (fields, has) in [
            (
                &["caches", "everywhere"][..],
                LoadName::has_many_caches as fn(LoadName) -> bool,
            ),
            (&["flap_period"], LoadName::flaps),
            (&["edits"], |name| name == LoadName::Storm),
            (&["lasting"], |name| name != LoadName::Deep),
        ] {
            if !any(has) {
                given.refuse(fields, &why)?;
            }
        }
        for (name, args) in &loads {
            if name.has_many_caches() && given.has("everywhere") {
                let caches = args.caches();
                if self
                    .everywhere
                    .is_some_and(|everywhere| everywhere > caches)
                {
                    let everywhere = given.words("everywhere");
                    return Err(format!("{everywhere}: more than the {caches} ImageCaches"));
                }
            }
            if name.flaps() && args.flap_interval() < SHORTEST {
                let (period, nodes) = (given.words("flap_period"), args.nodes());
                return Err(format!(
                    "{period}: shorter than {SHORTEST:?} for each of two changes of {nodes} nodes"
                ));
            }
        }
        Ok(())
    }
}

fn factor(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    match factor > 0.0 && factor.is_finite() {
        true => Ok(factor),
        false => Err("must be greater than zero, for example 2.5".to_owned()),
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
    fn has_many_caches(self) -> bool {
        matches!(self, Self::Wide | Self::Caches)
    }

    fn flaps(self) -> bool {
        matches!(self, Self::Flap | Self::Wide | Self::Caches)
    }

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
