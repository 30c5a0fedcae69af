//! Writes a node's report as the status of its NodeImageCache. When is decided by
//! [`Reporter`](fledged_core::reporter::Reporter); what is too large is shortened here.

mod request;
mod shrink;
mod status;
mod writer;

pub(crate) use fledged_core::backoff::RetryDelays;
pub(crate) use fledged_core::time::after;
pub(crate) use request::{Refusal, open, request, retry_after};
pub(crate) use status::StatusApi;
pub(crate) use writer::Writer;
