//! Patches, apart from server-side apply.

mod patch;
mod strategic;

pub(crate) use patch::{Patch, PatchKind};
