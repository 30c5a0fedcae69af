//! Flags of the job driver, and the command line of what its Jobs run.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Subcommand, ValueEnum};
use fledged_core::model::ImageRef;
use fledged_cri::target::RuntimeUri;

use super::args::seconds_of_a_job;

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
    /// priorityClassName of Jobs.
    #[arg(long, value_name = "NAME")]
    pub(super) job_priority_class_name: Option<String>,
    /// Whether finished Jobs are deleted.
    #[arg(long, value_name = "POLICY", default_value = "delete")]
    pub(super) job_retention_policy: JobRetention,
    /// ServiceAccount of Jobs; by default the default of the namespace.
    #[arg(long, value_name = "NAME")]
    pub(super) service_account_name: Option<String>,
    /// Comma-separated names of Secrets to pull --job-image with, in the namespace of each Job; missing
    /// ones are ignored.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(super) job_image_pull_secrets: Vec<String>,
    /// How Jobs pull: with image volumes, with containers, or with whichever the node supports.
    #[arg(long, value_name = "METHOD", default_value = "auto")]
    pub(super) job_pull_method: JobPullMethod,
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

/// A path, or a unix:// URI as for crictl and kubelets. It may be empty, as in manifests of kube-fledged.
fn socket_path(text: &str) -> Result<String, String> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if path.is_empty() || path.starts_with('/') {
        Ok(path.to_owned())
    } else {
        Err("must start with / or unix:///".to_owned())
    }
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
    /// File to which the result is written.
    #[arg(long, value_name = "FILE", default_value = "/dev/termination-log")]
    pub(super) termination_log: PathBuf,
    /// Images to remove.
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
