//! Registry credentials from a docker `config.json` or the content of a
//! `kubernetes.io/dockerconfigjson` Secret.

mod docker_config;
mod entry;
mod keyring;
mod pull_secrets;

pub use docker_config::{DockerConfig, DockerConfigError};
pub use pull_secrets::PullSecretKeyring;
