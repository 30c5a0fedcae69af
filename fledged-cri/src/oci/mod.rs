//! An OCI image layout on disk as an image runtime: no daemon, no root, nothing but a folder.
//!
//! # What is on disk
//!
//! The layout of the OCI image specification 1.1 (`oci-layout`, `index.json`,
//! `blobs/<algorithm>/<hex>`), and beside it `.fledged/` with a lock file and unfinished downloads.
//!
//! - One entry of `index.json` for every reference. Both `org.opencontainers.image.ref.name` and
//!   `io.containerd.image.name` hold the normalised reference, so `skopeo inspect
//!   oci:DIR:docker.io/library/nginx:latest` and `ctr image import` find it by its full name.
//! - An entry points at what the registry has under the reference: for an image of several
//!   platforms at the index, byte for byte, although only this platform's content is present (the
//!   specification allows that; containerd does the same). So digests hold, and a reference by
//!   digest of the index is found again.
//! - Docker schema 2 manifests are kept as they are, for the same reason. skopeo before 1.10 finds
//!   those only when they are the only entry.
//! - Entries that others wrote are kept, with everything they reach.
//!
//! # What holds at every moment
//!
//! - A blob has its final name only when it is whole, verified and on disk; an entry is written
//!   only after everything it needs; a blob is deleted only after the last entry that needs it. So
//!   `kill -9` at any point leaves a valid layout. Unfinished downloads are swept by the next
//!   writer.
//! - One process writes at a time, by a lock on `.fledged/lock` that it holds while it pulls or
//!   removes; others wait. Reading needs no lock.

mod blobs;
mod collect;
mod error;
mod index;
mod ingest;
mod inventory;
mod layout;
mod lock;
mod meter;
mod pins;
mod pull;
mod runtime;
mod store;
mod written;

pub use error::LayoutError;
pub use runtime::{OciLayoutOptions, OciLayoutRuntime, OpenError};
