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
//! - Entries that others wrote are kept, with everything they reach. An entry is ours when each name
//!   it has is the same full, normalised reference; a tag that another tool adds to one of our images
//!   is that tool's, and keeps the blobs when our reference is removed.
//! - Tools that want every platform of an index to be present refuse such a layout: `umoci gc` fails
//!   on it. Nothing needs it here: what no entry reaches is deleted with the entry that reached it.
//!
//! # What holds at every moment
//!
//! - A blob has its final name only when it is whole, on disk, and its digest verified; an entry is written
//!   only after everything it needs; a blob is deleted only after the last entry that needs it. So
//!   `kill -9` at any point leaves a valid layout. Unfinished downloads are swept by the next
//!   writer.
//! - Digests are verified when content is fetched. After that, layers and configurations count as
//!   present by their length, without being read again: what is lost or cut is noticed and fetched
//!   anew, bits that flip on the disk are not. Manifests are verified whenever they are read.
//! - One process of ours writes at a time, by a lock on `.fledged/lock` that it holds while it pulls
//!   or removes; others wait. Reading needs no lock.
//!
//! # What does not hold
//!
//! Other tools neither take that lock nor heed it, and `index.json` has no lock of its own. Where one
//! of them (`skopeo copy`, `umoci`) writes to the layout while an image is pulled or removed here,
//! whoever replaces `index.json` last wins, and the entry that the other one added meanwhile is lost.
//! Blobs whose entry is still to come are kept for a day, on a full disk for half an hour; but one
//! that such a tool found here and did not copy itself goes with the last entry that needs it.

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
