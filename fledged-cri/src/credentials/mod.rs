//! Registry credentials: docker configurations and their helpers, pull secrets, and the kubelet's credential-provider plugins.

mod credential_process;
mod credential_providers;
mod docker_config;
mod docker_helper;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod image_pattern;
mod keyring;
mod provider_config;
mod provider_plugin;
mod pull_secrets;
mod union;

pub use credential_providers::{CredentialProviders, ServiceAccountFacts, ServiceAccounts};
pub use docker_config::{DockerConfig, DockerConfigError};
pub use provider_config::CredentialProviderError;
pub use pull_secrets::PullSecretKeyring;
pub use union::UnionCredentials;
