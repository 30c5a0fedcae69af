//! From what a warmer says of a node's images to the status of its NodeImageCache: what is written, how
//! often, and by which request. Whoever runs a `NodeLoop` for a node reports through this, be it the
//! agent on that node or a driver beside the controller.

mod delays;
mod news;
mod pace;
mod reporter;
#[cfg(test)]
mod reporter_rig;
#[cfg(test)]
mod reporter_tests;
mod request;
mod shrink;
mod status;
mod taken;
mod writer;

pub(crate) use delays::Delays;
pub(crate) use pace::after;
pub(crate) use reporter::{Heard, Reporter, Source};
pub(crate) use request::{Refusal, open, request, retry_after};
pub(crate) use status::StatusApi;
pub(crate) use taken::Taken;
pub(crate) use writer::Writer;
