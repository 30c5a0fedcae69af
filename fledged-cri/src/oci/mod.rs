//! An OCI image layout in a folder as an image runtime: no daemon, no root.
//!
//! # On disk
//!
//! The layout of the OCI image specification 1.1 (`oci-layout`, `index.json`,
//! `blobs/<algorithm>/<hex>`), and `.fledged/` with a lock file and unfinished downloads.
//!
//! - `index.json` has one entry for every reference. Both `org.opencontainers.image.ref.name` and
//!   `io.containerd.image.name` hold the normalised reference, so that `skopeo inspect
//!   oci:DIR:docker.io/library/nginx:latest` and `ctr image import` find it by its full name.
//! - An entry points at the manifest that the registry serves under the reference. For an image of
//!   several platforms that is the index, byte for byte, although only one platform's content is
//!   present (the specification allows that; containerd does the same). Digests therefore stay the
//!   same, and a reference by the digest of the index is found again.
//! - Docker schema 2 manifests are stored unchanged, for the same reason. skopeo before 1.10 finds
//!   them only if they are the only entry.
//! - Entries of other tools are kept, with everything they reach. An entry belongs to fledged if all
//!   its names are the same full, normalised reference. A tag that another tool adds to an image of
//!   fledged belongs to that tool, and keeps the blobs when fledged's reference is removed.
//! - Tools that expect every platform of an index to be present reject such a layout: `umoci gc` fails
//!   on it. It is not needed: a removal deletes the blobs that no other entry reaches.
//!
//! # Guarantees
//!
//! - A blob gets its final name only when it is complete, synced to disk and its digest verified. An
//!   entry is written only after everything it needs. A blob is deleted only after the last entry
//!   that needs it. `kill -9` at any point therefore leaves a valid layout.
//! - An interrupted download stays in `.fledged/unfinished`. The next pull of the blob hashes what is there
//!   and fetches only the rest. If the digest does not match at the end, the file is deleted and the blob
//!   fetched once from its start. Unfinished downloads that no pull continues are deleted like blobs without
//!   an entry.
//! - Digests are verified when content is fetched. After that, layers and configurations count as
//!   present if their length is right; they are not read again. Lost or truncated blobs are noticed
//!   and fetched again, flipped bits are not. Manifests are verified on every read.
//! - One fledged process writes at a time. It holds a lock on `.fledged/lock` while it pulls or
//!   removes; other processes wait. Reading needs no lock.
//! - Nothing outside the folder is read, written or deleted: no symbolic link inside it is followed, and
//!   each file and folder of a layout that is a link is an error. The path of the folder itself may
//!   contain links. Reading writes nothing, so a read-only file system is enough for it.
//!
//! # Limits
//!
//! Other tools do not use that lock, and `index.json` has no lock of its own. If another tool (`skopeo
//! copy`, `umoci`) writes to the layout during a pull or a removal, the last writer of `index.json`
//! wins, and the other's new entry is lost. Blobs without an entry are kept for a day, on a full disk
//! for half an hour. A blob that such a tool reuses instead of copying is deleted with the last entry
//! that needs it.

mod collect;
mod download;
mod folder;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod index;
mod inventory;
mod layout;
mod layout_error;
#[cfg(test)]
mod link_tests;
mod lock;
mod pull;
mod runtime;
mod store;

#[doc(hidden)]
pub use crate::OpenError;
pub use layout_error::LayoutError;
pub use runtime::{OciLayoutOptions, OciLayoutRuntime};
