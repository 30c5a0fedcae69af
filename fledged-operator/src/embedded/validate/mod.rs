//! Rules that objects must keep, whatever their schema says.

pub(crate) mod builtin;
mod event;
pub(crate) mod metadata;
pub(crate) mod names;
mod workload;
