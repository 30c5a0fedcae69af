//! Rules that objects must keep, whatever their schema says.

mod access;
mod admission;
mod around;
pub(crate) mod builtin;
mod event;
pub(crate) mod metadata;
pub(crate) mod names;
mod workload;
