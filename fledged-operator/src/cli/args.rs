//! The command line. Flags of the controller have kube-fledged's names, defaults and meanings.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{
    ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
};
use fledged_core::model::{CountOrPercent, GoDuration, ImagePullPolicy, NodeName};
use fledged_cri::target::RuntimeUri;
use http::Uri;

use super::job_args::{JobArgs, JobCommand};
use fledged_operator::serve::BindAddress;

/// Keeps container images on the nodes of a Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(name = "fledged-operator", version, about, max_term_width = 100)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

impl Cli {
    /// Reads a command line; ends the process where it is not valid.
    pub(super) fn read(args: impl IntoIterator<Item = OsString>) -> Self {
        let mut command = Self::whole();
        let matches = command.try_get_matches_from_mut(with_two_dashes(args));
        let matches = matches.unwrap_or_else(|error| error.exit());
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
    }

    /// The command line. Both programs may run on one machine, so they serve at ports of their own.
    fn whole() -> clap::Command {
        let command = Self::command().mut_subcommand("webhook", |webhook| {
            webhook
                .mut_arg("metrics_bind_address", |arg| arg.default_value(":8084"))
                .mut_arg("health_probe_bind_address", |arg| {
                    arg.default_value(":8085")
                })
        });
        command.mut_subcommand("agent", |agent| {
            agent
                .mut_arg("metrics_bind_address", |arg| arg.default_value(":8082"))
                .mut_arg("health_probe_bind_address", |arg| {
                    arg.default_value(":8083")
                })
        })
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Decides which node holds which images; one leads, others stand by.
    Controller(Box<ControllerArgs>),
    /// Brings the images of one node to what the controller says; one runs on every node.
    Agent(Box<AgentArgs>),
    /// Refuses ImageCaches that the controller would not act on, and warns of such as will surprise.
    Webhook(Box<WebhookArgs>),
    /// Prints the CustomResourceDefinitions as YAML.
    Crds,
    /// What Jobs of the job driver run.
    #[command(subcommand, hide = true)]
    Job(JobCommand),
}

/// Where something is served, if anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bind(pub(super) Option<BindAddress>);

/// How to reach the API server, and where to answer probes.
#[derive(Debug, Clone, Args)]
pub(super) struct CommonArgs {
    /// Path of a kubeconfig file; only needed outside of a cluster.
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<String>,
    /// URL of the API server, in place of the kubeconfig's; only needed outside of a cluster.
    #[arg(long, value_name = "URL", value_parser = server_url)]
    pub(super) master: Option<Uri>,
    /// Where /metrics is served; "0" serves none.
    #[arg(long, value_name = "ADDRESS", default_value = ":8080", value_parser = bind)]
    pub(super) metrics_bind_address: Bind,
    /// Where /livez, /readyz and /healthz are served; "0" serves none.
    #[arg(long, value_name = "ADDRESS", default_value = ":8081", value_parser = bind)]
    pub(super) health_probe_bind_address: Bind,
    /// Log level: what is less severe is not logged.
    #[arg(long, value_name = "LEVEL", default_value = "INFO", ignore_case = true)]
    pub(super) stderrthreshold: Level,
    /// How log lines are written.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
}

/// Flags of `fledged-operator controller`.
#[derive(Debug, Args)]
pub(super) struct ControllerArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    /// How often images that move are pulled again; 0s: never.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = any_duration)]
    pub(super) image_cache_refresh_frequency: Duration,
    /// Longest a pull may take, counted for each image from the start of its own.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = a_second_or_more)]
    pub(super) image_pull_deadline_duration: Duration,
    /// When an image that is present is pulled again, where a cache does not say it.
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent", value_parser = pull_policy())]
    pub(super) image_pull_policy: ImagePullPolicy,
    /// Nodes that pull at once in the whole cluster, a number or a percentage.
    #[arg(long, value_name = "N|N%", default_value = "100")]
    pub(super) max_concurrent_nodes: CountOrPercent,
    /// Serves ImageCaches of that namespace alone; one controller a cluster all the same.
    #[arg(long, value_name = "NAMESPACE")]
    pub(super) watch_namespace: Option<String>,
    /// How an assignment reaches a node: by an agent on it, or by Kubernetes Jobs.
    #[arg(long, value_name = "DRIVER", default_value = "agent")]
    pub(super) node_driver: NodeDriver,
    #[command(flatten)]
    pub(super) election: ElectionArgs,
    #[command(flatten)]
    pub(super) jobs: JobArgs,
}

/// Who leads.
#[derive(Debug, Args)]
pub(super) struct ElectionArgs {
    /// Whether to act only while holding the lease kubefledged-controller; with more than one
    /// replica it is needed.
    #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    pub(super) leader_elect: bool,
    /// How long others wait after a leader's last renewal.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = a_second_or_more)]
    pub(super) leader_elect_lease_duration: Duration,
    /// How long a leader tries to renew before it gives up; less than the lease.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = a_second_or_more)]
    pub(super) leader_elect_renew_deadline: Duration,
    /// Time between attempts to acquire or renew.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = positive)]
    pub(super) leader_elect_retry_period: Duration,
    /// Namespace of the operator, where the lease is.
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "KUBEFLEDGED_NAMESPACE",
        default_value = "kube-fledged"
    )]
    pub(super) namespace: String,
    /// Name of this candidate, which no other may have.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub(super) identity: Option<String>,
}

/// Flags of `fledged-operator agent`.
#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    /// The node it runs on.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(super) node_name: NodeName,
    /// The runtime: unix:///run/containerd/containerd.sock, docker:///var/run/docker.sock,
    /// oci:FOLDER; the first live socket where none is given.
    #[arg(long, value_name = "URI")]
    pub(super) runtime: Option<RuntimeUri>,
    /// Pulls at once.
    #[arg(long, value_name = "N", default_value = "3")]
    pub(super) max_parallel_pulls: NonZeroUsize,
    /// How often the runtime's inventory is read without any other cause.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = a_second_or_more)]
    pub(super) inventory_interval: Duration,
}

/// Flags of `fledged-operator webhook`.
#[derive(Debug, Args)]
pub(super) struct WebhookArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    /// File with the server's certificate in PEM, its chain after it; read again when it changes. Without
    /// it, the webhook makes and renews certificates of its own.
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub(super) cert_file: Option<PathBuf>,
    /// File with the private key of --cert-file.
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    pub(super) key_file: Option<PathBuf>,
    /// Port that the API server asks at.
    #[arg(long, value_name = "PORT", default_value = "443")]
    pub(super) port: u16,
    /// Name of the Service in front of it, for which certificates of its own are made.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "kubefledged-webhook-server"
    )]
    pub(super) service_name: String,
    /// Namespace of that Service, and of the Secret in which certificates of its own are kept.
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "KUBEFLEDGED_NAMESPACE",
        default_value = "kube-fledged"
    )]
    pub(super) service_namespace: String,
    /// Name of that Secret; the Service's name and -tls where none is given.
    #[arg(long, value_name = "NAME")]
    pub(super) secret_name: Option<String>,
    /// The ValidatingWebhookConfiguration whose CA bundle is kept; none is touched where none is given.
    #[arg(long, value_name = "NAME")]
    pub(super) webhook_configuration: Option<String>,
    /// How often the controller pulls images that move again, for the warnings; 0s: never.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = any_duration)]
    pub(super) image_cache_refresh_frequency: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum NodeDriver {
    Agent,
    Job,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

/// glog's words, and those of `tracing`.
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

/// The policies, and what each means.
fn pull_policy() -> impl TypedValueParser<Value = ImagePullPolicy> {
    let help = |policy| match policy {
        ImagePullPolicy::Always => "Pull also what is there",
        _ => "Pull what is absent, and again what moves",
    };
    let value = |policy: ImagePullPolicy| PossibleValue::new(policy.as_str()).help(help(policy));
    let values = PossibleValuesParser::new(ImagePullPolicy::ALL.map(value));
    values.try_map(|text| text.parse::<ImagePullPolicy>())
}

/// The arguments as clap wants them: Go's flags may have one dash, `-stderrthreshold=INFO`.
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

fn any_duration(text: &str) -> Result<Duration, String> {
    let duration = text.parse::<GoDuration>();
    duration.map(|d| d.0).map_err(|error| error.to_string())
}

fn positive(text: &str) -> Result<Duration, String> {
    match any_duration(text)? {
        Duration::ZERO => Err("it must be longer than nothing, 2s for instance".to_owned()),
        duration => Ok(duration),
    }
}

pub(super) fn a_second_or_more(text: &str) -> Result<Duration, String> {
    match any_duration(text)? {
        duration if duration < Duration::from_secs(1) => Err("it must be at least 1s".to_owned()),
        duration => Ok(duration),
    }
}

/// What fits into a field of 32 bits, in seconds.
pub(super) fn seconds_of_a_job(text: &str) -> Result<Duration, String> {
    let duration = a_second_or_more(text)?;
    match i32::try_from(duration.as_secs()) {
        Ok(_) => Ok(duration),
        Err(_) => Err(format!(
            "it must be at most {} seconds (68 years)",
            i32::MAX
        )),
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
        _ => Err("write it as https://HOST:PORT".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::job_args::JobRetention;

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
    fn the_command_line_is_consistent() {
        Cli::whole().debug_assert();
    }

    #[test]
    fn the_defaults_are_those_of_kube_fledged() {
        let args = controller(&[]).unwrap();
        assert_eq!(args.image_cache_refresh_frequency, Duration::from_secs(900));
        assert_eq!(args.image_pull_deadline_duration, Duration::from_secs(300));
        assert_eq!(args.image_pull_policy, ImagePullPolicy::IfNotPresent);
        assert_eq!(args.jobs.job_retention_policy, JobRetention::Delete);
        assert_eq!(args.common.stderrthreshold, Level::Info);
        assert!(!args.jobs.image_delete_job_host_network);
        assert!(args.election.leader_elect);
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
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
    fn a_value_that_means_nothing_is_refused_with_flag_and_value() {
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
        ] {
            let error = controller(&[&format!("{flag}={value}")]).unwrap_err();
            assert!(error.contains(flag) && error.contains(value), "{error}");
        }
    }
}
