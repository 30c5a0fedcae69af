// The README's examples use every backend.
#![cfg_attr(
    all(feature = "cri", feature = "docker", feature = "oci"),
    doc = include_str!("../README.md")
)]
#![cfg_attr(
    not(all(feature = "cri", feature = "docker", feature = "oci")),
    doc = "Image runtimes for fledged, reduced to the enabled features."
)]

#[cfg(all(test, feature = "oci"))]
mod captured_log;
pub mod classify;
#[cfg(all(feature = "cri", feature = "oci"))]
pub mod containerd;
pub mod credentials;
#[cfg(feature = "cri")]
pub mod cri;
mod detect;
#[cfg(any(feature = "cri", feature = "docker", feature = "oci"))]
mod disk;
#[cfg(feature = "docker")]
pub mod docker;
#[cfg(all(feature = "cri", feature = "oci"))]
pub mod inspection;
mod kubelet;
mod node_path;
#[cfg(feature = "oci")]
pub mod oci;
mod open;
#[cfg(feature = "oci")]
pub mod pressure;
#[cfg(feature = "oci")]
pub mod registry;
mod slowdowns;
pub mod target;
mod text_file;

#[cfg(all(feature = "cri", feature = "oci"))]
pub use containerd::FetcherOptions;
#[cfg(feature = "cri")]
pub use cri::CriRuntime;
#[cfg(feature = "docker")]
pub use docker::DockerRuntime;
#[cfg(feature = "oci")]
pub use oci::{LayoutError, OciLayoutOptions, OciLayoutRuntime};
#[cfg(feature = "oci")]
pub use registry::{
    ConnectionLimit, ConnectionLimitError, ParsePlatformError, Platform, PressureLimits, Probe,
    PullRate, PullRateError, Registry, RegistryOptions, ensure_tls_provider,
};

pub use credentials::{
    CredentialProviderError, CredentialProviders, DockerConfig, DockerConfigError,
    PullSecretKeyring, UnionCredentials,
};
pub use open::{OpenError, OpenOptions, open};
pub use slowdowns::{PullSlowdowns, SlowedBy};
pub use target::{DetectError, NoRuntimeFound, ParseRuntimeUriError, RuntimeUri};
