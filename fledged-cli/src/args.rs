//! The command line as clap parses it. Invalid arguments end the process with exit code 2.

use std::ffi::OsString;
#[cfg(feature = "cluster")]
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

#[cfg(feature = "cluster")]
use fledged_core::model::ImageRef;
use fledged_core::model::{GoDuration, ImagePullPolicy, NodeName, ProtectedImages, ShareLimit};
use fledged_cri::registry::{ConnectionLimit, Platform, PullRate, RegistryAuthority};
use fledged_cri::target::RuntimeUri;

use crate::help;
use crate::kube_names::Label;
#[cfg(feature = "cluster")]
use crate::kube_names::{namespace_argument, object_argument};
use crate::manifest::Source;

/// Most nodes that the demo starts with; each has an agent and an image store on disk.
#[cfg(feature = "demo")]
const DEMO_NODES_MAX: i64 = 50;

/// Pre-pulls container images onto this machine or onto cluster nodes before pods need them.
#[derive(Debug, Parser)]
#[command(
    name = "fledged",
    version,
    arg_required_else_help = true,
    after_help = help::ROOT
)]
pub(crate) struct Cli {
    /// Log to stderr what the program does; repeat for details.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// The command to run.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The commands for a cluster.
    #[cfg(feature = "cluster")]
    #[command(flatten)]
    Cluster(ClusterCommand),
    /// Pull, list and remove images on this machine, once or continuously; find what slows pulls down; show a
    /// node of a cluster.
    #[command(subcommand, arg_required_else_help = true)]
    Node(NodeCommand),
    /// Check that the registries serve every image; pulls nothing.
    #[command(after_help = help::CHECK)]
    Check(Box<CheckArgs>),
    /// Show fledged at work on a cluster inside this process; needs no cluster and no network.
    #[cfg(feature = "demo")]
    #[command(after_help = help::DEMO)]
    Demo(DemoArgs),
    /// Print a completion script for a shell.
    #[command(after_help = help::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Print the manual page, or write one page for each command to a directory.
    #[command(after_help = help::MAN)]
    Man(ManArgs),
}

/// The commands for one node: this machine, or a node of a cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// The commands for this machine.
    #[command(flatten)]
    Local(Box<LocalCommand>),
    /// Show a node of a cluster: its agent, its images by ImageCache, pending removals.
    #[cfg(feature = "cluster")]
    #[command(visible_alias = "describe", after_help = help::NODE_STATUS)]
    Status(NodeStatusArgs),
}

/// The commands for this machine.
#[derive(Debug, Subcommand)]
pub(crate) enum LocalCommand {
    /// Pull the missing images and exit.
    #[command(after_help = help::NODE_APPLY)]
    Apply(ApplyArgs),
    /// Find what slows down pulls on this machine or deletes its images: settings, disk, pressure.
    #[command(after_help = help::NODE_DOCTOR)]
    Doctor(DoctorArgs),
    /// List the images in the container runtime.
    #[command(after_help = help::NODE_LIST)]
    List(ListArgs),
    /// Remove the images in the manifests that no container uses.
    #[command(after_help = help::NODE_PURGE)]
    Purge(PurgeArgs),
    /// Keep running: pull missing images, follow edits of the manifests, pull lost images again.
    #[command(after_help = help::NODE_RUN)]
    Run(RunArgs),
}

/// `node apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The manifests.
    #[command(flatten)]
    pub(crate) manifests: ManifestArgs,
    /// The runtime to pull with.
    #[command(flatten)]
    pub(crate) runtime: RuntimeArgs,
    /// Access to the registries.
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// This node's name and labels.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Limits of the pulls.
    #[command(flatten)]
    pub(crate) pull: PullArgs,
    /// Show what would be done and exit with 0; reads the runtime, changes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The format of the result.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `node doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The runtime to read.
    #[command(flatten)]
    pub(crate) runtime: RuntimeArgs,
    /// Read the files of the machine whose file system is mounted there, such as /host in a debug
    /// container; --runtime stays a path of this process.
    #[arg(long, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
    pub(crate) root: PathBuf,
    /// The format of the result.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `node list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The runtime to list.
    #[command(flatten)]
    pub(crate) runtime: RuntimeArgs,
    /// The format of the result.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `node purge`.
#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// The manifests.
    #[command(flatten)]
    pub(crate) manifests: ManifestArgs,
    /// The runtime to remove from.
    #[command(flatten)]
    pub(crate) runtime: RuntimeArgs,
    /// The platform of this node and of the images, os/architecture[/variant]. Default: this machine's.
    #[arg(long, env = "FLEDGED_PLATFORM")]
    pub(crate) platform: Option<Platform>,
    /// This node's name and labels.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// What is never removed.
    #[command(flatten)]
    pub(crate) protect: ProtectArgs,
    /// Show what would be removed and exit with 0; reads the runtime, changes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The format of the result.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `node run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The manifests.
    #[command(flatten)]
    pub(crate) manifests: ManifestArgs,
    /// The runtime to pull with.
    #[command(flatten)]
    pub(crate) runtime: RuntimeArgs,
    /// Access to the registries.
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// This node's name and labels.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Limits of the pulls.
    #[command(flatten)]
    pub(crate) pull: PullArgs,
    /// What is never removed.
    #[command(flatten)]
    pub(crate) protect: ProtectArgs,
    /// Interval between checks for lost images.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = a_second_or_more)]
    pub(crate) inventory_interval: Duration,
    /// Interval between pulls of mutable tags (no tag, :latest, imagePullPolicy Always); 0s disables.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = any_duration)]
    pub(crate) image_cache_refresh_frequency: Duration,
}

/// `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The manifests.
    #[command(flatten)]
    pub(crate) manifests: ManifestArgs,
    /// Access to the registries.
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// Number of images to check at the same time.
    #[arg(long, value_name = "N", default_value = "8", value_parser = one_or_more)]
    pub(crate) max_parallel_checks: NonZeroUsize,
    /// Time limit for one image.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = positive)]
    pub(crate) deadline: Duration,
    /// The format of the result.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `demo`.
#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Number of nodes to start with, 1 to 50; one more joins later.
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u8).range(1..=DEMO_NODES_MAX))]
    pub(crate) nodes: u8,
    /// A file of ImageCache manifests to use instead of the built-in one; - for stdin. Repeatable.
    #[arg(short = 'f', long = "filename", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<Source>,
    /// Exit after the last step, even at a terminal.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Keep the cluster up after the last step until SIGINT or SIGTERM, even without a terminal.
    #[arg(long, conflicts_with = "no_wait")]
    pub(crate) keep: bool,
}

/// `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    pub(crate) shell: Shell,
}

/// `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write a page for every command (fledged.1, fledged-check.1, ...) to this directory; it is created
    /// if missing.
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) directory: Option<PathBuf>,
}

/// The manifests to read.
#[derive(Debug, Args)]
pub(crate) struct ManifestArgs {
    /// A file of ImageCache manifests, YAML or JSON; - for stdin. Repeatable.
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<Source>,
}

/// The runtime to use.
#[derive(Debug, Args)]
pub(crate) struct RuntimeArgs {
    /// unix:///PATH.sock (CRI), docker:///PATH.sock, or oci:DIR (an OCI image layout, no daemon).
    ///
    /// Default: the runtime of this machine's kubelet; otherwise the only socket that serves CRI, of containerd
    /// (also of k3s, RKE2, MicroK8s and k0s), CRI-O and cri-dockerd; otherwise Docker Engine.
    #[arg(long, value_name = "URI", env = "FLEDGED_RUNTIME")]
    pub(crate) runtime: Option<RuntimeUri>,
}

/// Access to the registries.
#[derive(Debug, Default, Args)]
pub(crate) struct RegistryArgs {
    /// Registry credentials: a docker config.json; its credential helpers are run. Default: that of docker,
    /// $DOCKER_CONFIG/config.json or ~/.docker/config.json, if it exists.
    #[arg(long, value_name = "FILE", env = "FLEDGED_REGISTRY_CONFIG", value_hint = ValueHint::FilePath)]
    pub(crate) registry_config: Option<PathBuf>,
    /// Use no registry credentials, also if docker has some.
    #[arg(
        long,
        env = "FLEDGED_ANONYMOUS",
        value_parser = clap::builder::FalseyValueParser::new(),
        conflicts_with_all = ["registry_config", "image_credential_provider_config"]
    )]
    pub(crate) anonymous: bool,
    /// The kubelet's CredentialProviderConfig, a file or a directory: plugins that obtain credentials of
    /// this machine, tried after those of docker.
    #[arg(
        long,
        value_name = "PATH",
        env = "FLEDGED_IMAGE_CREDENTIAL_PROVIDER_CONFIG",
        requires = "image_credential_provider_bin_dir",
        value_hint = ValueHint::AnyPath
    )]
    pub(crate) image_credential_provider_config: Option<PathBuf>,
    /// Directory of the plugins of --image-credential-provider-config.
    #[arg(
        long,
        value_name = "DIR",
        env = "FLEDGED_IMAGE_CREDENTIAL_PROVIDER_BIN_DIR",
        requires = "image_credential_provider_config",
        value_hint = ValueHint::DirPath
    )]
    pub(crate) image_credential_provider_bin_dir: Option<PathBuf>,
    /// A certificate authority for all registries, or for one: a file in PEM form. Only for oci:, check and
    /// --pull-via auto; runtimes use their own configuration. Repeatable.
    #[arg(long = "registry-ca", value_name = "[HOST=]FILE", env = "FLEDGED_REGISTRY_CA", value_delimiter = ',', value_parser = registry_authority)]
    pub(crate) registry_authorities: Vec<RegistryAuthority>,
    /// The folders of containerd's hosts.toml and of certificates for registries, separated by colons; empty
    /// for none. Only for oci:, check and --pull-via auto. Default: config_path of containerd's configuration,
    /// else /etc/containerd/certs.d and /etc/docker/certs.d.
    #[arg(long, value_name = "DIR[:DIR]", env = "FLEDGED_REGISTRY_HOSTS_DIR", value_hint = ValueHint::DirPath)]
    pub(crate) registry_hosts_dir: Option<OsString>,
    /// A registry that serves plain HTTP only. Only for oci:, check and --pull-via auto. Repeatable.
    #[arg(long = "plain-http", value_name = "HOST[:PORT]", env = "FLEDGED_PLAIN_HTTP_REGISTRIES", value_delimiter = ',', value_parser = registry_host)]
    pub(crate) plain_http_registries: Vec<String>,
    /// A registry whose certificate is not verified, and which is reached by plain HTTP if it does not speak
    /// HTTPS, as with Docker's insecure-registries. Only for oci:, check and --pull-via auto. Repeatable.
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]", env = "FLEDGED_INSECURE_REGISTRIES", value_delimiter = ',', value_parser = registry_host)]
    pub(crate) insecure_registries: Vec<String>,
    /// The platform to select from multi-platform images, os/architecture[/variant]. Only for oci: and
    /// check. Default: this machine's.
    #[arg(long, env = "FLEDGED_PLATFORM")]
    pub(crate) platform: Option<Platform>,
}

impl RegistryArgs {
    /// Whether some source of credentials is configured.
    pub(crate) fn has_credentials(&self) -> bool {
        self.registry_config.is_some()
            || self.image_credential_provider_config.is_some()
            || self.docker_config().is_some()
    }

    /// Docker's configuration, if it exists and is used because no other is given.
    pub(crate) fn docker_config(&self) -> Option<PathBuf> {
        if self.anonymous || self.registry_config.is_some() {
            return None;
        }
        let named = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let folder = match (named("DOCKER_CONFIG"), named("HOME")) {
            (Some(folder), _) => PathBuf::from(folder),
            (None, Some(home)) => PathBuf::from(home).join(".docker"),
            (None, None) => return None,
        };
        Some(folder.join("config.json")).filter(|file| file.is_file())
    }

    /// For commands that send no request to a registry.
    pub(crate) fn unused() -> Self {
        Self {
            anonymous: true,
            ..Self::default()
        }
    }
}

/// This node's name and labels.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// A label of this node, for nodeSelector and nodeAffinity. Repeatable.
    ///
    /// kubernetes.io/hostname, kubernetes.io/os and kubernetes.io/arch are set automatically.
    #[arg(
        long = "node-label",
        value_name = "KEY=VALUE",
        env = "FLEDGED_NODE_LABELS",
        value_delimiter = ','
    )]
    pub(crate) labels: Vec<Label>,
    /// The name of this node. Default: its host name.
    #[arg(long, value_name = "NAME", env = "FLEDGED_NODE_NAME")]
    pub(crate) node_name: Option<NodeName>,
}

/// Limits of the pulls.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Number of images to pull at the same time.
    #[arg(long, value_name = "N", default_value = "3", value_parser = one_or_more)]
    pub(crate) max_parallel_pulls: NonZeroUsize,
    /// Time limit for one image, retries included.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = a_second_or_more)]
    pub(crate) deadline: Duration,
    /// The pull policy of entries without imagePullPolicy; Always also pulls images that are present.
    #[arg(
        long,
        value_name = "POLICY",
        default_value = "IfNotPresent",
        ignore_case = true,
        value_parser = pull_policy()
    )]
    pub(crate) image_pull_policy: ImagePullPolicy,
    /// runtime: containerd pulls. auto: fledged downloads large layers over several connections and resumes
    /// interrupted pulls. No effect on other runtimes.
    #[arg(
        long,
        value_name = "WAY",
        default_value = "runtime",
        env = "FLEDGED_PULL_VIA"
    )]
    pub(crate) pull_via: PullVia,
    /// Number of connections that fetch layers for containerd and oci:, of all images together, from 1 to 64. Each
    /// keeps at most 8 MiB in memory.
    #[arg(long, value_name = "N", default_value = "8")]
    pub(crate) max_connections: ConnectionLimit,
    /// Limit for downloading layers, in bytes per second, shared by all pulls, for example 20Mi; at least 64Ki. Units:
    /// k, M, G, T, Ki, Mi, Gi, Ti. Only for oci: and, with --pull-via auto, containerd. Default: no limit.
    #[arg(long, value_name = "BYTES", env = "FLEDGED_MAX_PULL_RATE")]
    pub(crate) max_pull_rate: Option<PullRate>,
    /// Share of the last 10 seconds in which tasks of this machine waited for I/O, above which layers are downloaded
    /// slower, down to 1 MiB per second; 0% or 100%: no effect. Only for oci: and, with --pull-via auto, containerd.
    #[arg(
        long,
        value_name = "PERCENT",
        default_value = "40%",
        env = "FLEDGED_MAX_IO_PRESSURE"
    )]
    pub(crate) max_io_pressure: ShareLimit,
    /// As --max-io-pressure, for tasks that waited for memory.
    #[arg(
        long,
        value_name = "PERCENT",
        default_value = "10%",
        env = "FLEDGED_MAX_MEMORY_PRESSURE"
    )]
    pub(crate) max_memory_pressure: ShareLimit,
}

/// How layers reach containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullVia {
    /// Fetched by fledged, or by the runtime where fledged cannot.
    Auto,
    /// Fetched by the runtime.
    Runtime,
}

/// What is never removed.
#[derive(Debug, Args)]
pub(crate) struct ProtectArgs {
    /// Patterns of images that are never removed, separated by commas. * stands for any characters; a pattern
    /// without a tag matches every tag and digest. Empty: none.
    #[arg(
        long = "protect-images",
        value_name = "PATTERNS",
        env = "FLEDGED_PROTECT_IMAGES",
        value_delimiter = ',',
        default_values = ProtectedImages::DEFAULT
    )]
    pub(crate) patterns: Vec<String>,
}

impl ProtectArgs {
    /// The patterns.
    pub(crate) fn images(&self) -> ProtectedImages {
        ProtectedImages::new(self.patterns.iter().cloned())
    }
}

/// The format of the result of a command for this machine.
#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// The format of the result on stdout.
    #[arg(short, long = "output", value_name = "FORMAT", default_value = "table")]
    pub(crate) output: OutputFormat,
}

/// Formats of [`OutputArgs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// Text for people.
    Table,
    /// JSON.
    Json,
}

/// The commands for a cluster.
#[cfg(feature = "cluster")]
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// List ImageCaches and their counts.
    #[command(after_help = help::GET)]
    Get(GetArgs),
    /// Show an ImageCache as a matrix of nodes and images, with reasons.
    #[command(after_help = help::STATUS)]
    Status(StatusArgs),
    /// Wait until an ImageCache is cached or purged.
    #[command(after_help = help::WAIT)]
    Wait(WaitArgs),
    /// Pull the mutable tags and the failed images of an ImageCache again.
    #[command(after_help = help::REFRESH)]
    Refresh(RequestArgs),
    /// Remove the images of an ImageCache from the nodes; the ImageCache remains.
    #[command(after_help = help::PURGE)]
    Purge(RequestArgs),
    /// Explain why an image of an ImageCache is or is not on a node.
    #[command(after_help = help::WHY)]
    Why(WhyArgs),
    /// Show what applying a file would pull and remove on which nodes; writes nothing.
    #[command(after_help = help::PLAN)]
    Plan(PlanArgs),
    /// Find what keeps the operator of a cluster from working: controller, agents, webhook, permissions, clocks.
    #[command(after_help = help::DOCTOR)]
    Doctor(ClusterDoctorArgs),
}

/// The cluster to talk to.
#[cfg(feature = "cluster")]
#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ConnectionArgs {
    /// The kubeconfig file. Default: $KUBECONFIG, ~/.kube/config, or the cluster this runs in.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig. Default: its current context.
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The namespace of the ImageCache. Default: the namespace of the context.
    #[arg(short, long, value_name = "NAMESPACE", value_parser = namespace_argument)]
    pub(crate) namespace: Option<String>,
}

/// The format of the result of a command for a cluster.
#[cfg(feature = "cluster")]
#[derive(Debug, Args)]
pub(crate) struct FormatArgs {
    /// The format of the result on stdout.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

/// Formats of [`FormatArgs`].
#[cfg(feature = "cluster")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text for people.
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// `get`.
#[cfg(feature = "cluster")]
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Only this ImageCache.
    #[arg(value_parser = object_argument)]
    pub(crate) name: Option<String>,
    /// The ImageCaches of all namespaces.
    #[arg(short = 'A', long, conflicts_with = "name")]
    pub(crate) all_namespaces: bool,
    /// Keep running and print every change.
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// The format of the result.
    #[command(flatten)]
    pub(crate) output: FormatArgs,
    /// The cluster.
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

/// `status`.
#[cfg(feature = "cluster")]
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The ImageCache.
    #[arg(value_parser = object_argument)]
    pub(crate) name: String,
    /// Number of nodes to show one by one; in a larger cluster, equal nodes are counted.
    #[arg(long, value_name = "N", default_value = "20")]
    pub(crate) max_nodes: usize,
    /// Show every node and every image one by one, however wide.
    #[arg(long, visible_alias = "wide", conflicts_with = "max_nodes")]
    pub(crate) all: bool,
    /// Keep running: redraw the terminal every two seconds; without one, print a line for each change.
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// The format of the result.
    #[command(flatten)]
    pub(crate) output: FormatArgs,
    /// The cluster.
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

/// `node status`.
#[cfg(feature = "cluster")]
#[derive(Debug, Args)]
pub(crate) struct NodeStatusArgs {
    /// The node.
    pub(crate) name: NodeName,
    /// The format of the result.
    #[command(flatten)]
    pub(crate) output: FormatArgs,
    /// The cluster.
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

/// `wait`.
#[cfg(feature = "cluster")]
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// The ImageCache.
    #[arg(value_parser = object_argument)]
    pub(crate) name: String,
    /// The condition to wait for.
    #[arg(long = "for", value_name = "CONDITION", default_value = "cached")]
    pub(crate) goal: Goal,
    /// Longest time to wait, including the time until the cluster answers; 0s checks once.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = any_duration)]
    pub(crate) timeout: Duration,
    /// The format of the result.
    #[command(flatten)]
    pub(crate) output: FormatArgs,
    /// The cluster.
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

/// Conditions of `wait --for`.
#[cfg(feature = "cluster")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Goal {
    /// Every image is on every reachable node.
    Cached,
    /// The images are removed, except those that a container uses or another ImageCache lists.
    Purged,
}

#[cfg(feature = "cluster")]
impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cached => "cached",
            Self::Purged => "purged",
        })
    }
}

/// `refresh` and `purge`.
#[cfg(feature = "cluster")]
#[derive(Debug, Args)]
pub(crate) struct RequestArgs {
    /// The ImageCache.
    #[arg(value_parser = object_argument)]
    pub(crate) name: String,
    /// Wait until the action has completed.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Longest time to wait, including the time until the cluster answers.
    #[arg(long, value_name = "DURATION", default_value = "5m", requires = "wait", value_parser = positive)]
    pub(crate) timeout: Duration,
    /// The format of the result.
    #[command(flatten)]
    pub(crate) output: FormatArgs,
    /// The cluster.
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

/// `why`.
#[cfg(feature = "cluster")]
#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// The ImageCache.
    #[arg(value_parser = object_argument)]
    pub(crate) name: String,
    /// The node.
    pub(crate) node: NodeName,
    /// The image; any spelling of its reference.
    pub(crate) image: ImageRef,
    /// The format of the result.
    #[command(flatten)]
    pub(crate) output: FormatArgs,
    /// The cluster.
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

/// `plan`.
#[cfg(feature = "cluster")]
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The manifests.
    #[command(flatten)]
    pub(crate) manifests: ManifestArgs,
    /// Exit with 1 if anything would be pulled, removed or released.
    #[arg(long)]
    pub(crate) exit_code: bool,
    /// The format of the result.
    #[command(flatten)]
    pub(crate) output: FormatArgs,
    /// The cluster.
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

/// `doctor`.
#[cfg(feature = "cluster")]
#[derive(Debug, Args)]
pub(crate) struct ClusterDoctorArgs {
    /// The namespace of the controller and the agents. Default: found by their labels in all namespaces, or if that
    /// is not permitted, kube-fledged.
    #[arg(long, value_name = "NAMESPACE", value_parser = namespace_argument)]
    pub(crate) operator_namespace: Option<String>,
    /// The format of the result.
    #[command(flatten)]
    pub(crate) output: FormatArgs,
    /// The cluster.
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

/// The pull policies, with help.
fn pull_policy() -> impl TypedValueParser<Value = ImagePullPolicy> {
    let help = |policy| match policy {
        ImagePullPolicy::Always => "Pull every image, even if it is present",
        _ => "Pull missing images, and mutable tags (no tag, :latest) even if they are present",
    };
    let value = |policy: ImagePullPolicy| PossibleValue::new(policy.as_str()).help(help(policy));
    PossibleValuesParser::new(ImagePullPolicy::ALL.map(value))
        .try_map(|text| text.parse::<ImagePullPolicy>())
}

fn one_or_more(text: &str) -> Result<NonZeroUsize, &'static str> {
    text.parse().map_err(|_| "must be a number from 1 up")
}

fn any_duration(text: &str) -> Result<Duration, String> {
    text.parse::<GoDuration>()
        .map(|duration| duration.0)
        .map_err(|error| error.to_string())
}

fn positive(text: &str) -> Result<Duration, String> {
    match any_duration(text)? {
        Duration::ZERO => Err("must be greater than zero, for example 5m".to_owned()),
        duration => Ok(duration),
    }
}

/// The warmer rounds shorter durations up to a second; refusing them is clearer.
fn a_second_or_more(text: &str) -> Result<Duration, String> {
    let duration = any_duration(text)?;
    if duration < Duration::from_secs(1) {
        return Err("must be at least 1s".to_owned());
    }
    Ok(duration)
}

/// `host` or `host:port`, the first component of an image reference.
/// `FILE`, or `HOST[:PORT]=FILE`.
fn registry_authority(text: &str) -> Result<RegistryAuthority, String> {
    let (registry, file) = match text.split_once('=') {
        // A path may contain the sign, too.
        Some((host, file)) if !host.contains('/') => (Some(registry_host(host)?), file),
        _ => (None, text),
    };
    if file.is_empty() {
        return Err("expected FILE or HOST[:PORT]=FILE".to_owned());
    }
    let file = PathBuf::from(file);
    Ok(RegistryAuthority { registry, file })
}

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
        Err(
            "expected HOST or HOST:PORT as in an image reference, for example registry.local:5000"
                .to_owned(),
        )
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn an_authority_is_for_all_registries_or_one() {
        let read = |text| registry_authority(text).map(|found| (found.registry, found.file));
        assert_eq!(read("ca.pem"), Ok((None, "ca.pem".into())));
        let named = Some("r.lan:5000".to_owned());
        assert_eq!(read("r.lan:5000=/a=b.pem"), Ok((named, "/a=b.pem".into())));
        assert_eq!(read("/a=b.pem"), Ok((None, "/a=b.pem".into())));
        for invalid in ["", "r.lan=", "=ca.pem", "a b=ca.pem"] {
            assert!(read(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn a_number_of_connections_out_of_range_is_named() {
        for given in ["0", "65"] {
            let args = ["fledged", "node", "apply", "--max-connections", given];
            let error = Cli::try_parse_from(args).unwrap_err().to_string();
            let expected = format!(
                "invalid value '{given}' for '--max-connections <N>': must be a number from 1 to 64"
            );
            assert!(error.contains(&expected), "{error}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_registry_is_a_host_with_an_optional_port() {
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
            assert!(registry_host(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn durations_below_the_minimum_are_refused() {
        assert!(positive("0s").is_err());
        assert!(a_second_or_more("999ms").is_err());
        assert_eq!(a_second_or_more("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(positive("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(any_duration("0s"), Ok(Duration::ZERO));
    }
}
