//! Registry credentials from docker configurations and pull secrets.

mod docker_config;
mod keyring;
mod pull_secrets;

pub use docker_config::{DockerConfig, DockerConfigError};
pub use pull_secrets::PullSecretKeyring;
