//! Access to registries of the OCI distribution specification, for the image layout and for checks
//! that touch no node.
//!
//! Three properties matter here: the delay that a registry asks for (`Retry-After`) reaches the
//! caller, everything read into memory is bounded, and a token that expires in the middle of an image
//! is renewed.

mod access;
mod artifact;
mod blob_download;
mod challenge;
mod client;
mod connection_limit;
mod connections;
mod digest;
mod endpoint;
#[cfg(any(test, feature = "test-util"))]
pub mod fake;
mod foreign;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod hosts_file;
mod manifest;
mod meter;
mod no_proxy;
mod platform;
mod pressure_limit;
mod probe;
#[cfg(any(test, feature = "test-util"))]
pub mod quirk;
mod rate_limit;
mod redirect;
mod session;
#[cfg(test)]
mod tests;
mod tls_failure;
mod token;
mod trust;

pub use client::{Registry, RegistryAuthority, RegistryOptions};
pub use connection_limit::{ConnectionLimit, ConnectionLimitError};
pub use fledged_core::model::{PullRate, PullRateError};
pub use hosts_file::hosts_dirs_of_this_machine;
pub use platform::{ParsePlatformError, Platform};
pub use pressure_limit::PressureLimits;
pub use probe::Probe;

#[cfg(feature = "cri")]
pub(crate) use blob_download::{BlobDownload, FirstPart};
#[cfg(feature = "cri")]
pub(crate) use connections::PART;
pub(crate) use connections::{Connections, Downloads};
pub(crate) use digest::Digester;
#[cfg(any(test, feature = "cri", feature = "test-util"))]
pub(crate) use digest::sha256;
pub(crate) use manifest::{
    Blob, Fetched, ImageManifest, IndexEntry, MANIFEST_MAX, Manifest, config_platform, no_platform,
    resolve,
};
pub(crate) use meter::Meter;
pub(crate) use rate_limit::RateOptions;
pub(crate) use session::Session;
#[cfg(feature = "cri")]
pub(crate) use {
    hosts_file::{CONTAINERD_CONFIG_DIR, HostsFileProblem, check_hosts_file},
    probe::read_config,
};

/// Makes ring the TLS provider of this process, unless one is already set.
///
/// Call it at the start of `main`. [`Registry::new`] calls it as well, so that a library user who did
/// not gets a working client.
pub fn ensure_tls_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Fails only if another thread has just set one.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
