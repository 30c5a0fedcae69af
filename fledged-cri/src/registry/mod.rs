//! Access to registries of the OCI distribution specification, for runtimes that fetch images
//! themselves and for checks that touch no node.
//!
//! `oci-client` does the handshake that obtains a token. Manifests and blobs are read through a
//! narrow path of our own, because three things must not be lost on the way: the delay a registry
//! asks for (`Retry-After`), a bound on what is read into memory, and a fresh token in the middle
//! of an image.

mod client;
mod digester;
pub(crate) mod failure;
mod handshake;
mod manifest;
mod platform;
pub(crate) mod probe;
mod refresh;
mod session;
mod tls;

pub use client::{Registry, RegistryOptions};
pub use platform::{ParsePlatformError, Platform};
pub use probe::Probe;
pub use tls::ensure_tls_provider;

pub(crate) use digester::Digester;
#[cfg(test)]
pub(crate) use digester::sha256;
pub(crate) use manifest::{Blob, ImageManifest, MANIFEST_MAX, Manifest, config_platform};
pub(crate) use session::{Fetched, Session};
