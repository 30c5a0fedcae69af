//! The commands for a cluster as clap reads them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use fledged_core::model::{ImageRef, NodeName};

use super::help;
use crate::args::{ManifestArgs, any_duration};

/// The commands for a cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// List ImageCaches with their counts.
    #[command(after_help = help::GET)]
    Get(GetArgs),
    /// Show an ImageCache on its nodes: a matrix of nodes by images, with reasons.
    #[command(after_help = help::STATUS)]
    Status(StatusArgs),
    /// Wait until an ImageCache is cached, or purged.
    #[command(after_help = help::WAIT)]
    Wait(WaitArgs),
    /// Ask for new pulls of what moves and of what has failed.
    #[command(after_help = help::REFRESH)]
    Refresh(RequestArgs),
    /// Ask for the removal of an ImageCache's images from the nodes; the ImageCache stays.
    #[command(after_help = help::PURGE)]
    Purge(RequestArgs),
    /// Say why an image of an ImageCache is on a node, or not.
    #[command(after_help = help::WHY)]
    Why(WhyArgs),
    /// Say what would be pulled and removed where if a file were applied; writes nothing.
    #[command(after_help = help::PLAN)]
    Plan(PlanArgs),
}

/// Which cluster.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ConnectionArgs {
    /// The kubeconfig file; $KUBECONFIG, ~/.kube/config, or the cluster it runs in by default.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; its current one by default.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace of the ImageCache; the context's by default.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

/// How a result is printed.
#[derive(Debug, Args)]
pub struct FormatArgs {
    /// Format of the result on stdout.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// Formats of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For programs, as YAML.
    Yaml,
}

/// `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// That ImageCache alone.
    pub name: Option<String>,
    /// Those of all namespaces.
    #[arg(short = 'A', long, conflicts_with = "name")]
    pub all_namespaces: bool,
    /// Stay, and tell what changes.
    #[arg(short, long)]
    pub watch: bool,
    /// How the result is printed.
    #[command(flatten)]
    pub output: FormatArgs,
    /// Which cluster.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The ImageCache.
    pub name: String,
    /// Most nodes shown one by one; of more, those that are alike are counted.
    #[arg(long, value_name = "N", default_value = "20")]
    pub max_nodes: usize,
    /// How the result is printed.
    #[command(flatten)]
    pub output: FormatArgs,
    /// Which cluster.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// `wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// The ImageCache.
    pub name: String,
    /// What is waited for.
    #[arg(long = "for", value_name = "GOAL")]
    pub goal: Goal,
    /// How long; 0s looks once.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = any_duration)]
    pub timeout: Duration,
    /// How the result is printed.
    #[command(flatten)]
    pub output: FormatArgs,
    /// Which cluster.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Goal {
    /// Every image is on every node that can be reached.
    Cached,
    /// The images are removed.
    Purged,
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cached => "cached",
            Self::Purged => "purged",
        })
    }
}

/// `refresh` and `purge`.
#[derive(Debug, Args)]
pub struct RequestArgs {
    /// The ImageCache.
    pub name: String,
    /// Wait until the action has ended.
    #[arg(long)]
    pub wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "DURATION", default_value = "5m", requires = "wait", value_parser = any_duration)]
    pub timeout: Duration,
    /// How the result is printed.
    #[command(flatten)]
    pub output: FormatArgs,
    /// Which cluster.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// `why`.
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// The ImageCache.
    pub name: String,
    /// The node.
    pub node: NodeName,
    /// The image, in any of its spellings.
    pub image: ImageRef,
    /// How the result is printed.
    #[command(flatten)]
    pub output: FormatArgs,
    /// Which cluster.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Which manifests.
    #[command(flatten)]
    pub manifests: ManifestArgs,
    /// Exit with 1 when something would be pulled, removed or released.
    #[arg(long)]
    pub exit_code: bool,
    /// How the result is printed.
    #[command(flatten)]
    pub output: FormatArgs,
    /// Which cluster.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}
