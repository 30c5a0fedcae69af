//! Flags of the job driver, and the command line of what its Jobs run.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Subcommand, ValueEnum};
use fledged_core::model::ImageRef;
use fledged_cri::target::RuntimeUri;

use super::args::seconds_of_a_job;

/// Flags that act with `--node-driver=job`; they are checked with either driver.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of the job driver")]
pub(super) struct JobArgs {
    /// Path of the runtime's socket on the nodes; unix:// may stand before it.
    #[arg(long, value_name = "PATH", value_parser = socket_path)]
    pub(super) cri_socket_path: Option<String>,
    /// Whether Jobs that remove images use the host's network.
    #[arg(long, value_name = "BOOL", default_value_t = false, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    pub(super) image_delete_job_host_network: bool,
    /// SELinux type of Jobs that remove images, spc_t for instance.
    #[arg(long, value_name = "TYPE")]
    pub(super) job_removal_selinux_type: Option<String>,
    /// priorityClassName of Jobs.
    #[arg(long, value_name = "NAME")]
    pub(super) job_priority_class_name: Option<String>,
    /// What happens to Jobs that have ended.
    #[arg(long, value_name = "POLICY", default_value = "delete")]
    pub(super) job_retention_policy: JobRetention,
    /// ServiceAccount of Jobs; the namespace's default where none is given.
    #[arg(long, value_name = "NAME")]
    pub(super) service_account_name: Option<String>,
    /// Secrets to pull --job-image with, by name, one after another with commas; in the namespace of each
    /// Job, where one that is not there does no harm.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(super) job_image_pull_secrets: Vec<String>,
    /// How Jobs pull: by image volumes, by containers, or by whichever the node has.
    #[arg(long, value_name = "METHOD", default_value = "auto")]
    pub(super) job_pull_method: JobPullMethod,
    /// Image with this program as its entry point, which every Job runs; needed with
    /// --node-driver=job.
    #[arg(
        long,
        value_name = "IMAGE",
        env = "KUBEFLEDGED_CRI_CLIENT_IMAGE",
        alias = "cri-client-image"
    )]
    pub(super) job_image: Option<String>,
    /// How long Jobs that have ended are kept, where they are not deleted before.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = seconds_of_a_job)]
    pub(super) job_ttl: Duration,
    /// Images that the nodes' kubelets list at most, their nodeStatusMaxImages: absence from a list as
    /// long proves nothing.
    #[arg(long, value_name = "N", default_value = "50")]
    pub(super) node_status_max_images: usize,
    /// Image with a shell, as kube-fledged wants one; nothing here does.
    #[arg(long, value_name = "IMAGE", env = "BUSYBOX_IMAGE", hide = true)]
    pub(super) busybox_image: Option<String>,
}

/// A path, as one or as the URI that crictl and kubelets take. Empty where a manifest of kube-fledged's has none.
fn socket_path(text: &str) -> Result<String, String> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    match path.is_empty() || path.starts_with('/') {
        true => Ok(path.to_owned()),
        false => Err("it must begin with a slash, or with unix:///".to_owned()),
    }
}

/// Subcommands that Jobs run.
#[derive(Debug, Subcommand)]
pub(super) enum JobCommand {
    /// Does nothing.
    Noop,
    /// Copies this program to a path.
    Copy {
        /// Where to.
        path: PathBuf,
    },
    /// Removes images from the runtime, and writes what became of each.
    Remove(RemoveArgs),
}

/// Flags of `fledged-operator job remove`.
#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// The runtime.
    #[arg(long, value_name = "URI")]
    pub(super) runtime: RuntimeUri,
    /// An image that must not go along with another name of it; may be given more than once.
    #[arg(long, value_name = "IMAGE")]
    pub(super) keep: Vec<ImageRef>,
    /// Where the outcome is written.
    #[arg(long, value_name = "FILE", default_value = "/dev/termination-log")]
    pub(super) termination_log: PathBuf,
    /// The images.
    #[arg(value_name = "IMAGE", last = true, required = true)]
    pub(super) images: Vec<ImageRef>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum JobPullMethod {
    Auto,
    ImageVolume,
    Container,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum JobRetention {
    Delete,
    Retain,
}
