//! Server-side apply: who owns which field, and merging what is applied.

mod change;
mod entries;
mod fields;
mod merge;
mod owners;
mod remove;

pub(crate) use owners::{Writer, apply, check_configuration, record_update};
