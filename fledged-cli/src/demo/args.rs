//! The arguments of `demo`.

use clap::{Args, ValueHint, value_parser};

use crate::manifest::Source;

/// Most nodes to begin with: of each there is an agent, and a folder with the images.
const NODES_MAX: i64 = 50;

/// `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Nodes to begin with, 1 to 50; another one joins later.
    #[arg(long, value_name = "N", default_value = "5", value_parser = value_parser!(u8).range(1..=NODES_MAX))]
    pub nodes: u8,
    /// A file of ImageCache manifests to show instead of the built-in one; - for stdin. Can be given again.
    #[arg(short = 'f', long = "filename", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<Source>,
    /// End after the last act, also at a terminal.
    #[arg(long)]
    pub no_wait: bool,
    /// Keep the cluster up after the last act until SIGINT or SIGTERM, also without a terminal.
    #[arg(long, conflicts_with = "no_wait")]
    pub keep: bool,
}
