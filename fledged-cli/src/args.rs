//! The command line as clap reads it. What is wrong here ends the process with exit code 2.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

use fledged_core::model::{GoDuration, ImagePullPolicy, NodeName};
use fledged_cri::registry::Platform;
use fledged_cri::target::RuntimeUri;

use crate::help;
use crate::label::Label;
use crate::manifest::Source;

/// Puts container images where they are needed before they are: on this machine, and on the nodes of a
/// cluster.
#[derive(Debug, Parser)]
#[command(
    name = "fledged",
    version,
    arg_required_else_help = true,
    after_help = help::ROOT
)]
pub struct Cli {
    /// Log what is done to stderr; twice for details.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The commands for a cluster.
    #[cfg(feature = "cluster")]
    #[command(flatten)]
    Cluster(crate::cluster::ClusterCommand),
    /// Put images on this machine, see them, take them away, keep them there.
    #[command(subcommand, arg_required_else_help = true)]
    Node(NodeCommand),
    /// Ask the registries whether every image can be pulled; touches no node.
    #[command(after_help = help::CHECK)]
    Check(CheckArgs),
    /// Show it at work on a cluster of its own; needs nothing.
    #[cfg(feature = "demo")]
    #[command(after_help = help::DEMO)]
    Demo(crate::demo::DemoArgs),
    /// Print a shell's completion script.
    #[command(after_help = help::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Print the manual page, or write one for each command into a folder.
    #[command(after_help = help::MAN)]
    Man(ManArgs),
}

/// The commands for this machine.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Pull what is missing, then end.
    #[command(after_help = help::APPLY)]
    Apply(ApplyArgs),
    /// List the images that the runtime holds.
    #[command(after_help = help::LIST)]
    List(ListArgs),
    /// Remove the images that the manifests name, except those in use.
    #[command(after_help = help::PURGE)]
    Purge(PurgeArgs),
    /// Stay: pull what is missing, follow edits of the manifests, repair what gets lost.
    #[command(after_help = help::RUN)]
    Run(RunArgs),
}

/// `node apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Which images.
    #[command(flatten)]
    pub manifests: ManifestArgs,
    /// Where they go.
    #[command(flatten)]
    pub runtime: RuntimeArgs,
    /// How the registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// For which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// How they are pulled.
    #[command(flatten)]
    pub pull: PullArgs,
    /// Only say what would be done; asks the runtime, changes nothing, exits 0.
    #[arg(long)]
    pub dry_run: bool,
    /// How the result is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `node list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Whose images.
    #[command(flatten)]
    pub runtime: RuntimeArgs,
    /// How the result is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `node purge`.
#[derive(Debug, Args)]
pub struct PurgeArgs {
    /// Which images.
    #[command(flatten)]
    pub manifests: ManifestArgs,
    /// Where they are.
    #[command(flatten)]
    pub runtime: RuntimeArgs,
    /// How the registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// For which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Only say what would be removed; asks the runtime, changes nothing, exits 0.
    #[arg(long)]
    pub dry_run: bool,
    /// How the result is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `node run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Which images.
    #[command(flatten)]
    pub manifests: ManifestArgs,
    /// Where they go.
    #[command(flatten)]
    pub runtime: RuntimeArgs,
    /// How the registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// For which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// How they are pulled.
    #[command(flatten)]
    pub pull: PullArgs,
    /// How often to look whether an image got lost.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = a_second_or_more)]
    pub inventory_interval: Duration,
    /// How often to pull again what moves: no tag, :latest, imagePullPolicy Always; 0s disables.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = any_duration)]
    pub image_cache_refresh_frequency: Duration,
}

/// `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Which images.
    #[command(flatten)]
    pub manifests: ManifestArgs,
    /// How the registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Images asked for at the same time.
    #[arg(long, value_name = "N", default_value = "8")]
    pub max_parallel_checks: NonZeroUsize,
    /// Longest one image may take.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = positive)]
    pub deadline: Duration,
    /// How the result is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell.
    pub shell: Shell,
}

/// `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write every command's page there, fledged.1 and so on; the folder is made where it is missing.
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: Option<PathBuf>,
}

/// Which images.
#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// A file of ImageCache manifests, YAML or JSON; - for stdin. Can be given again.
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub files: Vec<Source>,
}

/// Which runtime.
#[derive(Debug, Args)]
pub struct RuntimeArgs {
    /// unix:///PATH.sock (CRI), docker:///PATH.sock, or oci:DIR (an OCI image layout, no daemon).
    ///
    /// Without it, the first live socket is used: containerd, CRI-O, cri-dockerd, Docker Engine.
    #[arg(long, value_name = "URI", env = "FLEDGED_RUNTIME")]
    pub runtime: Option<RuntimeUri>,
}

/// How registries are reached.
#[derive(Debug, Default, Args)]
pub struct RegistryArgs {
    /// Registry credentials: a docker config.json; without it, every pull is anonymous.
    #[arg(long, value_name = "FILE", env = "FLEDGED_REGISTRY_CONFIG", value_hint = ValueHint::FilePath)]
    pub registry_config: Option<PathBuf>,
    /// A registry to speak plain HTTP with; for oci: and check only, other runtimes have their own
    /// configuration. Can be given again.
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]", env = "FLEDGED_INSECURE_REGISTRIES", value_delimiter = ',', value_parser = registry_host)]
    pub insecure_registries: Vec<String>,
    /// os/architecture[/variant] to pick of images for many; for oci: and check only. This machine's
    /// by default.
    #[arg(long, env = "FLEDGED_PLATFORM")]
    pub platform: Option<Platform>,
}

/// Which node this is.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// A label of this node, for nodeSelector and nodeAffinity. Can be given again.
    ///
    /// kubernetes.io/hostname, kubernetes.io/os and kubernetes.io/arch are there by themselves.
    #[arg(
        long = "node-label",
        value_name = "KEY=VALUE",
        env = "FLEDGED_NODE_LABELS",
        value_delimiter = ','
    )]
    pub labels: Vec<Label>,
    /// Name of this node; its host name by default.
    #[arg(long, value_name = "NAME", env = "FLEDGED_NODE_NAME")]
    pub node_name: Option<NodeName>,
}

/// How images are pulled.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Images pulled at the same time.
    #[arg(long, value_name = "N", default_value = "3")]
    pub max_parallel_pulls: NonZeroUsize,
    /// Longest one image may take, counted from the start of its first attempt.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = a_second_or_more)]
    pub deadline: Duration,
    /// Policy of entries that name none; Always also pulls what is there.
    #[arg(
        long,
        value_name = "POLICY",
        default_value = "IfNotPresent",
        ignore_case = true,
        value_parser = pull_policy()
    )]
    pub image_pull_policy: ImagePullPolicy,
}

/// How a result is printed.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Format of the result on stdout.
    #[arg(short, long = "output", value_name = "FORMAT", default_value = "table")]
    pub output: OutputFormat,
}

/// Formats of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// The policies, and what each means.
fn pull_policy() -> impl TypedValueParser<Value = ImagePullPolicy> {
    let help = |policy| match policy {
        ImagePullPolicy::Always => "Pull also what is there",
        _ => "Pull what is absent",
    };
    let value = |policy: ImagePullPolicy| PossibleValue::new(policy.as_str()).help(help(policy));
    let values = PossibleValuesParser::new(ImagePullPolicy::ALL.map(value));
    values.try_map(|text| text.parse::<ImagePullPolicy>())
}

pub(crate) fn any_duration(text: &str) -> Result<Duration, String> {
    text.parse::<GoDuration>()
        .map(|duration| duration.0)
        .map_err(|error| error.to_string())
}

fn positive(text: &str) -> Result<Duration, String> {
    match any_duration(text)? {
        Duration::ZERO => Err("it must be longer than nothing, 5m for instance".to_owned()),
        duration => Ok(duration),
    }
}

/// The warmer itself takes whatever is shorter for a second; that is better said than done.
fn a_second_or_more(text: &str) -> Result<Duration, String> {
    let duration = any_duration(text)?;
    if duration < Duration::from_secs(1) {
        return Err("it must be at least 1s".to_owned());
    }
    Ok(duration)
}

/// `host` or `host:port`, as it stands at the front of a reference.
fn registry_host(text: &str) -> Result<String, String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let host_is_valid = !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'[' | b']' | b':'));
    let port_is_valid = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if host_is_valid && port_is_valid {
        Ok(text.to_owned())
    } else {
        Err("write it as in the image reference, registry.local:5000 for instance".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_registry_is_host_and_port() {
        for good in [
            "localhost",
            "registry.local:5000",
            "127.0.0.1:80",
            "[::1]:5000",
            "[::1]",
        ] {
            assert_eq!(registry_host(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "http://registry",
            "registry:0",
            "registry:x",
            "a/b",
            "a b",
            ":80",
        ] {
            assert!(registry_host(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_deadline_of_nothing_is_refused() {
        assert!(positive("0s").is_err());
        assert!(a_second_or_more("999ms").is_err());
        assert_eq!(a_second_or_more("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(positive("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(any_duration("0s"), Ok(Duration::ZERO));
    }
}
