//! The command line. Flags of the controller have the names, defaults and meanings of kube-fledged's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{
    ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
};
use fledged_core::model::{
    CountOrPercent, DEADLINE_MAX, GoDuration, ImagePullPolicy, ImageRef, NodeName, ProtectedImages,
    ShareLimit,
};
use fledged_cri::target::RuntimeUri;
use fledged_cri::{ConnectionLimit, PullRate};
use fledged_kube::serve::BindAddress;
use http::Uri;
use k8s_openapi::api::core::v1::ResourceRequirements;
use serde_json::Value;

use fledged_operator::jobs::{PullMethod, Retention};

/// Pre-pulls container images onto the nodes of a Kubernetes cluster and keeps them there.
#[derive(Debug, Parser)]
#[command(name = "fledged-operator", version, max_term_width = 100)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

impl Cli {
    /// Parses a command line; exits the process if it is invalid.
    pub(super) fn read(args: impl IntoIterator<Item = OsString>) -> Self {
        let mut command = Self::whole();
        let matches = command.try_get_matches_from_mut(with_two_dashes(args));
        let matches = matches.unwrap_or_else(|error| error.exit());
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
    }

    /// The command line. The programs have different default ports, because they may run on one machine.
    fn whole() -> clap::Command {
        let ports = [("webhook", ":8084", ":8085"), ("agent", ":8082", ":8083")];
        let change = |command: clap::Command, (name, metrics, probes)| {
            command.mut_subcommand(name, |command| {
                command
                    .mut_arg("metrics_bind_address", |arg| arg.default_value(metrics))
                    .mut_arg("health_probe_bind_address", |arg| arg.default_value(probes))
            })
        };
        ports.into_iter().fold(Self::command(), change)
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Runs the controller, which assigns images to nodes; one leads, others stand by.
    Controller(Box<ControllerArgs>),
    /// Runs the agent of one node, which pulls and removes images as assigned; one per node.
    Agent(Box<AgentArgs>),
    /// Runs the validating webhook, which rejects invalid ImageCaches and warns about surprising ones.
    Webhook(Box<WebhookArgs>),
    /// Prints the CustomResourceDefinitions as YAML.
    Crds,
    /// Commands that the Jobs of the job driver run.
    #[command(subcommand, hide = true)]
    Job(JobCommand),
}

/// UID and GID of Jobs that pull; `None`: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct JobUser(pub(super) Option<u32>);

/// Labels or annotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StringMap(pub(super) BTreeMap<String, String>);

/// A bind address; `None` disables the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bind(pub(super) Option<BindAddress>);

/// The API server, metrics, probes and logs.
#[derive(Debug, Clone, Args)]
pub(super) struct CommonArgs {
    /// Path of a kubeconfig file; only needed outside a cluster.
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<String>,
    /// URL of the API server; overrides the kubeconfig; only needed outside a cluster.
    #[arg(long, value_name = "URL", value_parser = server_url)]
    pub(super) master: Option<Uri>,
    /// Bind address of /metrics; "0" disables it.
    #[arg(long, value_name = "ADDRESS", default_value = ":8080", value_parser = bind)]
    pub(super) metrics_bind_address: Bind,
    /// Bind address of /livez, /readyz and /healthz; "0" disables them.
    #[arg(long, value_name = "ADDRESS", default_value = ":8081", value_parser = bind)]
    pub(super) health_probe_bind_address: Bind,
    /// Lowest severity that is logged.
    #[arg(long, value_name = "LEVEL", default_value = "INFO", ignore_case = true)]
    pub(super) stderrthreshold: Level,
    /// Format of log lines.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
}

/// Flags of `fledged-operator controller`.
#[derive(Debug, Args)]
pub(super) struct ControllerArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    /// Interval at which mutable tags are pulled again; 0s disables it.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = any_duration)]
    pub(super) image_cache_refresh_frequency: Duration,
    /// Shortest time between two refreshes on demand of an ImageCache; a request that comes earlier waits.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = any_duration)]
    pub(super) refresh_min_interval: Duration,
    /// Deadline of a pull, per image, from the start of its first attempt.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = a_second_or_more)]
    pub(super) image_pull_deadline_duration: Duration,
    /// Longest deadline that an ImageCache may set, at most 24h; a longer one counts as this.
    #[arg(long, value_name = "DURATION", default_value = "2h", value_parser = largest_deadline)]
    pub(super) max_image_pull_deadline: Duration,
    /// Pull policy of images whose ImageCache sets none.
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent", value_parser = pull_policy())]
    pub(super) image_pull_policy: ImagePullPolicy,
    /// Largest number of nodes that pull at the same time, or a percentage of all nodes. If several namespaces pull,
    /// each has its share of them, at least one node, and up to twice as many pull plus one for each namespace.
    #[arg(long, value_name = "N|N%", default_value = "100")]
    pub(super) max_concurrent_nodes: CountOrPercent,
    /// Largest number of images that one ImageCache may list; the spec of one with more is invalid.
    #[arg(long, value_name = "N")]
    pub(super) max_images_per_cache: Option<NonZeroUsize>,
    /// Largest number of images that the ImageCaches of a namespace may list; the newest that do not fit are invalid. 0: no
    /// limit.
    #[arg(long, value_name = "N", default_value = "0")]
    pub(super) max_images_per_namespace: usize,
    /// Exports a metric for each ImageCache, with its namespace and name as labels.
    #[arg(long, value_name = "BOOL", default_value_t = false, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    pub(super) metrics_per_image_cache: bool,
    /// Serves only the ImageCaches of this namespace; still at most one controller per cluster.
    #[arg(long, value_name = "NAMESPACE")]
    pub(super) watch_namespace: Option<String>,
    /// How assignments reach nodes: by an agent on each node, or by Kubernetes Jobs.
    #[arg(long, value_name = "DRIVER", default_value = "agent")]
    pub(super) node_driver: DriverKind,
    #[command(flatten)]
    pub(super) election: ElectionArgs,
    #[command(flatten)]
    pub(super) protect: ProtectArgs,
    #[command(flatten)]
    pub(super) jobs: JobArgs,
}

/// What is never removed.
#[derive(Debug, Args)]
pub(super) struct ProtectArgs {
    /// Comma-separated patterns of images that are never removed. `*` stands for any characters; a pattern
    /// without a tag matches every tag and digest.
    #[arg(long = "protect-images", value_name = "PATTERNS", value_delimiter = ',',
          default_values = ProtectedImages::DEFAULT)]
    pub(super) patterns: Vec<String>,
}

impl ProtectArgs {
    pub(super) fn images(&self) -> ProtectedImages {
        ProtectedImages::new(self.patterns.iter().cloned())
    }
}

/// Leader election.
#[derive(Debug, Args)]
pub(super) struct ElectionArgs {
    /// Acts only while holding the lease kubefledged-controller; required with more than one replica.
    #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    pub(super) leader_elect: bool,
    /// How long other candidates wait after the last renewal of the leader.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = a_second_or_more)]
    pub(super) leader_elect_lease_duration: Duration,
    /// How long a leader retries a renewal before it stops; less than the lease duration.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = a_second_or_more)]
    pub(super) leader_elect_renew_deadline: Duration,
    /// Interval between attempts to acquire or renew the lease.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = positive)]
    pub(super) leader_elect_retry_period: Duration,
    /// Namespace of the operator and of the lease.
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "KUBEFLEDGED_NAMESPACE",
        default_value = "kube-fledged"
    )]
    pub(super) namespace: String,
    /// Identity of this candidate; must be unique.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub(super) identity: Option<String>,
}

/// Flags of `--node-driver=job`. They are validated with either driver.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of the job driver")]
pub(super) struct JobArgs {
    /// Path of the socket of the runtime on the nodes, with or without unix://.
    #[arg(long, value_name = "PATH", value_parser = socket_path)]
    pub(super) cri_socket_path: Option<String>,
    /// Runs Jobs that remove images in the host network.
    #[arg(long, value_name = "BOOL", default_value_t = false, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    pub(super) image_delete_job_host_network: bool,
    /// SELinux type of Jobs that remove images, for example spc_t.
    #[arg(long, value_name = "TYPE")]
    pub(super) job_removal_selinux_type: Option<String>,
    /// Resources of every container of a Job, as JSON with requests and limits; by default small
    /// requests and a memory limit.
    #[arg(long, value_name = "JSON", value_parser = resources)]
    pub(super) job_resources: Option<ResourceRequirements>,
    /// UID and GID of Jobs that pull; "none" leaves them to an admission plug-in.
    #[arg(long, value_name = "UID", default_value = "65532", value_parser = job_user)]
    pub(super) job_run_as_user: JobUser,
    /// Additional labels of the pods of Jobs, as a JSON object; by default against Istio's sidecar.
    #[arg(long, value_name = "JSON", value_parser = string_map)]
    pub(super) job_pod_labels: Option<StringMap>,
    /// Additional annotations of the pods of Jobs, as a JSON object; by default against sidecars of
    /// Istio and Linkerd.
    #[arg(long, value_name = "JSON", value_parser = string_map)]
    pub(super) job_pod_annotations: Option<StringMap>,
    /// priorityClassName of Jobs.
    #[arg(long, value_name = "NAME")]
    pub(super) job_priority_class_name: Option<String>,
    /// Whether finished Jobs are deleted.
    #[arg(long, value_name = "POLICY", default_value = "delete",
          value_parser = one_of([("delete", Retention::Delete), ("retain", Retention::Retain)]))]
    pub(super) job_retention_policy: Retention,
    /// ServiceAccount of Jobs; by default the default of the namespace.
    #[arg(long, value_name = "NAME")]
    pub(super) service_account_name: Option<String>,
    /// Comma-separated names of Secrets to pull --job-image with, in the namespace of each Job; missing
    /// ones are ignored.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(super) job_image_pull_secrets: Vec<String>,
    /// How Jobs pull: with image volumes, with containers, or with whichever the node supports.
    #[arg(long, value_name = "METHOD", default_value = "auto", value_parser = one_of([
        ("auto", PullMethod::Auto), ("image-volume", PullMethod::ImageVolume),
        ("container", PullMethod::Container),
    ]))]
    pub(super) job_pull_method: PullMethod,
    /// Image that every Job runs, with this program as its entry point; required with
    /// --node-driver=job.
    #[arg(
        long,
        value_name = "IMAGE",
        env = "KUBEFLEDGED_CRI_CLIENT_IMAGE",
        alias = "cri-client-image"
    )]
    pub(super) job_image: Option<String>,
    /// How long finished Jobs are kept if they are not deleted before.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = seconds_of_a_job)]
    pub(super) job_ttl: Duration,
    /// The nodeStatusMaxImages of the kubelets: a Node status with this many images may be incomplete.
    #[arg(long, value_name = "N", default_value = "50")]
    pub(super) node_status_max_images: usize,
    /// Accepted for compatibility with kube-fledged and ignored.
    #[arg(long, value_name = "IMAGE", env = "BUSYBOX_IMAGE", hide = true)]
    pub(super) busybox_image: Option<String>,
}

/// Flags of `fledged-operator agent`.
#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    /// Name of the node that the agent runs on.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(super) node_name: NodeName,
    /// Image runtime: unix:///run/containerd/containerd.sock, docker:///var/run/docker.sock or
    /// oci:FOLDER; by default the only socket that serves CRI, or Docker Engine.
    #[arg(long, value_name = "URI")]
    pub(super) runtime: Option<RuntimeUri>,
    /// Largest number of parallel pulls.
    #[arg(long, value_name = "N", default_value = "3")]
    pub(super) max_parallel_pulls: NonZeroUsize,
    /// Interval at which the inventory of the runtime is read.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = a_second_or_more)]
    pub(super) inventory_interval: Duration,
    /// Used share of the image file system at which no pull begins, below the kubelet's
    /// imageGCHighThresholdPercent; 0% or 100% is no limit.
    #[arg(long, value_name = "PERCENT", default_value = "80%")]
    pub(super) image_fs_high_threshold: ShareLimit,
    /// The kubelet's CredentialProviderConfig, a file or a directory: plugins that obtain registry
    /// credentials of the node. They are tried after the pull secrets, as by the kubelet.
    #[arg(
        long,
        value_name = "PATH",
        requires = "image_credential_provider_bin_dir"
    )]
    pub(super) image_credential_provider_config: Option<PathBuf>,
    /// Directory of the plugins of --image-credential-provider-config.
    #[arg(
        long,
        value_name = "DIR",
        requires = "image_credential_provider_config"
    )]
    pub(super) image_credential_provider_bin_dir: Option<PathBuf>,
    /// runtime: the runtime fetches layers. auto: the agent fetches those of large images into containerd, over several
    /// connections, and resumes interrupted pulls; the runtime pulls all other images.
    #[arg(long, value_name = "WAY", default_value = "runtime")]
    pub(super) pull_via: PullVia,
    /// Number of connections that fetch layers with --pull-via=auto and for oci:, of all images together, from 1 to
    /// 64. Each takes up to 8 MiB of memory.
    #[arg(long, value_name = "N", default_value = "8")]
    pub(super) max_connections: ConnectionLimit,
    /// Limit for fetching layers with --pull-via=auto and for oci:, in bytes per second, of all images together, for
    /// example 20Mi; at least 64Ki. Default: no limit.
    #[arg(long, value_name = "BYTES")]
    pub(super) max_pull_rate: Option<PullRate>,
    /// Share of the last 10 seconds in which tasks of the node waited for I/O, above which layers are fetched slower, down
    /// to 1 MiB per second; 0% or 100%: no effect. Only with --pull-via=auto and for oci:.
    #[arg(long, value_name = "PERCENT", default_value = "40%")]
    pub(super) max_io_pressure: ShareLimit,
    /// As --max-io-pressure, for tasks that waited for memory.
    #[arg(long, value_name = "PERCENT", default_value = "10%")]
    pub(super) max_memory_pressure: ShareLimit,
    /// Directories of containerd's configuration in the agent's file system, under the same paths as on the node. With
    /// --pull-via=auto, the agent takes mirrors and certificates from them; config.toml is in the first one.
    #[arg(
        long,
        value_name = "DIRS",
        default_value = "/etc/containerd,/etc/docker/certs.d",
        value_delimiter = ','
    )]
    pub(super) runtime_config_dirs: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) protect: ProtectArgs,
}

/// What fetches layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum PullVia {
    Auto,
    Runtime,
}

/// Flags of `fledged-operator webhook`.
#[derive(Debug, Args)]
pub(super) struct WebhookArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    /// PEM file with the server certificate, followed by its chain; reloaded when it changes. Without
    /// it, the webhook issues and renews its own certificate.
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub(super) cert_file: Option<PathBuf>,
    /// PEM file with the private key of --cert-file.
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    pub(super) key_file: Option<PathBuf>,
    /// Port of the webhook.
    #[arg(long, value_name = "PORT", default_value = "443")]
    pub(super) port: u16,
    /// Name of the Service of the webhook, for self-issued certificates.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "kubefledged-webhook-server"
    )]
    pub(super) service_name: String,
    /// Namespace of the Service and of the Secret with self-issued certificates.
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "KUBEFLEDGED_NAMESPACE",
        default_value = "kube-fledged"
    )]
    pub(super) service_namespace: String,
    /// Name of the Secret with self-issued certificates; by default the Service's name and -tls.
    #[arg(long, value_name = "NAME")]
    pub(super) secret_name: Option<String>,
    /// Name of the ValidatingWebhookConfiguration whose CA bundle is maintained; by default none.
    #[arg(long, value_name = "NAME")]
    pub(super) webhook_configuration: Option<String>,
    /// The controller's interval for mutable tags, for warnings; 0s means never.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = any_duration)]
    pub(super) image_cache_refresh_frequency: Duration,
    /// The controller's longest deadline of a pull, for warnings.
    #[arg(long, value_name = "DURATION", default_value = "2h", value_parser = largest_deadline)]
    pub(super) max_image_pull_deadline: Duration,
}

/// Commands that Jobs run.
#[derive(Debug, Subcommand)]
pub(super) enum JobCommand {
    /// Exits at once.
    Noop,
    /// Copies this program to a path.
    Copy {
        /// Destination.
        path: PathBuf,
    },
    /// Removes images from the runtime and writes the result of each.
    Remove(RemoveArgs),
}

/// Flags of `fledged-operator job remove`.
#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// Image runtime.
    #[arg(long, value_name = "URI")]
    pub(super) runtime: RuntimeUri,
    /// Image that must stay even if another name of it is removed; may be repeated.
    #[arg(long, value_name = "IMAGE")]
    pub(super) keep: Vec<ImageRef>,
    /// Pattern of images that are never removed; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    pub(super) protect: Vec<String>,
    /// File to which the result is written.
    #[arg(long, value_name = "FILE", default_value = "/dev/termination-log")]
    pub(super) termination_log: PathBuf,
    /// Images to remove.
    #[arg(value_name = "IMAGE", last = true, required = true)]
    pub(super) images: Vec<ImageRef>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DriverKind {
    Agent,
    Job,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

/// The severities of glog, and the levels of `tracing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub(super) enum Level {
    Trace,
    Debug,
    Info,
    #[value(alias = "WARN")]
    Warning,
    #[value(alias = "FATAL")]
    Error,
}

/// The policies with their help texts.
fn pull_policy() -> impl TypedValueParser<Value = ImagePullPolicy> {
    let help = |policy| match policy {
        ImagePullPolicy::Always => "Pull at each refresh, also images that are present",
        _ => "Pull absent images, and mutable tags at each refresh",
    };
    let value = |policy: ImagePullPolicy| PossibleValue::new(policy.as_str()).help(help(policy));
    let values = PossibleValuesParser::new(ImagePullPolicy::ALL.map(value));
    values.try_map(|text| text.parse::<ImagePullPolicy>())
}

/// One of these words, with its value.
fn one_of<T, const N: usize>(words: [(&'static str, T); N]) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    let values = PossibleValuesParser::new(words.map(|(word, _)| word));
    values.try_map(move |text| {
        let mut words = words.iter();
        let found = words.find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or("unknown value")
    })
}

/// Converts flags with one dash, which Go accepts (`-stderrthreshold=INFO`), to two dashes for clap.
fn with_two_dashes(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let long = |arg: &OsString| {
        let text = arg.to_str()?;
        let name = text.strip_prefix('-').filter(|name| name.len() > 1)?;
        name.starts_with(|c: char| c.is_ascii_lowercase())
            .then(|| OsString::from(format!("--{name}")))
    };
    args.into_iter()
        .map(|arg| long(&arg).unwrap_or(arg))
        .collect()
}

/// The resources of a container. Quantities may be numbers, as in YAML.
fn resources(text: &str) -> Result<ResourceRequirements, String> {
    let mut value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let fields = value.as_object_mut().ok_or("must be an object")?;
    for (field, amounts) in fields {
        if !matches!(field.as_str(), "requests" | "limits") {
            return Err(format!("{field:?} is neither requests nor limits"));
        }
        for amount in amounts.as_object_mut().into_iter().flatten() {
            if let Value::Number(number) = amount.1 {
                *amount.1 = number.to_string().into();
            }
        }
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn job_user(text: &str) -> Result<JobUser, String> {
    if text == "none" {
        return Ok(JobUser(None));
    }
    match text.parse() {
        Ok(0) | Err(_) => Err("must be none, or a number greater than zero".to_owned()),
        Ok(user) => Ok(JobUser(Some(user))),
    }
}

fn string_map(text: &str) -> Result<StringMap, String> {
    let map = serde_json::from_str(text);
    map.map(StringMap).map_err(|error| error.to_string())
}

fn any_duration(text: &str) -> Result<Duration, String> {
    let duration = text.parse::<GoDuration>();
    duration.map(|d| d.0).map_err(|error| error.to_string())
}

fn positive(text: &str) -> Result<Duration, String> {
    match any_duration(text)? {
        Duration::ZERO => Err("must be greater than zero, for example 2s".to_owned()),
        duration => Ok(duration),
    }
}

fn a_second_or_more(text: &str) -> Result<Duration, String> {
    match any_duration(text)? {
        duration if duration < Duration::from_secs(1) => Err("it must be at least 1s".to_owned()),
        duration => Ok(duration),
    }
}

/// The definition of ImageCache accepts no longer deadline, so a higher limit would have no effect.
fn largest_deadline(text: &str) -> Result<Duration, String> {
    match a_second_or_more(text)? {
        duration if duration > DEADLINE_MAX => Err(format!(
            "it must be at most {}, the longest deadline that an ImageCache can have",
            GoDuration(DEADLINE_MAX)
        )),
        duration => Ok(duration),
    }
}

/// A duration that fits into a 32-bit field in seconds.
fn seconds_of_a_job(text: &str) -> Result<Duration, String> {
    let duration = a_second_or_more(text)?;
    match i32::try_from(duration.as_secs()) {
        Ok(_) => Ok(duration),
        Err(_) => Err(format!("must be at most {} seconds (68 years)", i32::MAX)),
    }
}

/// A path, or a unix:// URI as for crictl and kubelets. It may be empty, as in manifests of kube-fledged.
fn socket_path(text: &str) -> Result<String, String> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if path.is_empty() || path.starts_with('/') {
        Ok(path.to_owned())
    } else {
        Err("must start with / or unix:///".to_owned())
    }
}

fn bind(text: &str) -> Result<Bind, String> {
    let address = BindAddress::parse(text);
    address.map(Bind).map_err(|error| error.to_string())
}

fn server_url(text: &str) -> Result<Uri, String> {
    let uri: Uri = text
        .parse()
        .map_err(|error: http::uri::InvalidUri| error.to_string())?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(_)) => Ok(uri),
        _ => Err("must be a URL such as https://HOST:PORT".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controller(args: &[&str]) -> Result<Box<ControllerArgs>, String> {
        let args = ["fledged-operator", "controller"].iter().chain(args);
        let args = with_two_dashes(args.map(OsString::from));
        match Cli::try_parse_from(args)
            .map_err(|error| error.to_string())?
            .command
        {
            Command::Controller(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn clap_accepts_the_command_line() {
        Cli::whole().debug_assert();
    }

    #[test]
    fn credential_provider_flags_are_given_together() {
        for (given, missing) in [
            (
                "--image-credential-provider-config",
                "--image-credential-provider-bin-dir",
            ),
            (
                "--image-credential-provider-bin-dir",
                "--image-credential-provider-config",
            ),
        ] {
            let args = ["fledged-operator", "agent", "--node-name=n", given, "/x"];
            let error = Cli::try_parse_from(args).unwrap_err().to_string();
            assert!(error.contains(missing), "{error}");
        }
    }

    #[test]
    fn a_number_of_connections_out_of_range_is_named() {
        for given in ["0", "65"] {
            let flag = format!("--max-connections={given}");
            let args = ["fledged-operator", "agent", "--node-name=n", &flag];
            let error = Cli::try_parse_from(args).unwrap_err().to_string();
            let expected = format!(
                "invalid value '{given}' for '--max-connections <N>': must be a number from 1 to 64"
            );
            assert!(error.contains(&expected), "{error}");
        }
    }

    #[test]
    fn defaults_match_kube_fledged() {
        let args = controller(&[]).unwrap();
        assert_eq!(args.image_cache_refresh_frequency, Duration::from_secs(900));
        assert_eq!(args.image_pull_deadline_duration, Duration::from_secs(300));
        assert_eq!(args.image_pull_policy, ImagePullPolicy::IfNotPresent);
        assert_eq!(args.jobs.job_retention_policy, Retention::Delete);
        assert_eq!(args.common.stderrthreshold, Level::Info);
        assert!(!args.jobs.image_delete_job_host_network);
        assert!(args.election.leader_elect);
    }

    #[test]
    fn flags_are_parsed_like_go_flags() {
        let args = controller(&[
            "-stderrthreshold=WARNING",
            "--image-cache-refresh-frequency=1h30m",
            "--image-delete-job-host-network=true",
            "--leader-elect=false",
            "--max-concurrent-nodes=25%",
            "--job-retention-policy=retain",
            "--cri-socket-path=unix:///run/crio/crio.sock",
            "--job-priority-class-name=low",
            "--service-account-name=jobs",
            "--image-pull-policy",
            "Always",
        ])
        .unwrap();
        assert_eq!(args.common.stderrthreshold, Level::Warning);
        assert_eq!(
            args.image_cache_refresh_frequency,
            Duration::from_secs(5400)
        );
        assert!(args.jobs.image_delete_job_host_network && !args.election.leader_elect);
        let socket = args.jobs.cri_socket_path.as_deref();
        assert_eq!(socket, Some("/run/crio/crio.sock"));
        assert_eq!(
            args.max_concurrent_nodes,
            CountOrPercent::Percent("25%".to_owned())
        );
        assert!(
            controller(&["--leader-elect"])
                .unwrap()
                .election
                .leader_elect
        );
    }

    #[test]
    fn job_pods_take_resources_users_and_labels() {
        let args = controller(&[
            r#"--job-resources={"limits":{"cpu":1,"memory":"64Mi"}}"#,
            "--job-run-as-user=none",
            r#"--job-pod-labels={"mesh":"off"}"#,
        ])
        .unwrap()
        .jobs;
        let limits = args.job_resources.unwrap().limits.unwrap();
        assert_eq!((&*limits["cpu"].0, &*limits["memory"].0), ("1", "64Mi"));
        assert_eq!(args.job_run_as_user, JobUser(None));
        assert_eq!(args.job_pod_labels.unwrap().0["mesh"], "off");
        let default = controller(&[]).unwrap().jobs;
        assert_eq!(default.job_run_as_user, JobUser(Some(65_532)));
        assert_eq!(default.job_pod_labels, None);
    }

    #[test]
    fn invalid_values_are_rejected_with_flag_and_value() {
        for (flag, value) in [
            ("--job-retention-policy", "keep"),
            ("--image-pull-policy", "Never"),
            ("--image-pull-deadline-duration", "0s"),
            ("--image-cache-refresh-frequency", "15"),
            ("--max-concurrent-nodes", "0"),
            ("--max-concurrent-nodes", "101%"),
            ("--leader-elect", "maybe"),
            ("--cri-socket-path", "run/crio.sock"),
            ("--master", "10.0.0.1"),
            ("--metrics-bind-address", "nowhere"),
            ("--job-resources", r#"{"cpu":"1"}"#),
            ("--job-run-as-user", "0"),
            ("--job-pod-labels", r#"{"a":1}"#),
            ("--max-images-per-cache", "0"),
            ("--max-image-pull-deadline", "25h"),
        ] {
            let error = controller(&[&format!("{flag}={value}")]).unwrap_err();
            assert!(error.contains(flag) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn the_longest_deadline_is_that_of_the_definition() {
        let day = controller(&["--max-image-pull-deadline=24h"]).unwrap();
        assert_eq!(day.max_image_pull_deadline, DEADLINE_MAX);
        for command in ["controller", "webhook"] {
            let args = [
                "fledged-operator",
                command,
                "--max-image-pull-deadline=24h1s",
            ];
            let error = Cli::try_parse_from(args).unwrap_err().to_string();
            assert!(error.contains("must be at most 24h"), "{error}");
        }
    }
}
